"""What every part of a spec is built from: strict sections, paths, fields that choose a kind."""

from __future__ import annotations

import dataclasses
import inspect
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    PlainSerializer,
    PlainValidator,
    PositiveInt,
    SerializerFunctionWrapHandler,
    TypeAdapter,
    ValidationInfo,
    WithJsonSchema,
    model_serializer,
    model_validator,
)
from pydantic.fields import FieldInfo
from pydantic_core import CoreSchema, core_schema

from distfacegan.bounds import MOST_ROWS
from distfacegan.store.location import LIKE_A_URL, Location, ObjectPath, locate


def _resolve(path: Path, info: ValidationInfo) -> Path:
    """Take relative paths from the folder of the spec, so that a job means the same anywhere."""
    folder = (info.context or {}).get("folder", Path())
    try:
        return Path(os.path.normpath(Path(folder, path.expanduser()).absolute()))
    except RuntimeError as error:  # no such user
        raise ValueError(f"{path}: {error}") from None


def _locate(value: Any, info: ValidationInfo) -> Location:
    """Take a URL of an object store as it is, and a path as `_resolve` does."""
    if isinstance(value, ObjectPath) or (isinstance(value, str) and LIKE_A_URL.match(value)):
        return locate(value)
    if not isinstance(value, str | Path):
        raise ValueError("a path or a URL is needed")
    return _resolve(Path(value), info)


SpecPath = Annotated[Path, AfterValidator(_resolve)]
StorePath = Annotated[
    Location,
    PlainValidator(_locate),
    PlainSerializer(str, when_used="json"),
    WithJsonSchema({"type": "string", "format": "path"}),
]
Rows = Annotated[int, Field(ge=1, le=MOST_ROWS)]
Share = Annotated[float, Field(gt=0, lt=0.5)]
Workers = Annotated[
    PositiveInt | None,
    Field(description="Ray workers; default: one per GPU, or what the cores allow."),
]


class Section(BaseModel):
    """A part of a spec: unknown keys are errors, values do not change."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False
    )

    has_config: ClassVar[bool] = False
    """The key `config` may name a file that holds keys of this section."""

    @classmethod
    def __get_pydantic_json_schema__(
        cls, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        """Describe the section as it is written, in which `config` is allowed too."""
        written = handler(schema)
        if cls.has_config:
            handler.resolve_ref_schema(written)["properties"]["config"] = {
                "type": "string",
                "description": "File with keys of this section; keys beside it take precedence.",
            }
        return written

    def unrecorded(self) -> dict[str, Any]:
        """Return how runs acted that were begun before a field existed, by field.

        That is the field's default, or what its annotation says with Before.
        """
        found: dict[str, Any] = {}
        for name, field in type(self).model_fields.items():
            value, default = getattr(self, name), field.get_default()
            if _before(field):
                found[name] = _before(field)[0]
            elif isinstance(value, Section):
                found[name] = value.unrecorded()
            elif dataclasses.is_dataclass(default) and name != getattr(self, "chooses", None):
                found[name] = dataclasses.asdict(default)  # type: ignore[arg-type]
            elif dataclasses.is_dataclass(default):  # of a kind, whose keys stand beside
                kind = dataclasses.fields(value)
                found |= {f.name: f.default for f in kind if f.default is not dataclasses.MISSING}
            elif not field.is_required():
                found[name] = default
        return found

    def as_begun(self, recorded: Mapping[str, Any]) -> Self:
        """Return this section as a run has it whose record of settings is given.

        A field that is not recorded and that the spec does not give gets its value of Before.
        """
        updates = {}
        for name, field in type(self).model_fields.items():
            value, there = getattr(self, name), recorded.get(name)
            if isinstance(value, Section) and isinstance(there, Mapping):
                updates[name] = value.as_begun(there)
            elif name not in recorded and name not in self.model_fields_set and _before(field):
                updates[name] = _before(field)[0]
        return self.model_copy(update=updates)


@dataclasses.dataclass(frozen=True)
class Before:
    """Stands in a field's annotation: how runs acted that were begun before the field existed.

    Needed only where that is not the field's default.
    """

    value: Any


def _before(field: FieldInfo) -> list[Any]:
    """Return the value of Before in a field's annotation, if it has one."""
    return [mark.value for mark in field.metadata if isinstance(mark, Before)]


@dataclasses.dataclass(frozen=True)
class OneOf:
    """Marks a field that holds the settings of one of several kinds, told apart by `kind`.

    The settings of a kind are a Section or a frozen dataclass of the standard library.
    """

    kinds: Mapping[str, type]

    def fields(self, kind: str) -> list[str]:
        """Return the keys of a kind, `kind` among them."""
        settings: Any = self.kinds[kind]
        if issubclass(settings, BaseModel):
            return list(settings.model_fields)
        return [field.name for field in dataclasses.fields(settings)]

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        """Accept settings of the kind that is named; the field's own annotation is for mypy."""
        choices = {kind: handler.generate_schema(each) for kind, each in self.kinds.items()}
        return core_schema.with_info_after_validator_function(
            _resolve_paths, core_schema.tagged_union_schema(choices, "kind")
        )


