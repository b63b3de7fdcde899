"""A real Ray head in processes of its own, with token authentication, on ports nobody else has."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from tests.ports import free_port

START_S = 120


@dataclasses.dataclass(frozen=True)
class RayHead:
    """Where a head is, and what opens it."""

    dashboard: str  # http://127.0.0.1:PORT, for `submit --address`
    address: str  # HOST:PORT, for RAY_ADDRESS
    token: Path
    folder: Path  # of the head and its sessions; deleted at the end
    pid: int  # of `ray start`: SIGTERM ends the head and all that it started

    @property
    def access(self) -> dict[str, str]:
        """The variables that open it."""
        return {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(self.token)}

    def environment(self, **changes: str) -> dict[str, str]:
        """Return an environment whose processes are let in, and know no other cluster."""
        return client_environment(**self.access) | changes

    @property
    def of_driver(self) -> dict[str, str]:
        """The environment of a job that joins the cluster."""
        return self.environment(RAY_ADDRESS=self.address)


def client_environment(**changes: str) -> dict[str, str]:
    """Return this process's environment without what it says of Ray clusters."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    return kept | {"RAY_USAGE_STATS_ENABLED": "0"} | changes


@contextlib.contextmanager
def ray_head(*, num_cpus: int = 2, num_gpus: int = 0) -> Iterator[RayHead]:
    """Start a head, and end it with everything that it started."""
    folder = Path(tempfile.mkdtemp(prefix="dfh", dir="/tmp"))  # short: sockets have 107 characters
    token = folder / "token"
    token.touch(mode=0o600)
    token.write_text(secrets.token_hex(32))
    # The jobs' `python` is the one of the tests, as it would be on a node's PATH.
    environment = client_environment(
        RAY_AUTH_MODE="token",
        RAY_AUTH_TOKEN_PATH=str(token),
        RAY_metrics_report_interval_ms="1000",
        PATH=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
    )
    environment.pop("PYTHONPATH", None)  # what nodes run is installed, or was sent to them
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block"]
    command += ["--node-ip-address=127.0.0.1", "--port=0", "--dashboard-port=0"]
    command += ["--dashboard-agent-listen-port=0", f"--ray-client-server-port={free_port()}"]
    command += [f"--num-cpus={num_cpus}", f"--num-gpus={num_gpus}", f"--temp-dir={folder}"]
    output = folder / "output.txt"
    with output.open("w") as stream:
        process = subprocess.Popen(
            command, env=environment, cwd=folder, stdout=stream, stderr=subprocess.STDOUT
        )
    try:
        dashboard, address = _addresses(process, output)
        yield RayHead(dashboard, address, token, folder, process.pid)
    finally:
        process.kill()  # SIGTERM would wait for half a minute
        process.wait()
        try:
            _end_all_of(folder)
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def _addresses(process: subprocess.Popen, output: Path) -> tuple[str, str]:
    """Wait for the head to be up; return the addresses of its dashboard and of the cluster."""
    deadline = time.monotonic() + START_S
    while True:
        text = output.read_text()
        dashboard = re.search(r"RAY_API_SERVER_ADDRESS='(\S+)'", text)
        address = re.search(r"ray start --address='(\S+)'", text)
        if dashboard and address and "--block" in text:
            return dashboard[1], address[1]
        assert process.poll() is None, text
        assert time.monotonic() < deadline, f"no head after {START_S} s:\n{text}"
        time.sleep(0.1)


def _end_all_of(folder: Path) -> None:
    """Kill the processes of a cluster, which name its folder in their command lines."""
    deadline = time.monotonic() + 30
    while own := [pid for pid, line in _processes() if str(folder) in line]:
        assert time.monotonic() < deadline, f"processes of {folder} outlive their head"
        for pid in own:
            with contextlib.suppress(ProcessLookupError):  # it has ended meanwhile
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.1)


def command_lines() -> list[str]:
    """Return the command lines of all processes."""
    return [line for _, line in _processes()]


def _processes() -> Iterator[tuple[int, str]]:
    """Yield the id and the command line of every process that still runs."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has ended meanwhile
            yield int(path.parent.name), path.read_bytes().decode(errors="replace")
