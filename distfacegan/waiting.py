"""Waits: what is waited for is said, and an address at which nothing answers is noticed soon."""

from __future__ import annotations

import contextlib
import logging
import socket
import threading
import time
import urllib.parse
from collections.abc import Iterator

log = logging.getLogger(__name__)

SAY_EVERY_S = 8.0
CONNECT_S = 5.0


@contextlib.contextmanager
def said(what: str) -> Iterator[None]:
    """Log what is waited for, every SAY_EVERY_S seconds until the context ends."""
    over, started = threading.Event(), time.monotonic()

    def say() -> None:
        while not over.wait(SAY_EVERY_S):
            log.info("waiting for %s: %.0f s", what, time.monotonic() - started)

    threading.Thread(target=say, daemon=True).start()
    try:
        yield
    finally:
        over.set()


def refusal(host: str, port: int) -> str | None:
    """Return why nothing takes a connection at an address, after CONNECT_S; None if it does."""
    try:
        with said(f"{host}:{port}"):
            socket.create_connection((host, port), CONNECT_S).close()
    except TimeoutError:
        return f"no answer within {CONNECT_S:.0f} s"
    except OSError as error:
        return error.strerror or str(error)
    return None


def refusal_of_url(url: str) -> str | None:
    """Return what `refusal` says of the host and the port in a URL."""
    parts = urllib.parse.urlsplit(url)
    try:
        port = parts.port or {"https": 443}.get(parts.scheme, 80)
    except ValueError as error:
        return str(error)
    return refusal(parts.hostname or "", port)
