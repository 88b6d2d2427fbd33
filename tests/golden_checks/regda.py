"""RegDA: networks, targets, pseudo-labels, losses, schedules, and whole steps of both stages of training.

Images of whole steps enter the network as (image - 127.5) / 64. Maps of the cases are channels first.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from numpy.testing import assert_allclose, assert_array_equal

from golden_checks import networks
from golden_checks.networks import to_channels_first, to_channels_last
from golden_checks.skeletons import skeleton_of
from jaxpose import config as configs
from jaxpose import skeleton
from jaxpose.convert import convert
from jaxpose.convert.conversion import apply_rules
from jaxpose.data import square_boxes
from jaxpose.evaluation import pck
from jaxpose.evaluation.metrics import groups as joint_groups
from jaxpose.methods.regda.method import RegDA, Upsampling, scale_gradient, warm_start
from jaxpose.methods.regda.names import rules, upsampling
from jaxpose.methods.regda.pseudo_labels import pseudo_labels
from jaxpose.ops import heatmaps
from jaxpose.runs.state import TrainState
from jaxpose.training import optim, train_step

CLASSIFIER = "backbone.fc."
"""Entries that never move and have no gradient there, and do not exist here."""
WINDOW = {False: "square", True: "disc"}
"""Pseudo-labels by whether they are those of the faster script."""


def _pose_resnet(attrs: dict, **fields) -> RegDA:
    """The network of training on the source."""
    joints = skeleton_of(attrs["num_keypoints"]).name
    return RegDA(skeleton=joints, backbone=attrs["arch"], adaptation="none", head_layers=1, **fields)


def _adaptation(attrs: dict, **fields) -> RegDA:
    joints = skeleton_of(attrs["num_keypoints"]).name
    return RegDA(skeleton=joints, backbone=attrs["arch"], head_layers=attrs["num_head_layers"], **fields)


def _close(found, expected: np.ndarray, tolerance: float = networks.FORWARD, name: str = "") -> None:
    """Equal up to a fraction of the largest value."""
    assert_allclose(found, expected, rtol=0, atol=tolerance * max(np.abs(expected).max(), 1e-30), err_msg=name)


# --- networks ---


def check_forward(case) -> None:
    attrs, expected = case.attrs, case.outputs
    method = _pose_resnet(
        attrs,
        deconv_features=tuple(attrs["hidden_dims"]),
        deconv_kernels=tuple(attrs["kernel_sizes"]),
        deconv_bias=attrs["deconv_with_bias"],
    )

    @jax.jit
    def run(variables, image):
        outputs, inner = method.module().apply(variables, image, capture_intermediates=True, mutable=["intermediates"])
        backbone, norms = (inner["intermediates"][name] for name in ("backbone", "upsampling"))
        maps = {f"layer{i}": x for i, x in enumerate(backbone["__call__"][0], 1)}
        raised = {f"up{i}": nn.relu(norms[f"bn{i}"]["__call__"][0]) for i in range(len(attrs["hidden_dims"]))}
        return outputs["maps"], maps | raised

    found, maps = run(convert(case.state_dict, method), to_channels_last(case.inputs["image"]))
    for name, values in maps.items():
        values = to_channels_first(values)
        numbers = [values.mean(), values.std(), np.abs(values).max()]
        assert_allclose(numbers, expected[f"{name}_stat"], rtol=1e-4, err_msg=name)
        _close(values[:1, :8, :4, :6], expected[f"{name}_corner"], name=name)
    _close(to_channels_first(found), expected["heatmaps"])
    positions, scores = heatmaps.maxima(found)
    assert_array_equal(positions, expected["preds"])
    _close(scores, expected["maxvals"][..., 0])


def check_heads(case) -> None:
    method, expected = _adaptation(case.attrs), case.outputs
    variables, image = convert(case.state_dict, method), to_channels_last(case.inputs["image"])
    outputs = jax.jit(method.module().apply)(variables, image)
    _close(to_channels_first(outputs["maps"]), expected["eval_y"])
    _close(to_channels_first(outputs["adversarial_maps"]), expected["eval_y_adv"])
    outputs, statistics = _training_forward(method)(variables, image)
    _close(to_channels_first(outputs["maps"]), expected["train_y"])
    _close(to_channels_first(outputs["adversarial_maps"]), expected["train_y_adv"])
    _check_statistics(statistics, method, expected)


def _training_forward(method: RegDA):
    """(variables, image) -> (outputs, statistics after them), compiled."""

    @jax.jit
    def forward(variables, image):
        outputs, mutated = method.module().apply(variables, image, train=True, mutable=["batch_stats"])
        return outputs, mutated["batch_stats"]

    return forward


def _check_statistics(statistics: dict, method: RegDA, expected: dict[str, np.ndarray]) -> None:
    """Compares all running statistics that a case holds by their original names."""
    flat = optim.flatten(statistics)
    for name, path in _paths(method, [name for name in expected if ".running_" in name]).items():
        _close(flat[path], expected[name], name=name)


def _paths(method: RegDA, names: list[str]) -> dict[str, str]:
    """{original name: path of ours}, but for the classifier."""
    known, paths = rules(method), {}
    for name in names:
        if not name.startswith(CLASSIFIER):
            (paths[name],) = (path for rule in known for path, _ in rule.targets(name) or ())
    return paths


def check_upsampling(case) -> None:
    attrs = case.attrs
    for tag in (key for key, value in attrs.items() if isinstance(value, dict)):
        features, kernels = tuple(attrs["hidden_dims"]), tuple(attrs[tag]["kernel_sizes"])
        module = Upsampling(features, kernels, attrs[tag]["bias"])
        x = to_channels_last(case.inputs[f"{tag}_x"])
        entries = {k.removeprefix(f"{tag}."): v for k, v in case.state_dict.items() if k.startswith(f"{tag}.")}
        template = jax.eval_shape(module.init, jax.random.key(0), x)
        variables = apply_rules(entries, upsampling(len(features)), template).variables
        _close(to_channels_first(module.apply(variables, x)), case.outputs[f"{tag}_y"], 1e-5, tag)


def check_gradient_layer(case) -> None:
    for tag, fields in case.attrs.items():
        expected = case.outputs[f"coefficient_{tag}"]
        found = warm_start(case.inputs["iterations"], fields["alpha"], fields["lo"], fields["hi"], fields["max_iters"])
        assert_allclose(found, expected, rtol=1e-6, atol=1e-9)
        x = jnp.linspace(-3, 5, len(expected))
        value, gradient = jax.vmap(jax.value_and_grad(scale_gradient))(x, found)
        assert_array_equal(value, x)
        assert_allclose(gradient, expected, rtol=1e-6, atol=1e-9)


# --- targets and losses ---


def check_target(case) -> None:
    """Sizes of this case are (width, height)."""
    for tag in (key for key, value in case.attrs.items() if isinstance(value, dict)):
        size = tuple(case.attrs[tag]["heatmap"])
        stride = np.array(case.attrs[tag]["image"]) / size
        keypoints, visible = case.inputs[f"{tag}_joints"], case.inputs[f"{tag}_visible"][:, 0]
        for suffix, sigma in (("", case.attrs["sigma"]), ("_s1", 1)):
            maps, weight = heatmaps.gaussian_targets(keypoints, visible, stride, size, sigma, center_inside=True)
            assert_allclose(np.moveaxis(maps, -1, 0), case.outputs[f"{tag}_target{suffix}"], rtol=0, atol=1e-6)
            assert_array_equal(weight, case.outputs[f"{tag}_weight"][:, 0])


def check_pseudo_labels(case) -> None:
    maps, expected, sigma = to_channels_last(case.inputs["y"]), case.outputs, case.attrs["sigma"]
    positions, scores = heatmaps.maxima(maps)
    assert_array_equal(positions, expected["preds"])
    assert_array_equal(scores, expected["maxvals"][..., 0])
    for fast, window in WINDOW.items():
        truth, false = pseudo_labels(maps, sigma, window)
        prefix = "fast_" if fast else ""
        assert_allclose(to_channels_first(truth), expected[f"{prefix}truth"], rtol=0, atol=1e-6)
        assert_allclose(to_channels_first(false), expected[f"{prefix}false"], rtol=0, atol=1e-6)


def check_losses(case) -> None:
    output, target, y = (to_channels_last(case.inputs[name]) for name in ("output", "target", "y"))
    weight, expected, epsilon = case.inputs["weight"][..., 0], case.outputs, case.attrs["epsilon"]
    method = RegDA(epsilon=epsilon, sigma=case.attrs["sigma"])
    joint_losses = {
        "kl": heatmaps.joint_kl,
        "mse": heatmaps.joint_mse,
        "kl_eps": functools.partial(heatmaps.joint_kl, epsilon=epsilon),
    }
    losses = {name: lambda x, f=f: jnp.mean(weight * f(x, target)) for name, f in joint_losses.items()}
    losses |= {
        "disparity_min": lambda x: method.disparity(y, x, weight, "truth"),
        "disparity_max": lambda x: method.disparity(y, x, weight, "false"),
    }
    for name, loss in losses.items():
        value, gradient = jax.value_and_grad(loss)(output)
        assert_allclose(value, expected[name], rtol=1e-5, err_msg=name)
        _close(to_channels_first(gradient), expected[f"{name}_grad"], 1e-5, name)
    for name, function in joint_losses.items():
        per_joint = weight * function(output, target)
        assert_allclose(
            per_joint if name == "mse" else per_joint.mean(1), expected[f"{name}_none"], rtol=1e-5, err_msg=name
        )
    unweighted = {"mse": heatmaps.joint_mse, "kl": joint_losses["kl_eps"]}  # that of KL was recorded with epsilon
    for name, function in unweighted.items():
        assert_allclose(function(output, target).mean(), expected[f"{name}_noweight"], rtol=1e-5, err_msg=name)
    kl, mse = RegDA(adaptation="none"), RegDA(adaptation="none", loss="mse")
    assert_allclose(kl.criterion(output, target, weight), expected["kl"], rtol=1e-5)
    assert_allclose(mse.criterion(output, target, weight), expected["mse"], rtol=1e-5)
    single = to_channels_last(case.inputs["single_y"])
    found = method.disparity(single, single[:, ::-1], np.ones((len(single), 1), np.float32), "false")
    assert_allclose(found, expected["single_max"], rtol=1e-5)


def check_accuracy(case) -> None:
    for tag, names in case.attrs["groups"].items():
        output = to_channels_last(case.inputs[f"{tag}_output"]).astype(np.float32) / 127
        target = _peaks(case.inputs[f"{tag}_target_xy"], case.inputs[f"{tag}_target_valid"], output.shape)
        counts, threshold = pck.heatmap_pck(output, target, (case.attrs["thr"],)), case.attrs["thr"]
        expected = {name: case.outputs[f"{tag}_{name}"] for name in ("acc", "avg", "cnt", "pred", "groups")}
        assert_allclose(np.nan_to_num(counts.accuracy()[0], nan=-1), expected["acc"], rtol=1e-6)
        assert_allclose(counts.mean()[0], expected["avg"], rtol=1e-6)
        assert_allclose(heatmaps.accuracy(output, target, threshold), expected["avg"], rtol=1e-6)
        assert np.sum(np.asarray(counts.counted) > 0) == expected["cnt"]
        assert_array_equal(heatmaps.maxima(output)[0], expected["pred"])
        wanted = case.attrs["hand_groups" if tag == "hand" else "body_groups"]
        groups = joint_groups.groups_of(skeleton.get("hand" if tag == "hand" else "mpii"))
        assert {name: sorted(joints) for name, joints in wanted.items()} == {k: list(v) for k, v in groups.items()}
        means = joint_groups.batch_means(counts, groups)
        assert_allclose([means[name] for name in names], expected["groups"], rtol=1e-6)


def _peaks(positions: np.ndarray, valid: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Maps of `shape` with a 1 at each joint's position, where it is valid."""
    maps = np.zeros(shape, np.float32)
    person, joint = np.nonzero(valid)
    column, row = positions[person, joint].astype(int).T
    maps[person, row, column, joint] = 1
    return maps


