"""The section `lgen`: the landmark generator, and the search for its best variant."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, TypeVar

from pydantic import (
    Field,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
)

from distfacegan.bounds import MOST_ROWS
from distfacegan.sections.landmarks import Landmarks
from distfacegan.settings import Before, Rows, Section, Share, Workers

LGenDecay = Literal["constant", "cosine"]
Activation = Literal["relu", "elu", "silu", "tanh"]
Pairs = Literal["prior", "photos", "both"]
Choice = TypeVar("Choice")
Choices = Annotated[list[Choice], Field(min_length=1, max_length=100)]


class SearchSpace(Section):
    """The variants of L-Gen that Ray Tune chooses from; each a list of values."""

    depth: Choices[PositiveInt] = Field(default=[2, 3, 4])
    """Hidden layers."""
    width: Choices[PositiveInt] = Field(default=[64, 128, 256, 512])
    """Nodes of a hidden layer."""
    activation: Choices[Activation] = Field(default=["relu", "elu", "silu"])
    """Nonlinearity of the hidden layers."""
    learning_rate: Choices[PositiveFloat] = Field(default=[1e-4, 3e-4, 1e-3, 3e-3])
    """Adam's."""
    learning_rate_decay: Choices[LGenDecay] = Field(default=["constant", "cosine"])
    """To zero, over the whole training."""
    weight_decay: Choices[NonNegativeFloat] = Field(default=[0.0, 0.3, 1.0])
    """Decoupled from the gradient (AdamW)."""
    batch: Choices[PositiveInt] = Field(default=[16, 64, 256])
    """Rows of a training step."""


class LGen(Section):
    """The landmark generator z -> landmarks (section V); `config` names a file of these keys.

    The variant that these keys give, by default the network of Table I, is the first trial.
    """

    has_config: ClassVar[bool] = True

    pairs: Annotated[Pairs | None, Before("photos")] = None
    """What L-Gen learns from. prior: latents drawn from the prior, with the landmarks that the
    detector finds on G(z). photos: the photos' latents and landmarks, as in the paper. both: prior,
    and the photos' latents with the landmarks found on their G(z). Default: prior where the section
    landmarks has a detector, else photos."""
    num_pairs: Rows = 10_000
    """Latents drawn from the prior (prior, both)."""
    num_fresh: Annotated[int, Field(ge=0, le=MOST_ROWS), Before(0)] = 2000
    """Latents drawn apart from all training, on which L-Gen is held against the detector."""
    judge: Landmarks | None = None
    """A second detector, with the keys of the section landmarks: it judges L-Gen on the fresh
    latents, independently of the first."""
    ensemble: Annotated[int, Field(ge=1, le=1000), Before(1)] = 5
    """Landmark generators in all, of the best trials, where there are fresh latents: their spread
    says how far off the landmarks of a sample may be. 1: the best alone."""
    workers: Workers = None
    depth: Annotated[int, Field(ge=1, le=100)] = 3
    """Hidden layers (Table I)."""
    width: Annotated[int, Field(ge=1, le=16384)] = 128
    """Nodes of a hidden layer (Table I)."""
    activation: Activation = "relu"
    """Nonlinearity of the hidden layers (Table I)."""
    learning_rate: PositiveFloat = 3e-4
    """Adam's."""
    learning_rate_decay: LGenDecay = "constant"
    """To zero, over the whole training; the paper has none."""
    weight_decay: NonNegativeFloat = 0.0
    """Decoupled from the gradient (AdamW); the paper has none."""
    batch: PositiveInt = 16
    """B_N of equation 4."""
    epochs: PositiveInt = 1000
    """Passes over the rows."""
    trials: Annotated[int, Field(ge=1, le=10_000)] = 16
    """Variants to try, the section's own included."""
    validation_share: Share = 0.1
    """Share of the rows that chooses among the trials."""
    test_share: Share = 0.1
    """Share of the rows that no choice has seen: the reported error is theirs."""
    early_stopping: bool = True
    """Stop poor trials early (ASHA). Which trials stop depends on timing; false: none does."""
    search: SearchSpace = SearchSpace()
    """The search space."""
