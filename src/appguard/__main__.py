"""`python -m appguard` is the `appguard` command."""

import sys

from appguard.cli import main

sys.exit(main())
