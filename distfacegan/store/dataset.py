"""The generated dataset: WebDataset shards, a manifest and a dataset card.

A shard is a tar file of pairs `000000042.jpg` (the face) and `000000042.json` (its landmarks in
units of the face's side and in pixels, its z, the seed and its index). The same content is the
same bytes: nothing of the time or the machine goes in.
"""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterable, Mapping
from typing import Any

import cv2
import numpy as np

from distfacegan.store import files
from distfacegan.store.location import Location


def shard_path(folder: Location, shard: int) -> Location:
    """Return where the tar file of a shard stands."""
    return folder / f"{shard:05d}.tar"


def pack(samples: Iterable[tuple[int, np.ndarray, Mapping[str, Any]]], jpeg_quality: int) -> bytes:
    """Return the tar file of samples (index, face u8 [r, r, 3] RGB, labels)."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for index, face, labels in samples:
            name = f"{index:09d}"
            _add(tar, f"{name}.jpg", _jpeg(face, jpeg_quality))
            _add(tar, f"{name}.json", json.dumps(labels).encode())
    return buffer.getvalue()


def write_manifest(folder: Location, manifest: Mapping[str, Any]) -> None:
    """Write manifest.json and the dataset card README.md beside the tar files."""
    files.write_json(folder / "manifest.json", manifest)
    files.write_bytes(folder / "README.md", _CARD.format(**manifest).encode())


_CARD = """\
# {name}: {count} synthetic faces with landmarks

{shards} WebDataset shards (`00000.tar` and on) of {resolution} x {resolution} pixel faces. No photo
of a person is among them: every face is G(z) of a BEGAN generator, and its landmarks are
L-Gen(z), for z uniform in [-1, 1]^{latent_dim} (Bazrafkan, Javidnia and Corcoran, "Face Synthesis
with Landmark Points from Generative Adversarial Networks and Inverse Latent Space Mapping").

    import webdataset as wds
    samples = wds.WebDataset("00000.tar", shardshuffle=False).decode("rgb8")
    for face, labels in samples.to_tuple("jpg", "json"):
        landmarks = labels["landmarks"]  # 49 pairs (x, y) in units of the face's side

- `landmarks`: 49 points in iBUG's order without the jaw (0 to 16) and the inner mouth corners (60
  and 64), from the top left edge of the picture; `landmarks_px`: the same in pixels, where the
  centre of the first pixel is (0.5, 0.5).
- `z`, `seed`, `index`: what the face was made of. The same seed, index and networks give the same
  sample.
- Networks: generator {generator}, landmark generator {lgen} (digests of their weights).
- Landmark error of the landmark generator on photos that no choice has seen: {nme} of the
  distance of the outer eye corners (the mean shape: {nme_mean_shape}).

A generated face can look like a person of the training photos. Check that your use is one that
those photos' terms allow.
"""


def _jpeg(face: np.ndarray, quality: int) -> bytes:
    done, data = cv2.imencode(
        ".jpg", cv2.cvtColor(face, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality]
    )
    assert done
    return data.tobytes()


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = len(data)
    tar.addfile(entry, io.BytesIO(data))
