"""How one run of a stage ended."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What a stage has, and what is left of it for the next run of the same job."""

    summary: str
    left: int = 0  # shards without a marker
    set_aside: list[str] = dataclasses.field(default_factory=list)  # shards that kept failing
