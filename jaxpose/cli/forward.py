"""`python -m jaxpose.NAME` as another way to call `jaxpose NAME`, for modules that do nothing but import this one."""

import sys

from jaxpose.cli import main

_SPEC = sys.modules["__main__"].__spec__

if _SPEC and _SPEC.parent == "jaxpose":
    sys.exit(main([_SPEC.name.removeprefix("jaxpose."), *sys.argv[1:]]))
