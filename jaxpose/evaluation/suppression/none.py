"""No suppression, for methods that find each person once."""

import numpy as np

from jaxpose.evaluation.rows import Rows
from jaxpose.evaluation.suppression import Suppression, Suppressor


class KeepAll(Suppressor):
    """Keeps all poses."""

    def __call__(self, rows: Rows, sigmas: np.ndarray, options: Suppression) -> Rows:
        """The poses as they come."""
        return rows
