"""The section `invert`: how the latents of faces are searched for."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    BeforeValidator,
    Field,
    PositiveFloat,
    PositiveInt,
    ValidationInfo,
    WithJsonSchema,
    field_validator,
    model_validator,
)

from distfacegan.core.recipes import RECIPES
from distfacegan.settings import NameOf, Section, StorePath, Workers


class SurrogateSettings(Section):
    """The small network that imitates the generator's images, shrunk to 16 x 16 pixels."""

    pictures: Annotated[int, Field(ge=1000)] = 24_000
    """Images of the generator to learn from."""
    steps: PositiveInt = 5000
    """Steps of its training, of 256 images each."""
    width: PositiveInt = 512
    """Nodes of its two hidden layers."""


def _of_percent(value: Any) -> Any:
    """Read `2%` as 0.02."""
    if isinstance(value, str) and value.endswith("%"):
        return float(value[:-1]) / 100
    return value


class Retry(Section):
    """Another search for the rows whose error is largest; the better latent is kept."""

    worst: Annotated[
        float,
        BeforeValidator(_of_percent),
        Field(gt=0, le=1),
        WithJsonSchema(
            {
                "type": ["number", "string"],
                "exclusiveMinimum": 0,
                "maximum": 1,
                "pattern": "^[0-9.]+%$",
            }
        ),
    ] = 0.02
    """The share of every shard's rows that is searched again, like 0.02 or 2%. Rows that have
    reached `target_loss` are not."""
    starts: PositiveInt = 3
    """Starts to search from. One is the recipe's own, if `steps` is more than in the first search;
    the others are random."""
    steps: PositiveInt | None = None
    """Generator steps from each start; default: twice those of the first search."""


def _steps_described() -> str:
    numbers = ", ".join(f"{recipe.steps} for {name}" for name, recipe in RECIPES.items())
    return f"Generator steps for each face; default: {numbers}."


class Invert(Section):
    """For every face the z with the least |x - G(z)| (section III, equation 3)."""

    recipe: Annotated[str, NameOf(RECIPES), Field(description=NameOf(RECIPES).described())] = "fast"
    steps: Annotated[PositiveInt | None, Field(description=_steps_described())] = None
    target_loss: PositiveFloat | None = None
    """A face is done as soon as its error, computed in `precision`, is no larger than this. A batch
    ends when all of its faces are done."""
    retry: Retry | None = None
    """Another search for the worst rows; default: none."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Number format in which G computes; the errors that are stored are computed in fp32. auto:
    bf16 if the stage began on a GPU, else fp32."""
    radius: PositiveFloat | None = 1.0
    """Latents stay within [-radius, radius]: 1 is the prior, null no bound. Some recipes have no
    bound."""
    learning_rate: PositiveFloat = 0.1
    """Adam's, for the recipes that use it."""
    batch: PositiveInt = 256
    """Faces inverted together."""
    surrogate: SurrogateSettings = SurrogateSettings()
    """The small network of the recipes that need one. It is trained before the first face."""
    generator: StorePath | None = None
    """Weights to invert: a .safetensors file or a folder with one; default: this run's BEGAN."""
    photos: StorePath | None = None
    """Run directory whose faces are inverted; default: this one."""
    workers: Workers = None

    @model_validator(mode="before")
    @classmethod
    def _fill_in(cls, section: Any) -> Any:
        """Fill in what depends on the recipe. The fields refuse whatever is of a wrong type."""
        if not isinstance(section, dict):
            return section
        filled, name = dict(section), section.get("recipe", cls.model_fields["recipe"].default)
        recipe = RECIPES.get(name) if isinstance(name, str) else None
        if recipe is None:
            return section
        if filled.get("steps") is None:
            filled["steps"] = recipe.steps
        if not recipe.bounded:
            if filled.get("radius") is not None:
                bounded = ", ".join(other for other, each in RECIPES.items() if each.bounded)
                raise ValueError(
                    f"recipe {name} has no bound: leave radius out, or take one of {bounded}"
                )
            filled["radius"] = None
        return filled

    @field_validator("retry")
    @classmethod
    def _fill_in_retry(cls, retry: Retry | None, info: ValidationInfo) -> Retry | None:
        if retry is None or retry.steps is not None or info.data.get("steps") is None:
            return retry
        return retry.model_copy(update={"steps": 2 * info.data["steps"]})
