"""The manifest and the dataset card of a generated dataset."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from distfacegan.store import files, formats
from distfacegan.store.exports import ExportFormat
from distfacegan.store.location import Location

CARD = "README.md"


def manifest_path(folder: Location) -> Location:
    """Return the path of a dataset's manifest."""
    return folder / "manifest.json"


def write_manifest(folder: Location, manifest: Mapping[str, Any], export: ExportFormat) -> None:
    """Write manifest.json and the dataset card README.md beside the files of a dataset."""
    labels, errors = LABELS[manifest.get("labels", "lgen")], _errors(manifest)
    card = _CARD.format(
        **{**manifest, "labels": labels},
        errors=errors,
        files=export.files,
        how_to_read=export.how_to_read,
    )
    files.write_bytes(folder / CARD, card.encode())
    digests = {CARD: files.digest(card.encode())}
    found = files.seal({**manifest, **formats.stamp(), "digests": digests})
    files.write_json(manifest_path(folder), found)


LABELS = {
    "lgen": "its landmarks are L-Gen(z)",
    "detector": "its landmarks are those that a detector finds on it",
    "mean": "its landmarks are the mean of L-Gen(z) and of those that a detector finds on it",
}


def _errors(manifest: Mapping[str, Any]) -> str:
    """Return the line of the card about the error of L-Gen's landmarks."""
    found, of_mean = (manifest.get(f"nme_generated{of}") for of in ("", "_mean_shape"))
    if found is not None:
        return (
            "- Error of L-Gen on generated faces of latents that no training has seen, against\n"
            f"  the detector: {found:.4f} of the distance of the outer eye corners\n"
            f"  (the mean shape: {of_mean:.4f})."
        )
    return (
        "- Error of L-Gen on test photos, which neither training nor search has seen: "
        f"{manifest['nme']} of the\n  distance of the outer eye corners (the mean shape: "
        f"{manifest['nme_mean_shape']}).\n  The error on generated faces is not known."
    )


_CARD = """\
# {name}: {count} synthetic faces with landmarks

{shards} {files} of {resolution} x {resolution} pixel faces. No photo of a person is among them:
every face is G(z) of a BEGAN generator for z uniform in [-1, 1]^{latent_dim}, and
{labels} (Bazrafkan, Javidnia and Corcoran, "Face Synthesis with
Landmark Points from Generative Adversarial Networks and Inverse Latent Space Mapping").

{how_to_read}
- `landmarks`: 49 points in iBUG's order without the jaw (0 to 16) and the inner mouth corners (60
  and 64), from the top left edge of the picture; `landmarks_px`: the same in pixels, where the
  centre of the first pixel is (0.5, 0.5).
- `uncertainty`, in some datasets: the expected error of each landmark, as a share of the side of
  the picture.
- `z`: the latent that the face was made from. `seed` and `index` give z. The same seed, index and
  networks give the same sample.
- Networks: generator {generator}, landmark generator {lgen} (digests of their weights).
{errors}

A generated face can look like a person in the training photos. Check that the terms of the
training photos allow your use.
"""
