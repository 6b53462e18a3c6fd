"""`python -m export.embedded`: the server by itself."""

import sys

from descargan_tf import surroundings

if __name__ == "__main__":
    surroundings.settle()
    from .server import main

    sys.exit(main())