# --- data ---


def check_boxes(case) -> None:
    inputs, expected, scale = case.inputs, case.outputs, case.attrs["scale"]
    boxes, scaled = inputs["boxes"], {}
    for name in (name for name in expected if name.startswith("scaled_")):
        width, _, height = name.removeprefix("scaled_").partition("x")
        scaled[name] = square_boxes.square_box(boxes, (int(width), int(height or width)), scale)
        assert_array_equal(scaled[name], expected[name])
    shared = square_boxes.intersection(scaled["scaled_320"], np.roll(boxes, -1, axis=0))
    assert_allclose(shared, expected["intersection"], rtol=1e-12)
    assert_allclose(square_boxes.area(shared), expected["area"], rtol=1e-12)
    assert_allclose(square_boxes.tight_box(inputs["keypoints"]), expected["bounding_box"], rtol=1e-12)
    points = square_boxes.back_project(inputs["keypoints"], inputs["intrinsics"], inputs["depth"])
    assert_allclose(points, expected["xyz"], rtol=1e-9, atol=1e-12)
    pixels = square_boxes.project(expected["xyz"], inputs["intrinsics"])
    assert_allclose(pixels, expected["reprojected"], rtol=1e-9)


# --- training ---


def _in_float64(check):
    """As cases of whole steps are to be compared: rounding turns near ties of ReLU, and Adam's first signs."""

    @functools.wraps(check)
    def wide(case) -> None:
        with jax.enable_x64(True):
            check(case)

    return wide


