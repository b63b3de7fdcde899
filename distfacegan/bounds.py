"""Bounds of what a spec may hold: no spec takes much memory or time before it is refused."""

from __future__ import annotations

from typing import Any

from distfacegan.errors import SpecError

MAX_BYTES = 1_000_000  # of a file
MAX_VALUES = 100_000  # of a document whose YAML aliases are written out
MAX_DEPTH = 50  # of lists and mappings in each other
MAX_DIGITS = 30  # of a whole number
MOST_ROWS = 10**12  # of any count of photos or samples


def check(document: Any, what: str) -> None:
    """Raise SpecError, naming `what`, if a document is larger than the bounds above.

    With aliases, a short YAML text can stand for a tree of thousands of millions of values.
    """
    left, level = MAX_VALUES, [document]
    for _ in range(MAX_DEPTH):
        below: list[Any] = []
        for value in level:
            if isinstance(value, int) and abs(value) >= 10**MAX_DIGITS:
                raise SpecError(f"{what}: a whole number has more than {MAX_DIGITS} digits")
            if isinstance(value, dict | list):
                left -= len(value)
                if left < 0:
                    raise SpecError(
                        f"{what}: more than {MAX_VALUES:,} values, with its aliases (*name) "
                        "written out"
                    )
                below += value.values() if isinstance(value, dict) else value
        level = below
    if level:
        raise SpecError(f"{what}: lists or mappings are nested more than {MAX_DEPTH} deep")
