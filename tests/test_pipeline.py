"""The whole pipeline: one small job from procedural faces to a report, through Ray."""

import itertools
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from distfacegan import pipeline
from distfacegan.cli import main
from distfacegan.core.networks import Generator
from distfacegan.errors import (
    CheckpointError,
    DistfaceganError,
    RunDirectoryError,
    SourceError,
    SpecError,
)
from distfacegan.store import files, groups, shards, weight_files
from distfacegan.store.run_directory import STAGES, RunDirectory
from tests.jobs import SMALL_JOB, arrays, assert_equal_runs, findings, load_spec, write_spec

pytestmark = pytest.mark.ray


@pytest.fixture
def copy(finished, tmp_path):
    shutil.copytree(finished.root, tmp_path / "run")
    return RunDirectory(tmp_path / "run")


def test_every_stage_leaves_what_the_design_says(finished):
    expected = """job.yaml began/generator/generator.safetensors began/generator/meta.json
        began/metrics.jsonl began/samples/00000200.png lgen/trials.json lgen/evaluation.json
        lgen/final/lgen.safetensors synthetic/00000.tar synthetic/manifest.json
        synthetic/README.md report/index.html report/summary.json shards/invert/00009.json"""
    for path in expected.split():
        assert (finished.root / path).stat().st_size > 0, path


def test_every_row_has_a_status_and_rows_line_up(finished):
    found = arrays(finished)
    ok = found["photos/status"] == shards.Status.OK
    assert ok.sum() >= 90
    assert list(found["photos/key"][:2]) == ["000000", "000001"]
    for name in ("landmarks", "latents"):
        status = found[f"{name}/status"]
        assert (status != shards.Status.PENDING).all()
        assert ((status == shards.Status.NOTHING_UPSTREAM) == ~ok).all()
    assert (found["photos/image"][~ok] == 0).all()
    assert np.isfinite(found["latents/z"][ok]).all()
    assert (np.abs(found["latents/z"][ok]) <= 1).all()
    assert np.isnan(found["latents/loss"][~ok]).all()


def test_inversion_comes_nearer_to_the_faces_than_its_start(finished):
    found = arrays(finished)
    ok = found["latents/status"] == shards.Status.OK
    assert (found["latents/steps"][ok] > 0).mean() > 0.9
    assert np.median(found["latents/loss"][ok]) < 0.5


def test_a_finished_run_does_nothing_and_says_so(copy, tmp_path, caplog):
    before = {path: path.stat().st_mtime_ns for path in copy.root.rglob("*") if path.is_file()}
    with caplog.at_level("INFO", "distfacegan"):
        assert pipeline.run(load_spec(tmp_path)) == pipeline.DONE
    assert "nothing left to do" in caplog.text
    after = {path: path.stat().st_mtime_ns for path in copy.root.rglob("*") if path.is_file()}
    assert before == after


def test_three_workers_write_what_one_does(finished, copy, tmp_path):
    """Two at a time, where the cluster has two cores; BEGAN keeps its own number."""
    stages = ("ingest", "landmarks", "invert", "synthesize")
    spec = load_spec(tmp_path, **{name: SMALL_JOB[name] | {"workers": 3} for name in stages})
    for stage in pipeline.STAGES:
        if stage.name in stages:
            copy.clear(stage.name, stage.writes)
    assert pipeline.run(spec) == pipeline.DONE
    assert_equal_runs(copy, finished)


def test_what_verify_finds_damaged_is_made_again_and_nothing_else(finished, copy, tmp_path):
    image = next(p for p in (copy.latents / "photos/image/c/4").rglob("*") if p.is_file())
    data = bytearray(image.read_bytes())
    data[50] ^= 1
    image.write_bytes(data)
    shutil.rmtree(copy.latents / "latents/z/c/7")
    (copy.synthetic / "00003.tar").write_bytes(b"rubbish")
    (copy.markers("landmarks") / "00002.json").write_text("{")
    weights = copy.lgen / "final" / "lgen.safetensors"
    weights.write_bytes(weights.read_bytes()[:-8])

    found = findings(copy)
    for words in (
        "ingest: shard 4 (rows 40 to 49)",
        "invert: shard 7 (rows 70 to 79)",
        "landmarks: shard 2 (rows 20 to 29)",
        "synthesize: shard 3 (rows 60 to 79)",
        "lgen.safetensors: its content has changed",
    ):
        assert any(words in finding for finding in found), (words, found)
    assert len(found) == 5
    untouched = {path: path.stat().st_mtime_ns for path in copy.markers("invert").glob("*.json")}

    assert pipeline.run(load_spec(tmp_path)) == pipeline.DONE
    assert_equal_runs(copy, finished)
    assert findings(copy) == []
    for path, mtime in untouched.items():
        assert path.stat().st_mtime_ns == mtime


