"""Processes that start warm: forked from one that has imported PyTorch, Ray and distfacegan."""

from __future__ import annotations

import multiprocessing
import os
import signal
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ray._private.authentication_test_utils import reset_auth_token_state

from distfacegan import cli

_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(["distfacegan.pipeline", "distfacegan.stages.submission"])


class WarmProcess:
    """`call(*arguments)` in a process of its own; what the call returns is the exit code.

    The call has to be one that pickle finds by its name. The process is killed at the end of a
    `with` block, and when the tests are over.
    """

    def __init__(
        self,
        call: Callable[..., int],
        *arguments: Any,
        environment: Mapping[str, str] | None = None,
        folder: Path | None = None,
    ) -> None:
        with tempfile.NamedTemporaryFile(delete=False) as file:
            self._output = Path(file.name)
        self._process = _FORKS.Process(
            target=_call,
            args=(
                call,
                arguments,
                environment or os.environ.copy(),
                folder or Path.cwd(),
                self._output,
            ),
            daemon=True,
        )
        self._process.start()

    def __enter__(self) -> WarmProcess:
        return self

    def __exit__(self, *error: object) -> None:
        self._process.kill()
        self._process.join()
        self._output.unlink()

    @property
    def output(self) -> str:
        """All that it has said until now."""
        return self._output.read_text(errors="replace")

    def send_signal(self, number: signal.Signals) -> None:
        assert self._process.pid is not None
        os.kill(self._process.pid, number)

    def wait(self, timeout: float = 240) -> int:
        """Wait for the end; return the exit code, or less than 0 for the signal that ended it."""
        self._process.join(timeout)
        assert self._process.exitcode is not None, f"after {timeout} s:\n{self.output}"
        return self._process.exitcode

    def until(self, happened: Callable[[], Any], timeout: float = 240) -> None:
        """Wait for something to happen while the process lives."""
        deadline = time.monotonic() + timeout
        while not happened():
            assert self._process.is_alive(), self.output
            assert time.monotonic() < deadline, f"after {timeout} s:\n{self.output}"
            time.sleep(0.01)


def distfacegan(*words: object, **where: Any) -> WarmProcess:
    """Start a command of the command line."""
    return WarmProcess(cli.main, list(map(str, words)), **where)


def _call(
    call: Callable[..., int],
    arguments: tuple[Any, ...],
    environment: Mapping[str, str],
    folder: Path,
    output: Path,
) -> None:
    with output.open("a") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    os.environ.clear()
    os.environ.update(environment)
    reset_auth_token_state()  # what Ray has read of the environment, it reads again
    os.chdir(folder)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    raise SystemExit(call(*arguments))
