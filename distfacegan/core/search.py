"""What decides the latents that an inversion finds, beside its generator."""

import dataclasses
from collections.abc import Mapping
from typing import Any, Self

PRECISIONS = ("fp32", "bf16")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Search:
    """How the latent of a face is searched for."""

    recipe: str  # the name of one in core.recipes
    seed: int = 0
    steps: int | None = None  # generator steps for each face; None: as many as the recipe's own
    target_loss: float | None = None  # a face is done when its error is no larger
    radius: float | None = 1.0  # of the bound: 1 is the prior, None no bound
    learning_rate: float = 0.1  # Adam's
    precision: str = "fp32"  # "bf16": G computes in bfloat16; errors are of full precision

    def __post_init__(self) -> None:
        """Raise ValueError where a setting cannot work."""
        if self.precision not in PRECISIONS:
            raise ValueError(f"precision must be fp32 or bf16, found {self.precision!r}")
        if self.steps is not None and self.steps < 1:
            raise ValueError(f"steps must be positive, found {self.steps}")

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> Self:
        """Pick what a search needs out of a stage's settings."""
        names = [field.name for field in dataclasses.fields(cls)]
        return cls(**{name: settings[name] for name in names if name in settings})
