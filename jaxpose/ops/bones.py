"""Skeletons as trees of bones: vectors, lengths and directions of bones, joints from bones, vectors between joints.

A pose is [..., K, 3], its bones are [..., N, 3] with N = K - 1. Units are those of the pose. Everything along the tree
is a product with a constant matrix, so that no loop over joints is left.
"""

import dataclasses
import functools
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from jaxpose.ops.arrays import EXACT, SameArray, namespace
from jaxpose.skeleton import MARIONETTE, Skeleton


@dataclasses.dataclass(frozen=True)
class Tree:
    """The bones of a skeleton. The vector of a bone (a, b) is joint a - joint b.

    Attributes:
      parents: parent of each joint, -1 for the root.
      bones: pair (a, b) for every joint but the root, which is one of the two, its parent the other. A checkpoint
        depends on the order of the bones and on the end at which each of them begins.
    """

    parents: tuple[int, ...]
    bones: tuple[tuple[int, int], ...]

    def __post_init__(self):
        """Raises `ValueError` for what is no tree."""
        joints = range(len(self.parents))
        if self.parents.count(-1) != 1:
            raise ValueError(f"parents {self.parents} have {self.parents.count(-1)} roots (-1); a tree has one")
        if strangers := [p for p in self.parents if p not in joints and p != -1]:
            raise ValueError(f"parents {strangers} are no joints: there are {len(joints)}, counted from 0")
        for joint in joints:
            if len(self._path(joint)) == len(joints):
                raise ValueError(f"joint {joint} hangs on itself: parents {self.parents} go round in a circle")
        wanted = {frozenset((joint, p)) for joint, p in enumerate(self.parents) if p != -1}
        if len(self.bones) != len(wanted) or {frozenset(bone) for bone in self.bones} != wanted:
            raise ValueError(f"bones {self.bones} are not the pairs of joint and parent in {self.parents}")

    def _path(self, joint: int) -> list[int]:
        """Joints from this one up to the root, without the root; cut off where it gets as long as the tree."""
        path = []
        while self.parents[joint] != -1 and len(path) < len(self.parents):
            path.append(joint)
            joint = self.parents[joint]
        return path

    @classmethod
    def from_parents(cls, parents: tuple[int, ...]) -> "Tree":
        """Bones in the order of the joints that they end at, all pointing away from the root."""
        parents = tuple(int(p) for p in parents)
        return cls(parents, tuple((joint, p) for joint, p in enumerate(parents) if p != -1))

    @property
    def num_joints(self) -> int:
        """Number K of joints."""
        return len(self.parents)

    @property
    def num_bones(self) -> int:
        """Number N of bones."""
        return len(self.bones)

    @property
    def root(self) -> int:
        """Index of the joint without a parent."""
        return self.parents.index(-1)

    @functools.cached_property
    def paths(self) -> np.ndarray:
        """[K, N] float32 in {-1, 0, 1}: joints with the root at the origin are `paths` times the vectors of bones."""
        column = {frozenset(bone): n for n, bone in enumerate(self.bones)}
        paths = np.zeros((self.num_joints, self.num_bones), np.float32)
        for joint in range(self.num_joints):
            for end in self._path(joint):
                n = column[frozenset((end, self.parents[end]))]
                paths[joint, n] = 1 if self.bones[n][0] == end else -1
        return paths

    @functools.cached_property
    def shift_pairs(self) -> np.ndarray:
        """[P, 2] pairs of joints (i, j), i <= j, that no bone joins; every joint with itself is among them."""
        joined = {frozenset(bone) for bone in self.bones}
        pairs = ((i, j) for i in range(self.num_joints) for j in range(i, self.num_joints))
        return np.array([pair for pair in pairs if frozenset(pair) not in joined], np.int32)

    def flip(self, flip_index: np.ndarray) -> np.ndarray:
        """[N] permutation: bone n of a mirrored person is bone flip(...)[n] of the original.

        Args:
          flip_index: [K] permutation of the joints, see `Skeleton.flip_index`.

        Returns:
          [N] int32 permutation.

        Raises:
          ValueError: mirroring turns a bone into something else.
        """
        column = {frozenset(bone): n for n, bone in enumerate(self.bones)}
        mirrored = [frozenset(int(flip_index[joint]) for joint in bone) for bone in self.bones]
        if lost := [bone for bone, image in zip(self.bones, mirrored, strict=True) if image not in column]:
            raise ValueError(f"the bones {lost} have no mirror image in the tree {self.parents}")
        return np.array([column[image] for image in mirrored], np.int32)


H36M = Tree(
    parents=(-1, 0, 1, 2, 0, 4, 5, 0, 7, 8, 9, 8, 11, 12, 8, 14, 15),
    bones=((16, 15), (15, 14), (13, 12), (12, 11), (10, 9), (9, 8), (8, 7), (8, 11), (8, 14), (7, 0), (3, 2), (2, 1),
           (6, 5), (5, 4), (1, 0), (4, 0)),
)  # fmt: skip
"""Human3.6M's 17 joints with Anatomy3D's bones, of which those from thorax to shoulders point to the thorax."""