def _optimizer(**fields) -> optim.Optimizer:
    config = configs.optim()
    config.update(fields)
    return optim.create(config, total_steps=1)


def _inverse(attrs: dict) -> dict:
    """The schedule of the adaptation."""
    return {"name": "inverse", "warmup": 0, "gamma": attrs["lr_gamma"], "power": attrs["lr_decay"]}


def _sgd(attrs: dict, **fields) -> optim.Optimizer:
    names = ("momentum", "nesterov", "weight_decay")
    return _optimizer(optimizer="sgd", **{name: attrs[name] for name in names}, **fields)


def check_schedules(case) -> None:
    attrs, iterations = case.attrs, case.inputs["iterations"]
    rate = _optimizer(learning_rate=attrs["lr"], schedule=_inverse(attrs)).learning_rate
    assert_allclose(rate(iterations), case.outputs["lr_heads"], rtol=1e-6)
    assert_allclose(0.1 * rate(iterations), case.outputs["lr_feature"], rtol=1e-6)
    steps = 500
    drops = tuple((epoch - 1) * steps for epoch in attrs["lr_step"])
    schedule = {"name": "step", "warmup": 0, "boundaries": drops, "factors": (attrs["lr_factor"],)}
    rate = _optimizer(learning_rate=attrs["lr"], schedule=schedule).learning_rate
    for step in (0, steps - 1):
        rates = np.array([rate(epoch * steps + step) for epoch in range(len(case.outputs["lr_pretrain"]))])
        assert_allclose(rates[:, None] * [0.1, 1], case.outputs["lr_pretrain"], rtol=1e-5)
    sgd = attrs["sgd_case"]
    _check_trace(_sgd(sgd, learning_rate=0.1), lambda step: 1 / (step + 1), case, "sgd_trace")
    adam = _optimizer(optimizer="adam", learning_rate=attrs["adam_case"]["lr"], weight_decay=0.0)
    _check_trace(adam, lambda step: 1, case, "adam_trace")


