"""Add a measured case to the advice: `python -m loraport.advice ADVICE TABLE --by COMMAND`."""

import sys

from .report.advice import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
