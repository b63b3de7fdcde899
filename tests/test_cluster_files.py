"""The files that start Ray clusters, as far as they can be held to account without a cloud."""

from __future__ import annotations

import copy
import json
import os
import re
import signal
import stat
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

import distfacegan
from tests import namespaces
from tests.jobs import write_spec

ROOT = Path(__file__).resolve().parents[1]
CLUSTER = ROOT / "cluster"
SLURM = Path(__file__).parent / "slurm"  # stand-ins for Slurm's commands
BIN = Path(sys.executable).parent

HEALTH = {
    "RAY_health_check_period_ms": "2000",
    "RAY_health_check_timeout_ms": "5000",
    "RAY_health_check_failure_threshold": "3",
}
RAY_VERSION = re.search(r"^ray==(.+)$", (ROOT / "constraints.txt").read_text(), re.M)[1]
IMAGE = f"FILL_IN/distfacegan:{distfacegan.__version__}"


def documents(name: str) -> list[dict[str, Any]]:
    """Return the YAML documents of a file in cluster/."""
    return list(yaml.safe_load_all((CLUSTER / name).read_text()))


# Virtual machines


@pytest.fixture(params=["aws", "gcp"])
def machines(request: pytest.FixtureRequest) -> dict[str, Any]:
    """The configuration of `ray up` for a cloud."""
    return documents(f"{request.param}.yaml")[0]


def test_ray_up_accepts_the_configuration(machines):
    config = prepare_config(copy.deepcopy(machines))
    validate_config(config)
    assert config["available_node_types"]["head"]["max_workers"] == 0


@pytest.mark.parametrize(
    ("section", "key"), [("provider", "security_group"), ("available_node_types", "gpu")]
)
def test_ray_up_refuses_a_misspelt_field(machines, section, key):
    config = copy.deepcopy(machines)
    config[section].setdefault(key, {})["misspelt"] = 1
    with pytest.raises(jsonschema.ValidationError, match="misspelt"):
        validate_config(prepare_config(config))


def test_ec2_knows_every_field_of_the_machines():
    botocore = pytest.importorskip("botocore.session", reason="botocore knows EC2's fields")
    from botocore.validate import ParamValidator

    shape = botocore.get_session().get_service_model("ec2").operation_model("RunInstances")
    for node_type in documents("aws.yaml")[0]["available_node_types"].values():
        asked = {**node_type["node_config"], "MinCount": 1, "MaxCount": 1}
        report = ParamValidator().validate(asked, shape.input_shape)
        assert not report.has_errors(), report.generate_report()


def test_machines_run_workers_on_spot_from_none(machines):
    head, gpu = (machines["available_node_types"][name] for name in ("head", "gpu"))
    assert "SPOT" not in json.dumps(head).upper()
    assert "SPOT" in json.dumps(gpu).upper()
    assert gpu["min_workers"] == 0
    assert gpu["max_workers"] == machines["max_workers"] > 1
    assert machines["idle_timeout_minutes"] > 0


def test_machines_are_reached_by_ssh_only(machines):
    head = " ".join(machines["head_start_ray_commands"])
    assert "--dashboard-host=127.0.0.1" in head
    assert "0.0.0.0" not in json.dumps(machines)
    for node_type in machines["available_node_types"].values():
        config = node_type["node_config"]  # with which Ray leaves its own group, or network, out
        assert config.get("SecurityGroupIds") or config["networkInterfaces"][0]["subnetwork"]