def _check_trace(optimizer: optim.Optimizer, factor, case, name: str) -> None:
    """Steps of an optimizer whose learning rate is multiplied by `factor(step)`."""
    rate = optimizer.learning_rate
    optimizer = optim.Optimizer(optimizer.groups, optimizer.directions, lambda step: rate(step) * factor(step))
    moving = {"w": jnp.asarray(case.inputs["w0"])}
    state = optimizer.init(moving)
    for step, gradient in enumerate(case.inputs["grads"]):
        moving, state, _ = optimizer.update({"w": jnp.asarray(gradient)}, state, moving, step)
        assert_allclose(moving["w"], case.outputs[name][step], rtol=1e-5, atol=1e-7)


def _network_input(image: np.ndarray) -> np.ndarray:
    return (to_channels_last(image).astype(np.float64) - 127.5) / 64


def _start(method: RegDA, optimizer: optim.Optimizer, case, step: int = 0) -> TrainState:
    variables = jax.tree.map(jnp.float64, convert(case.state_dict, method))
    params = variables["params"]
    return TrainState(jnp.int32(step), params, variables["batch_stats"], optimizer.init(params))


def _recorded(phase, optimizer: optim.Optimizer):
    """(state, batch) -> (state after the phase, its metrics, its gradients by path), compiled."""

    @jax.jit
    def run(state, batch):
        seen = []

        def gradient(*args):
            values, grads = train_step.accumulated_grad(*args)
            seen.append(grads)
            return values, grads

        state, metrics = train_step.apply_phase(state, batch, jax.random.key(0), phase, optimizer, gradient)
        return state, metrics, seen[0]

    return run


