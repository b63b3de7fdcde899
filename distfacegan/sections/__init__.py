"""The large sections of a job spec, a module each; distfacegan/spec.py puts them together."""
