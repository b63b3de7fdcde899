"""The paper's recipe within a bound."""

from __future__ import annotations

from typing import Literal

from distfacegan.core.recipes.adam import Adam


class Clip(Adam):
    """Adam from a random latent, within the bound."""

    kind: Literal["clip"] = "clip"
