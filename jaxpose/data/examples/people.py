"""People as examples: the crop of a true, random or detected box."""

import dataclasses
from typing import Any

import numpy as np

from jaxpose.data.examples.base import Example, ImageBackedExamples
from jaxpose.data.examples.person_boxes import PersonBoxes
from jaxpose.data.proposals import BoxSampler, inside
from jaxpose.data.views import NO_AUGMENTATION, Augmentation, PersonCrop, View


@dataclasses.dataclass
class PersonExamples(ImageBackedExamples):
    """People of a source as examples of `methods.top_down.person_spec`, padding fields included.

    Attributes:
      people: boxes to look at.
      crop: rule by which boxes are cut out.
      augmentation: random views, for training.
      proposals: random boxes in place of the true ones, for training; see `data.proposals`.
      proposals_from: the step of training from which on there are random boxes.
      centered: add "centered_keypoints" [K, 2] and "centered_visible" [K]: the joints as the crop of the true box shows
        them, turned and mirrored like the example; of a patch, as the example itself shows them.
    """

    people: PersonBoxes
    crop: PersonCrop
    augmentation: Augmentation = NO_AUGMENTATION
    proposals: BoxSampler | None = None
    proposals_from: int = 0
    centered: bool = False

    def __len__(self) -> int:
        return len(self.people)

    def image_rows(self, index: Any) -> Any:
        return self.people.image[index]

    def example(self, i: int, image: np.ndarray, rng: np.random.Generator | None, step: int) -> Example:
        joints = self.source.annotations.skeleton
        keypoints, visible = self.people.keypoints[i], self.people.visibility[i]
        view = centered = self.crop.view(self.people.box[i])
        region, patch = None, False
        if rng is not None and self.proposals is not None and step >= self.proposals_from:
            size = image.shape[1], image.shape[0]
            proposal = self.proposals.draw(self.people.box[i], keypoints, visible, size, rng)
            grown = dataclasses.replace(self.crop, padding=self.crop.padding / (1 + 2 * self.proposals.growth))
            view, centered = grown.view(proposal.box), grown.view(proposal.centered)
            region, patch = proposal.centered_region, proposal.centered is proposal.box
        view = dataclasses.replace(view, mirror=bool(self.people.mirror[i]))
        if rng is not None:
            view = self.augmentation(view, keypoints, visible, joints, rng)
        example: Example = self.crop.example(image, view, keypoints, visible, joints)
        if self.centered:
            counted = visible if region is None else visible * inside(region, keypoints)
            centered = view if patch else View(centered.center, centered.size, view.rotation, view.mirror)
            example["centered_keypoints"], example["centered_visible"] = self.crop.joints(
                centered, keypoints, counted, joints
            )
        example["person_score"] = np.float32(self.people.score[i])
        example["index"] = np.int32(i)
        example["valid"] = np.bool_(True)
        return example

    def shown(self, index: np.ndarray) -> dict[str, np.ndarray]:
        """The box that is looked at in each example, the area of the region and, of true boxes, the person's labels."""
        people = self.people
        view = dataclasses.replace(self.crop.view(people.box[index]), mirror=people.mirror[index])
        return {
            "image_id": self.source.annotations.image_id[people.image[index]],
            "index": index,
            "area": view.size.prod(-1),
            "box": people.box[index],
            "box_score": people.score[index],
            "truth": people.keypoints[index],
            "visibility": people.visibility[index],
            "head_size": people.head_size[index],
            "to_crop": self.crop.affine(view),
        }
