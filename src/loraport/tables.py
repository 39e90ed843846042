"""A table of the report, on the terminal: `python -m loraport.tables TABLE.csv`."""

import sys

from .report.tables import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
