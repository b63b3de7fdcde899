"""What stands beside the files of a generated dataset: its manifest and its dataset card."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from distfacegan.store import files, formats
from distfacegan.store.exports import ExportFormat
from distfacegan.store.location import Location


def manifest_path(folder: Location) -> Location:
    """Return where the manifest of a dataset stands."""
    return folder / "manifest.json"


def write_manifest(folder: Location, manifest: Mapping[str, Any], export: ExportFormat) -> None:
    """Write manifest.json and the dataset card README.md beside the files of a dataset."""
    files.write_json(manifest_path(folder), {**manifest, **formats.stamp()})
    card = _CARD.format(**manifest, files=export.files, how_to_read=export.how_to_read)
    files.write_bytes(folder / "README.md", card.encode())


_CARD = """\
# {name}: {count} synthetic faces with landmarks

{shards} {files} of {resolution} x {resolution} pixel faces. No photo of a person is among them:
every face is G(z) of a BEGAN generator, and its landmarks are L-Gen(z), for z uniform in
[-1, 1]^{latent_dim} (Bazrafkan, Javidnia and Corcoran, "Face Synthesis with Landmark Points from
Generative Adversarial Networks and Inverse Latent Space Mapping").

{how_to_read}
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
