"""What every method of the library does alike, at its smallest and on real batches; nothing here knows a paper.

The methods are those that `methods.names` finds. Each is opened once for all tests, and compiled once for each of its
interfaces.
"""

import contextlib
import dataclasses
import functools
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import products
import pytest
import tiny
from numpy.testing import assert_allclose

from jaxpose import methods
from jaxpose.convert import convert
from jaxpose.data import build
from jaxpose.data.loader import evaluation_batches
from jaxpose.errors import CheckpointError, ConfigError
from jaxpose.evaluation.people import not_finite
from jaxpose.methods.base import Method
from jaxpose.runs import digest
from jaxpose.runs.checkpoint import Checkpoints
from jaxpose.runs.state import TrainState
from jaxpose.training.train_step import Trainer
from jaxpose.types import Batch, Detections, Poses, Variables

BATCH = 4
STEPS = 12
WIDE = (jnp.dtype("float32"), jnp.dtype("float32"))
"""Types of both factors of a product in float32."""


@dataclasses.dataclass(frozen=True, eq=False)
class Subject:
    """A method at its smallest, with data."""

    name: str
    folder: pathlib.Path

    @functools.cached_property
    def config(self):
        config = tiny.config(self.folder, self.name)
        config.train.update({"batch_size": BATCH, "steps": STEPS})
        config.optim.learning_rate = 1e-2
        config.optim.schedule.update({"name": "constant", "warmup": 0})
        return config

    @functools.cached_property
    def trainer(self) -> Trainer:
        return Trainer.create(self.config, jax.devices()[:1])

    @property
    def method(self) -> Method:
        return self.trainer.method

    @functools.cached_property
    def fields(self) -> dict:
        """Fields of `config.method` besides the name."""
        return {key: value for key, value in self.config.method.to_dict().items() if key != "name"}

    @functools.cached_property
    def variables(self) -> Variables:
        return self.method.init(jax.random.key(0))

    @functools.cached_property
    def training_batch(self) -> Batch:
        examples = build.train_examples(self.config, self.method)
        batches = build.TrainBatches(self.config, examples, 0, self.method.spec(BATCH))
        try:
            return next(batches)
        finally:
            batches.close()

    @functools.cached_property
    def padded_batch(self) -> Batch:
        """A batch of evaluation whose last rows are padding."""
        examples = build.evaluation_examples(self.config, self.method)
        *_, last = evaluation_batches(examples, batch_size=BATCH)
        assert 0 < last["valid"].sum() < len(last["valid"])
        return {"source": last}

    @functools.cached_property
    def half(self) -> Method:
        """The method in lower precision, with the same parameters."""
        return dataclasses.replace(self.method, dtype="bfloat16")

    @functools.cached_property
    def predict(self):
        """Prediction in lower precision, compiled; papers' own tests predict in float32."""
        return jax.jit(self.half.predict)

    @functools.cached_property
    def found(self) -> Poses | Detections:
        return self.predict(self.variables, self.padded_batch)

    @functools.cached_property
    def fresh(self) -> TrainState:
        """The state before the first step, on the host."""
        return jax.device_get(self.trainer.init())

    def trained(self, steps: int, start: TrainState | None = None) -> tuple[TrainState, list[dict]]:
        """The state after more steps on the same batch, and what each of them logs."""
        logs = []
        shardings = jax.tree.map(lambda leaf: leaf.sharding, self.trainer.template())
        state = jax.device_put(self.fresh if start is None else start, shardings)
        for _ in range(steps):
            state, values = self.trainer.step(state, self.training_batch)
            logs.append({name: float(value) for name, value in values.items()})
        return state, logs

    @functools.cached_property
    def course(self) -> tuple[TrainState, list[dict]]:
        return self.trained(STEPS)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny.write_coco(tmp_path_factory.mktemp("coco"), images=6)


@pytest.fixture(scope="module", params=methods.names())
def subject(request, folder):
    return Subject(request.param, folder)


def results(found) -> dict[str, jax.Array]:
    """The arrays of poses or boxes by name."""
    return {digest.path_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(found)}


