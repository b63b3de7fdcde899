"""Runs outlive the program that began them: what another version wrote is read and kept."""

import json
import zipfile
from pathlib import Path
from typing import Annotated

import numpy as np
import pytest
import yaml
import zarr

from distfacegan import pipeline, report, specfile
from distfacegan.cli import main
from distfacegan.errors import RunDirectoryError
from distfacegan.settings import Before, Section
from distfacegan.store import files, formats, groups, shards, weight_files
from distfacegan.store.formats import NewerFormatError
from distfacegan.store.records import StageRecord, differences
from distfacegan.store.run_directory import RunDirectory
from distfacegan.store.schema import GROUPS, ArraySchema
from tests.jobs import arrays, findings

OLD_RUN = Path(__file__).parent / "data" / "run-0.1.0.zip"  # written by version 0.1.0, format 0


@pytest.fixture
def old(tmp_path):
    """A finished run of version 0.1.0: 60 faces in 3 shards, every stage but the report."""
    with zipfile.ZipFile(OLD_RUN) as archive:
        archive.extractall(tmp_path / "run")
    return RunDirectory(tmp_path / "run")


def spec_of(run):
    """Return the spec that a run keeps, for the place where it now lies."""
    document = yaml.safe_load(run.job.read_text()) | {"run": str(run.root)}
    path = run.root.parent / "job.yaml"
    path.write_text(yaml.safe_dump(document))
    return specfile.load(path)


def change_json(path, **changes):
    files.write_json(path, files.read_json(path) | changes)


LACKS = [  # in the old run
    "photos has no array brightness, which this version would write",
    "landmarks has no array disagreement, which this version would write",
]


def found_in(run):
    """Return what `verify` finds, but for what the old run always lacks."""
    return [finding for finding in findings(run) if not any(lack in finding for lack in LACKS)]


def everything(run):
    """Return the content of every file but the lock."""
    paths = (path for path in run.root.rglob("*") if path.is_file() and path.name != ".lock")
    return {path.relative_to(run.root): path.read_bytes() for path in paths}


def test_a_run_of_an_earlier_version_is_whole_to_verify(old, capsys):
    before = everything(old)
    assert all(lack in note for lack, note in zip(LACKS, findings(old), strict=True))
    assert everything(old) == before
    assert main(["verify", str(old.root)]) == 0
    assert "written by distfacegan 0.1.0 (format 0)" in capsys.readouterr().out


def test_a_run_of_an_earlier_version_is_reported(old):
    report.write(old)
    summary = files.read_json(old.report / "summary.json")
    assert summary["stages"]["invert"]["done"] == 60
    assert summary["lgen"]["nme"] == pytest.approx(0.4747, abs=1e-3)


@pytest.mark.ray
def test_a_run_of_an_earlier_version_is_resumed(old, ray_cluster):
    undisturbed = arrays(old)
    for stage in ("invert", "synthesize"):
        shards.marker_path(old.markers(stage), 1).unlink()
    (old.synthetic / "00001.tar").unlink()
    assert pipeline.run(spec_of(old)) == pipeline.DONE
    assert found_in(old) == []
    found = arrays(old)
    for name in ("photos/image", "latents/status", "landmarks/points"):
        np.testing.assert_array_equal(found[name], undisturbed[name])
    # The same z up to the rounding of another processor.
    np.testing.assert_allclose(found["latents/loss"], undisturbed["latents/loss"], atol=0.02)
    assert files.read_json(shards.marker_path(old.markers("invert"), 1))["format"] == 1


@pytest.mark.ray
def test_the_training_of_an_earlier_version_goes_on_from_its_checkpoint(old, ray_cluster):
    for name in ("generator", "checkpoints/00000060"):
        weight_files.remove(old.began / name)
    change_json(old.record_path("began"), finished=False)
    assert pipeline.run(spec_of(old), only=["began"]) == pipeline.DONE
    assert weight_files.read_meta(old.began / "generator")["step"] == 60
    assert old.record("began").last_run.steps == 20


def test_a_setting_that_an_old_record_lacks_has_its_default(old):
    settings = files.read_json(old.record_path("invert"))["settings"]
    del settings["retry"], settings["target_loss"], settings["surrogate"]["width"]
    change_json(old.record_path("invert"), settings=settings)
    job = pipeline.begun_job(spec_of(old))
    with pytest.raises(RunDirectoryError) as caught:  # the width of this run is no default
        job.check(pipeline.STAGES[3])
    assert [line for line in str(caught.value).splitlines() if "on disk" in line] == [
        "  surrogate.width: 512 on disk, 8 asked"
    ]


class Shiny(Section):
    """A section whose field `mirror` came later, with a default that earlier versions had not."""

    depth: int = 3
    mirror: Annotated[bool, Before(False)] = True


@pytest.mark.parametrize(
    ("given", "recorded", "mirror"),
    [
        ({}, {"depth": 3}, False),  # begun before: as it was then
        ({"mirror": True}, {"depth": 3}, True),  # asked for: the check then refuses it
        ({}, {"depth": 3, "mirror": True}, True),  # begun since
    ],
)
def test_a_field_that_came_later_keeps_what_the_run_was_begun_with(given, recorded, mirror):
    section = Shiny.model_validate(given)
    assert section.as_begun(recorded).mirror is mirror
    assert section.unrecorded() == {"depth": 3, "mirror": False}


