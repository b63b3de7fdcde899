"""Job specs: what is accepted, and how every mistake is explained."""

import json
from pathlib import Path

import jsonschema
import pytest
import yaml

from distfacegan import pipeline, spec, specfile
from distfacegan.core.detectors import DETECTORS
from distfacegan.core.detectors.annotations import Annotations
from distfacegan.core.detectors.fan import FaceAlignment
from distfacegan.core.detectors.onnx import Onnx
from distfacegan.core.lgen import Variant
from distfacegan.errors import SpecError
from distfacegan.sections.lgen import LGen
from distfacegan.stages.lgen_variants import own_variant

ROOT = Path(__file__).parents[1]
JOBS = sorted((ROOT / "jobs").glob("*.yaml"))

GOOD = """
name: faces
run: out
ingest: {source: {kind: procedural, count: 8}, resolution: 64}
began: {resolution: 32, levels: 3, steps: 10}
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "job.yaml"
    path.write_text(text)
    return path


def explain(folder: Path, text: str, *overrides: str) -> str:
    with pytest.raises(SpecError) as caught:
        specfile.load(write(folder, text), overrides)
    return str(caught.value)


def test_every_job_in_the_repository_is_valid():
    assert {path.stem for path in JOBS} >= {
        "quickstart",
        "celeba",
        "folder",
        "invert",
        "synthesize",
    }
    for path in JOBS:
        specfile.load(path)


def test_the_json_schema_in_the_repository_is_current():
    assert json.loads((ROOT / "jobs" / "job.schema.json").read_text()) == spec.json_schema()


@pytest.mark.parametrize("path", JOBS, ids=lambda path: path.stem)
def test_the_json_schema_accepts_the_jobs_as_they_are_written(path):
    schema = jsonschema.Draft202012Validator(spec.json_schema())
    job = yaml.safe_load(path.read_text())
    assert list(schema.iter_errors(job)) == []
    assert [error.validator for error in schema.iter_errors({**job, "colour": "blue"})] == [
        "additionalProperties"
    ]


def test_the_paper_is_the_default():
    section = spec.Began()
    assert (section.gamma, section.lambda_k, section.learning_rate) == (0.5, 1e-3, 1e-4)
    assert (section.beta1, section.beta2, section.loss) == (0.5, 0.999, "l2")
    lgen = spec.LGen()
    assert (lgen.depth, lgen.width, lgen.activation) == (3, 128, "relu")
    assert (lgen.batch, lgen.learning_rate, lgen.epochs) == (16, 3e-4, 1000)
    assert (spec.Invert().learning_rate, spec.Invert().radius) == (0.1, 1.0)


def test_paths_are_relative_to_the_folder_of_the_spec(tmp_path):
    (tmp_path / "deep").mkdir()
    text = GOOD.replace("run: out", "run: ../out")
    assert specfile.load(write(tmp_path / "deep", text)).run == tmp_path / "out"


def test_a_configuration_lies_beneath_the_keys_of_its_section(tmp_path):
    (tmp_path / "net.yaml").write_text("{resolution: 32, levels: 3, width: 24, steps: 500}")
    text = GOOD.replace("resolution: 32, levels: 3, steps: 10", "config: net.yaml, steps: 10")
    began = specfile.load(write(tmp_path, text)).began
    assert (began.width, began.steps, began.levels) == (24, 10, 3)


def test_overrides_set_fields_and_make_sections(tmp_path):
    overrides = ["began.steps=50", "invert.learning_rate=5e-2", "seed=7"]
    loaded = specfile.load(write(tmp_path, GOOD), overrides)
    assert (loaded.began.steps, loaded.invert.learning_rate, loaded.seed) == (50, 0.05, 7)


def test_a_section_with_nothing_in_it_has_its_defaults(tmp_path):
    spec = specfile.load(write(tmp_path, GOOD + "report:\n"))
    assert [stage.name for stage in pipeline.stages_of(spec)] == ["ingest", "began", "report"]


def test_a_resolved_spec_reads_back_as_itself(tmp_path):
    loaded = specfile.load(write(tmp_path, GOOD))
    other = tmp_path / "elsewhere"
    other.mkdir()
    assert specfile.load(write(other, specfile.dump(loaded))) == loaded


def landmarks(folder: Path, section: str) -> spec.Landmarks:
    """Return the section of a job in a folder."""
    return specfile.load(write(folder, GOOD + f"landmarks: {section}\n")).landmarks


@pytest.mark.parametrize(
    ("section", "expected"),
    [
        ("{}", FaceAlignment()),
        ("{detector: annotations}", Annotations()),
        ("{detector: face_alignment, model: null}", FaceAlignment()),
        ("{model: net.pt}", "FaceAlignment"),
        ("{detector: onnx, model: net.pt}", "Onnx"),
        ("{detector: {kind: onnx, model: net.pt}}", "Onnx"),
        ("{detector: {kind: onnx}, model: net.pt}", "Onnx"),
        # What today's code writes into a run directory.
        ("{detector: annotations, model: null, min_score: null, workers: null}", Annotations()),
    ],
)
def test_a_detector_is_named_and_its_keys_stand_beside_it(tmp_path, section, expected):
    of_path = {"FaceAlignment": FaceAlignment, "Onnx": Onnx}
    if isinstance(expected, str):
        expected = of_path[expected](model=tmp_path / "net.pt")
    assert landmarks(tmp_path, section).detector == expected


def test_what_is_not_trusted_is_up_to_the_detector_unless_the_stage_says_it(tmp_path):
    assert landmarks(tmp_path, "{detector: onnx, model: x}").labelling().min_score == 0.5
    assert (
        landmarks(tmp_path, "{detector: onnx, model: x, min_score: 0}").labelling().min_score == 0.0
    )
    assert landmarks(tmp_path, "{}").labelling().min_score == 0.2


@pytest.mark.parametrize(
    "section",
    [
        "landmarks: {detector: onnx, model: net.onnx, min_score: 0.4}",
        "landmarks: {detector: annotations}",
        "synthesize: {count: 3, format: webdataset, jpeg_quality: 80}",
    ],
)
def test_a_resolved_choice_is_written_as_a_user_writes_it(tmp_path, section):
    loaded = specfile.load(write(tmp_path, GOOD + section))
    written = yaml.safe_load(specfile.dump(loaded))
    [[name, keys]] = yaml.safe_load(section).items()
    if "model" in keys:
        keys["model"] = str(tmp_path / "net.onnx")
    assert written[name].items() >= keys.items()
    (tmp_path / "elsewhere").mkdir()
    for defaults in (True, False):
        dumped = specfile.dump(loaded, defaults=defaults)
        assert specfile.load(write(tmp_path / "elsewhere", dumped)) == loaded


def test_a_job_can_be_sent_without_what_it_does_not_say(tmp_path):
    text = (
        "name: a\nrun: r\nlandmarks: {min_score: 0.5}\ninvert: {recipe: bfgs, steps: 9}\nreport:\n"
    )
    loaded = specfile.load(write(tmp_path, text))
    assert yaml.safe_load(specfile.dump(loaded, defaults=False)) == {
        "name": "a",
        "run": str(tmp_path / "r"),
        "landmarks": {"min_score": 0.5},
        "invert": {"recipe": "bfgs", "steps": 9},
        "report": {},
    }


@pytest.mark.parametrize(
    ("section", "accepted"),
    [
        ("{detector: onnx, model: net.onnx, min_score: 0.4}", True),
        ("{detector: annotations}", True),
        ("{detector: haar}", False),
        ("{detector: onnx, modle: net.onnx}", False),
    ],
)
def test_the_json_schema_knows_the_keys_of_every_detector(section, accepted):
    schema = jsonschema.Draft202012Validator(spec.json_schema())
    job = yaml.safe_load(GOOD + f"landmarks: {section}")
    assert schema.is_valid(job) == accepted


def test_the_json_schema_says_what_every_kind_is():
    properties = spec.json_schema()["$defs"]["Landmarks"]["properties"]
    for detector, settings in DETECTORS.items():
        assert f"{detector}: {settings.__doc__}" in properties["detector"]["description"]
    assert "onnx: The network." in properties["model"]["description"]


@pytest.mark.parametrize(
    ("section", "words"),
    [
        ("{detector: onyx}", ["landmarks.detector: 'onyx'", "did you mean `onnx`?"]),
        ("{detector: haar}", ["known: annotations, face_alignment, onnx"]),
        ("{detector: [onnx]}", ["landmarks.detector: "]),
        ("{detector: onnx, modle: x}", ["landmarks.modle", "did you mean `model`?"]),
        ("{detector: onnx, modle: x}", ["landmarks.model: missing; onnx needs it"]),
        ("{detector: {kind: onnx, modle: x}}", ["landmarks.modle", "did you mean `model`?"]),
        ("{detector: {model: x}}", ["landmarks.detector: `kind` is missing", "onnx or regressor"]),
        ("{detector: onnx, model: 5}", ["landmarks.model: ", "5"]),
        ("{detector: onnx, model: ~no-such-user/x}", ["~no-such-user/x", "home directory"]),
        (
            "{detector: annotations, model: x}",
            ["detector annotations has no key `model`; face_alignment, onnx and regressor have"],
        ),
        ("{detector: onnx, model: x, min_score: 2}", ["landmarks.min_score", "equal to 1"]),
    ],
)
def test_a_mistake_about_a_detector_is_named_where_it_is_written(tmp_path, section, words):
    message = explain(tmp_path, GOOD + f"landmarks: {section}\n")
    for word in words:
        assert word in message


@pytest.mark.parametrize("invert", ["{recipe: clip, radius: null}", "{recipe: paper}"])
def test_no_bound_survives_the_resolved_spec(tmp_path, invert):
    loaded = specfile.load(write(tmp_path, GOOD + f"invert: {invert}\n"))
    again = specfile.load(write(tmp_path, specfile.dump(loaded)))
    assert loaded.invert.radius is again.invert.radius is None


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("began:", "begann:", ["begann", "did you mean `began`?"]),
        ("steps: 10", "stpes: 10", ["began.stpes", "did you mean `steps`?"]),
        ("count: 8", "cuont: 8", ["ingest.source.cuont", "did you mean `count`?"]),
        ("kind: procedural, ", "", ["ingest.source", "`kind` is missing: celeba, folder or"]),
        (
            "procedural, count: 8",
            "folder, path: x, folder: y",
            ["source.folder", "known: kind, path"],
        ),
        ("run: out", "run: ~no-such-user/out", ["run: ~no-such-user/out", "home directory"]),
        (
            "began:",
            "invert: {recipe: paper, radius: 2}\nbegan:",
            ["invert", "recipe paper has no bound"],
        ),
        ("steps: 10", "steps: many", ["began.steps", "integer", "'many'"]),
        ("steps: 10", "steps: -1", ["began.steps", "greater than 0", "-1"]),
        ("name: faces", "", ["name: missing"]),
        ("kind: procedural", "kind: photos", ["ingest.source", "known: celeba, folder, proc"]),
        ("kind: procedural", "kind: foldr", ["ingest.source", "'foldr'", "did you mean `folder`"]),
        (", count: 8", "", ["ingest.source.count: missing; procedural needs it"]),
        ("resolution: 32", "resolution: 48", ["began.resolution 48", "ingest.resolution 64"]),
        ("levels: 3", "levels: 7", ["began", "resolution 32 cannot be halved 6 times"]),
        ("steps: 10", "workers: 17", ["17 workers cannot share a batch of 16 faces"]),
        ("steps: 10", "workers: 2, min_workers: 3", ["min_workers is 3, more than workers, 2"]),
        ("name: faces", "name: ../evil", ["name", "pattern"]),
    ],
)
def test_a_mistake_is_named_with_file_field_and_the_right_word(tmp_path, old, new, words):
    message = explain(tmp_path, GOOD.replace(old, new))
    for word in [str(tmp_path / "job.yaml"), *words]:
        assert word in message


def test_every_mistake_is_named_at_once(tmp_path):
    message = explain(tmp_path, GOOD.replace("steps: 10", "steps: no, widht: 3"))
    assert "began.steps" in message
    assert "did you mean `width`?" in message


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: [", "is not YAML"),
        ("- a\n- b", "expected `key: value` lines, found list"),
        ("name: x\nrun: out", "nothing to do"),
        (
            "name: x\nrun: out\nlandmarks: {detector: onnx}",
            "landmarks.model: missing; onnx needs it",
        ),
        ("name: x\nrun: out\nbegan: {config: nowhere.yaml}", "nowhere.yaml"),
    ],
)
def test_what_is_no_spec_is_refused(tmp_path, text, words):
    assert words in explain(tmp_path, text)


@pytest.mark.parametrize("override", ["steps", "=5", "name.first=5"])
def test_a_bad_override_says_how_to_write_one(tmp_path, override):
    assert f"--set {override}" in explain(tmp_path, GOOD, override)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(SpecError, match=r"cannot read .*nothing\.yaml: No such file"):
        specfile.load(tmp_path / "nothing.yaml")


@pytest.mark.parametrize(("worst", "share"), [("2%", 0.02), ("0.05", 0.05), ("100%", 1.0)])
def test_the_rows_to_retry_are_a_share_or_a_percentage(tmp_path, worst, share):
    text = GOOD + f"invert: {{recipe: bfgs, retry: {{worst: {worst}}}}}\n"
    retry = specfile.load(write(tmp_path, text)).invert.retry
    assert (retry.worst, retry.starts, retry.steps) == (share, 3, 40)


@pytest.mark.parametrize(
    ("section", "field"),
    [
        ("{steps: {a: 1}, retry: {}}", "invert.steps"),
        ("{recipe: [fast], retry: {}}", "invert.recipe"),
        ("{retry: {steps: -1}}", "invert.retry.steps"),
    ],
)
def test_what_depends_on_a_mistake_is_not_made_up(tmp_path, section, field):
    assert field in explain(tmp_path, GOOD + f"invert: {section}\n")


@pytest.mark.parametrize("worst", ["0%", "101%", "2", "many", "x%"])
def test_other_shares_are_refused(tmp_path, worst):
    text = GOOD + f"invert: {{retry: {{worst: {worst}}}}}\n"
    assert "invert.retry.worst" in explain(tmp_path, text)


@pytest.mark.parametrize(
    ("sections", "refused"),
    [
        ("began: {}\ninvert: {}\nsynthesize: {count: 1}", False),
        ("began: {}\ninvert: {generator: g}", True),
        ("began: {}\ninvert: {generator: g}\nsynthesize: {count: 1}", True),
        ("began: {}\ninvert: {generator: g}\nsynthesize: {count: 1, generator: h}", True),
        ("began: {}\ninvert: {generator: g}\nsynthesize: {count: 1, generator: g}", False),
        ("began: {}\ninvert: {}\nsynthesize: {count: 1, generator: g}", True),
        ("invert: {}\nsynthesize: {count: 1, generator: g, lgen: l}", False),
        ("invert: {generator: g}", False),
    ],
)
def test_one_spec_labels_the_faces_of_one_generator(tmp_path, sections, refused):
    path = write(tmp_path, f"name: a\nrun: r\n{sections}\n")
    if not refused:
        specfile.load(path)
        return
    with pytest.raises(SpecError, match="its landmarks are wrong on faces of the second"):
        specfile.load(path)


def test_the_papers_lgen_is_table_one_learnt_from_photos():
    section = LGen.model_validate(yaml.safe_load((ROOT / "configs/lgen-paper.yaml").read_text()))
    assert own_variant(section) == Variant()
    assert (section.pairs, section.epochs, section.trials) == ("photos", 1000, 1)
    quick = LGen.model_validate(yaml.safe_load((ROOT / "configs/lgen-generated.yaml").read_text()))
    assert (quick.pairs, quick.trials) == ("prior", 1)
