"""Rescoring of found people by the shape of their poses (DEKR, section 3.4): features, network, files.

    jaxpose fit-rescoring ...           trains a rescorer (`evaluation.rescoring_training`)
    jaxpose convert --rescorer ...      takes a released one

write a file that --config.evaluate.rescoring names.
"""

import dataclasses
import functools
import pathlib
from typing import Any, Self

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.linen.initializers import lecun_uniform
from flax.traverse_util import flatten_dict, unflatten_dict
from flax.typing import Dtype

from jaxpose import skeleton as skeletons
from jaxpose.convert.conversion import StateDict, apply_rules
from jaxpose.errors import CheckpointError, ConfigError, DataError
from jaxpose.files.arrays import read_npz, write_npz
from jaxpose.nn.names import LINEAR, Rule
from jaxpose.skeleton import Skeleton
from jaxpose.types import Array

_PARAMS = "params/"
_ADVICE = "write the file by jaxpose fit-rescoring or jaxpose convert --rescorer"

# --- what the network looks at ---


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
      links: pairs of joints that are compared: their difference (first - second) and distance.
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
        """Number of features: three a link and one a joint."""
        return 3 * len(self.links) + self.joints

    def __call__(self, keypoints: Array, scores: Array) -> jax.Array:
        """[..., size]: dx, dy of each link in turn, the length of each, the score of each joint.

        Args:
          keypoints: [..., K, 2] poses in pixels of the original image.
          scores: [..., K] scores of the joints.
        """
        keypoints, scores = jnp.asarray(keypoints, jnp.float32), jnp.asarray(scores, jnp.float32)
        start, end = (jnp.array(joints) for joints in zip(*self.links, strict=True))
        difference = keypoints[..., start, :] - keypoints[..., end, :]
        length = jnp.sqrt(jnp.sum(jnp.square(difference), axis=-1))
        unit = jnp.maximum(jnp.mean(length[..., jnp.array(self.units)], axis=-1, keepdims=True), 1)
        flat = difference.reshape(*difference.shape[:-2], 2 * len(self.links))
        return jnp.concatenate([flat / unit, length / unit, scores], axis=-1)


# --- the network ---


class RescoringNet(nn.Module):
    """Features of a pose -> the OKS that it is expected to have with the person it shows.

    The last layer is linear, so the result may leave [0, 1].

    Attributes:
      hidden: width of the two hidden layers.
      dtype: compute precision.
    """

    hidden: int = 256
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, features: jax.Array) -> jax.Array:
        """Features [..., size] -> expected OKS [...] float32."""
        for i, width in enumerate((self.hidden, self.hidden)):
            dense = nn.Dense(width, dtype=self.dtype, kernel_init=lecun_uniform(), name=f"layer{i}")
            features = nn.relu(dense(features))
        out = nn.Dense(1, dtype=self.dtype, kernel_init=lecun_uniform(), name="layer2")(features)
        return out[..., 0].astype(jnp.float32)


# --- rescorers and their files ---


@functools.partial(jax.tree_util.register_dataclass, data_fields=("params",), meta_fields=("features",))
@dataclasses.dataclass(frozen=True)
class Rescoring:
    """A trained network and the features that it looks at.

    Attributes:
      features: features of a pose.
      params: parameters of `RescoringNet`.
    """

    features: PoseFeatures
    params: dict[str, Any]

    def __call__(self, keypoints: Array, scores: Array, person_score: Array) -> jax.Array:
        """New scores of people: the old ones times the OKS that their poses are expected to have.

        That is 0 where it is not a number, and not clamped to [0, 1].

        Args:
          keypoints: [..., N, K, 2] poses in pixels of the ORIGINAL image.
          scores: [..., N, K] scores of the joints.
          person_score: [..., N] scores of the people.

        Returns:
          [..., N] float32 new scores of the people.
        """
        expected = expected_oks(self.params, self.features(keypoints, scores))
        return jnp.asarray(person_score, jnp.float32) * jnp.where(jnp.isnan(expected), 0, expected)


def expected_oks(params: Any, features: Array) -> jax.Array:
    """The OKS [...] that the network with these parameters expects of poses with the features [..., size]."""
    hidden = params["layer0"]["bias"].shape[0]
    expected: Any = RescoringNet(hidden).apply({"params": params}, features)
    return expected


