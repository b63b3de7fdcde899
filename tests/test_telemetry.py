"""What Prometheus finds at a node's endpoint, and the Grafana dashboard that shows it."""

import dataclasses
import functools
import json
import re
import time
import urllib.request
import warnings
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import ray
from prometheus_client.parser import text_string_to_metric_families

from distfacegan.stages import ingest, telemetry
from distfacegan.stages.sharded import finish_shards
from distfacegan.stages.telemetry import Telemetry
from distfacegan.store import shards
from distfacegan.store.metrics import MetricsLine
from distfacegan.store.run_directory import RunDirectory
from distfacegan.store.shards import ShardStats
from tests.fakes import FaultyWorker
from tests.warm import WarmProcess

REPOSITORY = Path(__file__).parents[1]
DASHBOARD = REPOSITORY / "cluster" / "grafana-dashboard.json"
OUR_TAGS = {
    *telemetry.TAGS,
    "le",
    *(tag for _, _, tags in telemetry.METRICS.values() for tag in tags),
}
Metrics = dict[tuple[str, ...], float]


def job(folder: Path) -> int:
    """Do a small job on the cluster, and keep what its node exports then and some time later."""
    warnings.simplefilter("error")
    warnings.simplefilter("ignore", FutureWarning)  # Ray's
    run = RunDirectory(folder)
    run.job.write_text("name: few-faces")
    run.begin("ingest", {}, {})
    landmarks = Telemetry(run, "landmarks", left=1)
    landmarks.failed(OSError("before there is a cluster"))
    ray.init(log_to_driver=False)
    faults = {3: ("raise", 99)}
    finish_shards(
        ingest.STAGE,
        SimpleNamespace(run=run),
        shards.split(38, 5),
        functools.partial(FaultyWorker, folder=folder / "work", faults=faults),
        workers=(2, {"num_cpus": 1}),
    )
    landmarks.failed(OSError("disk full"))
    invert = Telemetry(run, "invert", left=50, workers=1, gpus_each=2)
    invert.shard(ShardStats(0, 0, 20, {"ok": 19, "no face": 1}, {}, 10.0, "host:1", 1010.0))
    invert.shard(ShardStats(1, 20, 40, {"ok": 20}, {}, 7.0, "host:1", 1012.0))  # from 1005
    began = Telemetry(run, "began", left=100, unit="steps", workers=2, gpus_each=1)
    time.sleep(0.1)
    line = MetricsLine(30, 0.2, 0.1, 0.25, 0.5, 1e-4, images_per_s=250.0, workers=2)
    began.training(dataclasses.replace(line, diversity_ratio=0.75, encoder_distance=0.125), 30)
    began.training(line, 10)
    lgen = Telemetry(run, "lgen", left=3, unit="trials", gpus_each=0.25)
    lgen.trials(1, 8.0, float("nan"))
    lgen.trials(1, 8.0, 0.125)
    telemetry.REFRESH_S = 0.25
    with invert:
        keep_when(folder / "scraped", lambda found: ("best_nme", "lgen") in found)
        # Only invert's gauges are refreshed.
        keep_when(
            folder / "later",
            lambda found: ("steps_left", "began") not in found and ("workers", "invert") in found,
        )
    ray.shutdown()
    landmarks.failed(OSError("after the end"))
    return 0


def keep_when(path: Path, ready: Callable[[Metrics], bool]) -> None:
    """Keep what Prometheus finds at the node when it is `ready`, or after 30 seconds."""
    port = ray.nodes()[0]["MetricsExportPort"]
    until = time.monotonic() + 30
    while True:
        text = urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics").read().decode()
        if ready(read(text)) or time.monotonic() > until:
            break
        time.sleep(0.1)
    path.write_text(text)


@pytest.fixture(scope="module")
def scrapes(head, tmp_path_factory):
    """What a node exports of a small job, and what it still exports some seconds later."""
    folder = tmp_path_factory.mktemp("run")
    with WarmProcess(job, folder, environment=head.of_driver) as driver:
        assert driver.wait(120) == 0, driver.output
    return tuple(read((folder / name).read_text()) for name in ("scraped", "later"))


@pytest.fixture(scope="module")
def scraped(scrapes):
    return scrapes[0]


def read(text: str) -> Metrics:
    """Return what was scraped: {(name, *values of its tags but the job's): value}."""
    found: Metrics = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name.startswith("ray_distfacegan_"):
                tags = {key: value for key, value in sample.labels.items() if key in OUR_TAGS}
                if tags.pop("job_name") != "few-faces":
                    continue  # another job on the same cluster
                values = (tags[key] for key in sorted(tags, key="stage".__ne__))  # the stage first
                found[sample.name.removeprefix("ray_distfacegan_"), *values] = sample.value
    return found


@pytest.mark.ray
def test_prometheus_finds_what_a_stage_of_shards_did(scraped):
    ingest = {key: value for key, value in scraped.items() if key[1] == "ingest"}
    assert ingest["rows_total", "ingest", "ok"] == 33
    assert ingest["shards_total", "ingest", "done"] == 7
    assert ingest["shards_total", "ingest", "set_aside"] == 1
    assert ingest["shard_seconds_count", "ingest"] == 7
    assert ingest["rows_left", "ingest"] == 5
    assert ingest["workers", "ingest"] == ingest["eta_seconds", "ingest"] == 0
    assert not any(name == "gpu_seconds_total" for name, *_ in ingest)  # it had none