def test_machines_set_up_twice_have_the_token_and_the_settings(machines, tmp_path):
    token = tmp_path / ".ray" / "auth_token"
    token.parent.mkdir()
    token.write_text("secret")
    token.chmod(0o644)  # as Ray writes it
    commands = [c for c in machines["setup_commands"] if "sudo" not in c and "venv &&" not in c]
    commands = [c for c in commands if "git clone" not in c]
    environment = {"HOME": str(tmp_path), "PATH": os.environ["PATH"]}
    for command in [*commands, *commands]:
        subprocess.run(["bash", "-c", command], check=True, env=environment)
    assert stat.S_IMODE(token.stat().st_mode) == 0o600
    assert (tmp_path / ".bashrc").read_text().count("\n") == 1
    listing = subprocess.run(
        ["bash", "-c", "source ~/.bashrc; env"],
        check=True,
        env=environment,
        capture_output=True,
        text=True,
    )
    found = dict(line.split("=", 1) for line in listing.stdout.splitlines())
    expected = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token), **HEALTH}
    assert expected.items() <= found.items()
    assert found["PATH"].startswith(f"{tmp_path}/venv/bin:")
    assert machines["file_mounts"] == {"/home/ubuntu/.ray/auth_token": "~/.ray/auth_token"}


def test_machines_run_commands_that_a_shell_can_read(machines):
    for commands in (value for key, value in machines.items() if key.endswith("_commands")):
        for command in commands:
            assert subprocess.run(["bash", "-n", "-c", command]).returncode == 0, command


# Kubernetes


@pytest.fixture(params=["kuberay-cluster.yaml", "kuberay-job.yaml"])
def manifest(request: pytest.FixtureRequest) -> dict[str, Any]:
    """A resource of KubeRay."""
    (found,) = documents(request.param)
    return found


def cluster_of(manifest: dict[str, Any]) -> dict[str, Any]:
    """Return the specification of the cluster that a resource makes."""
    spec = manifest["spec"]
    return spec["rayClusterSpec"] if manifest["kind"] == "RayJob" else spec


