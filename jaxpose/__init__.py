"""Human pose estimation in JAX and Flax. Importing this starts no device and reads no data set.

>>> import jaxpose
>>> config = jaxpose.load_config("heatmap")
>>> config.method.name
'heatmap'
"""

__version__ = "0.2.0"

from jaxpose.config import load_config
from jaxpose.errors import JaxposeError
from jaxpose.evaluation.evaluator import evaluate
from jaxpose.evaluation.people import People
from jaxpose.inference.lifter import Lifter
from jaxpose.inference.predictor import Predictor, load
from jaxpose.inference.video import follow
from jaxpose.methods.base import Method, Phase
from jaxpose.runs.sharing import push_to_hub
from jaxpose.runs.state import TrainState
from jaxpose.skeleton import Skeleton
from jaxpose.training.loop import train
from jaxpose.types import Detections, Poses

__all__ = [
    "Detections",
    "JaxposeError",
    "Lifter",
    "Method",
    "People",
    "Phase",
    "Poses",
    "Predictor",
    "Skeleton",
    "TrainState",
    "evaluate",
    "follow",
    "load",
    "load_config",
    "push_to_hub",
    "train",
]
