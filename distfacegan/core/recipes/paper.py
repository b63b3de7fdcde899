"""The paper's recipe."""

from __future__ import annotations

from typing import Literal

from distfacegan.core.recipes.adam import Adam


class Paper(Adam):
    """Adam from a random latent, without a bound, as in section III."""

    kind: Literal["paper"] = "paper"
    bounded = False
