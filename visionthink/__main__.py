"""`python -m visionthink` is the command `visionthink`."""

import sys

from visionthink.cli import main

sys.exit(main())
