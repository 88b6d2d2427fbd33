"""Methods that find the brightest pixel of a crop, or of parts of a whole image, and pictures for them."""

import dataclasses

import jax.numpy as jnp
import numpy as np

from jaxpose.methods.bottom_up import BottomUp
from jaxpose.methods.top_down import CropInput, person_spec
from jaxpose.ops import geometry
from jaxpose.types import Layout, Poses

SIZE = (48, 64)


@dataclasses.dataclass(frozen=True)
class BrightSpot(CropInput):
    """Puts all joints on the brightest pixel of the crop; a black crop holds nobody."""

    skeleton: str = "crowdpose"

    def spec(self, batch_size):
        return {"source": person_spec(batch_size, SIZE, self.joints.num_joints)}

    def predict(self, variables, batch):
        crops = batch["source"]
        light = crops["image"].sum(-1, dtype=jnp.int32).reshape(len(crops["image"]), -1)
        best = light.argmax(-1)
        point = jnp.stack([best % SIZE[0], best // SIZE[0]], -1).astype(jnp.float32)
        point = geometry.apply_affine(crops["to_image"], point[:, None])
        joints = self.joints.num_joints
        spread = jnp.arange(joints, dtype=jnp.float32)[:, None] * variables["params"]["spread"]
        return Poses(
            keypoints=(point + spread)[:, None],
            scores=jnp.full((len(best), 1, joints), 0.9),
            person_score=crops["person_score"][:, None],
            valid=(crops["valid"] & (light.max(-1) > 100))[:, None],
        )

    module = targets = init = phases = forward = decode = None


VARIABLES = {"params": {"spread": np.float32(0)}}


def picture(*spots, size=(120, 160)):
    image = np.zeros((*size, 3), np.uint8)
    for x, y in spots:
        image[y - 1 : y + 2, x - 1 : x + 2] = 255
    return image


def around(*spots):
    return np.array([[x - 12, y - 15, 24, 30] for x, y in spots], np.float32).reshape(-1, 4)


@dataclasses.dataclass(frozen=True)
class BrightSpots(BottomUp):
    """Puts one person on the brightest pixel of each third of a whole image that is not black."""

    skeleton: str = "crowdpose"

    def layout(self, width, height):
        size = tuple(-(-side // 64) * 64 for side in (width, height))
        return Layout((size,), (np.eye(2, 3),))

    def predict(self, variables, batch):
        light = batch["source"]["image"].sum(-1, dtype=jnp.int32)
        count, height, width = light.shape
        third = jnp.arange(width) * 3 // width
        parts = jnp.where(third == jnp.arange(3)[:, None, None], light[:, None], 0).reshape(count, 3, -1)
        best = parts.argmax(-1)
        points = jnp.stack([best % width, best // width], -1).astype(jnp.float32)
        points = geometry.apply_affine(batch["source"]["to_image"], points)
        joints = self.joints.num_joints
        return Poses(
            keypoints=jnp.repeat(points[:, :, None], joints, 2),
            scores=jnp.full((count, 3, joints), 0.9),
            person_score=parts.max(-1) / 765,
            valid=(parts.max(-1) > 100) & batch["source"]["valid"][:, None],
        )

    module = labels = init = phases = forward = decode = None
