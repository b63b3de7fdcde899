"""Weights on disk: safetensors, which hold no code, and a readable meta.json.

A checkpoint exists when its meta.json exists: meta.json is written last and deleted first.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
from torch import Tensor

from distfacegan.errors import MENDED, CheckpointError, RunDirectoryError
from distfacegan.store import files, formats
from distfacegan.store.location import Location, numbered, remove_tree

State = Mapping[str, Tensor]


def save(folder: Location, states: Mapping[str, State], meta: Mapping[str, Any]) -> None:
    """Write a checkpoint: `<name>.safetensors` for every state, and meta.json with their digests.

    An existing folder is replaced.
    """
    # A local checkpoint is written under another name and renamed. An object store cannot rename:
    # there, meta.json, which is written last, marks the checkpoint as complete.
    into = folder.with_name(f".{folder.name}.partial") if isinstance(folder, Path) else folder
    remove(into)
    digests = {}
    for name, state in states.items():
        tensors = {key: tensor.detach().cpu().contiguous() for key, tensor in state.items()}
        data = safetensors.torch.save(tensors)
        files.write_bytes(into / f"{name}.safetensors", data)
        digests[f"{name}.safetensors"] = files.digest(data)
    stamped = {**meta, **formats.stamp(), "digests": digests}
    files.write_json(into / "meta.json", files.seal(stamped))
    if isinstance(folder, Path):
        remove(folder)
        os.replace(str(into), folder)


def remove(folder: Location) -> None:
    """Delete a checkpoint, its meta.json first."""
    (folder / "meta.json").unlink(missing_ok=True)
    remove_tree(folder)


def load(path: Location, name: str) -> dict[str, Tensor]:
    """Return the state that `load_with_digest` returns, without the digest."""
    return load_with_digest(path, name)[0]


def load_with_digest(path: Location, name: str) -> tuple[dict[str, Tensor], str]:
    """Return a state and the digest of its file.

    `path` is a .safetensors file, or a folder that `save` wrote, with the state `name` in it.
    Raises CheckpointError if the file is missing, is no safetensors file or fails its digest.
    """
    file = weights_file(path, name)
    meta = file.with_name("meta.json")
    try:
        said = files.read_json(meta) if meta.exists() else {}
        said = said if isinstance(said, dict) else {}  # another program may have written meta.json
        formats.check(meta, said)
        expected = said.get("digests", {}).get(file.name)
        data = file.read_bytes()
        found = files.digest(data)
        if expected is not None and found != expected:
            raise CheckpointError(
                f"{file} is damaged: its digest is not the one in {meta}; {MENDED}"
            )
        return safetensors.torch.load(data), found
    except FileNotFoundError:
        raise CheckpointError(
            f"no weights at {file}: give a .safetensors file, or a folder with {name}.safetensors"
        ) from None
    except OSError as error:
        raise CheckpointError(f"{file} cannot be read: {error}") from None
    except safetensors.SafetensorError as error:
        raise CheckpointError(
            f"{file} cannot be read as safetensors ({error}); weights in pickle files (.pt, .pth) "
            f"are refused: they can run code. If the file is a run's: {MENDED}"
        ) from None


def weights_file(path: Location, name: str) -> Location:
    """Return the .safetensors file meant by a folder or by the file's own path."""
    return path / f"{name}.safetensors" if path.is_dir() else path


def read_meta(folder: Location) -> dict[str, Any]:
    """Return a checkpoint's meta.json.

    Raises NewerFormatError for a newer format, RunDirectoryError for damage.
    """
    meta = files.read_json(folder / "meta.json")
    formats.check(folder / "meta.json", meta)
    return meta


def checkpoints(folder: Location) -> list[Location]:
    """Return the step folders in `folder`, oldest first."""
    return [path for path in numbered(folder) if (path / "meta.json").exists()]


def prune(folder: Location, keep: int) -> None:
    """Delete all but the newest `keep` checkpoints, and the files of interrupted saves."""
    kept = checkpoints(folder)[-keep:]
    stale = [path for path in numbered(folder) if path not in kept]
    partial = folder.glob(".*.partial") if isinstance(folder, Path) else ()
    for path in (*stale, *partial):
        remove(path)


def damaged(folder: Location) -> list[str]:
    """Return one line for every file of a checkpoint that is missing or fails its digest.

    Raises NewerFormatError for a newer format.
    """
    try:
        return files.damaged(folder, read_meta(folder)["digests"])
    except formats.NewerFormatError:
        raise
    except RunDirectoryError as error:
        return [str(error).removesuffix(f"; {MENDED}")]