def _by_name(skeleton: Skeleton, parents: Mapping[str, str]) -> Tree:
    return Tree.from_parents(tuple(skeleton.index(parents[j]) if j in parents else -1 for j in skeleton.joints))


_SIDE_PARENTS = {"shoulder": "thorax", "hip": "pelvis", "eye": "nose", "ear": "head"}
_LIMB_PARENTS = {"elbow": "shoulder", "wrist": "elbow", "knee": "hip", "ankle": "knee", "toe": "ankle"}
_MARIONETTE_PARENTS = {
    "spine": "pelvis", "thorax": "spine", "neck": "thorax", "head": "neck", "head_top": "head", "nose": "head",
    **{f"{side}_{part}": parent for side in ("left", "right") for part, parent in _SIDE_PARENTS.items()},
    **{f"{side}_{part}": f"{side}_{parent}" for side in ("left", "right") for part, parent in _LIMB_PARENTS.items()},
}  # fmt: skip

TREES = {"h36m": H36M, "marionette": _by_name(MARIONETTE, _MARIONETTE_PARENTS)}
"""Trees by the name of their skeleton."""


# --- lengths without NaN in the gradient ---


def norm(x: jax.Array, keepdims: bool = False) -> jax.Array:
    """Euclidean norm over the last axis, whose gradient at 0 is 0."""
    squares = jnp.square(x).sum(-1, keepdims=keepdims)
    positive = squares > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, squares, 1)), 0)


def normalize(x: jax.Array) -> jax.Array:
    """`x` with norm 1 over the last axis; 0 stays 0."""
    length = norm(x, keepdims=True)
    return x / jnp.where(length > 0, length, 1)


# --- from joints to bones and back ---


def vectors(tree: Tree, joints: SameArray) -> SameArray:
    """Bones [..., N, 3] of joints [..., K, 3]."""
    ends, starts = np.array(tree.bones).T
    return namespace(joints).subtract(joints[..., ends, :], joints[..., starts, :])


def lengths(tree: Tree, joints: jax.Array) -> jax.Array:
    """Lengths [..., N] of the bones of joints [..., K, 3]."""
    return norm(vectors(tree, joints))


def directions(tree: Tree, joints: jax.Array) -> jax.Array:
    """Unit vectors [..., N, 3] of the bones of joints [..., K, 3]; 0 for a bone without length."""
    return normalize(vectors(tree, joints))


def compose(tree: Tree, directions: jax.Array, lengths: jax.Array) -> jax.Array:
    """Joints [..., K, 3], the root at the origin, of bones with these directions [..., N, 3] and lengths [..., N]."""
    return _along(tree, directions * lengths[..., None])


def shifts(tree: Tree, joints: jax.Array) -> jax.Array:
    """Vectors [..., P, 3] from joint i to joint j of each of the P pairs of `Tree.shift_pairs`."""
    i, j = tree.shift_pairs.T
    return joints[..., j, :] - joints[..., i, :]


def lengthen(tree: Tree, joints: jax.Array, change: jax.Array) -> jax.Array:
    """Joints [..., K, 3] of a body with longer or shorter bones in the same pose; the root stays where it is.

    Args:
      tree: bones of the skeleton.
      joints: [..., K, 3] joints in any unit.
      change: [..., N] changes of the lengths in that unit. What hangs on a bone moves along the bone's direction.

    Returns:
      [..., K, 3] joints.
    """
    return joints + _along(tree, directions(tree, joints) * change[..., None])


def _along(tree: Tree, steps: jax.Array) -> jax.Array:
    """For each joint, the sum [..., K, 3] of the steps [..., N, 3] of all bones between the root and it."""
    return jnp.einsum("kn,...nc->...kc", jnp.asarray(tree.paths), steps, precision=EXACT)


def augment_lengths(
    tree: Tree, joints: jax.Array, uniform: jax.Array, degree: float = 0.6
) -> tuple[jax.Array, jax.Array]:
    """The same motion of people with other bones, Anatomy3D's augmentation.

    A person's bone changes by (uniform - 1/2) * `degree` times the mean length of that bone over the batch.

    Args:
      tree: bones of the skeleton.
      joints: [B, R, K, 3] joints in R frames of each person.
      uniform: [B, N] random numbers in [0, 1).
      degree: range of the change, as a fraction of the mean length.

    Returns:
      The joints [B, R, K, 3], and the new lengths [B, N]: means over the frames before, plus the change.
    """
    mean = lengths(tree, joints).mean(1)
    change = (uniform - 0.5) * degree * mean.mean(0)
    return lengthen(tree, joints, change[:, None]), mean + change
