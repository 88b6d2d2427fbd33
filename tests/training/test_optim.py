"""Parameter groups, clipping and schedules."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxpose import config as configs
from jaxpose.errors import ConfigError
from jaxpose.training import optim

PARAMS = {"backbone": {"stem": jnp.ones(3), "layer": jnp.ones((2, 2))}, "head": {"kernel": jnp.ones(4)}}
GROUPS = (
    {"name": "frozen", "match": "^backbone/stem", "frozen": True},
    {"name": "backbone", "match": "^backbone/", "multiplier": 0.1},
    {"name": "rest", "match": ".*", "weight_decay": 0.0},
)


def make(**changes) -> optim.Optimizer:
    config = configs.optim()
    config.update({"groups": GROUPS, "learning_rate": 0.1, "weight_decay": 0.5} | changes)
    return optim.create(config, total_steps=100)


def grads_like(flat):
    return {p: jnp.full(v.shape, 2.0) for p, v in flat.items()}


def test_amsgrad_and_nesterov_move_like_pytorch():
    torch = pytest.importorskip("torch", reason="compares with PyTorch's optimizers")
    rng = np.random.default_rng(0)
    start, grads = rng.normal(size=5).astype(np.float32), rng.normal(size=(6, 5)).astype(np.float32)
    grads[3] *= 10  # after which the largest second moment stays
    theirs = {
        "amsgrad": lambda p: torch.optim.Adam(p, lr=0.1, amsgrad=True, weight_decay=0.01),
        "sgd": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.01),
    }
    for name, create in theirs.items():
        parameter = torch.nn.Parameter(torch.tensor(start))
        original = create([parameter])
        ours = make(groups=({"name": "all", "match": ".*"},), optimizer=name, nesterov=True, weight_decay=0.01)
        moving = {"p": jnp.asarray(start)}
        state = ours.init(moving)
        for step, grad in enumerate(grads):
            parameter.grad = torch.tensor(grad)
            original.step()
            moving, state, _ = ours.update({"p": jnp.asarray(grad)}, state, moving, step)
            np.testing.assert_allclose(
                moving["p"], parameter.detach().numpy(), rtol=1e-5, atol=2e-6, err_msg=f"{name} {step}"
            )


class TestGroups:
    def test_frozen_parameters_have_no_state_and_do_not_move(self):
        optimizer = make()
        moving, resting = optimizer.split(PARAMS)
        assert set(moving) == {"backbone/layer", "head/kernel"}
        assert set(resting) == {"backbone/stem"}
        assert set(optimizer.init(PARAMS)) == {"backbone", "rest"}

    def test_multipliers_and_decay_equal_optax_adamw_per_group(self):
        optimizer = make()
        moving, _ = optimizer.split(PARAMS)
        state, flat = optimizer.init(PARAMS), moving
        expected = dict(moving)
        references = {
            "backbone/layer": optax.adamw(0.01, weight_decay=0.5),
            "head/kernel": optax.adamw(0.1, weight_decay=0.0),
        }
        reference_states = {p: tx.init(moving[p]) for p, tx in references.items()}
        for step in range(3):
            grads = grads_like(moving)
            flat, state, _ = optimizer.update(grads, state, flat, jnp.int32(step))
            for p, tx in references.items():
                updates, reference_states[p] = tx.update(grads[p], reference_states[p], expected[p])
                expected[p] = optax.apply_updates(expected[p], updates)
        for p in expected:
            np.testing.assert_allclose(flat[p], expected[p], rtol=1e-6)

    def test_a_phase_moves_its_groups_alone(self):
        optimizer = make()
        moving, resting = optimizer.split(PARAMS, ("rest",))
        state = optimizer.init(PARAMS)
        _, after, _ = optimizer.update(grads_like(moving), state, moving, jnp.int32(0))
        assert set(moving) == {"head/kernel"}
        assert set(resting) == {"backbone/stem", "backbone/layer"}
        jax.tree.map(np.testing.assert_array_equal, after["backbone"], state["backbone"])

    def test_every_parameter_needs_a_group(self):
        with pytest.raises(ConfigError, match="no group matches 1 parameters, such as 'head/kernel'"):
            make(groups=GROUPS[:2]).init(PARAMS)

    def test_every_group_needs_a_parameter(self):
        with pytest.raises(ConfigError, match=r"\['spelling'\] match no parameter"):
            make(groups=({"name": "spelling", "match": "bakbone"}, *GROUPS)).init(PARAMS)

    @pytest.mark.parametrize("updates", [("frozen",), ("nobody",)])
    def test_a_phase_cannot_move_what_is_frozen_or_unknown(self, updates):
        with pytest.raises(ConfigError, match=updates[0]):
            make().split(PARAMS, updates)

    def test_unknown_group_field(self):
        with pytest.raises(ConfigError, match="lr_mult.*a group has the fields"):
            make(groups=({"name": "a", "match": ".*", "lr_mult": 2},))

    def test_unknown_optimizer(self):
        with pytest.raises(ConfigError, match="optimizer is 'adan'"):
            make(optimizer="adan")


class TestClipping:
    def test_scales_the_global_norm_of_what_moves(self):
        config = {"optimizer": "sgd", "momentum": 0.0, "clip_norm": 1.0, "weight_decay": 0.0}
        optimizer = make(**config)
        moving, _ = optimizer.split(PARAMS)
        flat, _, norm = optimizer.update(grads_like(moving), optimizer.init(PARAMS), moving, jnp.int32(0))
        assert float(norm) == pytest.approx(np.sqrt(8 * 4))
        np.testing.assert_allclose(moving["head/kernel"] - flat["head/kernel"], 0.1 * 2 / np.sqrt(32), rtol=1e-5)


class TestSchedules:
    @pytest.mark.parametrize(
        ("fields", "expected"),
        [
            ({"name": "constant"}, {0: 1.0, 99: 1.0}),
            ({"name": "step", "boundaries": (10, 20), "factors": (0.5,)}, {9: 1.0, 10: 0.5, 19: 0.5, 20: 0.25}),
            ({"name": "step", "boundaries": (10,), "factors": (0.1,), "warmup": 4}, {0: 0.25, 3: 1.0, 9: 1.0, 10: 0.1}),
            ({"name": "step", "boundaries": (10, 20), "factors": (0.1, 10.0)}, {10: 0.1, 19: 0.1, 20: 1.0}),
            ({"name": "cosine"}, {0: 1.0, 50: 0.5, 100: 0.0}),
            ({"name": "cosine", "warmup": 10}, {0: 0.1, 9: 1.0, 55: 0.5, 100: 0.0}),
            ({"name": "inverse", "gamma": 0.01, "power": 0.5}, {0: 1.0, 300: 0.5, 800: 1 / 3}),
        ],
    )
    def test_values(self, fields, expected):
        config = configs.optim().schedule
        config.update(fields)
        schedule = optim.schedule(1.0, config, total_steps=100)
        for step, value in expected.items():
            assert float(schedule(jnp.int32(step))) == pytest.approx(value, abs=1e-6), step

    def test_factors_fit_the_boundaries(self):
        with pytest.raises(ConfigError, match="3 boundaries but 2 factors"):
            make(schedule={"name": "step", "boundaries": (1, 2, 3), "factors": (0.1, 0.1)})

    def test_unknown(self):
        with pytest.raises(ConfigError, match=r"schedule.name is 'linear'"):
            make(schedule={"name": "linear"})


class TestOwnOptimizers:
    """Groups with an optimizer and a schedule of their own: separate optax transformations over partitioned trees."""

    GROUPS = (
        {"name": "backbone", "match": "^backbone/", "optimizer": {"optimizer": "sgd", "momentum": 0.5}},
        {
            "name": "head",
            "match": ".*",
            "weight_decay": 0.0,
            "optimizer": "adam",
            "schedule": {"learning_rate": 1.0, "name": "step", "boundaries": (2,), "factors": (0.25,)},
        },
    )

    def test_each_group_moves_as_its_own_optax_transformation(self):
        optimizer = make(groups=self.GROUPS)
        flat, state = optim.flatten(PARAMS), optimizer.init(PARAMS)
        sgd = optax.chain(optax.add_decayed_weights(0.5), optax.sgd(0.1, momentum=0.5))
        adam = optax.adam(optax.piecewise_constant_schedule(1.0, {2: 0.25}))
        theirs = {name: {p: v for p, v in flat.items() if p.startswith(name)} for name in ("backbone", "head")}
        states = {"backbone": sgd.init(theirs["backbone"]), "head": adam.init(theirs["head"])}
        for step in range(4):
            flat, state, _ = optimizer.update(grads_like(flat), state, flat, jnp.int32(step))
            for name, tx in (("backbone", sgd), ("head", adam)):
                updates, states[name] = tx.update(grads_like(theirs[name]), states[name], theirs[name])
                theirs[name] = optax.apply_updates(theirs[name], updates)
        for path, value in (theirs["backbone"] | theirs["head"]).items():
            np.testing.assert_allclose(flat[path], value, rtol=1e-5, err_msg=path)

    def test_resting_groups_keep_parameters_and_state(self):
        optimizer = make(groups=self.GROUPS)
        state = optimizer.init(PARAMS)
        moving, resting = optimizer.split(PARAMS, ("head",))
        moved, after, _ = optimizer.update(grads_like(moving), state, moving, jnp.int32(0))
        assert set(moved) == {"head/kernel"}
        assert set(resting) == {"backbone/stem", "backbone/layer"}
        assert jax.tree.all(jax.tree.map(np.array_equal, after["backbone"], state["backbone"]))
        assert not jax.tree.all(jax.tree.map(np.array_equal, after["head"], state["head"]))

    def test_own_rates_are_logged(self):
        rates = make(groups=self.GROUPS).rates(jnp.int32(3))
        assert {name: float(rate) for name, rate in rates.items()} == pytest.approx(
            {"learning_rate": 0.1, "learning_rate/head": 0.25}
        )

    @pytest.mark.parametrize(
        ("group", "message"),
        [
            (
                {"optimizer": {"momentums": 0.5}},
                r"'all': optimizer has the fields \['momentums'\]; it can have .*momentum",
            ),
            ({"schedule": {"steps": 3}}, r"'all': schedule has the fields \['steps'\]; it can have boundaries"),
            ({"optimizer": "lamb"}, "config.optim.optimizer is 'lamb'; it can be one of adamw"),
        ],
    )
    def test_unknown_fields_are_named(self, group, message):
        with pytest.raises(ConfigError, match=message):
            make(groups=({"name": "all", "match": ".*"} | group,))