def templates(manifest: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the pod templates of the head, the workers and the submitter."""
    cluster = cluster_of(manifest)
    found = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    submitter = manifest["spec"].get("submitterPodTemplate")
    return [group["template"] for group in found] + ([submitter] if submitter else [])


def test_kuberay_knows_every_field(manifest):
    schema = json.loads(Path(__file__).with_name("kuberay.schema.json").read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(manifest, schema)
    cluster_of(manifest)["authOption"] = {}
    with pytest.raises(jsonschema.ValidationError, match="authOption"):
        jsonschema.validate(manifest, schema)


def check_kubernetes(document: dict[str, Any]) -> None:
    kubernetes_validate.validate(document, kubernetes_validate.latest_version(), strict=True)


def test_kubernetes_knows_every_field_of_the_pods(manifest):
    for template in templates(manifest):
        pod = {"apiVersion": "v1", "kind": "Pod", **copy.deepcopy(template)}
        check_kubernetes(pod)
        pod["spec"]["containers"][0]["imagee"] = "x"
        with pytest.raises(kubernetes_validate.ValidationError, match="imagee"):
            check_kubernetes(pod)


def test_kubernetes_knows_every_field_of_the_base():
    found = documents("kuberay-base.yaml")
    assert [document["kind"] for document in found] == [
        "ServiceAccount",
        "ServiceAccount",
        "NetworkPolicy",
    ]
    for document in found:
        check_kubernetes(document)


def test_the_pods_fit_the_base(manifest):
    *accounts, policy = documents("kuberay-base.yaml")
    label = policy["spec"]["podSelector"]["matchLabels"]
    names = {account["metadata"]["name"] for account in accounts}
    for template in templates(manifest):
        assert label.items() <= template["metadata"]["labels"].items()
        assert template["spec"].get("serviceAccountName", "distfacegan-head") in names


def test_pods_ask_for_the_token_and_are_not_reachable_from_outside(manifest):
    cluster = cluster_of(manifest)
    assert cluster["authOptions"] == {"mode": "token"}
    assert cluster["headGroupSpec"]["serviceType"] == "ClusterIP"
    for name in ("kuberay-base.yaml", "kuberay-cluster.yaml", "kuberay-job.yaml"):
        assert not re.search(
            r"LoadBalancer|NodePort|Ingress:|hostNetwork|hostPort", json.dumps(documents(name))
        )
    for template in templates(manifest)[:2]:
        (container,) = template["spec"]["containers"]
        found = {variable["name"]: variable["value"] for variable in container["env"]}
        assert {"RAY_AUTH_MODE": "token", **HEALTH}.items() <= found.items()
        assert "RAY_AUTH_TOKEN" not in found  # a secret has no place in a manifest


def test_pods_run_as_a_user_with_limits(manifest):
    for template in templates(manifest):
        context = template["spec"]["securityContext"]
        assert context["runAsNonRoot"]
        assert context["runAsUser"] == 1000  # the Dockerfile's
        (container,) = template["spec"]["containers"]
        assert not container["securityContext"]["allowPrivilegeEscalation"]
        assert {"cpu", "memory"} <= container["resources"]["limits"].keys()


def test_workers_have_a_gpu_and_time_to_leave(manifest):
    cluster = cluster_of(manifest)
    (group,) = cluster["workerGroupSpecs"]
    pod = group["template"]["spec"]
    (container,) = pod["containers"]
    resources = container["resources"]
    assert resources["limits"] == resources["requests"]
    assert resources["limits"]["nvidia.com/gpu"] == "1"
    assert [t["key"] for t in pod["tolerations"]] == ["nvidia.com/gpu"]
    assert pod["terminationGracePeriodSeconds"] > 16  # of `ray stop`, by default
    assert cluster["enableInTreeAutoscaling"]
    assert cluster["autoscalerOptions"]["version"] == "v2"
    assert group["minReplicas"] == group["replicas"] < group["maxReplicas"]
    assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"


def test_the_job_runs_on_the_same_cluster_as_any_other():
    cluster = cluster_of(documents("kuberay-cluster.yaml")[0])
    of_job = cluster_of(documents("kuberay-job.yaml")[0])
    head = of_job["headGroupSpec"]["template"]["spec"]
    del head["volumes"], head["containers"][0]["volumeMounts"]  # the spec
    for group in (*cluster["workerGroupSpecs"], *of_job["workerGroupSpecs"]):
        del group["minReplicas"], group["replicas"]  # the job waits for a first GPU
    assert of_job == cluster


def test_the_job_reads_its_spec_where_it_is_mounted_and_ends_its_cluster():
    job = documents("kuberay-job.yaml")[0]["spec"]
    pod = job["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]
    (mount,) = pod["containers"][0]["volumeMounts"]
    assert job["entrypoint"] == f"distfacegan run {mount['mountPath']}"
    assert mount["mountPath"].startswith("/opt/distfacegan/jobs/")  # beside the image's configs
    assert [volume["name"] for volume in pod["volumes"]] == [mount["name"]]
    assert job["shutdownAfterJobFinishes"]
    assert job["backoffLimit"] > 0
    assert "activeDeadlineSeconds" not in job


def test_versions_are_the_same_everywhere(manifest):
    assert cluster_of(manifest)["rayVersion"] == RAY_VERSION
    images = {c["image"] for t in templates(manifest) for c in t["spec"]["containers"]}
    assert images == {IMAGE}
    for name in ("Dockerfile", "README.md"):
        tags = re.findall(r"distfacegan:(\S+)", (CLUSTER / name).read_text())
        assert tags
        assert set(tags) == {distfacegan.__version__}


# The image


@pytest.fixture(scope="module")
def dockerfile() -> list[tuple[str, str]]:
    """The instructions of the Dockerfile, continued lines joined."""
    text = re.sub(r"^#.*\n", "", (CLUSTER / "Dockerfile").read_text(), flags=re.M)
    lines = text.replace("\\\n", " ").splitlines()
    return [tuple(line.split(None, 1)) for line in lines if line.strip()]


def arguments(dockerfile: list[tuple[str, str]], name: str) -> list[str]:
    return [argument for instruction, argument in dockerfile if instruction == name]


def test_the_image_is_pinned_small_and_run_by_a_user(dockerfile):
    (base,) = arguments(dockerfile, "FROM")
    version = re.fullmatch(r"python:(3\.\d+)-slim-\w+", base)
    oldest = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"]
    assert version, base
    assert tuple(map(int, version[1].split("."))) >= tuple(map(int, oldest[2:].split(".")))
    runs = arguments(dockerfile, "RUN")
    (apt,) = [run for run in runs if "apt-get install" in run]
    assert "rm -rf /var/lib/apt/lists/*" in apt
    assert {"libgl1", "libglib2.0-0", "wget"} <= set(apt.split())
    assert all("--no-cache-dir" in run for run in runs if "pip install" in run)
    assert arguments(dockerfile, "USER") == ["1000:1000"]
    last_root = max(i for i, (name, _) in enumerate(dockerfile) if name in ("RUN", "COPY"))
    assert [name for name, _ in dockerfile].index("USER") > last_root
    assert arguments(dockerfile, "HEALTHCHECK") == ["NONE"]


def test_the_image_gets_only_what_it_copies(dockerfile):
    copied = {s.rstrip("/") for a in arguments(dockerfile, "COPY") for s in a.split()[:-1]}
    assert all((ROOT / source).exists() for source in copied)
    ignored = (ROOT / ".dockerignore").read_text().split("\n")
    assert "*" in ignored
    assert {line[1:] for line in ignored if line.startswith("!")} == copied
    for name, value in dockerfile:
        assert name not in ("ARG", "ENV") or not re.search("TOKEN|SECRET|PASSWORD|KEY", value)


# Slurm


SCRIPTS = [CLUSTER / "slurm.sh", *SLURM.iterdir()]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.name)
def test_scripts_have_no_fault_that_shellcheck_finds(script):
    subprocess.run(["bash", "-n", script], check=True)
    subprocess.run([BIN / "shellcheck", script], check=True)


def slurm_environment(folder: Path, **variables: str) -> dict[str, str]:
    """Return what Slurm would set for a job on two nodes."""
    return {
        **os.environ,
        "PATH": f"{folder}:{SLURM}:{BIN}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "SLURM_JOB_ID": str(os.getpid()),
        "SLURM_JOB_NODELIST": "192.0.2.1,192.0.2.2",
        "SLURM_JOB_NUM_NODES": "2",
        "SLURM_CPUS_PER_TASK": "1",
        "SLURM_SUBMIT_DIR": str(folder),
        **variables,
    }


def run_slurm(*arguments: str | Path, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run slurm.sh to its end."""
    command = ["bash", CLUSTER / "slurm.sh", *arguments]
    return subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **options
    )