@pytest.mark.ray
def test_shards_are_counted_by_status_time_and_gpus(scraped):
    assert scraped["rows_total", "invert", "ok"] == 39
    assert scraped["rows_total", "invert", "no face"] == 1
    assert scraped["rows_left", "invert"] == 10
    assert scraped["shard_seconds_bucket", "invert", "5.0"] == 0
    assert scraped["shard_seconds_bucket", "invert", "10.0"] == 2
    assert scraped["gpu_seconds_total", "invert"] == 24  # 12 s, though 5 of them at two shards


@pytest.mark.ray
def test_failed_attempts_are_counted_while_there_is_a_cluster(scraped):
    assert scraped["failed_attempts_total", "landmarks", "OSError"] == 1


@pytest.mark.ray
def test_training_and_trials_are_counted(scraped):
    assert scraped["steps_total", "began"] == 40
    assert scraped["steps_left", "began"] == 60
    assert scraped["images_per_second", "began"] == 250
    assert (scraped["m_global", "began"], scraped["k", "began"]) == (0.25, 0.5)
    assert scraped["diversity_ratio", "began"] == 0.75  # of the last watch
    assert scraped["encoder_distance", "began"] == 0.125
    assert scraped["workers", "began"] == 2
    assert 0.2 <= scraped["gpu_seconds_total", "began"] < 60
    assert 0.15 <= scraped["eta_seconds", "began"] < 60  # 60 steps, after 40 in 0.1 s
    assert scraped["trials_total", "lgen"] == 2
    assert scraped["trials_left", "lgen"] == 1
    assert scraped["gpu_seconds_total", "lgen"] == 4
    assert scraped["best_nme", "lgen"] == 0.125


@pytest.mark.ray
def test_the_gauges_of_a_stage_stay_until_it_is_over(scrapes):
    _, later = scrapes
    assert later["rows_left", "invert"] == 10
    assert later["workers", "invert"] == 1
    assert ("steps_left", "began") not in later  # nobody refreshes it: else the test shows nothing
    assert later["steps_total", "began"] == 40


@pytest.mark.ray
def test_every_metric_has_its_name_and_tags_at_the_endpoint(scraped):
    found = {(re.sub("_(bucket|sum|count)$", "", name), len(tags)) for name, *tags in scraped}
    expected = {(name, 1 + len(tags)) for name, (_, _, tags) in telemetry.METRICS.items()}
    assert found == expected | {("shard_seconds", 2)}  # its buckets


@pytest.fixture(scope="module")
def dashboard():
    """The dashboard that people import."""
    return json.loads(DASHBOARD.read_text())


def queries(dashboard):
    """Return every query of a dashboard, of its panels and of its variables."""
    of_panels = [target["expr"] for p in dashboard["panels"] for target in p.get("targets", [])]
    variables = dashboard["templating"]["list"]
    return of_panels + [v["definition"] for v in variables if v["type"] == "query"]


def test_the_dashboard_shows_every_metric_and_no_other(dashboard):
    names = re.findall(r"ray_distfacegan_(\w+)\{", " ".join(queries(dashboard)))
    shown = {name.removesuffix("_bucket") for name in names}
    assert shown == set(telemetry.METRICS)


def test_the_documentation_names_every_metric_and_no_other():
    text = (REPOSITORY / "docs" / "observability.md").read_text()
    assert set(re.findall(r"^\| `ray_distfacegan_(\w+)`", text, re.MULTILINE)) == set(
        telemetry.METRICS
    )


def test_the_dashboard_asks_only_for_labels_that_the_metrics_have(dashboard):
    for query in queries(dashboard):
        names = re.findall(r"ray_distfacegan_(\w+)\{", query)
        have = set(telemetry.TAGS)
        for name in names:
            have |= set(telemetry.METRICS[name.removesuffix("_bucket")][2])
            have |= {"le"} if name.endswith("_bucket") else set()
        for selector in re.findall(r"\{([^{}]*)\}", query):
            assert {*re.findall(r"(\w+)=~", selector)} <= have | {"__name__"}, query
        for grouping in re.findall(r"\bby \(([^)]*)\)", query):
            assert {*grouping.split(", ")} <= have, query


def test_a_legend_names_what_its_query_groups_by(dashboard):
    for panel in dashboard["panels"]:
        for target in panel.get("targets", []):
            used = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
            grouping = re.search(r"\bby \(([^)]*)\)", target["expr"])
            assert used <= set(grouping[1].split(", ") if grouping else ()), panel["title"]


def test_the_dashboard_can_be_imported(dashboard):
    assert dashboard.keys() >= {"title", "uid", "schemaVersion", "templating", "time", "panels"}
    assert "id" not in dashboard  # a number of one Grafana
    variables = {v["name"] for v in dashboard["templating"]["list"]}
    panels = dashboard["panels"]
    ids = [panel["id"] for panel in panels]
    assert len(set(ids)) == len(ids)
    cells = [
        (x, y)
        for g in (panel["gridPos"] for panel in panels)
        for x in range(g["x"], g["x"] + g["w"])
        for y in range(g["y"], g["y"] + g["h"])
    ]
    assert len(set(cells)) == len(cells), "panels overlap"
    assert max(x for x, _ in cells) < 24
    used = set(re.findall(r"\$\{?(\w+)", " ".join(queries(dashboard)) + json.dumps(panels)))
    assert used == variables
    for panel in panels:
        assert panel["type"] in {"row", "timeseries", "stat"}
        if panel["type"] != "row":
            assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
            assert panel["title"]
            assert panel["description"]
            refs = [target["refId"] for target in panel["targets"]]
            assert len(set(refs)) == len(refs) > 0
