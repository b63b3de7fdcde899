"""Jobs on a cluster, which are submitted, followed, listed and cancelled through Ray Jobs.

A submission sends a resolved job.yaml and the code of this package. The cluster keeps the log and
the state of the job. The user can therefore close the terminal, and follow the job again later from
any machine.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import datetime
import logging
import os
import secrets
import shlex
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import aiohttp
from ray.exceptions import AuthenticationError
from ray.job_submission import JobDetails, JobStatus

from distfacegan.errors import DistfaceganError
from distfacegan.stages.job_client import Client, SilentError

if TYPE_CHECKING:
    from distfacegan.spec import JobSpec

log = logging.getLogger(__name__)

PACKAGE = Path(__file__).parents[1]
# The metadata of each of our jobs holds its run directory under this key. Other jobs have no such
# key.
RUN_KEY = "distfacegan_run"

STOP_WAIT_S = 30  # seconds between SIGTERM and SIGKILL, in which the shards in flight are finished
QUIET_S = 60.0  # after this many seconds without a new line, the log is opened again
PATIENCE_S = 60.0  # after this many seconds without an answer, a job is no longer followed

# The errors of a failed request: errors of the package requests are OSErrors, and Ray's client
# raises a RuntimeError for every answer but 200.
LOST = (OSError, RuntimeError, aiohttp.ClientError)


class ClusterError(DistfaceganError, ConnectionError):
    """A cluster that cannot be reached, or that refuses a request."""


class JobError(DistfaceganError, LookupError):
    """A job that does not exist, has already ended, or does not stop."""


@dataclasses.dataclass(frozen=True)
class Job:
    """A cluster's facts about one of our jobs. Times are in seconds of the Unix clock."""

    id: str
    name: str
    run: str  # the run directory
    status: JobStatus
    started: float
    ended: float | None


class Cluster:
    """The jobs of the cluster whose head answers at `address` (http://HEAD:8265)."""

    def __init__(self, address: str) -> None:
        self.address = address.rstrip("/")
        url = urlsplit(self.address)
        if url.scheme not in ("http", "https") or not url.netloc:
            raise ClusterError(f"--address {address}: expected the head's, like http://HEAD:8265")
        # In Ray's client this variable, or else RAY_ADDRESS, overrules the address in the argument
        # (Ray 2.60, get_address_for_submission_client).
        os.environ["RAY_API_SERVER_ADDRESS"] = self.address
        for handler in logging.getLogger("ray").handlers:
            handler.setLevel(logging.WARNING)  # no log line for every upload and connection
        with self._explained():
            self._client = Client(self.address)

    def submit(
        self,
        spec: JobSpec,
        *,
        only: Sequence[str] = (),
        fresh: bool = False,
        installed: bool = False,
    ) -> str:
        """Send a job, and return its submission id.

        The job runs the code of this package, or with `installed` the version of the package that
        is installed on the cluster's nodes.
        """
        from distfacegan import specfile  # specfile imports torch, which takes seconds

        job = f"{spec.name}-{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}"
        command = ["python", "-m", "distfacegan", "run", "job.yaml"]
        command += [word for stage in only for word in ("--only", stage)]
        command += ["--fresh"] if fresh else []
        with tempfile.TemporaryDirectory() as folder:
            Path(folder, "job.yaml").write_text(specfile.dump(spec, defaults=False))
            environment: dict[str, Any] = {
                "working_dir": folder,
                "excludes": ["__pycache__"],
                "env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": str(STOP_WAIT_S)},
            }
            if not installed:
                environment["py_modules"] = [str(PACKAGE)]
            # The entrypoint is a shell command. It asks for no resources, because a job that waits
            # for resources cannot be stopped (Ray 2.60).
            with self._explained():
                self._client.submit_job(
                    submission_id=job,
                    entrypoint=shlex.join(command),
                    runtime_env=environment,
                    metadata={"job_name": spec.name, RUN_KEY: str(spec.run)},
                )
        return job

    def link(self, job: str) -> str:
        """Return the URL of a job in Ray's dashboard."""
        return f"{self.address}/#/jobs/{job}"

    def advice(self, job: str) -> str:
        """Return the commands to follow a job again and to end it."""
        where = f"--address {shlex.quote(self.address)}"
        return (
            f"  come back:  distfacegan logs --follow {job} {where}\n"
            f"  end it:     distfacegan cancel {job} {where}"
        )

    def jobs(self) -> list[Job]:
        """Return this package's jobs, newest first."""
        with self._explained():
            found = self._client.list_jobs()
        ours = [_job(details) for details in found if RUN_KEY in (details.metadata or {})]
        return sorted(ours, key=lambda job: job.started, reverse=True)

    def logs(self, job: str) -> str:
        """Return a job's log so far."""
        self._find(job)
        with self._explained():
            return self._client.get_job_logs(job)

    def follow(self, job: str, write: Callable[[str], None]) -> int:
        """Write a job's log until the job ends; return its exit code (130 if it was cancelled).

        After a break of the connection the log is opened again: only the state of the job says
        whether the job has ended. Raises ClusterError when the cluster has not answered for
        PATIENCE_S.
        """
        self._find(job)
        written = _Log(self._client, job, write)
        lost_since = None
        while True:
            with contextlib.suppress(*LOST):  # below, the job's state says whether the job ended
                asyncio.run(written.tail())
            try:
                with self._explained():
                    details = self._client.get_job_info(job)
                    written.catch_up()
            except ClusterError as error:
                lost_since = lost_since or time.monotonic()
                if time.monotonic() - lost_since > PATIENCE_S:
                    raise ClusterError(
                        f"{error}\n{job} may well go on: it does not need this terminal\n"
                        f"{self.advice(job)}"
                    ) from None
            else:
                lost_since = None
                if details.status.is_terminal():
                    return _exit_code(details, write)
            time.sleep(1)

    def cancel(self, job: str) -> JobStatus:
        """Stop a job, wait until the job has stopped, and return its last state."""
        status = self._find(job).status
        if status.is_terminal():
            raise JobError(f"{job} has ended already: {status}")
        log.info("%s is told to stop; it first finishes the shards in flight", job)
        deadline = time.monotonic() + STOP_WAIT_S + 30
        while not status.is_terminal():
            if time.monotonic() > deadline:
                raise JobError(f"{job} was told to stop, but is still {status}")
            with self._explained():
                # Repeated, because a driver that is still starting misses the first signal.
                self._client.stop_job(job)
                time.sleep(1)
                status = self._client.get_job_status(job)
        return status

    def _find(self, job: str) -> Job:
        for found in self.jobs():
            if found.id == job:
                return found
        raise JobError(
            f"{self.address} has no job {job!r}; `distfacegan jobs` lists the jobs that it has"
        )

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        """Turn the errors of a failed request into a ClusterError that says what to do."""
        try:
            yield
        except AuthenticationError as error:
            reason = str(error).splitlines()[0].partition(". ")[0]
            raise ClusterError(
                f"{self.address} wants the token of its cluster: {reason}\n"
                "Set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN_PATH to a file that holds the token "
                "(or RAY_AUTH_TOKEN to the token)."
            ) from None
        except RuntimeError as error:  # any answer but 200
            raise ClusterError(f"{self.address} refused the request: {error}") from None
        except OSError as error:
            silent = isinstance(error, SilentError)
            reason = str(error) if silent else "the request failed"
            raise ClusterError(
                f"no Ray cluster answers at {self.address}: {reason}. Is its head up, and can this "
                "machine reach its dashboard's port? Through a firewall: ssh -L "
                "8265:localhost:8265 HEAD, then --address http://localhost:8265"
            ) from error


