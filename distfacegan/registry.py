"""The kinds of a thing, found in the modules of its package: a new kind is one new file."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import typing


def find_kinds(package: str) -> dict[str, type[typing.Any]]:
    """Import the modules of a package and return the classes that have a `kind`, by that kind.

    Such a class holds the settings of one kind, which its annotation `kind: Literal["name"]` names.
    A module's classes count where the module, or a module below it, defines them.
    """
    found: dict[str, type[typing.Any]] = {}
    for info in pkgutil.iter_modules(importlib.import_module(package).__path__):
        module = importlib.import_module(f"{package}.{info.name}")
        for value in list(vars(module).values()):
            if isinstance(value, type) and f"{value.__module__}.".startswith(f"{module.__name__}."):
                for kind in _names(value):
                    assert kind not in found, f"{value} and {found.get(kind)} are both {kind}"
                    found[kind] = value
    return dict(sorted(found.items()))


def _names(settings: type) -> tuple[str, ...]:
    """Return the names in a class's own annotation of `kind`; none for any other class."""
    if "kind" not in inspect.get_annotations(settings):
        return ()
    return typing.get_args(typing.get_type_hints(settings)["kind"])
