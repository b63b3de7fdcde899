"""Sizes: what is too large is refused, and memory does not grow with what is only counted."""

import dataclasses
import json
import time
import tracemalloc

import pytest

from distfacegan import planning, specfile
from distfacegan.errors import SpecError
from distfacegan.stages.sharded import _Tally
from distfacegan.store import shards, status
from distfacegan.store.run_directory import RunDirectory
from distfacegan.store.shards import ShardStats
from tests.jobs import SMALL_JOB, load_spec, write_spec

ROWS = 10**9
MB = 10**6


def peak_bytes(work):
    """Return the most memory that Python held in a call beyond what it held before."""
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_the_plan_of_1e9_rows_takes_no_more_memory_than_that_of_few(tmp_path):
    source = {"kind": "procedural", "count": ROWS}
    spec = load_spec(
        tmp_path,
        ingest=SMALL_JOB["ingest"] | {"source": source, "shard_rows": 1000},
        synthesize={"count": ROWS},
    )
    planning.describe(load_spec(tmp_path), tmp_path / "job.yaml")  # imports what a plan needs
    said = []
    assert peak_bytes(lambda: said.append(planning.describe(spec, tmp_path / "job.yaml"))) < 10 * MB
    assert said[0].count("1,000,000,000 rows in 1,000,000 shards of 1000") == 4


def test_shards_are_made_when_they_are_asked_for():
    assert peak_bytes(lambda: shards.split(ROWS, 1)[ROWS // 2 :].only([3], "digest")) < MB
    assert shards.split(ROWS, 1000)[-1] == shards.Shard(999_999, 999_999_000, ROWS)
    some = shards.split(10, 4).only([2, 0], "digest")
    assert [(each.start, each.stop, each.made_of) for each in some] == [
        (8, 10, "digest"),
        (0, 4, "digest"),
    ]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run that has the markers of 10^9 rows."""
    run = RunDirectory(tmp_path_factory.mktemp("many"))
    plan = shards.split(ROWS, 65536)
    run.begin("synthesize", {}, {})
    run.note("synthesize", rows=ROWS, shards=len(plan))
    folder = run.markers("synthesize")
    folder.mkdir(parents=True)
    files = {f"{i:05d}.tar": "0123456789abcdef0123456789abcdef" for i in range(3)}
    for shard in plan:
        rows = len(shard)
        made = ShardStats(
            shard.index, shard.start, shard.stop, {"ok": rows}, files, 9.0, "host:1", time.time()
        )
        text = json.dumps(dataclasses.asdict(made))
        shards.marker_path(folder, shard.index).write_text(text)
    return run


def test_status_and_driver_need_a_few_bytes_a_shard(finished):
    found, tallies = [], []
    folder, num_shards = finished.markers("synthesize"), len(shards.split(ROWS, 65536))
    of_status = peak_bytes(lambda: found.extend(status.read(finished)))
    assert found[0].done == ROWS
    of_driver = peak_bytes(lambda: tallies.append(_Tally(shards.own(folder, ""))))
    assert tallies[0].rows == ROWS
    print(f"{num_shards} shards: status {of_status / MB:.1f} MB, driver {of_driver / MB:.1f} MB")
    assert of_status < 6 * MB + 150 * num_shards
    assert of_driver < 6 * MB + 250 * num_shards


LAUGHS = "\n".join(
    ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    + [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 10)]
)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (LAUGHS, "more than 100,000 values, with its aliases"),
        ("a: &a [*a]", "nested more than 50 deep"),
        ("a: " + "[" * 50_000, "nested more than 50 deep"),
        ("a: " + "[" * 60 + "]" * 60, "nested more than 50 deep"),
        ("seed: " + "9" * 5000, "a number or a date cannot be read"),
        ("seed: " + "9" * 4000, "a whole number has more than 30 digits"),
        ("when: 2001-99-99", "a number or a date cannot be read"),
        ("#" * 1_000_001, "is larger than 1,000,000 bytes"),
    ],
    ids=["laughs", "itself", "open", "deep", "5000 digits", "4000 digits", "date", "bytes"],
)
def test_yaml_that_grows_is_refused_at_once(tmp_path, text, message):
    path = tmp_path / "job.yaml"
    path.write_text(text)
    with pytest.raises(SpecError, match=message) as told:
        specfile.load(path)
    assert len(str(told.value)) < 400


@pytest.mark.parametrize(
    "override",
    [
        "synthesize.count=1000000000001",
        "ingest.source.count=1000000000001",
        "ingest.shard_rows=65537",
        "ingest.resolution=2048",
        "began.width=100000",
        "began.latent_dim=1000000000",
        "lgen.trials=1000000000",
        "lgen.num_pairs=10000000000000",
        "lgen.search.depth=[" + ",".join(["1"] * 101) + "]",
        "lgen.epochs=" + "9" * 3000,
    ],
    ids=lambda override: override.partition("=")[0],
)
def test_a_number_that_no_machine_can_hold_is_refused(tmp_path, override):
    path = write_spec(tmp_path)
    specfile.load(path)
    with pytest.raises(SpecError) as told:
        specfile.load(path, [override])
    assert override.partition("=")[0] in str(told.value)
    assert len(str(told.value)) < 500
