"""`python -m rsketch`."""

import sys

from rsketch.command import main

if __name__ == "__main__":
    sys.exit(main())
