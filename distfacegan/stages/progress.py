"""Progress: a bar with rate and ETA on a terminal, a line every 10 seconds in a log."""

from __future__ import annotations

import logging
import sys
import time
from types import TracebackType

from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

log = logging.getLogger(__name__)

LINE_EVERY_S = 10.0


class Progress:
    """Counts the units done of `total`. Earlier runs did `initial` of them."""

    def __init__(self, name: str, total: int, unit: str, initial: int = 0) -> None:
        self._name, self._total, self._unit = name, total, unit
        self._initial = self._done = initial
        self._started = self._said = time.monotonic()
        self._bar = tqdm(
            total=total,
            initial=initial,
            desc=f"{name:<10}",
            unit=f" {unit}",
            disable=not sys.stderr.isatty(),
            dynamic_ncols=True,
        )
        self._redirect = logging_redirect_tqdm()

    def __enter__(self) -> Progress:
        self._redirect.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._redirect.__exit__(kind, error, trace)
        self._bar.close()

    def advance(self, count: int, note: str = "") -> None:
        """Add `count` units to those done; `note` is shown behind the figures."""
        self._done += count
        self._bar.set_postfix_str(note, refresh=False)
        self._bar.update(count)
        if self._bar.disable and time.monotonic() - self._said >= LINE_EVERY_S:
            self._said = time.monotonic()
            log.info("%s", self._line(note))

    def _line(self, note: str) -> str:
        rate = (self._done - self._initial) / (time.monotonic() - self._started)
        eta = (self._total - self._done) / rate if rate > 0 else float("inf")
        done = f"{self._name}: {self._done} of {self._total} {self._unit}"
        return f"{done}, {rate:.1f}/s, ETA {_clock(eta)}" + (f", {note}" if note else "")


def _clock(seconds: float) -> str:
    if seconds == float("inf"):
        return "unknown"
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}"
