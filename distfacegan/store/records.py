"""The record of a stage, stages/<stage>.json: its settings, its inputs and its runs.

`settings` and `inputs` are written once, when the stage begins, and never changed. The settings
and inputs of later runs are compared with those in the record. The other facts are added as they
become known.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any

from distfacegan.store import formats


@dataclasses.dataclass(frozen=True)
class StageRun:
    """One run of a stage. A stage may need several runs to finish."""

    started: float  # seconds since the epoch
    seconds: float
    shards: int = 0  # the shards that the run was to do
    rows: int | None = None  # the rows that L-Gen learnt from
    steps: int | None = None  # the steps of training in the run
    set_aside: Mapping[str, str] = dataclasses.field(default_factory=dict)  # shard: reason
    failures: Mapping[str, int] = dataclasses.field(default_factory=dict)  # attempts by error


@dataclasses.dataclass(frozen=True)
class StageRecord:
    """The settings and inputs that a stage began with, and its progress."""

    settings: Mapping[str, Any]  # those that decide the output
    inputs: Mapping[str, Any]  # the identities of the data that the stage reads
    made_of: str | None = None  # the digest of both; None: an earlier version began the stage
    runs: tuple[StageRun, ...] = ()
    finished: bool = False
    rows: int | None = None  # all rows to do, if the stage works shard by shard
    shards: int | None = None  # all shards to do
    steps: int | None = None  # all steps to do, if the stage is a training
    precision: str | None = None  # the precision of the inversion's arithmetic
    warnings: Sequence[str] = ()  # faults of the output of a finished stage
    format: int = 0
    version: str = "0.1.0"  # of the program that began the stage

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> StageRecord:
        """Return the record in a file's JSON. Raises TypeError if the JSON is no record."""
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
    """Return a line for every field that differs between a record and `settings` and `inputs`.

    `unrecorded` holds values for settings that earlier versions did not have: a record that lacks
    such a setting is read as if it held this value.
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
    """Return a value as read back from JSON (tuples become lists), to be compared with a record."""
    return json.loads(json.dumps(value))


def _fields(tree: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Return the dotted names of the leaves of a nested mapping."""
    names = []
    for key, value in tree.items():
        name = f"{prefix}{key}"
        names += _fields(value, f"{name}.") if isinstance(value, dict) else [name]
    return names


def _at(tree: Any, field: str, otherwise: Any = None) -> Any:
    """Return the value at a dotted name; None if a part of the name leads into no mapping.

    If a mapping lacks the key, the value is taken from `otherwise` at the same dotted name.
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
