"""Requests for the people of a picture, and what a network is shown for them."""

import abc
import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from jaxpose.data.examples import images
from jaxpose.data.views import PersonCrop
from jaxpose.errors import DataError
from jaxpose.evaluation.rows import Rows
from jaxpose.methods.base import Method
from jaxpose.methods.bottom_up import ImageInput
from jaxpose.ops.arrays import fits_float32


@dataclasses.dataclass(frozen=True)
class Picture:
    """An image in which to look for people: a file, a video's frame, or what a caller passes.

    Attributes:
      name: name for messages.
      image: [H, W, 3] uint8 RGB.
      id: id of the image in an annotation or detection file, if any.
      around: frames before and after it in a video, of the same size, for methods that look at clips
        (`jaxpose.inference.video` fills it in); None where there are none, and the image takes their place.
      margin: distances of those frames, in frames.
    """

    name: str
    image: np.ndarray
    id: int | None = None
    around: tuple[np.ndarray, np.ndarray] | None = None
    margin: tuple[float, float] = (1.0, 1.0)


@dataclasses.dataclass
class Request:
    """A picture whose people are being looked for.

    Attributes:
      picture: the picture.
      boxes: [N, 4] boxes (x, y, w, h) in pixels that are looked at.
      scores: [N] scores of the boxes.
      missing: number of boxes that are still to be looked at.
      found: {number of a box: rows of `evaluation.people.rows_of` that were found there}.
    """

    picture: Picture
    boxes: np.ndarray
    scores: np.ndarray
    missing: int
    found: dict[int, Rows] = dataclasses.field(default_factory=dict)

    @classmethod
    def open(cls, picture: Picture, boxes: np.ndarray, scores: np.ndarray) -> "Request":
        """A picture and its boxes, found fit to be looked at.

        Raises:
          DataError: a picture or box that cannot be used.
        """
        image, boxes, scores = picture.image, np.asarray(boxes), np.asarray(scores)
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or 0 in image.shape:
            raise DataError(
                f"image {picture.name}: is {image.dtype}{list(image.shape)}, expected uint8 [H, W, 3] in RGB"
            )
        if boxes.shape != (len(scores), 4):
            raise DataError(f"image {picture.name}: boxes {boxes.shape} and scores {scores.shape} do not fit")
        usable = fits_float32(boxes).all(-1) & fits_float32(scores) & (boxes[:, 2:] > 0).all(-1)
        if not usable.all():
            first = int(np.flatnonzero(~usable)[0])
            raise DataError(
                f"image {picture.name}: box {first} is {boxes[first].tolist()} with score {scores[first]}; "
                "expected finite x, y and positive w, h"
            )
        return cls(picture, np.asarray(boxes, np.float32), np.asarray(scores, np.float32), missing=len(boxes))

    def parts(self) -> list[Rows]:
        """The rows of all boxes, in order of the boxes."""
        return [self.found[number] for number in range(len(self.boxes))]


@dataclasses.dataclass(frozen=True)
class ModelInput:
    """One row of a batch: what the network is shown for a box of a request.

    Attributes:
      request: the request.
      number: number of the box.
      fields: fields of the example, as `Method.spec` names them.
    """

    request: Request
    number: int
    fields: dict[str, Any]

    @property
    def shapes(self) -> tuple:
        """Shapes of the images; inputs of equal ones share a batch."""
        return tuple(np.shape(value) for name, value in self.fields.items() if name.startswith("image"))


def stack(inputs: Sequence[ModelInput], rows: int) -> dict[str, np.ndarray]:
    """Inputs of equal shapes as the fields of a batch; rows beyond them are zero, and so not valid."""
    fields = {
        name: np.zeros((rows, *np.shape(value)), np.asarray(value).dtype) for name, value in inputs[0].fields.items()
    }
    for row, each in enumerate(inputs):
        for name, value in each.fields.items():
            fields[name][row] = value
    return fields


class Preprocessor(abc.ABC):
    """Makes model inputs of requests, for a kind of input."""

    @abc.abstractmethod
    def __call__(self, request: Request) -> Iterator[ModelInput]:
        """The inputs of a request."""

    def shown(self, inputs: Sequence[ModelInput]) -> dict[str, np.ndarray]:
        """{name: [B, ...]} columns about what the network is shown; see `evaluation.people.rows_of`."""
        return {"box_score": np.stack([each.request.scores[each.number] for each in inputs])}


class CropPreprocessor(Preprocessor):
    """Cuts the people of a picture out of it and, for methods that look at clips, out of the frames around it.

    Args:
      method: method that looks at the crops.
      crop: geometry of crops; None for 1.25 times people's boxes.

    Raises:
      DataError: the method does not take crops.
    """

    def __init__(self, method: Method, crop: PersonCrop | None):
        spec = method.spec(1)
        needed = {"image", "to_image", "person_score", "valid"}
        if not needed <= set(spec.get("source", {})):
            found = {stream: sorted(fields) for stream, fields in spec.items()}
            raise DataError(
                f"{type(method).__name__} takes {found}; prediction makes crops of people ({sorted(needed)})"
            )
        self._blank = {name: np.zeros(leaf.shape[1:], leaf.dtype) for name, leaf in spec["source"].items()}
        _, *frames, height, width, _ = spec["source"]["image"].shape
        self._shows_clips = bool(frames)
        self._crop = crop or PersonCrop((width, height))

    def __call__(self, request: Request) -> Iterator[ModelInput]:
        """One input for each box."""
        for number, (box, score) in enumerate(zip(request.boxes, request.scores, strict=True)):
            canvas, to_image = self._crop.crop(request.picture.image, box)
            fields = {"image": canvas, "to_image": to_image, "person_score": score, "valid": np.True_}
            if self._shows_clips:
                fields |= self._clip(request.picture, canvas, box)
            yield ModelInput(request, number, self._blank | fields)

    def shown(self, inputs: Sequence[ModelInput]) -> dict[str, np.ndarray]:
        """The boxes, their scores, and the areas in pixels^2 that were looked at."""
        boxes = np.stack([each.request.boxes[each.number] for each in inputs])
        return super().shown(inputs) | {"box": boxes, "area": self._crop.view(boxes).size.prod(-1)}

    def _clip(self, picture: Picture, canvas: np.ndarray, box: np.ndarray) -> dict[str, np.ndarray]:
        """ "image" [3, H, W, 3] and "margin" [2] of the crop `canvas` of a picture's box."""
        around = picture.around or (picture.image, picture.image)
        others = [canvas if image is picture.image else self._crop.crop(image, box)[0] for image in around]
        return {"image": np.stack([canvas, *others]), "margin": np.array(picture.margin, np.float32)}


class ImagePreprocessor(Preprocessor):
    """Lays a whole picture on the canvases of a method that finds people by itself.

    Args:
      method: method that looks at the canvases.
    """

    def __init__(self, method: ImageInput):
        self._method = method

    def __call__(self, request: Request) -> Iterator[ModelInput]:
        """One input for the picture."""
        image = request.picture.image
        layout = images.named_layout(self._method.layout, image.shape[1::-1], request.picture.name)
        fields = images.lay_out(image, layout, self._method.scales)
        yield ModelInput(request, 0, fields | {"valid": np.True_})
