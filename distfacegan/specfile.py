"""Reads job specs: YAML, included configurations, overrides, and mistakes explained."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from distfacegan.errors import SpecError
from distfacegan.spec import STAGES, JobSpec


def load(path: Path, overrides: Sequence[str] = ()) -> JobSpec:
    """Read and check the job spec at `path`; `overrides` are texts like ``invert.steps=50``.

    Raises SpecError with one line for every mistake: file, field, what was found, what is meant.
    """
    document = _read_mapping(path)
    for section in STAGES:
        if section in document and document[section] is None:
            document[section] = {}  # `report:` alone means its defaults
    for override in overrides:
        _apply(document, override)
    for section in ("began", "lgen"):
        if isinstance(document.get(section), dict):
            document[section] = _include(document[section], path)
    try:
        return JobSpec.model_validate(document, context={"folder": path.absolute().parent})
    except ValidationError as error:
        raise SpecError(_explain(path, error)) from None


def dump(spec: JobSpec) -> str:
    """Return the resolved spec as YAML: every default filled in, every path absolute."""
    document = spec.model_dump(mode="json")
    sections = {key: value for key, value in document.items() if value is not None}
    return yaml.safe_dump(sections, sort_keys=False)


def _read_mapping(path: Path) -> dict[str, Any]:
    try:
        document = yaml.safe_load(path.read_text())
    except OSError as error:
        raise SpecError(f"cannot read {path}: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise SpecError(f"{path} is not YAML: {error}") from None
    if not isinstance(document, dict):
        raise SpecError(f"{path}: expected `key: value` lines, found {type(document).__name__}")
    return document


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
    try:
        document[key] = yaml.safe_load(_number(text))
    except yaml.YAMLError as error:
        raise SpecError(f"--set {override}: the value is not YAML: {error}") from None


def _number(text: str) -> str:
    """Spell numbers like 1e-3, which YAML 1.1 reads as text, so that they are numbers."""
    try:
        return repr(float(text)) if "e" in text.lower() else text
    except ValueError:
        return text


def _explain(path: Path, error: ValidationError) -> str:
    lines = [f"{path}: the spec cannot be used"]
    for mistake in error.errors():
        location, kind = list(mistake["loc"]), None
        if location[:2] == ["ingest", "source"] and len(location) > 2:
            # Pydantic puts it between the fields: nobody wrote it there.
            kind = str(location.pop(2))
        field = ".".join(map(str, location)) or "spec"
        lines.append(f"  {field}: {_describe(mistake, location, kind)}")
    return "\n".join(lines)


def _describe(mistake: Any, location: Sequence[int | str], kind: str | None) -> str:
    found = mistake["input"]
    match mistake["type"]:
        case "extra_forbidden":
            word = str(location[-1])
            names = _fields_at(location[:-1], kind)
            close = difflib.get_close_matches(word, names, n=1, cutoff=0.6)
            meant = f"did you mean `{close[0]}`?" if close else f"known: {', '.join(names)}"
            return f"unknown key; {meant}"
        case "union_tag_not_found":
            return "`kind` is missing: celeba, folder or procedural"
        case "missing":
            return "missing; this key is required"
        case "value_error":
            return str(mistake["ctx"]["error"])
        case _:
            text = mistake["msg"][0].lower() + mistake["msg"][1:]
            return f"{text}; found {found!r}"


def _fields_at(location: Iterable[int | str], kind: str | None) -> list[str]:
    """Return the field names of the model at a location of the spec; of a source by its kind."""
    model: type[BaseModel] = JobSpec
    for part in location:
        annotation = model.model_fields[str(part)].annotation
        models = [m for m in _models_in(annotation) if issubclass(m, BaseModel)]
        model = next((m for m in models if kind in _kinds(m)), models[0])
    names = list(model.model_fields)
    return [*names, "config"] if model.__name__ in ("Began", "LGen") else names


def _kinds(model: type[BaseModel]) -> tuple[str, ...]:
    field = model.model_fields.get("kind")
    return getattr(field.annotation, "__args__", ()) if field else ()


def _models_in(annotation: Any) -> list[type]:
    if isinstance(annotation, type):
        return [annotation]
    inner = getattr(annotation, "__args__", ())
    return [model for part in inner for model in _models_in(part) if model is not type(None)]