def _check_norms(case, flat: dict, method: RegDA, output: str, tolerance: float, kind: str = "parameters") -> None:
    """Compares norms with those that `output` holds, in the order of the entries `attrs[kind]`.

    They may differ by as much as the original in float32 differs from itself in float64, twice.
    """
    expected = dict(zip(case.attrs[kind], case.outputs[output], strict=True))
    paths = {name: path for name, path in _paths(method, case.attrs[kind]).items() if path in flat}
    assert set(paths.values()) == set(flat)
    found = [np.linalg.norm(np.asarray(flat[path], np.float64)) for path in paths.values()]
    wanted = np.array([expected[name] for name in paths])
    noise = max(tolerance * 1e-2, 2 * case.attrs["float64_difference"].get(output, 0))
    assert_allclose(found, wanted, rtol=tolerance, atol=noise * wanted.max(), err_msg=output)


@_in_float64
def check_pretrain(case) -> None:
    """Two steps of training on the source, or of ERM."""
    attrs, expected = case.attrs, case.outputs
    if attrs["kind"] == "erm":
        method = _pose_resnet(attrs, loss="mse", dtype="float64")
        optimizer = _optimizer(optimizer="adam", learning_rate=attrs["lr"], weight_decay=0.0)
    else:
        method = _pose_resnet(attrs, dtype="float64")
        slow = {"name": "backbone", "match": "^backbone/", "multiplier": attrs["lr_backbone"] / attrs["lr"]}
        optimizer = _sgd(attrs, learning_rate=attrs["lr"], groups=(slow, {"name": "rest", "match": ".*"}))
    image = _network_input(case.inputs["image"])
    target, weight = to_channels_last(case.inputs["label"]), case.inputs["weight"][..., 0]
    batch = {"source": {"image": image, "target": target, "weight": weight}}
    state = _start(method, optimizer, case)
    outputs, _ = _training_forward(method)(state.variables, image)
    _close(to_channels_first(outputs["maps"]), expected["iter0_y"])
    run = _recorded(method.phases()[0], optimizer)
    for i in range(sum(key.startswith("iter") and key.endswith("_loss") for key in expected)):
        state, metrics, grads = run(state, batch)
        params = optim.flatten(state.params)
        assert_allclose(metrics["loss"], expected[f"iter{i}_loss"], rtol=networks.LOSS)
        _check_norms(case, grads, method, f"iter{i}_grad_norms", networks.GRADIENT)
        _check_norms(case, params, method, f"iter{i}_param_norms", 1e-5)
        _close(params["head/final_layer/bias"], expected[f"iter{i}_head_bias"])
        if i == 0:
            kernel = np.asarray(grads["head/final_layer/kernel"])[0, 0].T
            _close(kernel[:, :32], expected["iter0_grad_head"], networks.GRADIENT)
            _check_statistics(state.batch_stats, method, expected)
        state = state.replace(step=state.step + 1)


GROUPS = (
    {"name": "features", "match": "^(backbone|upsampling)/"},
    {"name": "head", "match": "^head/"},
    {"name": "adversary", "match": "^adversary/"},
)
CLEAN = {"A": ("features", "head", "adversary"), "B": ("adversary",), "C": ("features",)}
"""Groups of which the original's recorded gradients are those of one step; those of others add up over steps."""


def _adaptation_step(attrs: dict) -> tuple[RegDA, optim.Optimizer]:
    fields = {name: attrs[name] for name in ("margin", "trade_off", "epsilon", "sigma")}
    method = _adaptation(attrs, window=WINDOW[attrs["fast"]], dtype="float64", **fields)
    bases = (attrs["feature_base_lr"], attrs["head_base_lr"], attrs["head_base_lr"])
    groups = tuple(group | {"multiplier": base} for group, base in zip(GROUPS, bases, strict=True))
    return method, _sgd(attrs, learning_rate=attrs["lr"], groups=groups, schedule=_inverse(attrs))


