"""Jobs through Ray Jobs: what is sent, what comes back, and that nobody need stay for it."""

import asyncio
import json
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import aiohttp
import pytest
from ray.job_submission import JobStatus

from distfacegan import specfile, waiting
from distfacegan.cli import main
from distfacegan.stages import submission
from distfacegan.store.run_directory import RunDirectory
from tests.jobs import findings, write_spec
from tests.ray_head import RayHead
from tests.warm import WarmProcess, distfacegan

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.timeout(600)

NOT_IN_INGEST = dict.fromkeys(("landmarks", "began", "invert", "lgen", "synthesize", "report"))


def write_ingest(folder: Path, count: int = 20, **changes: object) -> Path:
    """Write a spec that only crops `count` drawn faces, ten a shard, with one worker."""
    source = {"kind": "procedural", "count": count}
    ingest = {"source": source, "resolution": 32, "shard_rows": 10, "workers": 1}
    return write_spec(folder, **{**NOT_IN_INGEST, "ingest": ingest, **changes})


# ---- On a real head ----


def start(head: RayHead, *words: object, **variables: str) -> WarmProcess:
    """Start a command of the command line."""
    return distfacegan(
        *words, "--address", head.dashboard, environment=head.environment(**variables)
    )


def command(head: RayHead, *words: object, **variables: str) -> tuple[int, str]:
    """Run a command to its end; return its exit code and all that it said."""
    with start(head, *words, **variables) as process:
        return process.wait(), process.output


def submitted(output: str) -> str:
    """Return the id of the job that the output of `submit` tells of."""
    found = re.search(r"^submitted (\S+)$", output, re.M)
    assert found, output
    return found[1]


@pytest.fixture(scope="module")
def whole(head, tmp_path_factory) -> tuple[Path, int, str]:
    """A job that was followed to its end: its run directory, exit code and output."""
    folder = tmp_path_factory.mktemp("whole")
    name = "faces; touch pwned; $(touch pwned) 'x"
    spec = write_ingest(folder, run=name, report={}, name="whole")
    return folder / name, *command(head, "submit", spec)


@pytest.mark.ray
def test_submit_follows_a_job_to_its_end(head, whole):
    run, code, output = whole
    assert code == 0, output
    job = submitted(output)
    assert re.fullmatch(r"whole-\d{8}-\d{6}-[0-9a-f]{4}", job)
    assert f"{head.dashboard}/#/jobs/{job}" in output
    assert "ingest: 20 ok" in output
    assert (run / "report" / "index.html").exists()
    assert not list(head.folder.rglob("pwned"))


@pytest.mark.ray
def test_a_job_is_listed_and_its_log_kept(head, whole):
    run, _, output = whole
    job = submitted(output)
    code, table = command(head, "jobs")
    assert code == 0
    [line] = [line for line in table.splitlines() if line.startswith(job)]
    assert re.search(r"\bwhole +SUCCEEDED +20\d\d-\S+ \S+ +0:\d\d:\d\d ", line)
    assert line.endswith(str(run))
    code, log = command(head, "logs", job)
    assert code == 0
    assert log in output


@pytest.mark.ray
def test_shards_that_are_left_are_the_exit_code_of_submit(head, whole):
    run = whole[0]
    (run / "shards" / "ingest" / "00001.json").unlink()
    chunk = run / "latents.zarr/photos/image/c/1/0/0/0"
    chunk.unlink()
    chunk.mkdir()  # no shard can be written there
    code, output = command(head, "submit", run.parent / "job.yaml", "--only", "ingest")
    chunk.rmdir()
    assert code == 1, output
    assert "1 shards are not done" in output


@pytest.mark.ray
def test_the_code_that_runs_is_the_code_that_submitted(head, tmp_path):
    package = tmp_path / "client" / "distfacegan"
    shutil.copytree(ROOT / "distfacegan", package)
    with (package / "__init__.py").open("a") as file:
        file.write("\nprint('this is', __file__)\n")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "holiday.jpg").touch()
    ended = subprocess.run(  # in a process that imports that package
        [
            sys.executable,
            "-m",
            "distfacegan",
            "submit",
            write_ingest(tmp_path),
            "--address",
            head.dashboard,
        ],
        cwd=package.parent,
        env=head.environment(),
        capture_output=True,
        text=True,
        timeout=240,
    )
    output = ended.stdout + ended.stderr
    assert ended.returncode == 2, output  # what the job itself ended with
    assert "a folder with other things in it" in output
    here, there = re.findall(r"^this is (.*)$", output, re.M)
    assert Path(here).parent == package
    assert "runtime_resources/py_modules_files" in there


@pytest.mark.ray
def test_ctrl_c_leaves_a_job_to_itself(head, tmp_path):
    with start(head, "submit", write_ingest(tmp_path, count=60)) as process:
        process.until(lambda: "Running entrypoint" in process.output)
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 130
        said = process.output
    job = submitted(said)
    assert f"detached; {job} goes on" in said
    assert f"distfacegan logs --follow {job} --address {head.dashboard}" in said
    assert f"distfacegan cancel {job} --address {head.dashboard}" in said
    assert command(head, "logs", "--follow", job)[0] == 0
    assert RunDirectory(tmp_path / "run").finished("ingest")


