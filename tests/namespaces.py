"""Two machines on one: network namespaces on a bridge, and a Ray node with a token in each."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from tests.ray_head import client_environment

PORT = 6379  # of Ray, in a network namespace of its own


@dataclasses.dataclass(frozen=True)
class Nodes:
    """Two network namespaces, `name`0 and `name`1, which reach each other and the bridge."""

    name: str
    addresses: list[str]
    bridge: str  # the address of this machine for them
    rays: list[subprocess.Popen[str]] = dataclasses.field(default_factory=list)

    def prefix(self, node: int) -> list[str]:
        """Return what stands before a command that a node is to run."""
        return ["ip", "netns", "exec", f"{self.name}{node}"]

    def pids(self, node: int) -> list[int]:
        """Return the processes of a node."""
        command = ["ip", "netns", "pids", f"{self.name}{node}"]
        return [int(pid) for pid in subprocess.run(command, capture_output=True).stdout.split()]

    def raylet(self, node: int) -> int:
        """Return the process of a node's raylet."""
        (pid,) = (
            pid
            for pid in self.pids(node)
            if Path(f"/proc/{pid}/comm").read_text().strip() == "raylet"
        )
        return pid

    def cut(self, node: int) -> None:
        """Take away the link of a node: nothing comes through, and nobody is told."""
        _ip("link", "set", f"{self.name}{node}", "down")

    def heal(self, node: int) -> None:
        """Give the link of a node back."""
        _ip("link", "set", f"{self.name}{node}", "up")


@contextlib.contextmanager
def two(net: int) -> Iterator[Nodes]:
    """Make two namespaces in 10.`net`.x.0/24; skip the test, by name, where that cannot be."""
    for command in ("ip", "unshare", "getent"):
        if shutil.which(command) is None:
            pytest.skip(f"two nodes on one machine need the command {command}")
    if os.geteuid() != 0:
        pytest.skip("two nodes on one machine need root: they are network namespaces")
    name, net_of = f"dfg{os.getpid()}n", f"10.{net}.{os.getpid() % 250}"
    nodes = Nodes(name, [f"{net_of}.1", f"{net_of}.2"], f"{net_of}.254")
    try:
        try:
            _ip("link", "add", name, "type", "bridge")
        except subprocess.CalledProcessError as error:
            pytest.skip(f"two nodes on one machine need the right to make networks: {error.stderr}")
        _ip("address", "add", f"{nodes.bridge}/24", "dev", name)
        _ip("link", "set", name, "up")
        for i, address in enumerate(nodes.addresses):
            node = f"{name}{i}"
            _ip("netns", "add", node)
            _ip("link", "add", node, "type", "veth", "peer", "name", "eth0", "netns", node)
            _ip("link", "set", node, "master", name, "up")
            _ip("-n", node, "address", "add", f"{address}/24", "dev", "eth0")
            for device in ("eth0", "lo"):
                _ip("-n", node, "link", "set", device, "up")
        yield nodes
    finally:
        for i in range(2):
            for pid in nodes.pids(i):
                with contextlib.suppress(ProcessLookupError):  # it went with another
                    os.kill(pid, signal.SIGKILL)
            subprocess.run(["ip", "netns", "delete", f"{name}{i}"], capture_output=True)
            subprocess.run(["ip", "link", "delete", f"{name}{i}"], capture_output=True)
        for process in nodes.rays:
            process.wait()
        subprocess.run(["ip", "link", "delete", name], capture_output=True)


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True)


def start_ray(nodes: Nodes, folder: Path, settings: Mapping[str, str]) -> dict[str, str]:
    """Start Ray on both nodes, a core each; return the environment of its drivers.

    `settings` are of every node. What is started ends with the namespaces.
    """
    token = folder / "token"
    token.touch(mode=0o600)
    token.write_text(secrets.token_hex(32))
    environment = client_environment(
        RAY_AUTH_MODE="token", RAY_AUTH_TOKEN_PATH=str(token), **settings
    )
    address = f"{nodes.addresses[0]}:{PORT}"
    for i, own in enumerate(nodes.addresses):
        role = [f"--address={address}"] if i else ["--head", f"--port={PORT}"]
        command = [*nodes.prefix(i), sys.executable, "-m", "ray.scripts.scripts", "start", *role]
        command += [f"--node-ip-address={own}", f"--temp-dir={folder}/{i}", "--num-cpus=1"]
        output = folder / f"node{i}.txt"
        with output.open("w") as stream:
            process = subprocess.Popen(
                [*command, "--block"],
                env=environment,
                stdout=stream,
                stderr=subprocess.STDOUT,
                text=True,
            )
        nodes.rays.append(process)
        deadline = time.monotonic() + 120
        while "Ray runtime started" not in output.read_text():
            assert process.poll() is None, output.read_text()
            assert time.monotonic() < deadline, output.read_text()
            time.sleep(0.2)
    return environment | {"RAY_ADDRESS": address}