def stand_in(folder: Path, name: str, script: str) -> None:
    path = folder / name
    path.write_text(f"#!/bin/bash\n{script}\n")
    path.chmod(0o755)


def test_slurm_refuses_a_spec_that_is_not_there(tmp_path):
    done = run_slurm(tmp_path / "no.yaml", env=slurm_environment(tmp_path))
    assert done.returncode == 2
    assert "usage" in done.stdout


def test_slurm_refuses_a_node_whose_name_is_its_own_loopback(tmp_path):
    environment = slurm_environment(tmp_path, SLURM_JOB_NODELIST="localhost,other")
    done = run_slurm(write_spec(tmp_path), env=environment)
    assert done.returncode == 2
    assert "localhost stands for 127.0.0.1" in done.stdout


def test_slurm_does_not_call_a_ray_that_did_not_start_a_success(tmp_path):
    stand_in(tmp_path, "srun", "exit 0")  # as `ray symmetric-run` does then
    done = run_slurm(write_spec(tmp_path), env=slurm_environment(tmp_path))
    assert done.returncode == 1
    assert "Ray did not start" in done.stdout


def test_slurm_ends_with_the_exit_code_of_the_job(tmp_path):
    stand_in(tmp_path, "srun", 'while [[ $1 != -- ]]; do shift; done; shift; "$@"; exit 137')
    stand_in(tmp_path, "distfacegan", 'echo "$@" at $RAY_ADDRESS; exit 2')
    spec = write_spec(tmp_path)
    done = run_slurm(spec, env=slurm_environment(tmp_path))
    assert done.returncode == 2
    assert f"run {spec} at 192.0.2.1:2" in done.stdout


