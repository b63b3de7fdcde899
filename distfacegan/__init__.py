"""distfacegan: labelled synthetic faces from photos, on a Ray cluster."""

__version__ = "0.2.0"
