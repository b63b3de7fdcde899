"""Nothing is silent for long: what is waited for is said, and what is dead is noticed soon."""

import logging
import os
import socket
import subprocess
import sys
import time

import pytest

from distfacegan import waiting
from distfacegan.cli import main
from distfacegan.store import location
from tests.jobs import write_spec
from tests.ports import free_port
from tests.s3 import Faults


def test_a_wait_is_said_until_it_ends(monkeypatch, caplog):
    monkeypatch.setattr(waiting, "SAY_EVERY_S", 0.1)
    with caplog.at_level(logging.INFO, "distfacegan"), waiting.said("a thing"):
        time.sleep(0.35)
    said = len(caplog.messages)
    assert 2 <= said <= 3
    assert caplog.messages[0] == "waiting for a thing: 0 s"
    time.sleep(0.3)
    assert len(caplog.messages) == said


def test_what_does_not_answer_is_told_by_its_reason(monkeypatch):
    monkeypatch.setattr(waiting, "CONNECT_S", 0.5)
    assert waiting.refusal("127.0.0.1", free_port()) == "Connection refused"
    assert waiting.refusal_of_url(f"http://127.0.0.1:{free_port()}") == "Connection refused"
    assert "out of range" in waiting.refusal_of_url("http://127.0.0.1:99999")
    with socket.create_server(("127.0.0.1", 0)) as server:
        assert waiting.refusal(*server.getsockname()) is None
        assert waiting.refusal_of_url(f"http://127.0.0.1:{server.getsockname()[1]}") is None


@pytest.fixture
def deaf(s3, monkeypatch):
    """A store that takes connections and never answers."""
    proxy = Faults(s3["AWS_ENDPOINT_URL"])
    proxy.fault = "hang"
    monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
    monkeypatch.setattr(location, "REACH_S", 2.0)
    location._bucket.cache_clear()
    yield
    proxy.close()
    location._bucket.cache_clear()


@pytest.mark.parametrize("command", ["plan", "run"])
def test_a_store_that_does_not_answer_is_said_and_given_up(
    deaf, command, tmp_path, capsys, caplog, monkeypatch
):
    monkeypatch.setattr(waiting, "SAY_EVERY_S", 0.5)
    began = time.monotonic()
    with caplog.at_level(logging.INFO, "distfacegan"):
        assert main([command, str(write_spec(tmp_path, run="s3://faces/run"))]) == 2
    assert time.monotonic() - began < 8
    assert "s3://faces/run cannot be reached" in capsys.readouterr().err
    assert "waiting for the object store of s3://faces/run (gives up after 2 s)" in caplog.text


def test_every_store_that_a_spec_names_must_answer(deaf, tmp_path, capsys):
    spec = write_spec(tmp_path, synthesize={"count": 1, "generator": "s3://faces/g"}, invert=None)
    assert main(["plan", str(spec)]) == 2
    assert "s3://faces/g cannot be reached" in capsys.readouterr().err


def test_a_request_to_a_store_says_what_it_waits_for(deaf, monkeypatch, caplog):
    monkeypatch.setattr(waiting, "SAY_EVERY_S", 0.2)
    options = location._OPTIONS["client_options"] | {"timeout": "1s"}
    monkeypatch.setitem(location._OPTIONS, "client_options", options)
    retry = location._OPTIONS["retry_config"] | {"max_retries": 0}
    monkeypatch.setitem(location._OPTIONS, "retry_config", retry)
    with (
        caplog.at_level(logging.INFO, "distfacegan"),
        pytest.raises(location.ObjectStoreError),
    ):
        location.locate("s3://faces/a").read_bytes()
    assert "waiting for the object store s3://faces (gives up after 300 s)" in caplog.text


def test_run_against_a_dead_head_ends_soon_with_one_line(tmp_path):
    address = f"127.0.0.1:{free_port()}"
    began = time.monotonic()
    found = subprocess.run(
        [sys.executable, "-m", "distfacegan", "run", str(write_spec(tmp_path))],
        env={**os.environ, "RAY_ADDRESS": address},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert found.returncode == 2
    assert time.monotonic() - began < 60  # most of it imports
    assert "no Ray cluster answers there: Connection refused" in found.stderr
    assert len(found.stderr.splitlines()) == 1
