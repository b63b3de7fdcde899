"""distfacegan: labelled synthetic faces from photos, on a Ray cluster."""

__version__ = "0.1.0"
