"""Shapes and dtypes at the five interfaces of a method: targets, loss, forward, decode and predict.

They are asserted by chex while JAX traces, so that a compiled program pays nothing for them. The message names the
method and the field.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import chex
import jax
import jax.numpy as jnp

from jaxpose.errors import ContractError
from jaxpose.types import Batch, Detections, Poses


@contextlib.contextmanager
def _about(method: Any, interface: str, field: str) -> Iterator[None]:
    try:
        yield
    except AssertionError as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        raise ContractError(f"{type(method).__name__}.{interface}: {field}: {' '.join(lines)}") from None


def _dtype(value: Any) -> Any:
    return jax.dtypes.canonicalize_dtype(jnp.result_type(value))


def training_batch(method: Any, batch: Batch) -> None:
    """Raises `ContractError` unless a batch of training has the fields that `method.spec` asks for."""
    for stream, fields in method.spec(1).items():
        for name, leaf in fields.items():
            with _about(method, "targets", f"batch[{stream!r}][{name!r}]"):
                found = batch.get(stream, {}).get(name)
                assert found is not None, "is missing from the batch, but `spec` asks for it"
                chex.assert_shape(found, (None, *leaf.shape[1:]))
                assert _dtype(found) == leaf.dtype, f"has dtype {_dtype(found)}, but `spec` says {leaf.dtype}"


def inference_batch(method: Any, batch: Batch) -> None:
    """Raises `ContractError` unless the fields of a batch of inference have the ranks that `method.spec` tells.

    Canvases may have any size, and labels may be missing.
    """
    for stream, fields in method.spec(1).items():
        for name, leaf in fields.items():
            if (found := batch.get(stream, {}).get(name)) is not None:
                with _about(method, "predict", f"batch[{stream!r}][{name!r}]"):
                    chex.assert_rank(found, len(leaf.shape))


def targets(method: Any, batch: Batch) -> None:
    """Raises `ContractError` unless the images that `targets` prepared are float32 with 3 channels."""
    for stream, fields in batch.items():
        for name, value in fields.items():
            if name == "image" or name.startswith("image_x"):
                with _about(method, "targets", f"batch[{stream!r}][{name!r}]"):
                    chex.assert_axis_dimension(value, -1, 3)
                    chex.assert_type(value, jnp.float32)


def checked_loss(method: Any, phase: Any) -> Callable:
    """The loss of a phase, whose results are checked by `loss`."""

    def call(variables: Any, batch: Batch, step: Any, key: Any) -> Any:
        value, aux = phase.loss(variables, batch, step, key)
        loss(method, phase.name, value, aux, variables["batch_stats"])
        return value, aux

    return call


def loss(method: Any, phase: str, value: Any, aux: Any, batch_stats: Any) -> None:
    """Raises `ContractError` unless a loss and its metrics are scalars, and statistics keep their form."""
    interface = f"loss of phase {phase!r}"
    with _about(method, interface, "value"):
        chex.assert_shape(value, ())
        chex.assert_type(value, jnp.float32)
    for name, metric in aux.metrics.items():
        with _about(method, interface, f"metrics[{name!r}]"):
            chex.assert_shape(metric, ())
    with _about(method, interface, "batch_stats"):
        chex.assert_trees_all_equal_shapes_and_dtypes(aux.batch_stats, batch_stats)


def outputs(method: Any, found: Any) -> None:
    """Raises `ContractError` unless `forward` gave a dict of arrays."""
    with _about(method, "forward", "outputs"):
        assert isinstance(found, Mapping), f"found a {type(found).__name__}, expected a dict of arrays by name"
    for name, value in found.items():
        with _about(method, "forward", f"outputs[{name!r}]"):
            assert all(hasattr(leaf, "shape") for leaf in jax.tree.leaves(value)), "is no array"


def poses(method: Any, found: Poses | Detections) -> None:
    """Raises `ContractError` unless `decode` gave the result that `method.outputs` promises, in consistent shapes."""
    if method.finds_poses:
        _poses(method, found)
    boxes = found.detections if isinstance(found, Poses) else found
    if method.finds_boxes:
        with _about(method, "decode", "Detections"):
            assert isinstance(boxes, Detections), f"found none, but `outputs` are {method.outputs}"
        _rows(method, "Detections", boxes, {"boxes": (4,), "scores": (), "labels": ()})


def _poses(method: Any, found: Any) -> None:
    with _about(method, "decode", "Poses"):
        assert isinstance(found, Poses), f"found {type(found).__name__}, but `outputs` are {method.outputs}"
        chex.assert_rank(found.keypoints, 4)
    joints = method.joints.num_joints
    tails = {"keypoints": (joints, {2, 3}), "scores": (joints,), "person_score": ()}
    _rows(method, "Poses", found, tails)


def _rows(method: Any, kind: str, found: Any, tails: dict[str, tuple]) -> None:
    """Rows [B, N] of people: fields with these shapes behind, and `valid`, a mask."""
    with _about(method, "decode", f"{kind}.valid"):
        chex.assert_rank(found.valid, 2)
        chex.assert_type(found.valid, jnp.bool_)
    for name, tail in tails.items():
        with _about(method, "decode", f"{kind}.{name}"):
            chex.assert_shape(getattr(found, name), (*found.valid.shape, *tail))
            expected = jnp.int32 if name == "labels" else jnp.float32
            assert _dtype(getattr(found, name)) == expected, f"has dtype {_dtype(getattr(found, name))}"
