"""Rescoring of found people by the shape of their poses (DEKR, section 3.4): apply, load and save.

    jaxpose fit-rescoring ...        trains a rescorer
    jaxpose convert-rescoring ...    takes a released one

write a file that --config.evaluate.rescoring names.
"""

import dataclasses
import functools
import pathlib
import zipfile
from typing import Any

import flax
import jax
import jax.numpy as jnp
import numpy as np

from jaxpose.errors import CheckpointError
from jaxpose.nn.rescoring import RescoringNet
from jaxpose.ops.rescoring import PoseFeatures
from jaxpose.types import Array

_PARAMS = "params/"
_HOW = "write the file by jaxpose fit-rescoring or jaxpose convert-rescoring"


@functools.partial(jax.tree_util.register_dataclass, data_fields=("params",), meta_fields=("features",))
@dataclasses.dataclass(frozen=True)
class Rescoring:
    """A trained network and what it looks at.

    Attributes:
      features: of a pose.
      params: of `RescoringNet`.
    """

    features: PoseFeatures
    params: dict[str, Any]

    def __call__(self, keypoints: Array, scores: Array, person_score: Array) -> jax.Array:
        """New scores of people: the old ones times the OKS that their poses are expected to have.

        That is 0 where it is not a number, and not clamped to [0, 1].

        Args:
          keypoints: [..., N, K, 2] pixels of the ORIGINAL image.
          scores: [..., N, K].
          person_score: [..., N].

        Returns:
          [..., N] float32.
        """
        expected = expected_oks(self.params, self.features(keypoints, scores))
        return jnp.asarray(person_score, jnp.float32) * jnp.where(jnp.isnan(expected), 0, expected)


def expected_oks(params: Any, features: Array) -> jax.Array:
    """What the network with these parameters says about features [..., size]: [...]."""
    hidden = params["layer0"]["bias"].shape[0]
    return RescoringNet(hidden).apply({"params": params}, features)


def save(path: str | pathlib.Path, rescoring: Rescoring) -> None:
    """Writes one .npz file.

    Raises:
      CheckpointError: another ending.
    """
    path, features = pathlib.Path(path), rescoring.features
    if path.suffix != ".npz":
        raise CheckpointError(f"{path} must end in .npz")
    params = flax.traverse_util.flatten_dict(rescoring.params, sep="/")
    arrays = {_PARAMS + name: np.asarray(value) for name, value in params.items()}
    links = {"links": np.array(features.links, np.int32), "units": np.array(features.units, np.int32)}
    np.savez(path, joints=np.int32(features.joints), **links, **arrays)


def load(path: str | pathlib.Path, joints: int) -> Rescoring:
    """Reads what `save` wrote.

    Args:
      path: of the file.
      joints: number of joints of the poses that are to be rescored.

    Raises:
      CheckpointError: no such file, another content, or for another number of joints.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, AttributeError) as error:
        raise CheckpointError(f"{path}: no readable rescorer ({error}); {_HOW}") from error
    if missing := [name for name in ("joints", "links", "units") if name not in arrays]:
        raise CheckpointError(f"{path} lacks {missing}, it holds {sorted(arrays)[:5]}; {_HOW}")
    links = tuple((int(a), int(b)) for a, b in arrays["links"])
    features = PoseFeatures(links, tuple(map(int, arrays["units"])), int(arrays["joints"]))
    if features.joints != joints:
        raise CheckpointError(f"{path} rescores poses of {features.joints} joints, these have {joints}; {_HOW}")
    flat = {name.removeprefix(_PARAMS): a for name, a in arrays.items() if name.startswith(_PARAMS)}
    _check_shapes(path, flat, features.size)
    return Rescoring(features, flax.traverse_util.unflatten_dict(flat, sep="/"))


def _check_shapes(path: Any, flat: dict[str, np.ndarray], size: int) -> None:
    hidden = np.size(flat.get("layer0/bias", ())) or RescoringNet.hidden
    template = jax.eval_shape(RescoringNet(hidden).init, jax.random.key(0), jax.ShapeDtypeStruct((size,), jnp.float32))
    wanted = flax.traverse_util.flatten_dict(template["params"], sep="/")
    found = {name: a.shape for name, a in flat.items()}
    if found != (expected := {name: a.shape for name, a in wanted.items()}):
        raise CheckpointError(f"{path}: the network has parameters {found}, expected {expected}; {_HOW}")
