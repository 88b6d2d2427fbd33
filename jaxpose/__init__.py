"""Human pose estimation in JAX and Flax. Importing this starts no device and needs no data set library."""

import importlib
from typing import Any

__version__ = "0.2.0"

_PUBLIC = {
    "load": "jaxpose.inference.predictor",
    "Poses": "jaxpose.types",
    "Batch": "jaxpose.types",
    "Skeleton": "jaxpose.skeleton",
    "TrainState": "jaxpose.runs.state",
    "Method": "jaxpose.methods.base",
    "Phase": "jaxpose.methods.base",
    "train": "jaxpose.training.loop",
    "evaluate": "jaxpose.evaluation.evaluator",
    "JaxposeError": "jaxpose.errors",
}

__all__ = list(_PUBLIC)


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'jaxpose' has no attribute {name!r}")
    return getattr(importlib.import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_PUBLIC])