def test_slurm_asks_every_node_to_join_one_ray_and_one_of_them_to_run_the_job(tmp_path):
    stand_in(tmp_path, "srun", 'echo "asked: $@"')
    asked = run_slurm(write_spec(tmp_path), env=slurm_environment(tmp_path, SLURM_JOB_ID="7"))
    for words in (
        "asked: --wait=60 ray symmetric-run --address 192.0.2.1:2",
        "--min-nodes 2 --num-cpus 1 --temp-dir /tmp/dfg-7 -- bash -c distfacegan run",
    ):
        assert words in asked.stdout


def test_slurm_makes_a_token_of_its_own(tmp_path):
    show = "echo $RAY_AUTH_MODE ${RAY_AUTH_TOKEN-unset} $(stat -c '%a %s' $RAY_AUTH_TOKEN_PATH)"
    stand_in(tmp_path, "srun", show)
    environment = slurm_environment(tmp_path, RAY_AUTH_MODE="disabled", RAY_AUTH_TOKEN="another")
    assert "token unset 600 64\n" in run_slurm(write_spec(tmp_path), env=environment).stdout
    assert not list(tmp_path.glob(".distfacegan-*"))  # gone with the job


def test_slurm_queues_the_job_again_before_its_time_is_up(tmp_path):
    stand_in(tmp_path, "srun", "echo begun; exec sleep 2")  # until Slurm ends it
    job = subprocess.Popen(
        ["bash", CLUSTER / "slurm.sh", write_spec(tmp_path)],
        env=slurm_environment(tmp_path, SLURM_JOB_ID="7"),
        stdout=subprocess.PIPE,
        text=True,
    )
    assert job.stdout is not None
    assert job.stdout.readline() == "begun\n"
    job.send_signal(signal.SIGUSR1)
    assert "scontrol requeue 7" in job.communicate(timeout=30)[0]
    assert not list(tmp_path.glob(".distfacegan-*"))  # the token is gone


@pytest.fixture
def two_nodes() -> Iterator[tuple[str, list[str]]]:
    """Two network namespaces on one bridge: the prefix of their names, and their addresses."""
    with namespaces.two(net=78) as nodes:
        yield nodes.name, nodes.addresses


@pytest.mark.chaos
@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.timeout(400)
def test_slurm_runs_a_job_on_two_nodes(two_nodes, tmp_path):
    name, addresses = two_nodes
    ingest = {
        "source": {"kind": "procedural", "count": 40},
        "resolution": 32,
        "shard_rows": 10,
    }
    sections = ("landmarks", "began", "invert", "lgen", "synthesize", "report")
    spec = write_spec(tmp_path, ingest=ingest, **dict.fromkeys(sections))
    environment = slurm_environment(
        tmp_path, SLURM_JOB_NODELIST=",".join(addresses), TEST_NODE=name
    )
    environment |= {"RAY_AUTH_MODE": "disabled", "RAY_AUTH_TOKEN": "wrong"}  # slurm.sh knows better
    folder = Path(f"/tmp/dfg-{os.getpid()}")  # where each node mounts one of its own
    try:
        done = run_slurm(spec, env=environment, timeout=350)
    finally:
        if folder.exists():
            folder.rmdir()
    assert done.returncode == 0, done.stdout[-4000:]
    assert "2 CPUs on 2 nodes" in done.stdout
    markers = sorted((tmp_path / "run" / "shards" / "ingest").glob("*.json"))
    workers = [json.loads(marker.read_text())["worker"] for marker in markers]
    assert len(workers) == 4
    # Which of the two does a shard, or all of them, is a matter of time.
    assert {worker.split(":")[0] for worker in workers} <= {"node0", "node1"}
    assert not list(tmp_path.glob(".distfacegan-*"))  # the token is gone


# The page


def test_the_page_names_every_file():
    page = (CLUSTER / "README.md").read_text()
    for path in CLUSTER.iterdir():
        assert path.name == "README.md" or f"({path.name})" in page, path.name