@_in_float64
def check_train_iteration(case) -> None:
    """Whole iterations: the order of steps A, B and C, what each moves, and how statistics pass through them."""
    attrs, expected = case.attrs, case.outputs
    method, optimizer = _adaptation_step(attrs)
    source, target = ({n: case.inputs[f"{s}_{n}"] for n in ("image", "label", "weight")} for s in ("source", "target"))
    batch = {
        name: {"image": _network_input(fields["image"]), "weight": fields["weight"][..., 0]}
        for name, fields in (("source", source), ("target", target))
    }
    batch["source"]["target"] = to_channels_last(source["label"])
    state = _start(method, optimizer, case, attrs["start_iteration"])
    steps = {letter: _recorded(phase, optimizer) for letter, phase in zip("ABC", method.phases(), strict=True)}
    look = _training_forward(method)
    for i in range(attrs["iterations"]):
        multipliers = np.array([group.multiplier for group in optimizer.groups])
        rates = multipliers * float(optimizer.learning_rate(state.step))
        assert_allclose(rates, expected[f"iter{i}_learning_rates"], rtol=1e-5)
        losses, outputs = [], {}
        for letter, run in steps.items():
            stream = "source" if letter == "A" else "target"
            outputs[letter], _ = look(state.variables, batch[stream]["image"])
            state, metrics, grads = run(state, batch)
            losses += [metrics[name] for name in ("loss", "label_loss", "disparity") if name in metrics]
            _check_step(state, grads, case, method, optimizer, f"iter{i}_{letter}")
        assert_allclose(losses, expected[f"iter{i}_losses"], rtol=networks.LOSS)
        _check_iteration(state, outputs, case, method, f"iter{i}")
        state = state.replace(step=state.step + 1)
    maps = jax.jit(method.maps)(state.variables, batch["target"]["image"][:2])
    _close(to_channels_first(maps), expected["final_eval_y_t"])


def _check_step(state: TrainState, grads: dict, case, method: RegDA, optimizer: optim.Optimizer, prefix: str) -> None:
    """Gradients of what moved, and all parameters and statistics after it."""
    assert set(grads) == set(optimizer.split(state.params, CLEAN[prefix[-1]])[0])
    _check_norms(case, grads, method, f"{prefix}_grad_norms", networks.GRADIENT)
    _check_norms(case, optim.flatten(state.params), method, f"{prefix}_param_norms", 1e-5)
    _check_norms(case, optim.flatten(state.batch_stats), method, f"{prefix}_buffers", 1e-4, "buffers")


def _check_iteration(state: TrainState, outputs: dict, case, method: RegDA, prefix: str) -> None:
    """What both regressors found in each step, and some parameters after all of them."""
    inputs, expected = case.inputs, case.outputs
    labels = {name: to_channels_last(inputs[f"{name}_label"]) for name in ("source", "target")}
    pairs = (("A", "maps", "source"), ("C", "maps", "target"), ("A", "adversarial_maps", "source"),
             ("C", "adversarial_maps", "target"))  # fmt: skip
    accuracies = [heatmaps.accuracy(outputs[letter][name], labels[stream]) for letter, name, stream in pairs]
    assert_allclose(accuracies, expected[f"{prefix}_accuracies"], rtol=1e-5)
    params = optim.flatten(state.params)
    _close(params["head/final_layer/bias"], expected[f"{prefix}_head_bias"])
    _close(params["adversary/final_layer/bias"], expected[f"{prefix}_head_adv_bias"])
    _close(np.transpose(params["backbone/conv1/kernel"], (3, 2, 0, 1))[:2], expected[f"{prefix}_conv1"])
    last = np.asarray(params["upsampling/deconv2/kernel"])[::-1, ::-1].transpose(2, 3, 0, 1)
    _close(last[:4, :4], expected[f"{prefix}_upsampling"])
    if f"{prefix}_y_s" not in expected:
        return
    for letter, suffix, kind in (("A", "s", "truth"), ("B", "t", "false")):
        maps, adversarial = outputs[letter]["maps"], outputs[letter]["adversarial_maps"]
        _close(to_channels_first(maps), expected[f"{prefix}_y_{suffix}"])
        _close(to_channels_first(adversarial)[:2], expected[f"{prefix}_y_{suffix}_adv"])
        truth, false = pseudo_labels(maps, method.sigma, method.window)
        found = to_channels_first({"truth": truth, "false": false}[kind])
        assert_allclose(found, expected[f"{prefix}_{kind}_{suffix}"], rtol=0, atol=1e-6)


CHECKS = {
    "regda/forward": check_forward,
    "regda/heads": check_heads,
    "regda/upsampling": check_upsampling,
    "regda/gradient_layer": check_gradient_layer,
    "regda/target": check_target,
    "regda/pseudo_labels": check_pseudo_labels,
    "regda/losses": check_losses,
    "regda/accuracy": check_accuracy,
    "regda/schedules": check_schedules,
    "regda/boxes": check_boxes,
    "regda/pretrain": check_pretrain,
    "regda/train_iteration": check_train_iteration,
}
