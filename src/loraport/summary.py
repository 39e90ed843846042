"""What a transfer did, on the terminal: `python -m loraport.summary DIRECTORY`."""

import sys

from .report.summary import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
