"""`python -m metalib` is the command `metalib`."""

import sys

from metalib.runs.command import main

sys.exit(main())