class Holder(Section):
    """A section with an optional section, which got a field later."""

    shiny: Shiny | None = None


@pytest.mark.parametrize(
    ("recorded", "lines"),
    [
        ({"shiny": {"depth": 3}}, []),  # begun before: the new field has its old value
        ({"shiny": {"depth": 4}}, ["  shiny.depth: 4 on disk, 3 asked"]),
        ({"shiny": None}, ["  shiny: nothing on disk", "  shiny.depth: nothing on disk"]),
    ],
)
def test_a_field_that_came_later_to_an_optional_section(recorded, lines):
    section = Holder.model_validate({"shiny": {"depth": 3}}).as_begun(recorded)
    found = differences(StageRecord(recorded, {}), section.model_dump(), None, section.unrecorded())
    assert len(found) >= len(lines)
    assert all(line.startswith(start) for line, start in zip(found, lines, strict=False))
    assert bool(found) is bool(lines)


def test_fields_of_a_later_version_are_ignored(old):
    for path in (
        old.record_path("invert"),
        shards.marker_path(old.markers("invert"), 0),
        old.lgen / "final" / "meta.json",
    ):
        change_json(path, colour="blue", format=formats.FORMAT)
    assert found_in(old) == []
    assert old.finished("invert")


def test_an_array_that_an_old_group_lacks_reads_as_its_fill_and_is_not_written(old, monkeypatch):
    schema = GROUPS["latents"] | {"doubt": ArraySchema("float32", (), np.nan)}
    monkeypatch.setitem(GROUPS, "latents", schema)
    assert all("no array doubt" in finding for finding in found_in(old))
    group = groups.create_group(old.latents, "latents", num_rows=60, shard_rows=20, Z=4)
    assert np.isnan(groups.read(group, "doubt")).all()
    shard = groups.plan(group)[0]
    shards.marker_path(old.markers("invert"), 0).unlink()
    rows = groups.blank(group, len(shard))
    stats = groups.commit(group, old.markers("invert"), shard, rows, 0.0)
    assert "latents/doubt" not in stats.digests
    assert sorted(group.array_keys()) == ["loss", "status", "steps", "z"]


def test_an_array_of_a_later_version_is_kept_and_not_left_behind(old):
    group = zarr.open_group(old.latents / "latents", mode="r+")
    group.create_array("doubt", shape=(60,), shards=(20,), chunks=(20,), dtype="float32")
    before = everything(old)
    [finding] = found_in(old)
    assert "an array doubt, which this version does not know" in finding
    assert everything(old) == before
    with pytest.raises(RunDirectoryError, match="finish the stage with that version"):
        groups.create_group(old.latents, "latents", num_rows=60, shard_rows=20, Z=4)


@pytest.mark.parametrize(
    "path",
    [
        "stages/invert.json",
        "shards/invert/00001.json",
        "began/checkpoints/00000060/meta.json",
        "invert/surrogate/meta.json",
    ],
)
def test_what_a_later_format_holds_is_named_and_kept(old, capsys, path):
    change_json(old.root / path, format=7, version="9.0.0")
    before = everything(old)
    assert main(["verify", str(old.root)]) == 2
    said = capsys.readouterr().out
    assert "distfacegan 9.0.0 in format 7" in said
    assert everything(old) == before
    if path.startswith("stages"):
        with pytest.raises(NewerFormatError, match=r"Use that version or a later one"):
            pipeline.run(spec_of(old))


@pytest.mark.parametrize(
    ("metadata", "changes", "words"),
    [
        ("zarr.json", {"attributes": {"shard_rows": 20, "format": 7}}, "in format 7"),
        ("z/zarr.json", {"codecs": [{"name": "of-the-future"}]}, "nothing was touched"),
    ],
)
def test_arrays_that_this_version_cannot_read_are_named_and_kept(old, metadata, changes, words):
    change_json(old.latents / "latents" / metadata, **changes)
    before = everything(old)
    [finding] = found_in(old)
    assert words in finding
    assert everything(old) == before


def test_metadata_that_is_cut_short_is_damage(old):
    path = old.latents / "latents" / "z" / "zarr.json"
    path.write_bytes(path.read_bytes()[:40])
    [finding] = found_in(old)
    assert "missing or cut short" in finding
    assert shards.done(old.markers("invert")) == set()


def test_what_this_version_writes_carries_its_format(tmp_path):
    run = RunDirectory(tmp_path)
    run.begin("ingest", {"seed": 1}, {})
    group = groups.create_group(run.latents, "photos", num_rows=2, shard_rows=2, R=16)
    shard = groups.plan(group)[0]
    groups.commit(group, run.markers("ingest"), shard, groups.blank(group, 2), 0.0)
    weight_files.save(tmp_path / "weights", {}, {})
    stamp = formats.stamp()
    for found in (
        files.read_json(run.record_path("ingest")),
        files.read_json(shards.marker_path(run.markers("ingest"), 0)),
        dict(group.attrs),
        json.loads((tmp_path / "weights" / "meta.json").read_text()),
    ):
        assert stamp.items() <= found.items()
    assert stamp == {"format": 1, "version": "0.2.0"}
