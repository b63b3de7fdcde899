"""Samplers: which latents the generated faces are made of.

Each module of this package with a settings class is one sampler that a spec can name.
"""

from __future__ import annotations

from distfacegan.registry import find_kinds
from distfacegan.samplers.sampler import Drawn, Photos, Sampler, SamplerSettings

__all__ = ["SAMPLERS", "Drawn", "Photos", "Sampler", "SamplerSettings"]

SAMPLERS: dict[str, type[SamplerSettings]] = find_kinds(__name__)
