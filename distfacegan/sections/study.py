"""The section `study`: what the generated faces are worth."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, PositiveInt

from distfacegan.settings import Section, StorePath, Workers


class Study(Section):
    """A small landmark network learns from real faces, from generated ones, and from both.

    It is tested on real faces whose landmarks people have set.
    """

    real: StorePath | None = None
    """Run directory with annotated photos (landmarks.detector: annotations); default: this one."""
    faces: PositiveInt = 4000
    """Generated faces to learn from, at most."""
    amounts: list[PositiveInt] = Field(default=[50, 150], min_length=1)
    """Numbers of real faces to learn from."""
    test_share: Annotated[float, Field(gt=0, lt=1)] = 0.5
    """Share of the real faces that no network learns from, and on which all are tested."""
    seeds: PositiveInt = 3
    """Trainings of each kind, which differ in their random numbers and in their real faces."""
    steps: PositiveInt = 2000
    """Training steps of every network, of 32 faces each."""
    workers: Workers = None
