"""Weights on disk: safetensors, which hold no code, and a readable meta.json.

A checkpoint is there when its meta.json is: that comes last, and is deleted first.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
from torch import Tensor

from distfacegan.errors import CheckpointError
from distfacegan.store import files, formats
from distfacegan.store.location import Location, numbered, remove_tree

State = Mapping[str, Tensor]


def save(folder: Location, states: Mapping[str, State], meta: Mapping[str, Any]) -> None:
    """Write `<name>.safetensors` for every state and meta.json, with their digests, as `folder`.

    A folder that is already there is replaced.
    """
    # An object store cannot rename: there meta.json, which says that all is there, is written last.
    into = folder.with_name(f".{folder.name}.partial") if isinstance(folder, Path) else folder
    remove(into)
    digests = {}
    for name, state in states.items():
        tensors = {key: tensor.detach().cpu().contiguous() for key, tensor in state.items()}
        data = safetensors.torch.save(tensors)
        files.write_bytes(into / f"{name}.safetensors", data)
        digests[f"{name}.safetensors"] = files.digest(data)
    stamped = {**meta, **formats.stamp(), "digests": digests}
    files.write_json(into / "meta.json", stamped)
    if isinstance(folder, Path):
        remove(folder)
        os.replace(str(into), folder)


def remove(folder: Location) -> None:
    """Delete a checkpoint, its meta.json first."""
    (folder / "meta.json").unlink(missing_ok=True)
    remove_tree(folder)


def load(path: Location, name: str) -> dict[str, Tensor]:
    """Return the state alone of `load_with_digest`."""
    return load_with_digest(path, name)[0]


def load_with_digest(path: Location, name: str) -> tuple[dict[str, Tensor], str]:
    """Return the state `name` of a folder that `save` wrote, or of a .safetensors file itself.

    Also returns the digest of the file.

    Raises CheckpointError if it is missing, is no safetensors file or fails its digest.
    """
    file = weights_file(path, name)
    meta = file.with_name("meta.json")
    try:
        said = files.read_json(meta) if meta.exists() else {}
        said = said if isinstance(said, dict) else {}  # the file may be of another program
        formats.check(meta, said)
        expected = said.get("digests", {}).get(file.name)
        data = file.read_bytes()
        found = files.digest(data)
        if expected is not None and found != expected:
            raise CheckpointError(f"{file} is damaged: its digest is not the one in {meta}")
        return safetensors.torch.load(data), found
    except FileNotFoundError:
        raise CheckpointError(
            f"no weights at {file}: give a .safetensors file, or a folder with {name}.safetensors"
        ) from None
    except OSError as error:
        raise CheckpointError(f"{file} cannot be read: {error}") from None
    except safetensors.SafetensorError as error:
        raise CheckpointError(
            f"{file} cannot be read as safetensors ({error}); "
            "weights in pickle files (.pt, .pth) are refused: they can run code"
        ) from None


def weights_file(path: Location, name: str) -> Location:
    """Return the .safetensors file meant by a folder or by the file's own path."""
    return path / f"{name}.safetensors" if path.is_dir() else path


def read_meta(folder: Location) -> dict[str, Any]:
    """Return a checkpoint's meta.json; raises NewerFormatError if a later version wrote it."""
    meta = files.read_json(folder / "meta.json")
    formats.check(folder / "meta.json", meta)
    return meta


def checkpoints(folder: Location) -> list[Location]:
    """Return the step folders in `folder`, oldest first."""
    return [path for path in numbered(folder) if (path / "meta.json").exists()]


def prune(folder: Location, keep: int) -> None:
    """Delete all but the newest `keep` checkpoints, and what interrupted saves left."""
    kept = checkpoints(folder)[-keep:]
    stale = [path for path in numbered(folder) if path not in kept]
    partial = folder.glob(".*.partial") if isinstance(folder, Path) else ()
    for path in (*stale, *partial):
        remove(path)


def damaged(folder: Location) -> list[str]:
    """Return one line for every file of a checkpoint that is missing or fails its digest."""
    return files.damaged(folder, read_meta(folder)["digests"])
