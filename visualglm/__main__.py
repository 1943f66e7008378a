"""Run the console program: python -m visualglm COMMAND ..."""

import sys

from visualglm.cli import main

if __name__ == "__main__":
    sys.exit(main())
