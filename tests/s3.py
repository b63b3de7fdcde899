"""A local S3 server, and what reaches it: for tests of run directories in object stores."""

from __future__ import annotations

import contextlib
import http.client
import http.server
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import boto3

from tests.ports import free_port

BUCKET = "faces"


@contextlib.contextmanager
def serve(host: str = "127.0.0.1") -> Iterator[dict[str, str]]:
    """Run moto's server with an empty bucket; yield the environment that reaches it."""
    port = free_port()
    command = [sys.executable, "-m", "moto.server", "-H", host, "-p", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    environment = {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "an-access-key",
        "AWS_SECRET_ACCESS_KEY": "a-secret-that-no-log-shows",
        "AWS_REGION": "us-east-1",
    }
    try:
        _wait_for(host, port)
        client = boto3.client(
            "s3",
            endpoint_url=environment["AWS_ENDPOINT_URL"],
            aws_access_key_id=environment["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=environment["AWS_SECRET_ACCESS_KEY"],
            region_name=environment["AWS_REGION"],
        )
        client.create_bucket(Bucket=BUCKET)
        yield environment
    finally:
        server.kill()
        server.wait()


def _wait_for(host: str, port: int) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError), socket.create_connection((host, port), 1):
            return
        time.sleep(0.1)
    raise TimeoutError("the S3 server did not start")


class Faults(http.server.ThreadingHTTPServer):
    """Stands before the server, and misbehaves while `fault` is set.

    "500": answers so. "hang": does not answer. "unconditional": ignores the conditions of a write.
    """

    daemon_threads = True

    def __init__(self, endpoint: str) -> None:
        super().__init__(("127.0.0.1", 0), _Forward)
        self.upstream = endpoint.removeprefix("http://")
        self.endpoint = f"http://127.0.0.1:{self.server_port}"
        self.fault: str | None = None
        self.num_faults = 0
        self.over = threading.Event()
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @contextlib.contextmanager
    def strike(self, fault: str, seconds: float) -> Iterator[None]:
        """Begin a fault ("500" or "hang") that ends by itself after some seconds."""
        self.fault = fault
        timer = threading.Timer(seconds, self._heal)
        timer.start()
        try:
            yield
        finally:
            timer.join()

    def _heal(self) -> None:
        self.fault = None

    def close(self) -> None:
        self.over.set()
        self.shutdown()
        self.server_close()


class _Forward(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Faults

    def _forward(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        headers = dict(self.headers)
        if self.server.fault == "unconditional":
            headers = {k: v for k, v in headers.items() if k.lower() not in _CONDITIONS}
        elif self.server.fault is not None:
            self.server.num_faults += 1
            if self.server.fault == "hang":
                self.server.over.wait(300)
                self.close_connection = True
                return
            self._answer(500, [], b"")
            return
        upstream = http.client.HTTPConnection(self.server.upstream, timeout=60)
        upstream.request(self.command, self.path, body, headers)
        answer = upstream.getresponse()
        kept = [(k, v) for k, v in answer.getheaders() if k.lower() not in _HOP_BY_HOP]
        self._answer(answer.status, kept, answer.read())
        upstream.close()

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _forward

    def _answer(self, status: int, headers: list[tuple[str, str]], body: bytes) -> None:
        self.send_response_only(status)
        length = dict(headers).get("Content-Length", str(len(body)))
        for name, value in headers:
            if name != "Content-Length":
                self.send_header(name, value)
        self.send_header("Content-Length", length)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *arguments: object) -> None:
        pass


_CONDITIONS = {"if-match", "if-none-match"}
_HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "server", "date"}
