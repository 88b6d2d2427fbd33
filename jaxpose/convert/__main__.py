"""`python -m jaxpose.convert` is the command `jaxpose convert`."""

import runpy
import sys

if __name__ == "__main__":
    sys.argv.insert(1, "convert")
    runpy.run_module("jaxpose", run_name="__main__")
