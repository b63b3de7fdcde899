"""The section `lgen`: the landmark generator, and the search for its best variant."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import (
    Field,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
)

from distfacegan.settings import Section, Share

LGenDecay = Literal["constant", "cosine"]


class SearchSpace(Section):
    """The variants of L-Gen that Ray Tune chooses from; each a list of values."""

    depth: list[PositiveInt] = Field(default=[2, 3, 4], min_length=1)
    """Hidden layers."""
    width: list[PositiveInt] = Field(default=[64, 128, 256, 512], min_length=1)
    """Nodes of a hidden layer."""
    activation: list[Literal["relu", "elu", "silu", "tanh"]] = Field(
        default=["relu", "elu", "silu"], min_length=1
    )
    """Nonlinearity of the hidden layers."""
    learning_rate: list[PositiveFloat] = Field(default=[1e-4, 3e-4, 1e-3, 3e-3], min_length=1)
    """Adam's."""
    learning_rate_decay: list[LGenDecay] = Field(default=["constant", "cosine"], min_length=1)
    """To zero, over the whole training."""
    weight_decay: list[NonNegativeFloat] = Field(default=[0.0, 0.3, 1.0], min_length=1)
    """Decoupled from the gradient (AdamW)."""
    batch: list[PositiveInt] = Field(default=[16, 64, 256], min_length=1)
    """Rows of a training step."""


class LGen(Section):
    """The landmark generator z -> landmarks (section V); `config` names a file of these keys.

    The network of Table I is always the first trial.
    """

    has_config: ClassVar[bool] = True

    depth: PositiveInt = 3
    """Hidden layers (Table I)."""
    width: PositiveInt = 128
    """Nodes of a hidden layer (Table I)."""
    activation: Literal["relu", "elu", "silu", "tanh"] = "relu"
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
    trials: PositiveInt = 16
    """Variants to try, Table I's included."""
    validation_share: Share = 0.1
    """Share of the rows that chooses among the trials."""
    test_share: Share = 0.1
    """Share of the rows that no choice has seen: the reported error is theirs."""
    early_stopping: bool = True
    """Stop poor trials early (ASHA). Which trials stop depends on timing; false: none does."""
    search: SearchSpace = SearchSpace()
    """The search space."""
