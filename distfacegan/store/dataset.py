"""The manifest and the dataset card of a generated dataset."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jinja2

from distfacegan.store import files, formats
from distfacegan.store.exports import ExportFormat
from distfacegan.store.location import Location

LABELS = {
    "lgen": "its landmarks are L-Gen(z)",
    "detector": "its landmarks are those that a detector finds on it",
    "mean": "its landmarks are the mean of L-Gen(z) and of those that a detector finds on it",
}
# Facts that the card mentions if they are known.
OPTIONAL = (
    "kept",
    "dropped",
    "detector",
    "photos",
    "calibration",
    "coverage",
    "nme_generated",
)
CARD = "README.md"


def manifest_path(folder: Location) -> Location:
    """Return the path of a dataset's manifest."""
    return folder / "manifest.json"


def write_manifest(folder: Location, manifest: Mapping[str, Any], export: ExportFormat) -> None:
    """Write manifest.json and the dataset card README.md beside the files of a dataset."""
    _write(folder, manifest, card(manifest, export))


def write_photo_manifest(
    folder: Location, manifest: Mapping[str, Any], export: ExportFormat
) -> None:
    """Write manifest.json and README.md beside the faces of photos."""
    text = _PHOTOS.format(
        name=manifest["name"],
        kept=manifest["kept"],
        count=manifest["count"],
        detector=manifest["detector"],
        files=export.files,
        how_to_read=export.how_to_read,
    )
    _write(folder, manifest, text)


def _write(folder: Location, manifest: Mapping[str, Any], card: str) -> None:
    files.write_bytes(folder / CARD, card.encode())
    digests = {CARD: files.digest(card.encode())}
    found = files.seal({**manifest, **formats.stamp(), "digests": digests})
    files.write_json(manifest_path(folder), found)


_PHOTOS = """\
# {name}: faces of {kept} photos with landmarks

{files}. Of {count} photos those with a face and with trusted landmarks are here. The landmarks come
from: {detector}.

{how_to_read}
- `landmarks`: 49 points in iBUG's order without the jaw (0 to 16) and the inner mouth corners (60
  and 64), from the top left edge of the picture, in units of its side.
- `key`: the name of the photo in its source. `index`: its row.
- `z`: the latent whose generated face is nearest to the photo, where the photo is inverted.
- `keys.txt` holds the keys of all rows. `latents.npy` holds their latents, if the photos are
  inverted; a row without a latent is NaN.

These are pictures of real people. The terms of the photos' source hold for them too.
"""


def card(manifest: Mapping[str, Any], export: ExportFormat) -> str:
    """Return the dataset card, in the form of the Hugging Face Hub: Markdown with a YAML head."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("distfacegan.store", "."),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["number"] = lambda value: (
        value if isinstance(value, str) else f"{value:.4f}"
    )
    facts = dict.fromkeys(OPTIONAL) | dict(manifest)
    return environment.get_template("card.md").render(
        facts
        | {
            "labels": LABELS[manifest["labels"]],
            "size": size_category(manifest["count"]),
            "files": export.files,
            "data_files": export.data_files,
            "how_to_read": export.how_to_read,
        }
    )


def size_category(count: int) -> str:
    """Return the Hub's name for a number of rows.

    >>> size_category(2000)
    '1K<n<10K'
    """
    names = ["n<1K", "1K<n<10K", "10K<n<100K", "100K<n<1M", "1M<n<10M", "10M<n<100M"]
    return names[min(max(len(str(count)) - 3, 0), len(names) - 1)]
