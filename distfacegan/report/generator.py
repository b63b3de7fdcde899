"""The generator that makes the report's faces: of this run, or of the weights in its spec."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from distfacegan import weights
from distfacegan.store import weight_files
from distfacegan.store.location import locate
from distfacegan.store.run_directory import RunDirectory


def load_generator(run: RunDirectory, spec: Mapping[str, Any]) -> weights.LoadedGenerator | None:
    """Return the generator that was inverted, else the run's newest, else None.

    Raises CheckpointError if the run's own generator is damaged.
    """
    records = (run.record(stage) for stage in ("invert", "synthesize"))
    wanted = next((record.inputs["generator"] for record in records if record), None)
    given = [spec.get(stage, {}).get("generator") for stage in ("invert", "synthesize")]
    checkpoints = weight_files.checkpoints(run.began / "checkpoints")[-1:]
    own = [path for path in (run.began / "generator",) if path.is_dir()]
    for path in [*own, *(locate(path) for path in given if path), *checkpoints]:
        if path not in own and not weight_files.weights_file(path, "generator").exists():
            continue  # the weights that the spec names may be on another machine
        found = weights.open_generator(path)
        if wanted in (None, found.digest):
            found.network.to("cuda" if torch.cuda.is_available() else "cpu")
            return found
    return None
