"""What the rescoring network of DEKR looks at: how a found pose is shaped, and how sure its joints are."""

import dataclasses
from typing import Self

import jax
import jax.numpy as jnp

from jaxpose import skeleton as skeletons
from jaxpose.errors import ConfigError
from jaxpose.skeleton import Skeleton
from jaxpose.types import Array

Link = tuple[int, int]

_COCO = ((0, 1), (0, 2), (1, 2), (1, 3), (2, 4), (3, 5), (4, 6), (5, 6), (5, 7), (5, 11), (6, 8), (6, 12), (7, 9),
         (8, 10), (11, 12), (11, 13), (12, 14), (13, 15), (14, 16))  # fmt: skip
_CROWDPOSE = ((12, 13), (13, 0), (13, 1), (0, 2), (1, 3), (2, 4), (3, 5), (0, 6), (1, 7), (6, 8), (7, 9), (8, 10),
              (9, 11), (6, 7), (0, 1))  # fmt: skip
_PUBLISHED = {skeletons.COCO.joints: _COCO, skeletons.CROWDPOSE.joints: _CROWDPOSE}
_PUBLISHED_UNITS = (9, 11)
"""The torso's sides in COCO. The same numbers name the left leg in CrowdPose, on which the released weights rely."""
_TORSO = tuple(frozenset((f"{side}_shoulder", f"{side}_hip")) for side in ("left", "right"))


@dataclasses.dataclass(frozen=True)
class PoseFeatures:
    """Numbers about a pose that do not depend on where it is and, for people above a few pixels, on its size.

    Attributes:
      links: pairs of joints whose difference (first - second) and distance are looked at.
      units: positions in `links`; differences and distances are divided by the mean length of these links, or by 1
        pixel if that is more.
      joints: number of joints K.
    """

    links: tuple[Link, ...]
    units: tuple[int, ...]
    joints: int

    def __post_init__(self):
        """Raises `ConfigError` for links or units that do not exist."""
        outside = [link for link in self.links if not 0 <= min(link) <= max(link) < self.joints]
        if outside or not self.links:
            raise ConfigError(f"links {outside or 'are missing'}: expected pairs of joints below {self.joints}")
        if not self.units or not all(0 <= unit < len(self.links) for unit in self.units):
            raise ConfigError(f"units are {self.units}, expected positions among the {len(self.links)} links")

    @classmethod
    def of(cls, skeleton: Skeleton) -> Self:
        """The published links for the joints of COCO and CrowdPose.

        Of any other skeleton the limbs, in units of the two links from shoulder to hip, or of all limbs where it does
        not have both.

        Raises:
          ConfigError: the skeleton has no limbs.
        """
        if skeleton.joints in _PUBLISHED:
            return cls(_PUBLISHED[skeleton.joints], _PUBLISHED_UNITS, skeleton.num_joints)
        if not skeleton.limbs:
            raise ConfigError(f"skeleton {skeleton.name!r} has no limbs, so a pose has no shape to rescore it by")
        torso = tuple(i for i, limb in enumerate(skeleton.limbs) if frozenset(limb) in _TORSO)
        units = torso if len(torso) == len(_TORSO) else tuple(range(len(skeleton.limbs)))
        return cls(skeleton.limb_indices, units, skeleton.num_joints)

    @property
    def size(self) -> int:
        """How many numbers there are: three a link and one a joint."""
        return 3 * len(self.links) + self.joints

    def __call__(self, keypoints: Array, scores: Array) -> jax.Array:
        """[..., size]: dx, dy of each link in turn, the length of each, the score of each joint.

        Args:
          keypoints: [..., K, 2] pixels of the original image.
          scores: [..., K].
        """
        keypoints, scores = jnp.asarray(keypoints, jnp.float32), jnp.asarray(scores, jnp.float32)
        start, end = (jnp.array(joints) for joints in zip(*self.links, strict=True))
        difference = keypoints[..., start, :] - keypoints[..., end, :]
        length = jnp.sqrt(jnp.sum(jnp.square(difference), axis=-1))
        unit = jnp.maximum(jnp.mean(length[..., jnp.array(self.units)], axis=-1, keepdims=True), 1)
        flat = difference.reshape(*difference.shape[:-2], 2 * len(self.links))
        return jnp.concatenate([flat / unit, length / unit, scores], axis=-1)
