"""Ray's client of a cluster's jobs, which is never silent for long."""

from __future__ import annotations

from typing import Any

from ray.job_submission import JobSubmissionClient

from distfacegan import waiting

TIMEOUT_S = (5, 30)  # seconds to connect, and seconds to get an answer


class SilentError(ConnectionError):
    """Nothing takes a connection."""


class Client(JobSubmissionClient):
    """Ray's client, with a limit on the time that it waits for an answer."""

    def __init__(self, address: str) -> None:
        """Find the head; raises SilentError if nothing answers. Ray alone would try for minutes."""
        reason = waiting.refusal_of_url(address)
        if reason is not None:
            raise SilentError(reason)
        super().__init__(address)

    def _do_request(self, method: str, endpoint: str, **options: Any) -> Any:
        with waiting.said(f"{self._address} (gives up after {TIMEOUT_S[1]} s)"):
            return super()._do_request(method, endpoint, timeout=TIMEOUT_S, **options)
