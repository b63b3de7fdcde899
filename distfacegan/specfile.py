"""Reads job specs: YAML, included configurations, overrides, and mistakes explained."""

from __future__ import annotations

import dataclasses
import difflib
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from distfacegan import bounds
from distfacegan.errors import SpecError
from distfacegan.settings import Choosing, OneOf, Section
from distfacegan.spec import SECTIONS, JobSpec

LONGEST = 200  # characters of a value that a message quotes


def load(path: Path, overrides: Sequence[str] = ()) -> JobSpec:
    """Read and check the job spec at `path`; `overrides` are texts like ``invert.steps=50``.

    Raises SpecError with one line for every mistake: file, field, what was found, what is meant.
    """
    document = _read_mapping(path)
    for section in SECTIONS:
        if section in document and document[section] is None:
            document[section] = {}  # `report:` alone means its defaults
    for override in overrides:
        _apply(document, override)
    for section in SECTIONS:
        [model] = _sections_in(JobSpec.model_fields[section].annotation)
        if model.has_config and isinstance(document.get(section), dict):
            document[section] = _include(document[section], path)
    try:
        return JobSpec.model_validate(document, context={"folder": path.absolute().parent})
    except ValidationError as error:
        raise SpecError(_explain(path, error)) from None


def dump(spec: JobSpec, *, defaults: bool = True) -> str:
    """Return the resolved spec as YAML: every path absolute, and every default filled in.

    Without `defaults` the keys that were not given are left out.
    """
    document = spec.model_dump(mode="json", exclude_unset=not defaults)
    sections = {key: value for key, value in document.items() if value is not None}
    return yaml.safe_dump(sections, sort_keys=False)


def _read_mapping(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > bounds.MAX_BYTES:
            raise SpecError(f"{path} is larger than {bounds.MAX_BYTES:,} bytes: it is no spec")
        document = _parse(path.read_text(), str(path))
    except OSError as error:
        raise SpecError(f"cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise SpecError(f"{path} is not YAML: {error}") from None
    if not isinstance(document, dict):
        raise SpecError(f"{path}: expected `key: value` lines, found {type(document).__name__}")
    return document


def _parse(text: str, what: str) -> Any:
    """Return the value of a YAML text; raises SpecError, naming `what`."""
    try:
        found = yaml.safe_load(text)
    except RecursionError:
        raise SpecError(
            f"{what}: lists or mappings are nested more than {bounds.MAX_DEPTH} deep"
        ) from None
    except yaml.YAMLError as error:
        raise SpecError(f"{what} is not YAML: {error}") from None
    except ValueError as error:
        reason = str(error).partition(";")[0]
        raise SpecError(f"{what}: a number or a date cannot be read: {reason}") from None
    bounds.check(found, what)
    return found


def _include(section: dict[str, Any], spec: Path) -> dict[str, Any]:
    """Put the keys of the file named by `config` beneath the section's own keys."""
    section = dict(section)
    config = section.pop("config", None)
    if config is None:
        return section
    try:
        beneath = _read_mapping(spec.parent / Path(str(config)).expanduser())
    except RuntimeError as error:
        raise SpecError(f"{spec}: config: {config}: {error}") from None
    for key, value in section.items():
        if isinstance(value, dict) and isinstance(beneath.get(key), dict):
            section[key] = beneath[key] | value
    return beneath | section


def _apply(document: dict[str, Any], override: str) -> None:
    field, separator, text = override.partition("=")
    if not separator or not field:
        raise SpecError(f"--set {override}: expected FIELD=VALUE, for example invert.steps=50")
    *parents, key = field.split(".")
    for parent in parents:
        inner = document.setdefault(parent, {})
        if not isinstance(inner, dict):
            raise SpecError(f"--set {override}: `{parent}` holds a value, not a section")
        document = inner
    document[key] = _parse(_number(text), f"--set {override[:LONGEST]}: the value")


def _number(text: str) -> str:
    """Spell numbers like 1e-3, which YAML 1.1 reads as text, so that they are numbers."""
    try:
        return repr(float(text)) if "e" in text.lower() else text
    except ValueError:
        return text


def _explain(path: Path, error: ValidationError) -> str:
    lines = [f"{path}: the spec cannot be used"]
    for mistake in error.errors():
        place = _find(mistake["loc"])
        field = ".".join(map(str, place.written)) or "spec"
        lines.append(f"  {field}: {_describe(mistake, place)}")
    return "\n".join(lines)


@dataclasses.dataclass
class _Place:
    """A place in a spec: a key, and what stands around it."""

    written: list[int | str]  # the keys down to it, as a user writes them
    beside: list[str]  # the keys that are known where the last of them stands
    kind: str | None = None  # the kind whose settings that is among
    kinds: Sequence[str] = ()  # the kinds that may be named there


def _find(location: Sequence[int | str]) -> _Place:
    """Find a place by pydantic's location, in which the kinds stand between the fields."""
    model: Any = JobSpec
    place = _Place([], _keys(model))
    parts = list(location)
    while parts:
        part = parts.pop(0)
        field = getattr(model, "model_fields", {}).get(str(part))
        place.written.append(part)
        place.kinds, place.kind = (), None
        place.beside, chooser, model = _keys(model), model, None
        if field is None:
            continue
        one_of = next((each for each in field.metadata if isinstance(each, OneOf)), None)
        if one_of is None:
            model = next(iter(_sections_in(field.annotation)), None)
            continue
        place.kinds = list(one_of.kinds)
        if parts:
            kind = str(parts.pop(0))
            place.kinds, model = (), one_of.kinds[kind]
            if parts:
                if issubclass(chooser, Choosing) and chooser.chooses == part:
                    place.written.pop()  # its keys stand beside it
                place.written.append(parts.pop(0))
                place.beside, place.kind, model = one_of.fields(kind), kind, None
    return place


def _describe(mistake: Any, place: _Place) -> str:
    found = mistake["input"]
    match mistake["type"]:
        case "extra_forbidden" | "unexpected_keyword_argument":
            return f"unknown key; {_meant(str(place.written[-1]), place.beside)}"
        case "union_tag_not_found":
            *names, last = place.kinds
            return f"`kind` is missing: {', '.join(names)} or {last}"
        case "union_tag_invalid":
            tag = mistake["ctx"]["tag"]
            return f"{tag!r} is not known; {_meant(tag, place.kinds)}"
        case "missing":
            return "missing; " + (
                f"{place.kind} needs it" if place.kind else "this key is required"
            )
        case "value_error":
            return str(mistake["ctx"]["error"])
        case _:
            text = mistake["msg"][0].lower() + mistake["msg"][1:]
            said = repr(found)
            return f"{text}; found {said if len(said) <= LONGEST else said[:LONGEST] + '...'}"


def _meant(word: str, names: Sequence[str]) -> str:
    close = difflib.get_close_matches(word, names, n=1, cutoff=0.6)
    return f"did you mean `{close[0]}`?" if close else f"known: {', '.join(names)}"


def _keys(model: Any) -> list[str]:
    """Return the keys that a section may have, as they are written; none of what is no section."""
    if model is None:
        return []
    beside = model.keys_of_kinds() if issubclass(model, Choosing) else ()
    return [*model.model_fields, *beside, *(["config"] if model.has_config else [])]


def _sections_in(annotation: Any) -> list[type[Section]]:
    if isinstance(annotation, type):
        return [annotation] if issubclass(annotation, Section) else []
    return [each for part in typing.get_args(annotation) for each in _sections_in(part)]
