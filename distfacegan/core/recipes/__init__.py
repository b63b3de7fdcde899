"""The recipes of the inversion. Each module with a Recipe class is one; there is no other list."""

from __future__ import annotations

from distfacegan.core.recipes.recipe import Recipe, latent_dtype
from distfacegan.registry import find_kinds

__all__ = ["RECIPES", "Recipe", "latent_dtype"]

RECIPES: dict[str, type[Recipe]] = find_kinds(__name__)