@pytest.mark.ray
@pytest.mark.slow
def test_a_cancelled_job_leaves_whole_shards_and_can_be_finished(head, tmp_path):
    spec = write_ingest(tmp_path, count=200)
    run = RunDirectory(tmp_path / "run")
    code, output = command(head, "submit", spec, "--no-wait")
    assert code == 0
    assert "Running entrypoint" not in output
    job = submitted(output)
    deadline = time.monotonic() + 200
    while not list(run.markers("ingest").glob("*.json")):
        assert time.monotonic() < deadline, command(head, "logs", job)[1]
        time.sleep(0.05)
    code, output = command(head, "cancel", job)
    assert code == 0, output
    assert output.endswith(f"\n{job}: STOPPED\n")
    assert 0 < len(list(run.markers("ingest").glob("*.json"))) < 20
    assert findings(run) == []
    assert command(head, "logs", "--follow", job)[0] == 130
    code, output = command(head, "cancel", job)
    assert code == 2
    assert f"{job} has ended already: STOPPED" in output

    code, output = command(head, "submit", spec)
    assert code == 0, output
    assert run.finished("ingest")
    assert findings(run) == []


@pytest.mark.ray
@pytest.mark.parametrize(
    "variables",
    [
        {"RAY_AUTH_TOKEN": "0" * 64, "RAY_AUTH_TOKEN_PATH": ""},
        {"RAY_AUTH_TOKEN_PATH": "/nowhere/token"},
        {"RAY_AUTH_MODE": "disabled"},
    ],
    ids=["a wrong token", "no token", "no authentication"],
)
def test_who_has_not_the_token_is_told_how_to_give_it(head, variables):
    code, output = command(head, "jobs", **variables)
    assert code == 2
    for words in (head.dashboard, "RAY_AUTH_MODE=token", "RAY_AUTH_TOKEN_PATH", "RAY_AUTH_TOKEN "):
        assert words in output


@pytest.mark.ray
@pytest.mark.parametrize("arguments", [("logs", "../../version"), ("logs", ""), ("cancel", "x")])
def test_an_unknown_job_is_named(head, arguments):
    code, output = command(head, *arguments)
    assert code == 2
    assert f"has no job {arguments[1]!r}" in output


# ---- Before anything is sent ----


def test_a_cluster_that_is_not_there_is_said_at_once(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "")
    spec = str(write_ingest(tmp_path))
    began = time.monotonic()
    assert main(["submit", spec, "--address", "http://127.0.0.1:9"]) == 2
    said = capsys.readouterr().err
    assert "no Ray cluster answers at http://127.0.0.1:9: Connection refused" in said
    assert len(said.splitlines()) == 1
    assert time.monotonic() - began < 10


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--set", "name=x; touch pwned"], "name: string should match pattern"),
        (["--set", "ingest.shard_rows=0"], "ingest.shard_rows"),
        (["--only", "invert"], "--only invert: the spec has no stage invert"),
    ],
)
def test_a_mistake_in_the_spec_is_said_before_the_cluster_is_asked(
    tmp_path, capsys, arguments, words
):
    spec = str(write_ingest(tmp_path))
    assert main(["submit", spec, "--address", "http://127.0.0.1:9", *arguments]) == 2
    assert words in capsys.readouterr().err


@pytest.mark.parametrize("address", ["head:8265", "ray://head:10001", "auto", "http://"])
def test_an_address_that_is_no_dashboard_is_refused(address):
    with pytest.raises(submission.ClusterError, match="expected the head's"):
        submission.Cluster(address)


class FakeClient:
    """Ray's client of a cluster with one job; `turns` says how each connection goes.

    A turn is what the log's stream brings, and whether it then breaks; and the job's state and
    log afterwards, or an error where the cluster does not answer.
    """

    def __init__(self, turns: list = (), **details: object) -> None:
        self.turns, self.details = list(turns), details
        self.sent: dict = {}

    def submit_job(self, **job: object) -> None:
        folder = Path(job["runtime_env"]["working_dir"])
        self.sent = {**job, "files": {path.name: path.read_text() for path in folder.iterdir()}}

    def list_jobs(self) -> list:
        metadata = {"job_name": "a", submission.RUN_KEY: "/runs/a"}
        ours = {"status": JobStatus.RUNNING, "start_time": 1000, "end_time": None}
        foreign = SimpleNamespace(submission_id="b", metadata=None, **ours)
        return [foreign, SimpleNamespace(submission_id="a", metadata=metadata, **ours)]

    async def tail_job_logs(self, job: str):
        self.turn = self.turns.pop(0)
        for chunk in self.turn["stream"]:
            yield chunk
        if error := self.turn.get("breaks"):
            raise error
        if self.turn.get("silent"):
            await asyncio.sleep(60)

    def get_job_info(self, job: str) -> SimpleNamespace:
        if error := self.turn.get("no_answer"):
            raise error
        return SimpleNamespace(status=self.turn["status"], **self.details)

    def get_job_logs(self, job: str) -> str:
        return self.turn["log"]