def save(path: str | pathlib.Path, rescoring: Rescoring) -> None:
    """Writes one .npz file with a digest, whole or not at all.

    Raises:
      CheckpointError: another ending.
      StorageError: it cannot be written.
    """
    path, features = pathlib.Path(path), rescoring.features
    if path.suffix != ".npz":
        raise CheckpointError(f"{path} must end in .npz")
    params = flatten_dict(rescoring.params, sep="/")
    arrays: dict[str, Any] = {_PARAMS + name: np.asarray(value) for name, value in params.items()}
    links = {"links": np.array(features.links, np.int32), "units": np.array(features.units, np.int32)}
    write_npz(path, {"joints": np.int32(features.joints)} | links | arrays)


def load(path: str | pathlib.Path, joints: int) -> Rescoring:
    """Reads what `save` wrote.

    Args:
      path: .npz file.
      joints: number of joints of the poses that are to be rescored.

    Raises:
      CheckpointError: no such file, another content, or for another number of joints.
    """
    try:
        arrays = read_npz(path)
    except DataError as error:
        why = str(error).removeprefix(f"{path}: ")
        raise CheckpointError(f"{path}: no readable rescorer ({why}); {_ADVICE}") from error
    if missing := [name for name in ("joints", "links", "units") if name not in arrays]:
        raise CheckpointError(f"{path} lacks {missing}, it holds {sorted(arrays)[:5]}; {_ADVICE}")
    features = _features(path, arrays)
    if features.joints != joints:
        raise CheckpointError(f"{path} rescores poses of {features.joints} joints, these have {joints}; {_ADVICE}")
    flat = {name.removeprefix(_PARAMS): a for name, a in arrays.items() if name.startswith(_PARAMS)}
    _check_shapes(path, flat, features.size)
    return Rescoring(features, unflatten_dict(flat, sep="/"))


def _features(path: Any, arrays: dict[str, np.ndarray]) -> PoseFeatures:
    """The features that a file tells.

    Raises:
      CheckpointError: its arrays have other shapes, or tell links that do not exist.
    """
    for name in ("joints", "links", "units"):
        array = arrays[name]
        fits = {"joints": array.size == 1, "links": array.ndim == 2 and array.shape[1] == 2, "units": array.ndim == 1}
        if array.dtype.kind not in "iu" or not fits[name]:
            raise CheckpointError(f"{path}: array {name!r} is {array.dtype} of shape {array.shape}; {_ADVICE}")
    links = tuple((a, b) for a, b in arrays["links"].tolist())
    try:
        return PoseFeatures(links, tuple(arrays["units"].tolist()), arrays["joints"].item())
    except ConfigError as error:
        raise CheckpointError(f"{path}: {error}; {_ADVICE}") from error


def _check_shapes(path: Any, flat: dict[str, np.ndarray], size: int) -> None:
    """Raises CheckpointError unless the parameters are those of a network, and finite."""
    hidden = np.size(flat.get("layer0/bias", ())) or RescoringNet.hidden
    wanted: dict[str, Any] = flatten_dict(_template(hidden, size)["params"], sep="/")
    found = {name: a.shape for name, a in flat.items()}
    if found != (expected := {name: a.shape for name, a in wanted.items()}):
        raise CheckpointError(f"{path}: the network has parameters {found}, expected {expected}; {_ADVICE}")
    for name, array in flat.items():
        if array.dtype.kind != "f" or not (np.abs(array) <= np.finfo(np.float32).max).all():
            raise CheckpointError(f"{path}: parameter {name!r} has values that are no finite numbers; {_ADVICE}")


# --- released rescorers ---


RULES = tuple(Rule(f"l{i + 1}", f"layer{i}", LINEAR) for i in range(3))
"""Names of the entries in the checkpoints of the original code."""


def convert(state_dict: StateDict, features: PoseFeatures) -> Rescoring:
    """The rescorer of a checkpoint of the original code, such as final_rescore_coco_kpt.pth.

    Args:
      state_dict: entries l1, l2, l3 with weight and bias.
      features: features of poses that the network was trained on.

    Raises:
      ConversionError: an entry is missing, unknown or misshapen.
    """
    hidden = len(state_dict["l1.bias"]) if "l1.bias" in state_dict else RescoringNet.hidden
    return Rescoring(features, apply_rules(state_dict, RULES, _template(hidden, features.size)).variables["params"])


def _template(hidden: int, size: int) -> Any:
    """Variables of the network as shapes."""
    inputs = jax.ShapeDtypeStruct((size,), jnp.float32)
    return jax.eval_shape(RescoringNet(hidden).init, jax.random.key(0), inputs)
