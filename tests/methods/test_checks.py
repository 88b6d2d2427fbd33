"""A method that breaks its contract is named, with the interface and the field."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from bright_boxes import BrightBoxes
from bright_spot import BrightSpot

from jaxpose.errors import ContractError
from jaxpose.methods import checks
from jaxpose.methods.base import LossAux, Phase
from jaxpose.methods.top_down import CropInput
from jaxpose.types import Detections, Poses, synthetic_batch

METHOD = BrightSpot()
K = METHOD.joints.num_joints
ZERO = jnp.zeros(())


def poses(**changes) -> Poses:
    whole = Poses(
        keypoints=jnp.zeros((2, 3, K, 2)),
        scores=jnp.zeros((2, 3, K)),
        person_score=jnp.zeros((2, 3)),
        valid=jnp.zeros((2, 3), bool),
    )
    return dataclasses.replace(whole, **changes)


def boxes(**changes) -> Detections:
    shapes = {"boxes": jnp.zeros((2, 3, 4)), "scores": jnp.zeros((2, 3)), "labels": jnp.zeros((2, 3), jnp.int32)}
    return dataclasses.replace(Detections(**shapes, valid=jnp.zeros((2, 3), bool)), **changes)


def with_field(name: str, value) -> dict:
    return {"source": synthetic_batch(METHOD.spec(2))["source"] | {name: value}}


class TestTrainingBatch:
    def test_what_spec_asks_for_is_fine(self):
        checks.training_batch(METHOD, synthetic_batch(METHOD.spec(2)))

    @pytest.mark.parametrize(
        ("name", "value", "message"),
        [
            ("keypoints", None, "is missing from the batch"),
            ("keypoints", np.zeros((2, K, 3), np.float32), r"\(2, 14, 3\)"),
            ("visible", np.zeros((2, K), np.int32), "has dtype int32, but `spec` says float32"),
        ],
    )
    def test_others_are_named(self, name, value, message):
        with pytest.raises(ContractError, match=rf"^BrightSpot.targets: batch\['source'\]\['{name}'\]: .*{message}"):
            checks.training_batch(METHOD, with_field(name, value))


class TestInferenceBatch:
    def test_labels_may_be_missing_and_canvases_of_any_size(self):
        batch = with_field("image", np.zeros((2, 64, 200, 3), np.uint8))
        del batch["source"]["keypoints"]
        checks.inference_batch(METHOD, batch)

    def test_ranks_count(self):
        with pytest.raises(ContractError, match=r"^BrightSpot.predict: batch\['source'\]\['image'\]: "):
            checks.inference_batch(METHOD, with_field("image", np.zeros((2, 64, 200), np.uint8)))


@pytest.mark.parametrize("image", [jnp.zeros((2, 8, 8, 3), jnp.bfloat16), jnp.zeros((2, 8, 8, 1))])
def test_prepared_images_are_float32_with_three_channels(image):
    checks.targets(METHOD, {"source": {"image": jnp.zeros((2, 8, 8, 3)), "index": jnp.zeros(2, jnp.int32)}})
    with pytest.raises(ContractError, match=r"^BrightSpot.targets: batch\['source'\]\['image_x2'\]: "):
        checks.targets(METHOD, {"source": {"image_x2": image}})


class TestLoss:
    stats = {"bn": {"mean": jnp.zeros(3)}}

    def run(self, value=ZERO, metric=ZERO, stats=stats):
        phase = Phase("pose", lambda *_: (value, LossAux({"error": metric}, stats)))
        checked = checks.checked_loss(METHOD, phase)
        return jax.eval_shape(checked, {"params": {}, "batch_stats": self.stats}, {}, 0, jax.random.key(0))

    def test_scalars_and_kept_statistics_are_fine(self):
        assert self.run()[0].shape == ()

    @pytest.mark.parametrize(
        ("field", "broken"),
        [
            ("value", {"value": jnp.zeros(2)}),
            ("value", {"value": jnp.zeros((), jnp.bfloat16)}),
            (r"metrics\['error'\]", {"metric": jnp.zeros((2, 1))}),
            ("batch_stats", {"stats": {"bn": {"mean": jnp.zeros(4)}}}),
            ("batch_stats", {"stats": {}}),
        ],
    )
    def test_others_are_named(self, field, broken):
        with pytest.raises(ContractError, match=rf"^BrightSpot.loss of phase 'pose': {field}: "):
            self.run(**broken)


def test_outputs_are_arrays_by_name():
    checks.outputs(METHOD, {"maps": jnp.zeros(3)})
    with pytest.raises(ContractError, match=r"^BrightSpot.forward: outputs: found a tuple, expected a dict of arrays"):
        checks.outputs(METHOD, (jnp.zeros(3),))
    with pytest.raises(ContractError, match=r"^BrightSpot.forward: outputs\['maps'\]: is no array"):
        checks.outputs(METHOD, {"maps": "none"})


class TestResults:
    def test_poses_and_boxes_of_these_shapes_are_fine(self):
        checks.poses(METHOD, poses())
        checks.poses(METHOD, poses(keypoints=jnp.zeros((2, 3, K, 3))))
        checks.poses(BrightBoxes(), boxes())

    @pytest.mark.parametrize(
        ("field", "value"),
        [
            ("keypoints", jnp.zeros((2, 3, K, 4))),
            ("keypoints", jnp.zeros((2, 3, K + 1, 2))),
            ("keypoints", jnp.zeros((2, 3, K, 2), jnp.bfloat16)),
            ("scores", jnp.zeros((2, 3))),
            ("person_score", jnp.zeros((2, 4))),
            ("valid", jnp.zeros((2, 3))),
            ("valid", jnp.zeros(2, bool)),
        ],
    )
    def test_others_are_named(self, field, value):
        with pytest.raises(ContractError, match=rf"^BrightSpot.decode: Poses.{field}: "):
            checks.poses(METHOD, poses(**{field: value}))

    def test_the_kind_is_what_outputs_promise(self):
        with pytest.raises(ContractError, match="^BrightSpot.decode: Poses: found Detections, but `outputs` are"):
            checks.poses(METHOD, boxes())
        with pytest.raises(ContractError, match="^BrightBoxes.decode: Detections: found none, but `outputs` are"):
            checks.poses(BrightBoxes(), poses())
        with pytest.raises(ContractError, match="^BrightBoxes.decode: Detections.labels: has dtype float32"):
            checks.poses(BrightBoxes(), boxes(labels=jnp.zeros((2, 3))))


def test_prediction_checks_each_step():
    class Unnamed(CropInput):
        """Its outputs have no names."""

        targets = lambda self, batch, key, train: batch
        spec = lambda self, batch_size: METHOD.spec(batch_size)
        forward = lambda self, variables, batch: [jnp.zeros(3)]
        module = init = phases = decode = None

    batch = with_field("image", np.zeros((2, 64, 48, 3), np.float32))
    with pytest.raises(ContractError, match="^Unnamed.forward: outputs: found a list"):
        Unnamed(skeleton="crowdpose").predict({}, batch)
