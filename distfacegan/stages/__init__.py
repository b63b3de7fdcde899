"""The stages: the only part of the project that knows Ray."""

import os

# Ray Tune's tables would break the progress bars; this is its own switch, read on import.
os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
