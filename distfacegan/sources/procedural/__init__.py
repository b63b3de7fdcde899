"""Procedural faces: varied, shaded faces with exact landmarks, made from (seed, row) alone."""

from distfacegan.sources.procedural.faces import ProceduralFaces, ProceduralSection, render_face

__all__ = ["ProceduralFaces", "ProceduralSection", "render_face"]