class _Log:
    """Writes the log of a job, each character only once, even if the connection breaks."""

    def __init__(self, client: Any, job: str, write: Callable[[str], None]) -> None:
        self._client, self._job, self._write = client, job, write
        self._written = 0

    async def tail(self) -> None:
        """Write new lines of the log until the job ends or the connection breaks."""
        now = asyncio.get_running_loop().time
        position = 0
        chunks = self._client.tail_job_logs(self._job)  # from the log's beginning
        async with asyncio.timeout(QUIET_S) as timeout, contextlib.aclosing(chunks):
            async for chunk in chunks:
                timeout.reschedule(now() + QUIET_S)
                self._add(chunk, position)
                position += len(chunk)

    def catch_up(self) -> None:
        """Write the part of the log that is not written yet.

        That is the last lines, or the whole log if a proxy prevents tailing.
        """
        self._add(self._client.get_job_logs(self._job), 0)

    def _add(self, text: str, position: int) -> None:
        new = text[max(self._written - position, 0) :]
        if new:
            self._write(new)
            self._written += len(new)


def describe(jobs: Sequence[Job]) -> str:
    """Return a table of jobs for people."""
    rows = [("ID", "NAME", "STATUS", "STARTED", "DURATION", "RUN DIRECTORY")]
    for job in jobs:
        started = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(job.started))
        seconds = (job.ended or time.time()) - job.started
        duration = str(datetime.timedelta(seconds=round(seconds)))
        rows.append((job.id, job.name, str(job.status), started, duration, job.run))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )


def _job(details: JobDetails) -> Job:
    metadata = details.metadata or {}
    return Job(
        id=details.submission_id or "",
        name=metadata["job_name"],
        run=metadata[RUN_KEY],
        status=details.status,
        started=(details.start_time or 0) / 1000,
        ended=details.end_time / 1000 if details.end_time else None,
    )


def _exit_code(job: JobDetails, write: Callable[[str], None]) -> int:
    if job.status == JobStatus.STOPPED:
        return 130
    if job.driver_exit_code is None:  # the job never ran or lost its node: the log says nothing
        write(f"{job.message}\n")
        return 2
    return job.driver_exit_code if job.driver_exit_code >= 0 else 128 - job.driver_exit_code