@dataclasses.dataclass(frozen=True)
class NameOf:
    """Marks a field that holds the name of one of several documented functions or classes."""

    things: Mapping[str, Any]

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        """Accept these names; the field's own annotation is for mypy."""
        return core_schema.literal_schema(list(self.things))

    def described(self) -> str:
        """Return the names, each with the first paragraph of its docstring."""
        docs = {name: inspect.getdoc(thing) or "" for name, thing in self.things.items()}
        return "\n".join(f"{name}: {doc.partition(chr(10) * 2)[0]}" for name, doc in docs.items())


def _resolve_paths(settings: Any, info: ValidationInfo) -> Any:
    """Resolve the paths of a dataclass; a Section has resolved its own."""
    if isinstance(settings, BaseModel):
        return settings
    paths = {name: value for name, value in vars(settings).items() if isinstance(value, Path)}
    resolved = {name: _resolve(path, info) for name, path in paths.items()}
    return dataclasses.replace(settings, **resolved)


class Choosing(Section):
    """A section in which one field names a kind, and the keys of that kind stand beside it.

    `{detector: onnx, model: FILE, min_score: 0.5}` reads as
    `{detector: {kind: onnx, model: FILE}, min_score: 0.5}`, and is written as the former.
    """

    chooses: ClassVar[str]
    """The field, which is marked with OneOf."""

    @classmethod
    def one_of(cls) -> OneOf:
        """Return the kinds that can be chosen."""
        [found] = [m for m in cls.model_fields[cls.chooses].metadata if isinstance(m, OneOf)]
        return found

    @classmethod
    def keys_of_kinds(cls) -> dict[str, list[str]]:
        """Return every key that may stand beside, with the kinds that have it."""
        found: dict[str, list[str]] = {}
        for kind in cls.one_of().kinds:
            for key in cls.one_of().fields(kind):
                if key != "kind":
                    found.setdefault(key, []).append(kind)
        return found

    @model_validator(mode="before")
    @classmethod
    def _gather(cls, section: Any) -> Any:
        """Move the keys of the kind into the field. Null for a key of another kind says nothing."""
        if not isinstance(section, dict):
            return section
        given = section.get(cls.chooses, cls.model_fields[cls.chooses].default.kind)
        chosen = {"kind": given} if isinstance(given, str) else given
        if not isinstance(chosen, dict):
            return section
        rest, moved = dict(section), {}
        for key, kinds in cls.keys_of_kinds().items():
            if key not in rest:
                continue
            value = rest.pop(key)
            if chosen.get("kind") in kinds:
                moved[key] = value
            elif value is not None and chosen.get("kind") in cls.one_of().kinds:
                *others, last = kinds
                have = f"{', '.join(others)} and {last} have" if others else f"{last} has"
                raise ValueError(f"{cls.chooses} {chosen['kind']} has no key `{key}`; {have}")
        if cls.chooses in rest or moved:
            rest[cls.chooses] = chosen | moved
        return rest

    @model_serializer(mode="wrap")
    def _spread(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Put the keys of the kind beside the field again."""
        written = handler(self)
        chosen = written.pop(self.chooses, None)
        if chosen is None:
            return written  # it was not given, and what was not given is left out
        return {self.chooses: chosen.pop("kind"), **chosen, **written}

    @classmethod
    def __get_pydantic_json_schema__(
        cls, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        """Describe the section as it is written."""
        written = super().__get_pydantic_json_schema__(schema, handler)
        properties = handler.resolve_ref_schema(written)["properties"]
        kinds = {k: TypeAdapter(each).json_schema() for k, each in cls.one_of().kinds.items()}
        about = [properties[cls.chooses].get("description", "")]
        about += [f"{kind}: {each['description']}" for kind, each in kinds.items()]
        properties[cls.chooses] = {
            "enum": list(kinds),
            "type": "string",
            "default": cls.model_fields[cls.chooses].default.kind,
            "description": "\n".join(about),
        }
        for key, having in cls.keys_of_kinds().items():
            properties[key] = _merged({kind: kinds[kind]["properties"][key] for kind in having})
        return written


def _merged(schemas: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return the schema of a key that several kinds have."""
    variants: list[Any] = []
    for each in schemas.values():
        for variant in each.get("anyOf", [_without(each, "title", "description", "default")]):
            if variant not in variants:
                variants.append(variant)
    merged = variants[0] if len(variants) == 1 else {"anyOf": variants}
    about = "\n".join(f"{kind}: {each['description']}" for kind, each in schemas.items())
    defaults = [each["default"] for each in schemas.values() if "default" in each]
    alike = len(defaults) == len(schemas) and all(each == defaults[0] for each in defaults)
    return {**merged, "description": about, **({"default": defaults[0]} if alike else {})}


def _without(schema: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in schema.items() if name not in names}
