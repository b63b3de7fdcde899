"""Measurements whose figures the documentation quotes, so that anyone can have them again."""
