"""A job that is small enough to be run again and again by the tests."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import yaml

from distfacegan import pipeline, specfile
from distfacegan.spec import JobSpec
from distfacegan.store import groups
from distfacegan.store.location import Location
from distfacegan.store.run_directory import RunDirectory
from distfacegan.store.schema import GROUPS

SMALL_JOB = {
    "name": "small",
    "run": "run",
    "seed": 3,
    "ingest": {
        "source": {"kind": "procedural", "count": 100},
        "resolution": 32,
        "shard_rows": 10,
        "workers": 1,  # a process each, which imports PyTorch and Ray
    },
    "landmarks": {"detector": "annotations", "workers": 1},
    "began": {
        "resolution": 16,
        "latent_dim": 8,
        "width": 8,
        "levels": 2,
        "steps": 200,
        "checkpoint_every": 50,
        "metrics_every": 25,
        "workers": 2,
        "watch": {"on_collapse": "warn"},  # so few steps do not make varied faces
    },
    "invert": {"recipe": "bfgs", "steps": 20, "batch": 4, "workers": 1},
    "lgen": {"epochs": 3, "trials": 2, "early_stopping": False},
    "synthesize": {"count": 200, "shard_rows": 20, "workers": 1},
    "report": {},
}


def write_spec(folder: Path, **changes: object) -> Path:
    """Write the small job, or parts of it, as a spec into a folder; return its path."""
    folder.mkdir(parents=True, exist_ok=True)
    document = {key: value for key, value in (SMALL_JOB | changes).items() if value is not None}
    path = folder / "job.yaml"
    path.write_text(yaml.safe_dump(document, sort_keys=False))
    return path


def load_spec(folder: Path, **changes: object) -> JobSpec:
    """Return the small job, with changes, for a run directory in a folder."""
    return specfile.load(write_spec(folder, **changes))


def arrays(run: RunDirectory) -> dict[str, np.ndarray]:
    """Return every array of a run's store."""
    found = {}
    for name, schema in GROUPS.items():
        if (run.latents / name / "zarr.json").exists():
            group = groups.open_group(run.latents, name)
            found |= {f"{name}/{array}": groups.read(group, array) for array in schema}
    return found


def assert_equal_runs(run: RunDirectory, other: RunDirectory) -> None:
    """Hold two runs to the same arrays, networks and generated faces, bit for bit."""
    found, expected = arrays(run), arrays(other)
    assert found.keys() == expected.keys()
    for name in found:
        np.testing.assert_array_equal(found[name], expected[name], err_msg=name)
    for folder, suffix in (
        ("began/generator", ".safetensors"),
        ("lgen/final", ".safetensors"),
        ("synthetic", ".tar"),
    ):
        here, there = (_files(each.root / folder, suffix) for each in (run, other))
        assert here.keys() == there.keys() != set()
        for name in here:
            assert here[name] == there[name], f"{folder}/{name} differs"


def _files(folder: Location, suffix: str) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.suffix == suffix}


def findings(run: RunDirectory) -> list[str]:
    """Return what `verify` finds wrong with a run, a line each."""
    return [f"{stage}: {finding}" for stage, finding in pipeline.verify(run)]
