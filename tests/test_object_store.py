"""Run directories in an object store, over a real connection to a local S3 server."""

import json
import pickle
import re
import time

import numpy as np
import pytest
import torch

from distfacegan.cli import main
from distfacegan.errors import CheckpointError, RunDirectoryError
from distfacegan.store import groups, lease, location, metrics, shards, weight_files
from distfacegan.store.location import locate, object_store
from distfacegan.store.run_directory import RunDirectory
from distfacegan.store.shards import Status
from tests.jobs import assert_equal_runs, findings, write_spec
from tests.ports import free_port
from tests.s3 import Faults

pytestmark = pytest.mark.timeout(120)


@pytest.fixture
def run(s3, request):
    """A new run directory in the store."""
    return RunDirectory(locate(f"s3://faces/{re.sub('[^a-z0-9]', '_', request.node.name)}"))


@pytest.fixture
def quick_lease(monkeypatch):
    monkeypatch.setattr(lease, "RENEW_S", 0.2)
    monkeypatch.setattr(lease, "EXPIRES_S", 1.5)


def write_photos(run, num_rows=10):
    """Write a group of photos of random pixels in shards of 4 rows; return its pixels."""
    run.begin("ingest", {}, {})
    group = groups.create_group(run.latents, "photos", num_rows=num_rows, shard_rows=4, R=8)
    images = np.random.default_rng(0).integers(0, 256, (num_rows, 8, 8, 3), np.uint8)
    for shard in groups.plan(group):
        arrays = groups.blank(group, len(shard))
        arrays["image"][:], arrays["status"][:] = images[shard.rows], Status.OK
        groups.commit(group, run.markers("ingest"), shard, arrays, time.time())
    run.note("ingest", rows=num_rows, shards=3)
    run.end("ingest", finished=True, started=time.time())
    return images


@pytest.mark.parametrize("scheme", ["s3", "gs", "az"])
def test_a_url_is_kept_as_it_is_and_travels(scheme):
    url = f"{scheme}://bucket/a/run"
    there = pickle.loads(pickle.dumps(RunDirectory(locate(url + "/"))))
    assert str(there.root) == url
    assert str(there.markers("invert")) == f"{url}/shards/invert"


def test_the_store_of_every_scheme_is_obstores(monkeypatch):
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_NAME", "account")
    kinds = [type(object_store(locate(f"{s}://bucket/run"))).__name__ for s in ("s3", "gs", "az")]
    assert kinds == ["S3Store", "GCSStore", "AzureStore"]


@pytest.mark.parametrize(
    "url",
    [
        "s3://faces",
        "s3://faces/..",
        "s3://faces/a run",
        "s3://fa ces/run",
        "s3://faces/run#2",
        "s3://faces/a%20run",
        "s3://faces:x/run",
        "s3://[x/run",
        "s3://key:secret@faces/run",
        "s3://faces/run?sig=secret",
        "ftp://host/run",
        "s3:/faces/run",
        "s3//faces/run",
        "S3://faces/run",
    ],
)
def test_a_url_that_is_no_place_of_ours_is_refused(url, capsys):
    assert main(["status", url]) == 2
    message = capsys.readouterr().err
    assert "s3" in message.lower()
    assert "secret" not in message


def test_a_store_that_cannot_be_reached_is_said_soon(s3, capsys, monkeypatch):
    assert main(["status", "s3://no-such-bucket/run"]) == 2
    message = capsys.readouterr().err
    assert "s3://no-such-bucket/run cannot be reached: NoSuchBucket" in message
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_port()}")
    monkeypatch.setattr(location, "REACH_S", 1.0)
    assert main(["status", "s3://faces/run"]) == 2
    assert "Check the bucket's name, the endpoint (AWS_ENDPOINT_URL)" in capsys.readouterr().err


def test_rows_come_back_as_they_were_written(run):
    images = write_photos(run)
    group = groups.open_group(run.latents, "photos")
    np.testing.assert_array_equal(groups.read(group, "image"), images)
    assert shards.totals(shards.read_markers(run.markers("ingest")))["statuses"] == {"ok": 10}
    assert run.finished("ingest")


