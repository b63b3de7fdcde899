"""`python -m distfacegan`."""

import sys

from distfacegan.cli import main

sys.exit(main())
