"""Latents of a file."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, Literal

import numpy as np

from distfacegan.core.priors import Prior
from distfacegan.errors import SourceError
from distfacegan.samplers.sampler import Drawn, Photos, Sampler, SamplerSettings
from distfacegan.store import files
from distfacegan.store.exports.export import Origin


@dataclasses.dataclass(frozen=True, kw_only=True)
class OfFile(SamplerSettings):
    """Latents of a file: an array [N, Z] in .npy or Zarr, or a column of lists in .parquet."""

    kind: Literal["latents"] = "latents"
    path: Path
    """The file: .npy, .parquet, or a folder with a Zarr array."""
    column: str = "z"
    """The column of a .parquet file."""

    def make(self, seed: int, latent_dim: int, prior: Prior, photos: Photos | None) -> Sampler:
        """Read the file; raises SourceError if its latents are not those of the generator."""
        z = _read(self.path, self.column)
        if z.ndim != 2 or z.shape[1] != latent_dim:
            raise SourceError(
                f"{self.path}: the array is {list(z.shape)}, expected [N, {latent_dim}]: the "
                f"generator's latents have {latent_dim} numbers"
            )
        bad = ~(np.isfinite(z) & (np.abs(z) <= prior.half_width)).all(axis=1)
        if bad.any():
            row = int(bad.argmax())
            raise SourceError(
                f"{self.path}: {bad.sum()} of {len(z)} latents have numbers outside of "
                f"[-{prior.half_width:g}, {prior.half_width:g}], the first is row {row}. Clip "
                "them, or take these rows out"
            )
        return FileSampler(z)

    def inputs(self) -> dict[str, Any]:
        """Return the digest of the latents."""
        return {"latents_file": files.digest(_read(self.path, self.column).tobytes())}


class FileSampler(Sampler):
    """Takes the latents of a file one after the other."""

    def __init__(self, z: np.ndarray) -> None:
        self._z, self.count = z, len(z)

    def draw(self, indices: np.ndarray) -> Drawn:
        """Return the latents of samples i64 [n]."""
        return Drawn(self._z[indices], [Origin("latents", (i,), (1.0,)) for i in indices.tolist()])


def _read(path: Path, column: str) -> np.ndarray:
    """Return the latents of a file, f32; raises SourceError."""
    try:
        if path.suffix == ".npy":
            found = np.load(path, allow_pickle=False)
        elif path.suffix == ".parquet":
            import pyarrow.parquet

            lists = pyarrow.parquet.read_table(path, columns=[column])[column].to_pylist()
            found = np.array(lists, np.float32)
        else:
            import zarr

            found = np.asarray(zarr.open_array(path, mode="r"))
        return np.ascontiguousarray(found, np.float32)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SourceError(
            f"{path}: no latents could be read ({error}); expected an array [N, Z] of numbers in "
            ".npy or Zarr, or a column of lists in .parquet (`column` names it)"
        ) from None