def test_a_flipped_bit_is_named_and_only_its_shard_is_to_be_done_again(run):
    write_photos(run)
    assert findings(run) == []
    store = object_store(run.latents)
    (key,) = (
        found["path"]
        for batch in store.list("photos/image/c/1", return_arrow=False)
        for found in batch
    )
    data = bytearray(store.get(key).bytes())
    data[len(data) // 3] ^= 1
    store.put(key, bytes(data))
    (finding,) = findings(run)
    assert "shard 1 (rows 4 to 7)" in finding
    assert shards.done(run.markers("ingest")) == {0, 2}
    group = groups.open_group(run.latents, "photos")
    with pytest.raises(RunDirectoryError, match=r"shard 1 .* is missing"):
        groups.read(group, "image", groups.plan(group)[1])


def test_a_checkpoint_is_there_when_its_meta_is(run):
    folder = run.began / "checkpoints" / "00000100"
    weight_files.save(folder, {"g": {"w": torch.ones(3)}}, {"step": 100})
    assert [path.name for path in weight_files.checkpoints(run.began / "checkpoints")] == [
        "00000100"
    ]
    assert weight_files.load(folder, "g")["w"].tolist() == [1, 1, 1]
    (folder / "g.safetensors").write_bytes((folder / "g.safetensors").read_bytes()[:-1] + b"x")
    with pytest.raises(CheckpointError, match="is damaged"):
        weight_files.load(folder, "g")
    (folder / "meta.json").unlink()
    assert weight_files.checkpoints(run.began / "checkpoints") == []


def test_metrics_grow_and_are_cut(run):
    lines = [
        metrics.MetricsLine(step, 0.2, 0.1, 0.3, 0.0, 1e-4, 80.0, 0.3, 1, 5.0) for step in (1, 2, 3)
    ]
    for line in lines:
        metrics.append(run.metrics, line)
    metrics.truncate(run.metrics, 2)
    assert metrics.read(run.metrics) == lines[:2]


def test_what_a_stage_wrote_can_be_cleared(run):
    write_photos(run)
    run.clear("ingest", ["latents.zarr/photos"])
    assert run.record("ingest") is None
    assert shards.done(run.markers("ingest")) == set()
    assert not (run.latents / "photos" / "zarr.json").exists()


@pytest.mark.parametrize("name", ["run", ".run", "run.", "run/run"])
def test_only_what_is_below_a_folder_is_deleted(s3, name):
    others = [locate(f"s3://faces/tree/{other}/a") for other in ("run2", "ru", ".run2", "run..")]
    for path in others:
        path.write_bytes(b"kept")
    (locate(f"s3://faces/tree/{name}") / "deep" / "a").write_bytes(b"gone")
    location.remove_tree(locate(f"s3://faces/tree/{name}"))
    assert [path.read_bytes() for path in others] == [b"kept"] * 4
    assert not (locate(f"s3://faces/tree/{name}") / "deep" / "a").exists()


def test_a_second_job_is_refused_by_the_name_of_the_first(run, quick_lease):
    with run.lock("first"):
        assert run.holder()["job"] == "first"
        with pytest.raises(RunDirectoryError, match="in use by job 'first'"), run.lock("second"):
            pass
    with run.lock("second"):
        pass
    assert run.holder() is None


def test_the_lease_of_a_dead_job_is_taken_over_when_it_has_not_been_renewed(run, quick_lease):
    (run.root / ".holder.json").write_bytes(b'{"job": "dead", "lease": "x"}')
    began = time.monotonic()
    with run.lock("next"):
        assert time.monotonic() - began > 1.5
        assert run.holder()["job"] == "next"


def test_a_job_whose_lease_was_taken_over_stops(run, quick_lease):
    path = run.root / ".holder.json"

    def sleep_while_another_takes_over():
        with run.lock("slept"):
            for _ in range(100):  # the store of the tests can lose a write beside a renewal
                path.write_bytes(b'{"job": "other", "lease": "x"}')
                time.sleep(0.1)

    with pytest.raises(RunDirectoryError, match="taken over by another job"):
        sleep_while_another_takes_over()
    assert json.loads(path.read_bytes())["job"] == "other"  # and is left alone


def test_a_job_that_slept_does_not_give_back_the_lease_of_another(run, monkeypatch):
    monkeypatch.setattr(lease, "RENEW_S", 60.0)  # it does not notice before its end
    path = run.root / ".holder.json"
    with run.lock("slept"):
        path.write_bytes(b'{"job": "other", "lease": "x"}')
    assert json.loads(path.read_bytes())["job"] == "other"


def test_a_renewal_whose_answer_was_lost_is_still_ours(run, quick_lease):
    with run.lock("job"):
        path = run.root / ".holder.json"
        path.write_bytes(json.dumps(json.loads(path.read_bytes()) | {"renewals": -1}).encode())
        time.sleep(1)
        assert json.loads(path.read_bytes())["renewals"] > 1


@pytest.fixture
def faulty(s3, monkeypatch):
    """A store that can be made to answer 500, or not at all; requests time out after a second."""
    proxy = Faults(s3["AWS_ENDPOINT_URL"])
    monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
    options = location._OPTIONS["client_options"] | {"timeout": "1s"}
    monkeypatch.setitem(location._OPTIONS, "client_options", options)
    location._bucket.cache_clear()
    yield proxy
    proxy.close()
    location._bucket.cache_clear()


def test_a_store_that_ignores_conditions_is_refused(faulty, run):
    faulty.fault = "unconditional"
    with pytest.raises(RunDirectoryError, match="If-None-Match"), run.lock("job"):
        pass
    assert list(run.root.iterdir()) == []
    faulty.fault = None
    with run.lock("job"):
        assert [path.name for path in run.root.iterdir()] == [".holder.json"]


@pytest.mark.parametrize("fault", ["500", "hang"])
def test_an_outage_of_the_store_is_waited_for(faulty, run, fault):
    with faulty.strike(fault, 2):
        images = write_photos(run)
    assert faulty.num_faults > 1
    group = groups.open_group(run.latents, "photos")
    with faulty.strike(fault, 2):
        np.testing.assert_array_equal(groups.read(group, "image"), images)
    assert findings(run) == []


@pytest.mark.parametrize("reads", ["groups.read", "groups.open_group", "weight_files.damaged"])
def test_an_outage_in_the_middle_of_verify_deletes_nothing(faulty, run, monkeypatch, capsys, reads):
    write_photos(run)
    run.job.write_bytes(b"name: job\n")
    run.begin("began", {}, {})
    run.end("began", finished=True, started=time.time())
    weight_files.save(run.began / "generator", {"generator": {"w": torch.ones(3)}}, {"step": 1})
    retry = location._OPTIONS["retry_config"] | {"max_retries": 1}
    monkeypatch.setitem(location._OPTIONS, "retry_config", retry)
    location._bucket.cache_clear()
    module, _, name = reads.partition(".")
    module = {"groups": groups, "weight_files": weight_files}[module]
    whole = getattr(module, name)

    def interrupted(*arguments):
        faulty.fault = "500"
        try:
            return whole(*arguments)
        finally:
            faulty.fault = None

    with monkeypatch.context() as patch:
        patch.setattr(module, name, interrupted)
        assert main(["verify", str(run.root)]) == 2
    assert "the object store" in capsys.readouterr().err
    assert shards.done(run.markers("ingest")) == {0, 1, 2}
    assert weight_files.load(run.began / "generator", "generator")["w"].tolist() == [1, 1, 1]
    assert main(["verify", str(run.root)]) == 0


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.timeout(600)
def test_a_whole_job_in_a_store_equals_one_in_a_folder(
    s3, head, finished, tmp_path, capsys, caplog
):
    url = "s3://faces/whole"
    with caplog.at_level("INFO", "distfacegan"):
        assert main(["run", str(write_spec(tmp_path, run=url))]) == 0
    assert f"report: {url}/report/index.html" in capsys.readouterr().out
    assert "lgen: NME" in caplog.text
    logs = [path.read_text(errors="replace") for path in head.folder.rglob("*.[lo][ou][gt]")]
    assert any("session_" in text for text in logs)
    assert not any(s3["AWS_SECRET_ACCESS_KEY"] in text for text in [caplog.text, *logs])

    run = RunDirectory(locate(url))
    assert_equal_runs(run, finished)
    assert (run.report / "index.html").read_bytes().startswith(b"<!doctype html>")
    assert main(["status", url]) == main(["verify", url]) == main(["report", url]) == 0
    assert list((run.began / "ray").iterdir() if (run.began / "ray").exists() else []) == []
    assert not (tmp_path / "run").exists()
