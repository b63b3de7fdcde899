"""The record of a stage, stages/<stage>.json: what it was begun with, and how its runs went.

`settings` and `inputs` are written once, when the stage begins, and never changed: later runs are
compared with them. The other facts are added as they become known.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any

from distfacegan.store import formats


@dataclasses.dataclass(frozen=True)
class StageRun:
    """One run of a stage: a job may take several to finish it."""

    started: float  # seconds since the epoch
    seconds: float
    shards: int = 0  # that it was to do
    rows: int | None = None  # that L-Gen learnt from
    steps: int | None = None  # of training
    set_aside: Mapping[str, str] = dataclasses.field(default_factory=dict)  # shard: reason
    failures: Mapping[str, int] = dataclasses.field(default_factory=dict)  # attempts by error


@dataclasses.dataclass(frozen=True)
class StageRecord:
    """What a stage was begun with, and how far it is."""

    settings: Mapping[str, Any]  # that decide its output
    inputs: Mapping[str, Any]  # identities of what it reads
    runs: tuple[StageRun, ...] = ()
    finished: bool = False
    rows: int | None = None  # to do, of a stage that works shard by shard
    shards: int | None = None  # to do
    steps: int | None = None  # to do, of a training
    precision: str | None = None  # in which the inversion computes
    warnings: Sequence[str] = ()  # what is wrong with its output, though it is finished
    format: int = 0
    version: str = "0.1.0"  # of the program that began the stage

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> StageRecord:
        """Return a record as a file holds it. Raises TypeError where it is none."""
        runs = found.get("runs", [])
        known = formats.known_fields(cls, found)
        known["runs"] = tuple(StageRun(**formats.known_fields(StageRun, run)) for run in runs)
        return cls(**known)

    @property
    def last_run(self) -> StageRun | None:
        """The most recent run that ended."""
        return self.runs[-1] if self.runs else None


def differences(
    record: StageRecord,
    settings: Mapping[str, Any],
    inputs: Mapping[str, Any] | None,
    unrecorded: Mapping[str, Any],
) -> list[str]:
    """Return a line for every field that a record has otherwise than `settings` and `inputs`.

    `unrecorded` holds the values of settings that earlier versions did not have: a record without
    such a field is taken to hold that value.
    """
    found, asked, before = plain(record.settings), plain(settings), plain(unrecorded)
    if inputs is not None:
        found, asked = found | plain(record.inputs), asked | plain(inputs)
    lines = []
    for field in sorted(set(_fields(found)) | set(_fields(asked))):
        here, there = _at(found, field, before), _at(asked, field)
        if here != there:
            lines.append(f"  {field}: {_in_words(here)} on disk, {_in_words(there)} asked")
    return lines


def plain(value: Any) -> Any:
    """Return a value as JSON gives it back, so that both sides of a comparison look alike."""
    return json.loads(json.dumps(value))


def _fields(tree: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Return the dotted names of the leaves of a nested mapping."""
    names = []
    for key, value in tree.items():
        name = f"{prefix}{key}"
        names += _fields(value, f"{name}.") if isinstance(value, dict) else [name]
    return names


def _at(tree: Any, field: str, otherwise: Any = None) -> Any:
    """Return the value at a dotted name, None inside what is no mapping.

    Where a mapping lacks the key, the value is the one that `otherwise` has at that name.
    """
    for key in field.split("."):
        if not isinstance(tree, dict):
            return None
        if key not in tree:
            return None if otherwise is None else _at(otherwise, field)
        tree = tree[key]
    return tree


def _in_words(value: Any) -> Any:
    return "nothing" if value is None else value