def test_a_shard_of_other_settings_is_made_again(finished, copy, tmp_path):
    of_another = tmp_path / "other"
    other = load_spec(of_another, invert=SMALL_JOB["invert"] | {"steps": 3})
    shutil.copytree(finished.root, of_another / "run")
    assert pipeline.run(other, only=["invert"], fresh=True) == pipeline.DONE
    for path in ("shards/invert/00004.json", "latents.zarr/latents/z/c/4"):
        here, there = copy.root / path, of_another / "run" / path
        if there.is_dir():
            shutil.rmtree(here)
            shutil.copytree(there, here)
        else:
            shutil.copy(there, here)
    assert pipeline.run(load_spec(tmp_path)) == pipeline.DONE
    assert_equal_runs(copy, finished)
    assert findings(copy) == []


def test_verify_finds_nothing_in_a_good_run(copy):
    assert findings(copy) == []


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"seed": 4}, ["stage ingest differs", "seed: 3 on disk, 4 asked"]),
        (
            {"ingest": SMALL_JOB["ingest"] | {"source": {"kind": "procedural", "count": 99}}},
            ["source.photos: 100 on disk, 99 asked"],
        ),
        (
            {"invert": SMALL_JOB["invert"] | {"steps": 61}},
            ["stage invert differs", "steps: 20 on disk, 61 asked"],
        ),
    ],
)
def test_other_settings_are_refused_and_nothing_is_touched(copy, tmp_path, changes, words):
    before = {path: path.stat().st_mtime_ns for path in copy.root.rglob("*.json")}
    with pytest.raises(RunDirectoryError) as caught:
        pipeline.run(load_spec(tmp_path, **changes))
    for word in words:
        assert word in str(caught.value)
    assert before == {path: path.stat().st_mtime_ns for path in copy.root.rglob("*.json")}


def test_fresh_does_a_stage_and_what_reads_from_it_anew(finished, copy, tmp_path):
    spec = load_spec(tmp_path, invert={"recipe": "bfgs", "steps": 5})
    assert pipeline.run(spec, only=["invert"], fresh=True) == pipeline.DONE
    assert copy.finished("began")
    assert not copy.finished("lgen")
    assert arrays(copy)["latents/steps"].max() <= 5


def test_fresh_spares_what_does_not_read_from_the_stage(copy, tmp_path):
    assert pipeline.run(load_spec(tmp_path), only=["landmarks"], fresh=True) == pipeline.DONE
    assert [copy.finished(s) for s in ("began", "invert", "lgen")] == [True, True, False]


def test_fresh_deletes_nothing_for_settings_that_cannot_work(copy, tmp_path):
    landmarks = {"detector": "onnx", "model": "typo.onnx"}
    finished = [stage for stage in STAGES if copy.finished(stage)]
    with pytest.raises(DistfaceganError, match=r"typo\.onnx"):
        pipeline.run(load_spec(tmp_path, landmarks=landmarks), fresh=True)
    assert [stage for stage in STAGES if copy.finished(stage)] == finished
    assert len(finished) == 7


def test_another_generator_is_refused_though_the_stage_is_finished(copy, tmp_path):
    torch.manual_seed(1)
    network = Generator(resolution=16, latent_dim=8, width=8, levels=2)
    weight_files.save(tmp_path / "other", {"generator": network.state_dict()}, {})
    other = {"generator": str(tmp_path / "other")}
    invert, synthesize = (SMALL_JOB[stage] | other for stage in ("invert", "synthesize"))
    with pytest.raises(RunDirectoryError, match="stage invert differs"):
        pipeline.run(load_spec(tmp_path, invert=invert, synthesize=synthesize))


def test_a_shard_whose_marker_was_lost_is_done_again(finished, copy, tmp_path):
    shards.marker_path(copy.markers("invert"), 4).unlink()
    assert not copy.finished("invert")
    assert pipeline.run(load_spec(tmp_path)) == pipeline.DONE
    assert_equal_runs(copy, finished)


def test_only_a_stage_of_the_spec_can_be_asked_for(tmp_path):
    with pytest.raises(SpecError, match="no stage report; it has ingest"):
        pipeline.run(load_spec(tmp_path, report=None), only=["report"])


