"""The project's errors: each a DistfaceganError and the built-in that fits; all can be pickled."""

# The end of every message about damage.
MENDED = "`distfacegan verify` names all that is damaged, and `run` makes it again"


class DistfaceganError(Exception):
    """Something a user can put right; the message says what, where and what to do."""


class SpecError(DistfaceganError, ValueError):
    """A job spec, a configuration or an override that cannot be used."""


class SourceError(DistfaceganError, ValueError):
    """A photo source that is missing, malformed or dangerous to read."""


class UnreadablePhotoError(DistfaceganError, ValueError):
    """One photo that cannot be decoded: data, never a reason to stop."""


class CheckpointError(DistfaceganError, ValueError):
    """Weights that are missing, damaged or of another architecture."""


class RunDirectoryError(DistfaceganError, RuntimeError):
    """A run directory that cannot be resumed, read or locked."""
