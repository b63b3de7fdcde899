"""The groups of people that a dataset loses.

For each group: the share of photos with a face, the share of faces with trusted landmarks, and the
error of the landmarks. Photos are grouped by their brightness, by the turn of the head, and by the
attributes in a table beside the photos, if there is such a table.
"""

from __future__ import annotations

import csv
import io
import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from distfacegan.core.landmarks import LEFT_EYE_CORNER, NOSE_TIP, RIGHT_EYE_CORNER, eye_distance
from distfacegan.errors import RunDirectoryError
from distfacegan.report.contents import Contents
from distfacegan.store import groups
from distfacegan.store.location import Location, locate
from distfacegan.store.shards import Status

BESIDE = ("list_attr_celeba.txt", "attributes.csv", "attributes.parquet")
NUM_BANDS = 5  # bands of brightness, all with the same number of photos
TURNS = (0.05, 0.15)  # bounds of the groups by turn: the values of `head_turn`
MAX_VALUES = 12  # a column of more different words is no attribute


def coverage(contents: Contents) -> dict[str, list[dict[str, Any]]]:
    """Return the groups by kind, without kinds that have no group."""
    if contents.photos is None or not contents.photos.done:
        return {}
    rows = _Rows(contents)
    found = {"brightness": list(rows.by_brightness()), "turn": list(rows.by_turn())}
    path = attributes_path(contents.spec)
    if path is not None:
        keys = groups.read(contents.photos.group, "key").tolist()
        table = read_attributes(path, keys)
        found["attributes"] = [rows.group(name, mask) for name, mask in table.items()]
    return {kind: of for kind, of in found.items() if of}


class _Rows:
    """The status of every photo and the deviation of its landmarks."""

    def __init__(self, contents: Contents) -> None:
        photos, landmarks = contents.photos, contents.landmarks
        assert photos is not None
        status = groups.read(photos.group, "status")
        self.readable = np.isin(status, [Status.OK, Status.NO_FACE])
        self.face = status == Status.OK
        self.brightness = groups.read(photos.group, "brightness")
        self.trusted, self.deviation, self.points = None, None, None
        if landmarks is not None and landmarks.num_rows == len(status):
            self.trusted = groups.read(landmarks.group, "status") == Status.OK
            self.deviation = groups.read(landmarks.group, "deviation")
            self.points = landmarks.group

    def group(self, name: str, mask: np.ndarray) -> dict[str, Any]:
        """Return the numbers of one group of photos."""
        readable, face = mask & self.readable, mask & self.face
        found: dict[str, Any] = {
            "group": name,
            "photos": int(readable.sum()),
            "found": _share(face, readable),
            "trusted": None,
            "deviation": None,
        }
        if self.trusted is not None and self.deviation is not None:
            found["trusted"] = _share(face & self.trusted, face)
            known = mask & self.trusted & np.isfinite(self.deviation)
            found["deviation"] = float(self.deviation[known].mean()) if known.any() else None
        return found

    def by_brightness(self) -> Iterator[dict[str, Any]]:
        """Yield bands of equally many photos, the darkest first."""
        known = self.readable & np.isfinite(self.brightness)
        if known.sum() < NUM_BANDS:
            return
        edges = np.quantile(self.brightness[known], np.linspace(0, 1, NUM_BANDS + 1))
        band = np.digitize(self.brightness, edges[1:-1])
        for i, (low, high) in enumerate(itertools.pairwise(edges)):
            yield self.group(f"brightness {low:.2f} to {high:.2f}", known & (band == i))

    def by_turn(self) -> Iterator[dict[str, Any]]:
        """Yield groups of faces by the turn of the head, which is measured on the landmarks."""
        if self.points is None or self.trusted is None or not self.trusted.any():
            return
        turn = np.full(len(self.face), np.nan)
        turn[self.trusted] = head_turn(groups.read(self.points, "points")[self.trusted])
        little, much = TURNS
        yield self.group(f"frontal: the nose is off by less than {little}", turn < little)
        yield self.group(
            f"a little turned: by {little} to {much}", (turn >= little) & (turn < much)
        )
        yield self.group(f"turned: by more than {much}", turn >= much)


def head_turn(points: np.ndarray) -> np.ndarray:
    """Return the sideways distance of the tip of the nose from the middle of the eyes, [N].

    The unit is the distance of the eyes.
    """
    middle = (points[:, LEFT_EYE_CORNER, 0] + points[:, RIGHT_EYE_CORNER, 0]) / 2
    return np.abs(points[:, NOSE_TIP, 0] - middle) / eye_distance(points)


def attributes_path(spec: dict[str, Any]) -> Location | None:
    """Return the path of the table of attributes; None without such a table.

    The spec names the table, or the table lies in the folder of the photos or beside it.
    """
    given = (spec.get("report") or {}).get("attributes")
    if given:
        return locate(given)
    path = spec.get("ingest", {}).get("source", {}).get("path")
    if not path:
        return None
    photos = locate(path)
    places = [folder / name for folder in (photos, photos.parent) for name in BESIDE]
    return next((place for place in places if place.exists()), None)


def read_attributes(path: Location, keys: Sequence[str]) -> dict[str, np.ndarray]:
    """Return which photos have each attribute: bool [N] by name, in the order of `keys`.

    The first column names the photo. In a column of numbers, a number above 0 means that the photo
    has the attribute. A column of words gives one attribute for each word. Raises RunDirectoryError
    if the table has no line for any key.
    """
    header, lines = _read_table(path)
    row_of = {key: row for row, key in enumerate(keys)}
    known = [(row_of[line[0]], line) for line in lines if line and line[0] in row_of]
    if not known:
        raise RunDirectoryError(
            f"{path}: none of its {len(lines)} lines begins with the name of a photo of this run "
            f"(like {keys[0]!r}); the first column must hold these names"
        )
    rows = np.array([row for row, _ in known])
    found = {}
    for column, name in enumerate(header[1:], start=1):
        values = np.array([line[column] if column < len(line) else "" for _, line in known])
        for attribute, has in _attributes(name, values).items():
            found[attribute] = np.zeros(len(keys), bool)
            found[attribute][rows] = has
    return found


def _attributes(name: str, values: np.ndarray) -> dict[str, np.ndarray]:
    try:
        return {name: values.astype(float) > 0}
    except ValueError:
        words = np.unique(values)
        if len(words) > MAX_VALUES:
            return {}
        return {f"{name}: {word or 'empty'}": values == word for word in words}


def _read_table(path: Location) -> tuple[list[str], list[list[str]]]:
    """Return the header and the lines of a .parquet, a .csv or CelebA's .txt."""
    if path.name.endswith(".parquet"):
        import pyarrow.parquet

        table = pyarrow.parquet.read_table(io.BytesIO(path.read_bytes()))
        columns = [[str(value) for value in column] for column in table.to_pydict().values()]
        return table.column_names, [list(line) for line in zip(*columns, strict=True)]
    text = path.read_bytes().decode("utf-8", "replace")
    if path.name.endswith(".csv"):
        header, *lines = csv.reader(io.StringIO(text))
        return header, lines
    _, names, *rest = [line.split() for line in text.splitlines()]  # line 1: the number of photos
    return ["photo", *names], rest


def _share(some: np.ndarray, of: np.ndarray) -> float | None:
    return float(some.sum() / of.sum()) if of.any() else None