@pytest.fixture
def cluster(monkeypatch):
    """Return a function that makes a cluster of a fake client."""
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "")
    monkeypatch.setattr(time, "sleep", lambda seconds: None)

    def make(client: FakeClient) -> submission.Cluster:
        monkeypatch.setattr(submission, "Client", lambda address: client)
        return submission.Cluster("http://head:8265/")

    return make


def test_what_is_sent_is_data_and_holds_nothing_of_the_environment(cluster, tmp_path, monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "swordfish")
    evil = "$(touch pwned); `touch pwned` && 'x"
    spec = specfile.load(write_ingest(tmp_path, run=evil, name="a.b"))
    client = FakeClient()
    cluster(client).submit(spec, only=[evil], fresh=True)
    words = shlex.split(client.sent["entrypoint"])
    assert words == [*shlex.split("python -m distfacegan run job.yaml --only"), evil, "--fresh"]
    (tmp_path / "sent.yaml").write_text(client.sent["files"].pop("job.yaml"))
    assert client.sent.pop("files") == {}
    assert specfile.load(tmp_path / "sent.yaml") == spec
    environment = client.sent["runtime_env"]
    assert environment.pop("working_dir")
    assert environment == {
        "py_modules": [str(ROOT / "distfacegan")],
        "excludes": ["__pycache__"],
        "env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": "30"},
    }
    assert client.sent["metadata"] == {"job_name": "a.b", "distfacegan_run": str(tmp_path / evil)}
    assert not any(name.startswith("entrypoint_") for name in client.sent)  # it waits for nothing
    assert "swordfish" not in json.dumps(client.sent)


def test_installed_sends_no_code(cluster, tmp_path):
    client = FakeClient()
    cluster(client).submit(specfile.load(write_ingest(tmp_path)), installed=True)
    assert "py_modules" not in client.sent["runtime_env"]


def test_a_broken_connection_is_not_the_end_of_a_job(cluster, monkeypatch):
    monkeypatch.setattr(submission, "QUIET_S", 0.05)
    closed, refused = aiohttp.ClientConnectionError("cut"), ConnectionRefusedError("refused")
    running, done = JobStatus.RUNNING, JobStatus.SUCCEEDED
    client = FakeClient(
        [
            {"stream": ["one\n", "tw"], "breaks": closed, "no_answer": refused},
            {"stream": [], "breaks": RuntimeError("502"), "no_answer": refused},
            {"stream": ["one\n"], "status": running, "log": "one\n"},  # a proxy closed it
            {"stream": ["one\ntwo\n", "three\n"], "silent": True, "status": running, "log": ""},
            {"stream": ["one\n"], "breaks": closed, "status": done, "log": "one\ntwo\nthree\n4\n"},
        ],
        driver_exit_code=0,
    )
    written: list[str] = []
    assert cluster(client).follow("a", written.append) == 0
    assert "".join(written) == "one\ntwo\nthree\n4\n"
    assert client.turns == []


def test_a_cluster_that_stays_away_is_said_with_the_way_back(cluster, monkeypatch):
    monkeypatch.setattr(submission, "PATIENCE_S", 0.05)
    refused = ConnectionRefusedError("refused")
    turn = {"stream": ["one\n"], "breaks": refused, "no_answer": refused}
    with pytest.raises(submission.ClusterError) as raised:
        cluster(FakeClient([turn] * 100_000)).follow("a", lambda text: None)
    for words in ("may well go on", "logs --follow a --address http://head:8265", "cancel a"):
        assert words in str(raised.value)


@pytest.mark.parametrize(
    ("status", "driver", "code"),
    [
        ("SUCCEEDED", 0, 0),
        ("FAILED", 1, 1),
        ("FAILED", 137, 137),
        ("FAILED", -9, 137),
        ("FAILED", None, 2),
        ("STOPPED", None, 130),
    ],
)
def test_the_exit_code_is_the_jobs(cluster, status, driver, code):
    turn = {"stream": [], "status": JobStatus(status), "log": ""}
    client = FakeClient([turn], driver_exit_code=driver, message="no such package")
    written: list[str] = []
    assert cluster(client).follow("a", written.append) == code
    assert written == (["no such package\n"] if driver is None and status == "FAILED" else [])


def test_only_our_own_jobs_are_listed_and_touched(cluster):
    jobs = cluster(FakeClient()).jobs()
    assert [job.id for job in jobs] == ["a"]
    with pytest.raises(submission.JobError, match="has no job 'b'"):
        cluster(FakeClient()).cancel("b")


def test_the_address_asked_for_wins_over_the_environment(monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "http://127.0.0.1:10")
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "http://127.0.0.1:11")
    monkeypatch.setattr(waiting, "refusal_of_url", lambda url: None)
    with pytest.raises(submission.ClusterError) as told:
        submission.Cluster("http://127.0.0.1:9")
    assert "at address: http://127.0.0.1:9." in str(told.value.__cause__)
