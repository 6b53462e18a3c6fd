"""`python -m export.embedded`: the server by itself."""

import sys

from .server import main

if __name__ == "__main__":
    sys.exit(main())
