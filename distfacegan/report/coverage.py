"""Whom a dataset loses: the share of photos with a face, and the landmarks' error, by group.

Groups are made of the brightness of the photo, the turn of the head, and the attributes of a table
beside the photos, where there is one.
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
NUM_BANDS = 5  # of brightness, each with as many photos
TURNS = (0.05, 0.15)  # of the tip of the nose from the middle of the eyes, in eye distances
MAX_VALUES = 12  # of a column that holds words; one with more of them says nothing of groups


def coverage(contents: Contents) -> dict[str, list[dict[str, Any]]]:
    """Return the groups of each kind; a kind of which nothing is known is left out."""
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
    """What became of every photo, and how far its landmarks are off."""

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
        """Yield bands of as many photos each, the dark ones first."""
        known = self.readable & np.isfinite(self.brightness)
        if known.sum() < NUM_BANDS:
            return
        edges = np.quantile(self.brightness[known], np.linspace(0, 1, NUM_BANDS + 1))
        band = np.digitize(self.brightness, edges[1:-1])
        for i, (low, high) in enumerate(itertools.pairwise(edges)):
            yield self.group(f"brightness {low:.2f} to {high:.2f}", known & (band == i))

    def by_turn(self) -> Iterator[dict[str, Any]]:
        """Yield faces by the turn of the head, as their landmarks show it."""
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
    """Return how far the tip of the nose is sideways of the eyes' middle, in eye distances: [N]."""
    middle = (points[:, LEFT_EYE_CORNER, 0] + points[:, RIGHT_EYE_CORNER, 0]) / 2
    return np.abs(points[:, NOSE_TIP, 0] - middle) / eye_distance(points)


def attributes_path(spec: dict[str, Any]) -> Location | None:
    """Return the table of attributes: the one that the spec names, or one beside the photos."""
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
    """Return the photos that have each attribute: bool [N] by name, in the order of `keys`.

    The first column names the photo. Of a column of numbers, those above 0 have the attribute; a
    column of words is an attribute for each word. Raises RunDirectoryError if it is no such table.
    """
    header, lines = _read_table(path)
    row_of = {key: row for row, key in enumerate(keys)}
    known = [(row_of[line[0]], line) for line in lines if line and line[0] in row_of]
    if not known:
        raise RunDirectoryError(
            f"{path}: none of its {len(lines)} lines begins with the name of a photo of this run "
            f"(like {keys[0]!r}); the first column is to hold these"
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
    _, names, *rest = [line.split() for line in text.splitlines()]  # the first line is their number
    return ["photo", *names], rest


def _share(some: np.ndarray, of: np.ndarray) -> float | None:
    return float(some.sum() / of.sum()) if of.any() else None
