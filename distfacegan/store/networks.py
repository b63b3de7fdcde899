"""Weights on disk: safetensors, which hold no code, and a readable meta.json.

A checkpoint is a folder that appears whole: it is written under another name and renamed.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
from torch import Tensor

from distfacegan.errors import CheckpointError
from distfacegan.store import files

State = Mapping[str, Tensor]


def save(folder: Path, states: Mapping[str, State], meta: Mapping[str, Any]) -> None:
    """Write `<name>.safetensors` for every state and meta.json, with their digests, as `folder`.

    A folder that is already there is replaced.
    """
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    digests = {}
    for name, state in states.items():
        tensors = {key: tensor.detach().cpu().contiguous() for key, tensor in state.items()}
        path = partial / f"{name}.safetensors"
        files.write_bytes(path, safetensors.torch.save(tensors))
        digests[path.name] = files.file_digest(path)
    files.write_json(partial / "meta.json", {**meta, "digests": digests})
    if folder.exists():
        shutil.rmtree(folder)
    os.replace(partial, folder)


def load(path: Path, name: str) -> dict[str, Tensor]:
    """Return the state `name` of a folder that `save` wrote, or of a .safetensors file itself.

    Raises CheckpointError if it is missing, is no safetensors file or fails its digest.
    """
    file = weights_file(path, name)
    meta = file.with_name("meta.json")
    try:
        said = files.read_json(meta) if meta.exists() else {}
        expected = said.get("digests", {}).get(file.name) if isinstance(said, dict) else None
        if expected is not None and files.file_digest(file) != expected:
            raise CheckpointError(f"{file} is damaged: its digest is not the one in {meta}")
        return safetensors.torch.load_file(file)
    except FileNotFoundError:
        raise CheckpointError(
            f"no weights at {file}: give a .safetensors file, or a folder with {name}.safetensors"
        ) from None
    except (safetensors.SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{file} cannot be read as safetensors ({error}); "
            "weights in pickle files (.pt, .pth) are refused: they can run code"
        ) from None


def weights_file(path: Path, name: str) -> Path:
    """Return the .safetensors file meant by a folder or by the file's own path."""
    return path / f"{name}.safetensors" if path.is_dir() else path


def read_meta(folder: Path) -> dict[str, Any]:
    """Return a checkpoint's meta.json."""
    return files.read_json(folder / "meta.json")


def checkpoints(folder: Path) -> list[Path]:
    """Return the step folders in `folder`, oldest first."""
    return sorted(path for path in folder.glob("[0-9]*") if (path / "meta.json").exists())


def prune(folder: Path, keep: int) -> None:
    """Delete all but the newest `keep` checkpoints, and what interrupted saves left."""
    stale = checkpoints(folder)[:-keep] + list(folder.glob(".*.partial"))
    for path in stale:
        shutil.rmtree(path, ignore_errors=True)


def damaged(folder: Path) -> list[str]:
    """Return one line for every file of a checkpoint that is missing or fails its digest."""
    lines = []
    for name, expected in read_meta(folder)["digests"].items():
        path = folder / name
        if not path.exists():
            lines.append(f"{path}: missing")
        elif files.file_digest(path) != expected:
            lines.append(f"{path}: its content has changed")
    return lines