def dtypes(tree) -> set:
    return {leaf.dtype for leaf in jax.tree.leaves(tree)}


class TestConfig:
    def test_comes_back_from_json(self, subject):
        again = methods.create(json.loads(json.dumps(subject.config.method.to_dict())))
        assert again == subject.method
        assert again == type(subject.method)(**subject.fields)

    @pytest.mark.parametrize(
        ("field", "value", "message"),
        [
            ("skeleton", "octopus", "skeleton is 'octopus', but .* needs one of ap10k, coco, "),
            ("dtype", "float16", "dtype is 'float16', but .* needs float32 or bfloat16"),
            ("dtype", 32, "dtype is 32, but .* needs a string"),
            ("skeletom", "coco", "skeletom is set, but .* has no such field. Did you mean 'skeleton'"),
        ],
    )
    def test_slips_are_one_line(self, subject, field, value, message):
        with pytest.raises(ConfigError, match=f"config.method.{message}") as error:
            methods.create(subject.config.method.to_dict() | {field: value})
        assert "\n" not in str(error.value)

    def test_values_of_another_type_are_refused(self, subject):
        for field in dataclasses.fields(subject.method):
            with pytest.raises(ConfigError, match=rf"config.method.{field.name} is \('a',\), but"):
                dataclasses.replace(subject.method, **{field.name: ("a",)})


class TestStart:
    def test_parameters_and_statistics_are_float32_and_finite(self, subject):
        assert set(subject.variables) <= {"params", "batch_stats"}
        for leaf in jax.tree.leaves(subject.variables):
            assert leaf.dtype == jnp.float32
            assert np.isfinite(leaf).all()

    def test_is_a_function_of_the_key(self, subject):
        other = subject.method.init(jax.random.key(1))
        assert jax.tree.map(jnp.shape, other) == jax.tree.map(jnp.shape, subject.variables)
        again = digest.digests(subject.method.init(jax.random.key(0)))
        assert again == digest.digests(subject.variables)
        assert again != digest.digests(other)


class TestTraining:
    def test_batches_have_the_fields_of_the_spec(self, subject):
        spec = jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), subject.method.spec(BATCH))
        assert jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), subject.training_batch) == spec
        assert {"index", "valid"} <= set(spec["source"])

    def test_it_lowers_the_loss(self, subject):
        _, logs = subject.course
        assert all(np.isfinite(list(log.values())).all() for log in logs)
        assert logs[-1]["loss"] < 0.9 * logs[0]["loss"]

    def test_every_group_moves_and_statistics_follow(self, subject):
        state, _ = subject.course
        before, after = digest.digests(subject.fresh), digest.digests(state)
        assert before.keys() == after.keys()
        moved = {name for name in before if before[name] != after[name]}
        owner = subject.trainer.optimizer.assign([n.removeprefix("params/") for n in before if n.startswith("params/")])
        for group in subject.trainer.optimizer.groups:
            own = {f"params/{path}" for path in owner if owner[path] == group.name}
            assert bool(own & moved) != group.frozen, group.name
        assert not state.batch_stats or any(name.startswith("batch_stats/") for name in moved)

    def test_it_goes_on_from_a_checkpoint(self, subject, tmp_path):
        whole, _ = subject.trained(2)
        half, _ = subject.trained(1)
        with contextlib.closing(Checkpoints(tmp_path)) as checkpoints:
            checkpoints.save(half)
            checkpoints.wait()
            restored = checkpoints.restore(subject.trainer.template())
        resumed, _ = subject.trained(1, start=jax.device_get(restored))
        assert digest.digests(resumed) == digest.digests(whole)


class TestHalfPrecision:
    def test_all_that_is_kept_or_summed_is_float32(self, subject):
        key, half = jax.random.key(0), subject.half
        variables = jax.eval_shape(half.init, key)
        batch = jax.eval_shape(lambda batch: half.targets(batch, key, train=True), subject.training_batch)
        losses = [jax.eval_shape(phase.loss, variables, batch, 0, key) for phase in half.phases()]
        assert dtypes((variables, losses)) == {jnp.dtype("float32")}

    def test_outputs_are_float32(self, subject):
        half = subject.half
        batch = jax.eval_shape(lambda batch: half.targets(batch, jax.random.key(0), train=False), subject.padded_batch)
        assert dtypes(jax.eval_shape(half.forward, subject.variables, batch)) == {jnp.dtype("float32")}


