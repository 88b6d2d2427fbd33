"""`python -m jaxpose` is the command `jaxpose`."""

import sys

from jaxpose.cli import main

if __name__ == "__main__":
    sys.exit(main())
