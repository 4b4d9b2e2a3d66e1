"""`python -m sampan` is the program `sampan`."""

import sys

from sampan.cli.main import main

sys.exit(main())
