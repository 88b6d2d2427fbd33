"""Metrics, a module each. `config.evaluate.metrics` names those of this package ("coco") or any other ("mylab.Mine").

A metric is a class that inherits `Metric`: a module of this package defines one, a dotted path names one. It says what
it needs, it collects rows, and it gives numbers:

    class Distance(Metric):
        needs = (TRUE_BOXES,)
        lower_is_better = ("distance",)

        def __post_init__(self):
            self.distances = []

        def update(self, rows):
            visible = rows["visibility"] > 0
            self.distances += np.linalg.norm(rows["keypoints"] - rows["truth"], axis=-1)[visible].tolist()

        def merge(self, other):
            self.distances += other.distances

        def compute(self):
            return {"distance": float(np.mean(self.distances))}

Rows are arrays with one entry a person, by name. Of methods for images:
  image_id, index           [n] image in the labels, example in the data set
  keypoints, scores         [n, K, 2] pixels of the image, [n, K]
  person_score, area        [n], [n] pixels^2 of the region that was looked at, or of the joints' extent
  box, box_score            [n, 4] (x, y, w, h) pixels, [n]; of detectors of boxes only these two
and where boxes are given to the method:
  truth, visibility         [n, K, 2], [n, K] labels of the person, zeros for a box of nobody
  head_size, to_crop        [n] pixels, 0 where unknown; [n, 2, 3] map from pixels of the image to those of the crop
Of methods for sequences, one entry a frame: index, frame, keypoints and truth [n, K, 3] in millimetres from the root,
scores, subject, action, camera.
"""

import abc
import dataclasses
import pathlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar, Self

from jaxpose.evaluation.by_name import find_class
from jaxpose.evaluation.suppression import Suppression
from jaxpose.skeleton import Skeleton

POSES = "poses"
BOXES = "boxes"
SEQUENCES = "3D poses of sequences"
TRUE_BOXES = "poses in true boxes"
"""What metrics can need; the last are poses of people whose true joints are known one by one."""

GroundTruth = Mapping[str, Any] | str | pathlib.Path
"""A COCO dictionary of labels, or the path of its JSON file."""
Numbers = dict[str, float]
"""{name of a number: value}; "NUMBER/PART" belongs to NUMBER."""

_FIELD = "config.evaluate.metrics"


@dataclasses.dataclass(frozen=True)
class MetricContext:
    """Everything that a metric may use besides rows.

    Attributes:
      skeleton: joints of the poses.
      labels: COCO dictionary of the labels, path of its JSON file, or function that gives one of them.
      image_ids: ids of the evaluated images; all that the labels have if None.
      suppression: suppression of duplicate poses, for metrics that want none.
      sizes: (a, b) areas in pixels^2: people up to a are small, those from b on large; those of COCO if None.
      frames: function that gives {image id: (video, number of the frame)}, for metrics of videos.
      crop_size: (width, height) of crops in pixels, of top-down methods.
      map_size: (width, height) of the maps that joints are read from, if there are any.
      options: `config.evaluate`, for fields of a metric's own.
    """

    skeleton: Skeleton
    labels: GroundTruth | Callable[[], GroundTruth] | None = None
    image_ids: Iterable[int] | None = None
    suppression: Suppression = Suppression()
    sizes: tuple[float, float] | None = None
    frames: Callable[[], Mapping[int, tuple[Any, int]]] | None = None
    crop_size: tuple[int, int] | None = None
    map_size: tuple[int, int] | None = None
    options: Any = None

    @property
    def truth(self) -> GroundTruth:
        """The labels: a COCO dictionary or the path of its file."""
        labels = self.labels() if callable(self.labels) else self.labels
        if labels is None:
            raise ValueError("this metric compares with labels; make its context with `labels`")
        return labels


@dataclasses.dataclass
class Metric(abc.ABC):
    """Numbers about what a method finds in a data set.

    Attributes:
      context: things that the metric may use.
    """

    needs: ClassVar[tuple[str, ...]] = (POSES,)
    """What the metric looks at: some of `POSES`, `BOXES`, `SEQUENCES`, `TRUE_BOXES`."""
    lower_is_better: ClassVar[tuple[str, ...]] = ()
    """Names of those of its numbers that are errors; of all others, higher is better."""
    unit: ClassVar[float] = 100.0
    """Factor by which numbers are shown: 100 for percent, 1 for numbers as they are."""

    context: MetricContext

    def __post_init__(self) -> None:  # noqa: B027
        """Makes what the metric collects people in; for subclasses that need more than the context."""

    @abc.abstractmethod
    def update(self, rows: Mapping[str, Any]) -> None:
        """Adds the people of some examples; see the top of this file.

        Raises:
          DataError: rows that the metric cannot use.
        """

    @abc.abstractmethod
    def merge(self, other: Self) -> None:
        """Adds everything that another metric of the class has collected, such as another process's."""

    @abc.abstractmethod
    def compute(self) -> Numbers:
        """The numbers, whatever the order of updates.

        Raises:
          DataError: labels that the metric needs are missing.
        """

    def table(self, numbers: Numbers) -> str:
        """Lines for the log that show the numbers which `compute` gave."""
        return two_lines({name: shown(value, self.unit) for name, value in numbers.items()})

    def write(self, folder: pathlib.Path) -> list[pathlib.Path]:
        """Writes files that belong to this metric alone into a folder; gives their paths, none for most metrics."""
        return []


def find(name: str) -> type[Metric]:
    """The metric that an entry of `config.evaluate.metrics` names.

    Raises:
      ConfigError: there is none.
    """
    return find_class(name, __name__, _FIELD, Metric)


def is_lower_better(names: Iterable[str], number: str) -> bool:
    """Whether the lowest value of a number is the best.

    Args:
      names: metrics, one of which gives the number; `config.evaluate.metrics`.
      number: name of the number, such as `config.evaluate.best`.

    Raises:
      ConfigError: an unknown metric.

    Examples:
      >>> is_lower_better(["mpjpe"], "P-MPJPE/Walking"), is_lower_better(["coco", "pckh"], "AP")
      (True, False)
    """
    return any(number.partition("/")[0] in find(name).lower_is_better for name in names)


# --- numbers as text ---


def shown(value: float, unit: float = 1.0) -> str:
    """A number times its unit with one decimal; "-" for the -1 that stands for no value.

    Examples:
      >>> shown(0.725, unit=100), shown(-1, unit=100)
      ('72.5', '-')
    """
    return "-" if value == -1 else f"{unit * value:.1f}"


def percent(value: float) -> str:
    """A share in percent; "-" for the -1 that stands for no value."""
    return shown(value, 100)


def two_lines(cells: Mapping[str, str]) -> str:
    """Names in a line, and their values below them."""
    width = max([5, *map(len, cells)]) + 2
    return "".join(name.rjust(width) for name in cells) + "\n" + "".join(value.rjust(width) for value in cells.values())
