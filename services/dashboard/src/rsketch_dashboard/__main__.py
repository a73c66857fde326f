"""`python -m rsketch_dashboard`."""

import sys

from rsketch_dashboard.command import main

if __name__ == "__main__":
    sys.exit(main())