class TestPrecision:
    """Whatever a network in bfloat16 computes in float32 tells places or scores, and does so alike on every device."""

    def test_predictions_ask_for_it(self, subject):
        found = products.products(subject.half.predict, subject.variables, subject.padded_batch)
        wide = [product for product in found if product.types == WIDE]
        assert wide
        assert [product for product in wide if not product.exact] == []

    def test_losses_ask_for_it(self, subject):
        half, key = subject.half, jax.random.key(0)
        batch = half.targets(subject.training_batch, key, train=True)
        for phase in half.phases():
            found = products.products(phase.loss, subject.variables, batch, 0, key)
            wide = [product for product in found if product.types == WIDE]
            assert [product for product in wide if not product.exact] == []

    def test_predictions_are_those_of_a_device_that_rounds(self, subject, monkeypatch):
        """Within a hundredth of a pixel where products round float32 to bfloat16 unless they ask for precision."""
        rows = subject.padded_batch["source"]["valid"]
        products.round_factors(monkeypatch, unless_exact=True)
        again = jax.jit(lambda *inputs: subject.half.predict(*inputs))(subject.variables, subject.padded_batch)
        for name, value in results(again).items():
            assert_allclose(value[rows], results(subject.found)[name][rows], rtol=0, atol=1e-2, err_msg=name)


class TestBrokenNetwork:
    """Numbers that are not finite are told of every example, however many there are beside it."""

    @pytest.mark.parametrize("size", [1, 2])
    @pytest.mark.parametrize("value", [np.nan, np.inf])
    def test_results_tell(self, subject, size, value):
        method, stream = subject.method, subject.padded_batch["source"]
        stream = {name: values[:size] for name, values in stream.items()} | {"valid": np.ones(size, bool)}
        batch = method.targets({"source": stream}, jax.random.key(0), train=False)
        shapes = jax.eval_shape(method.forward, subject.variables, batch)
        floating = lambda leaf: jnp.issubdtype(leaf.dtype, jnp.floating)
        outputs = jax.tree.map(lambda leaf: jnp.full(leaf.shape, value if floating(leaf) else 0, leaf.dtype), shapes)
        assert not_finite(jax.jit(method.decode)(outputs, batch)).all()


class TestPrediction:
    """In lower precision."""

    def test_results_are_those_that_the_method_names(self, subject):
        found, method = subject.found, subject.method
        rows = subject.padded_batch["source"]["valid"]
        assert (getattr(found, "detections", found) is not None) == method.finds_boxes
        for name, value in results(found).items():
            assert len(value) == len(rows)
            assert np.isfinite(value[rows]).all(), name

    def test_padding_holds_nobody(self, subject):
        rows = subject.padded_batch["source"]["valid"]
        assert not np.any(subject.found.valid[~rows])

    def test_padding_does_not_touch_the_other_rows(self, subject):
        stream = subject.padded_batch["source"]
        rows = stream["valid"]
        copies = {name: np.where(rows.reshape(-1, *[1] * (v.ndim - 1)), v, v[:1]) for name, v in stream.items()}
        again = subject.predict(subject.variables, {"source": copies | {"valid": rows}})
        for name, value in results(again).items():
            assert_allclose(value[rows], results(subject.found)[name][rows], rtol=1e-4, atol=1e-4, err_msg=name)


def test_checkpoints_of_something_else_are_refused(subject):
    """That those of the original are converted is told by the papers' own tests of names."""
    with pytest.raises(CheckpointError, match=r"unknown: no\.such\.entry \(3, 2\)|no checkpoint of"):
        convert({"no.such.entry": np.zeros((3, 2), np.float32)}, subject.method)
