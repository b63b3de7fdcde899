"""What `plan` says: sizes of what is there, guesses by name, rates that are measured."""

import re
import time

import pytest

from distfacegan import pipeline, planning
from distfacegan.core.networks import Generator
from distfacegan.spec import SECTIONS, JobSpec
from distfacegan.stages import rates
from distfacegan.store import groups, weight_files
from distfacegan.store import run_directory as directory
from distfacegan.store.run_directory import RunDirectory
from tests.jobs import SMALL_JOB, load_spec, write_spec


@pytest.fixture
def large(tmp_path):
    """The path of a generator that needs GPU hours: 128 px, z of 96 dimensions."""
    state = Generator(resolution=128, latent_dim=96, width=8, levels=4).state_dict()
    weight_files.save(tmp_path / "large", {"generator": state}, {})
    return str(tmp_path / "large")


def plan(folder, measure=False, **changes):
    spec = load_spec(folder, **changes)
    return planning.describe(spec, folder / "job.yaml", measure=measure)


def line(text, stage):
    [found] = [each for each in text.splitlines() if each.strip().startswith(f"{stage} ")]
    return found


def test_the_stages_of_the_pipeline_are_those_of_specs_and_of_run_directories():
    names = [stage.name for stage in pipeline.STAGES]
    assert list(directory.STAGES) == names
    sections = {stage.section for stage in pipeline.STAGES}
    assert (
        sections == set(JobSpec.model_fields) - {"name", "run", "seed", "device"} == set(SECTIONS)
    )
    for i, stage in enumerate(pipeline.STAGES):
        assert set(stage.reads) <= set(names[:i]), f"{stage.name} reads what comes later"


def test_the_sizes_of_the_small_job(tmp_path):
    text = plan(tmp_path)
    assert "100 rows in 10 shards of 10, at most 307 KB at 32x32" in line(text, "ingest")
    assert "200 steps of 16 faces at 16x16 on 2 workers" in line(text, "began")
    # z of 8 numbers, a loss, steps and a status: 8 * 4 + 4 + 4 + 1 bytes.
    assert "100 rows in 10 shards of 10, at most 4.1 KB, bfgs, 20 steps" in line(text, "invert")
    assert "GPUs" not in text


def test_sizes_are_read_from_networks_and_stores_that_are_there(tmp_path, large):
    photos = RunDirectory(tmp_path / "photos")
    groups.create_group(photos.latents, "photos", num_rows=300, shard_rows=60, R=256)
    invert = {"photos": str(photos.root), "generator": large, "recipe": "paper"}
    alone = dict.fromkeys(("ingest", "landmarks", "began", "lgen", "report"))
    text = plan(tmp_path, **alone, invert=invert, synthesize={"count": 10**9, "generator": large})
    assert f"photos     300 of {photos.root}" in text
    # z of 96 numbers, a loss, steps and a status: 96 * 4 + 9 bytes.
    assert "300 rows in 5 shards of 60, at most 118 KB, paper, 500 steps" in line(text, "invert")
    assert "1,000,000,000 rows in 1,000,000 shards of 1000" in line(text, "synthesize")
    assert line(text, "synthesize").endswith("of 128x128")
    hours = line(text, "GPUs")
    assert re.search(r"invert \S+, synthesize \S+\): a guess from the number of operations", hours)


def test_what_is_not_known_is_not_assumed(tmp_path):
    alone = dict.fromkeys(("ingest", "landmarks", "began", "report"))
    text = plan(tmp_path, **alone)
    assert "as many rows as there are photos" in line(text, "invert")
    assert "which has none yet" in line(text, "photos")
    assert "GPUs" not in text
    assert "measured" in plan(tmp_path, measure=True, **alone)  # and nothing fails


def test_plan_measures_every_stage_that_can_work(tmp_path, monkeypatch, capsys):
    from distfacegan.cli import main

    monkeypatch.setattr(rates, "TIMED_S", 0.0)
    path = write_spec(tmp_path, invert=SMALL_JOB["invert"] | {"recipe": "fast"})
    assert main(["plan", str(path), "--measure"]) == 0
    _, _, measured = capsys.readouterr().out.partition("  measured   one worker on ")
    assert measured.startswith(rates.device_name(rates.measured_device("auto")))
    stages = {"ingest": "photos", "began": "steps", "invert": "faces", "lgen": "trials"}
    for stage, unit in (stages | {"synthesize": "faces"}).items():
        found = re.search(rf"{stage} +(\S+) {unit}/s: .* of one worker", measured)
        assert found, f"{stage}: no rate in {measured}"
        assert float(found[1]) > 0
    assert "landmarks" not in measured  # the source's own points: nothing to time
    assert sorted(each.name for each in tmp_path.iterdir()) == ["job.yaml"]


def test_a_rate_is_the_median_without_the_first_call(monkeypatch):
    monkeypatch.setattr(rates, "TIMED_S", 0.345)
    seconds = iter([0.3, 0.02, 0.02, 0.3, 0.02])

    def work():
        time.sleep(next(seconds))
        return 2

    assert 20 < rates.rate(work) <= 100  # 2 units in 0.02 s, but 7 a second in the first call
