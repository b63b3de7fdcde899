"""Run the tests in three lanes at once: two that need Ray, and all others (`make test`)."""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
import time
from typing import IO

# The tests that share a finished job have a lane of their own.
OF_JOBS = [f"tests/test_{name}.py" for name in ("faults", "object_store", "pairs", "pipeline")]
LANES = {
    "whole jobs": ["-m", "ray and not chaos", *OF_JOBS],
    "Ray": ["-m", "ray and not chaos", *(f"--ignore={path}" for path in OF_JOBS)],
    "all others": ["-m", "not ray and not chaos"],
}
NO_TESTS = 5  # pytest's exit code for a lane in which there is nothing to do


def main() -> int:
    """Run the lanes, print the output of each when it ends, and return 1 if a test failed."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    started = time.monotonic()
    command = [sys.executable, "-m", "pytest", "-q", *sys.argv[1:]]
    outputs = {lane: tempfile.TemporaryFile("w+") for lane in LANES}  # noqa: SIM115
    lanes = {
        lane: subprocess.Popen([*command, *chosen], stdout=outputs[lane], stderr=subprocess.STDOUT)
        for lane, chosen in LANES.items()
    }
    running = set(lanes)
    try:
        while running:
            for lane in sorted(running):
                if lanes[lane].poll() is not None:
                    running.remove(lane)
                    _show(lane, outputs[lane], time.monotonic() - started)
            time.sleep(0.2)
    except KeyboardInterrupt:
        for lane in sorted(running):
            lanes[lane].send_signal(signal.SIGINT)
            lanes[lane].wait()
            _show(lane, outputs[lane], time.monotonic() - started)
        return 130
    return int(any(process.returncode not in (0, NO_TESTS) for process in lanes.values()))


def _show(lane: str, output: IO[str], seconds: float) -> None:
    output.seek(0)
    print(f"---- {lane}, after {seconds:.0f} s\n{output.read()}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
