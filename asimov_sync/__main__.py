"""Runs the command line of the library: `python -m asimov_sync`."""

import sys

from asimov_sync.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