def test_a_folder_with_other_things_in_it_is_never_taken_for_a_run(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.tex").write_text("years of work")
    for fresh in (False, True):
        with pytest.raises(RunDirectoryError, match="other things in it"):
            pipeline.run(load_spec(tmp_path), fresh=fresh)
    assert (tmp_path / "run" / "thesis.tex").read_text() == "years of work"


def test_another_run_can_invert_these_faces_with_this_generator(finished, tmp_path):
    parts = dict.fromkeys(["ingest", "landmarks", "began", "lgen", "synthesize", "report"])
    invert = {
        "photos": str(finished.root),
        "generator": str(finished.began / "generator"),
        "recipe": "paper",
        "steps": 20,
    }
    assert pipeline.run(load_spec(tmp_path, **parts, invert=invert)) == pipeline.DONE
    group = groups.open_group(tmp_path / "run" / "latents.zarr", "latents")
    status = groups.read(group, "status")
    np.testing.assert_array_equal(status, arrays(finished)["latents/status"])


def test_the_surrogate_is_made_once_and_kept(finished, tmp_path, caplog):
    caplog.set_level("INFO")
    parts = dict.fromkeys(["ingest", "landmarks", "began", "lgen", "synthesize"])
    invert = {
        "photos": str(finished.root),
        "generator": str(finished.began / "generator"),
        "recipe": "fast",
        "steps": 4,
        "surrogate": {"pictures": 1000, "steps": 60, "width": 16},
    }
    spec = load_spec(tmp_path, **parts, invert=invert)
    assert pipeline.run(spec) == pipeline.DONE
    loss = arrays(RunDirectory(spec.run))["latents/loss"]
    assert np.nanmean(loss) < np.nanmean(arrays(finished)["latents/loss"]) + 0.05
    next((spec.run / "shards" / "invert").glob("*.json")).unlink()
    assert pipeline.run(spec) == pipeline.DONE
    assert caplog.text.count("trains the surrogate of the generator, once") == 1
    np.testing.assert_array_equal(arrays(RunDirectory(spec.run))["latents/loss"], loss)

    weights = spec.run / "invert" / "surrogate" / "surrogate.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    assert any("surrogate" in finding for finding in findings(RunDirectory(spec.run)))
    assert not weights.exists()


def test_a_generator_of_another_architecture_stops_before_anything_is_touched(finished, tmp_path):
    discriminator = next(finished.began.glob("checkpoints/*/discriminator.safetensors"))
    other = {"generator": str(discriminator)}
    invert, synthesize = (SMALL_JOB[stage] | other for stage in ("invert", "synthesize"))
    with pytest.raises(CheckpointError, match="not a generator's weights"):
        pipeline.run(load_spec(tmp_path, invert=invert, synthesize=synthesize))
    assert not (tmp_path / "run" / "latents.zarr").exists()


def test_a_wrong_path_stops_before_anything_is_touched(tmp_path):
    source = {"kind": "folder", "path": "nowhere"}
    with pytest.raises(SourceError, match="nowhere"):
        pipeline.run(load_spec(tmp_path, ingest=SMALL_JOB["ingest"] | {"source": source}))
    assert not (tmp_path / "run" / "latents.zarr").exists()


def test_the_command_line_has_an_exit_code_and_one_clear_message(finished, tmp_path, capsys):
    assert main(["run", str(write_spec(tmp_path, sede=1))]) == 2
    assert "did you mean `seed`?" in capsys.readouterr().err
    assert main(["status", str(tmp_path / "nothing")]) == 2
    assert "is not a run directory" in capsys.readouterr().err
    assert main(["status", str(finished.root)]) == 0
    text = capsys.readouterr().out
    assert "invert     done        100 of 100 rows" in text
    assert "200 ok" in text


def test_the_status_of_an_unfinished_run_has_rate_and_eta(copy, capsys):
    for number in (3, 4, 5):
        shards.marker_path(copy.markers("invert"), number).unlink()
    record = files.read_json(copy.record_path("invert"))
    no_space = "OSError: no space left on device"
    record["runs"][-1]["set_aside"] = {"3": no_space, "4": no_space, "5": "ValueError: a\nb"}
    record["runs"][-1]["failures"] = {"OSError": 6, "ValueError": 3}
    files.write_json(copy.record_path("invert"), record | {"finished": False})
    assert main(["status", str(copy.root)]) == 0
    text = capsys.readouterr().out
    assert "invert     unfinished  70 of 100 rows, 30 left" in text
    assert "ETA 0:00:" in text
    assert f"2 set aside by OSError: shards 3, 4; the last: {no_space}" in text
    assert "1 set aside by ValueError: shard 5; the last: ValueError: a\n" in text
    assert "failed attempts of the last run: 6 OSError, 3 ValueError" in text
    assert re.search(r"1 worker  ", text)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # webdataset's
def test_the_python_of_the_readme_reads_a_run(finished, tmp_path, monkeypatch):
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "quickstart").symlink_to(finished.root)
    monkeypatch.chdir(tmp_path)
    readme = (Path(__file__).parents[1] / "README.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", readme, re.S)
    assert len(blocks) == 2
    names: dict[str, Any] = {}
    for block in blocks:
        exec(block, names)
    assert names["z"].shape == (len(names["points"]), 8)
    assert len(names["landmarks"]) == 49


def test_metrics_go_on_from_step_to_step(finished):
    lines = (finished.began / "metrics.jsonl").read_text().splitlines()
    steps = [json.loads(line)["step"] for line in lines]
    assert steps == list(itertools.accumulate([25] * 8))


def test_the_summary_has_the_numbers_that_scripts_read(finished):
    summary = files.read_json(finished.report / "summary.json")
    assert summary["stages"]["invert"]["done"] == 100
    assert summary["stages"]["synthesize"]["rows"] == 200
    assert summary["lgen"]["nme"] > 0
    assert summary["lgen"]["nme_mean_shape"] > 0
    assert summary["diversity_ratio"] > 0
