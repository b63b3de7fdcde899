"""The stages: the only part of the project that uses Ray."""

import os

# Ray Tune's tables would break the progress bars. This variable turns the tables off. Ray reads the
# variable on import.
os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
