"""DSNT: the transform and its losses, the networks, heatmap matching, evaluation.

Maps of the cases are [B, K, *spatial]; here they are [B, *spatial, K].
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from numpy.testing import assert_allclose, assert_array_equal

from golden_checks import networks
from golden_checks.skeletons import skeleton_of
from jaxpose import config as configs
from jaxpose import convert
from jaxpose.evaluation import pck
from jaxpose.methods.dsnt import coordinates as dsnt
from jaxpose.methods.dsnt.method import DSNT
from jaxpose.methods.dsnt.names import rules
from jaxpose.ops import geometry, heatmaps
from jaxpose.training import optim

VALUE = {"rtol": 1e-5, "atol": 1e-6}
GRADIENT = {"rtol": 1e-4, "atol": 1e-6}
REGULARIZERS = {
    "kl": dsnt.kl_reg_losses,
    "js": dsnt.js_reg_losses,
    "mse": dsnt.mse_reg_losses,
    "var": lambda maps, means, sigma: dsnt.variance_reg_losses(maps, sigma, means.shape[-1]),
}


def last(maps) -> np.ndarray:
    """[B, K, *spatial] -> [B, *spatial, K]."""
    return np.moveaxis(maps, 1, -1)


def first(maps) -> np.ndarray:
    """The inverse of `last`."""
    return np.moveaxis(np.asarray(maps), -1, 1)


# --- functions ---


def check_softmax_expectation(case) -> None:
    for name, logits in case.inputs.items():
        kind = name.removeprefix("logits_")
        if kind == name:
            continue
        ndim = logits.ndim - 2
        points, maps = dsnt.logits_to_points(last(logits), ndim)
        assert_allclose(first(maps), case.outputs[f"softmax_{kind}"], **VALUE)
        assert_allclose(points, case.outputs[f"coords_{kind}"], **VALUE)
        assert_allclose(dsnt.dsnt(maps, ndim, normalized=False), case.outputs[f"pixels_{kind}"], **VALUE)
    raw = last(case.inputs["raw"])
    assert_allclose(dsnt.dsnt(raw), case.outputs["coords_raw"], **VALUE)
    assert_allclose(dsnt.dsnt(raw, normalized=False), case.outputs["pixels_raw"], **VALUE)
    for name in (n for n in case.outputs if n.startswith("sharpened_") and "coords" not in n):
        alpha = name.removeprefix("sharpened_")
        sharp = dsnt.sharpen_heatmaps(last(case.inputs["sharpen"]), float(alpha))
        assert_allclose(first(sharp), case.outputs[name], **VALUE)
        assert_allclose(dsnt.dsnt(sharp), case.outputs[f"sharpened_coords_{alpha}"], **VALUE)


def check_coordinates(case) -> None:
    for name in (n for n in case.outputs if n.startswith("linspace_")):
        count = int(name.removeprefix("linspace_"))
        assert_allclose(dsnt.cell_centers(count), case.outputs[name], rtol=1e-6, atol=1e-7)
    size, size_3d = case.inputs["size"][::-1], case.inputs["size_3d"][::-1]
    pairs = {
        "to_pixels": dsnt.normalized_to_pixel(case.inputs["normalized"], size),
        "to_normalized": dsnt.pixel_to_normalized(case.inputs["pixels"], size),
        "to_pixels_3d": dsnt.normalized_to_pixel(case.inputs["normalized_3d"], size_3d),
        "to_normalized_3d": dsnt.pixel_to_normalized(case.inputs["normalized_3d"], size_3d),
    }
    for name, ours in pairs.items():
        assert_allclose(ours, case.outputs[name], rtol=1e-5, atol=1e-5 if "pixels" in name else 1e-6, err_msg=name)


def check_make_gauss(case) -> None:
    attrs = case.attrs
    for kind in ("1d", "2d", "3d"):
        means, shape = case.inputs[f"means_{kind}"], attrs[f"size_{kind}"]
        for sigma in attrs["sigmas"]:
            for norm in ("norm", "raw"):
                gauss = dsnt.make_gauss(means, shape, sigma, normalize=norm == "norm")
                name = f"g{kind}_{norm}_s{sigma:g}"
                assert_allclose(first(gauss), case.outputs[name], err_msg=name, **VALUE)
    cotangent = last(case.inputs["cotangent"])

    def product(means):
        return (dsnt.make_gauss(means, attrs["size_2d"], 1.0) * cotangent).sum()

    assert_allclose(jax.grad(product)(case.inputs["means_2d"]), case.outputs["grad_means"], **GRADIENT)


def check_coord_losses(case) -> None:
    actual, target, mask, fraction = (case.inputs[n] for n in ("actual", "target", "mask", "mask_fraction"))
    for kind, function in dsnt.COORDINATE_LOSSES.items():
        losses = function(actual, target)
        ours = {
            kind: losses,
            f"{kind}_mean": dsnt.average_loss(losses),
            f"{kind}_masked": dsnt.average_loss(losses, mask),
            f"{kind}_allmasked": dsnt.average_loss(losses, np.zeros_like(mask)),
            f"{kind}_fraction": dsnt.average_loss(losses, fraction),
            f"{kind}_grad": jax.grad(lambda x, f=function: dsnt.average_loss(f(x, target), mask))(actual),
        }
        for name in ours.keys() & case.outputs.keys():
            assert_allclose(ours[name], case.outputs[name], err_msg=name, **VALUE)


def check_reg_losses(case) -> None:
    for sigma in case.attrs["sigmas"]:
        for kind, function in REGULARIZERS.items():
            for suffix in ("", "3d"):
                name = f"{kind}{suffix}_s{sigma:g}"
                if name not in case.outputs:
                    continue
                maps, means = (case.inputs[f"{n}_{suffix}" if suffix else n] for n in ("heatmaps", "mu"))
                ours, expected = np.asarray(function(last(maps), means, sigma)), case.outputs[name]
                allowance = VALUE["atol"] + VALUE["rtol"] * np.abs(expected) + _underflow(kind, maps, means, sigma)
                assert (np.abs(ours - expected) <= allowance).all(), f"{name}: {ours} is not {expected}"
            name = f"paper_{kind}_s{sigma:g}"
            square, means = last(case.inputs["square"]), case.inputs["mu"]
            losses = function(square, means, sigma)
            if kind == "var":
                losses = dsnt.variance_reg_losses(square, sigma, units="normalized")
            ours = dsnt.average_loss(losses, case.inputs["square_mask"])
            assert_allclose(ours, case.outputs[name], err_msg=name, **VALUE)


def _underflow(kind: str, maps, means, sigma: float):
    """How far float32 is from float64 in the original's formula with logarithms, per map.

    That is rounding, except where a mean lies so far outside the map that its Gaussian underflows.
    """
    if kind not in ("kl", "js"):
        return 0.0

    def divergence(p, q):
        eps = p.dtype.type(1e-24)
        return (p * (np.log(p + eps) - np.log(q + eps))).sum(tuple(range(2, p.ndim)))

    def losses(dtype):
        p, gauss = maps.astype(dtype), np.ones((), dtype)
        for axis, count in enumerate(p.shape[2:]):
            centers = ((2 * np.arange(count) + 1) / count - 1).astype(dtype)
            offset = centers - means[..., -1 - axis, None].astype(dtype)
            profile = np.exp(-dtype(0.5) * np.square(offset * dtype(count / (2 * sigma))))
            shape = [1] * (p.ndim - 2)
            shape[axis] = count
            gauss = gauss * profile.reshape(*p.shape[:2], *shape)
        gauss = gauss / (gauss.sum(tuple(range(2, p.ndim)), keepdims=True) + dtype(1e-24))
        if kind == "kl":
            return divergence(p, gauss)
        middle = (p + gauss) / 2
        return (divergence(p, middle) + divergence(gauss, middle)) / 2

    return np.abs(losses(np.float32) - losses(np.float64))


def check_total_loss(case) -> None:
    logits, target, mask = last(case.inputs["logits"]), case.inputs["target"], case.inputs["mask"]
    names = {"var": "variance"}
    for combo in case.attrs["combos"]:
        method = DSNT(
            regularizer=names.get(combo["reg"], combo["reg"]), reg_weight=combo["coeff"], sigma=combo["sigma"]
        )

        def total(logits, method=method):
            losses = method.criterion({"maps": logits[None]}, target, mask)
            return (losses["coord_loss"] + method.reg_weight * losses["reg_loss"]).sum()

        value, gradient = jax.jit(jax.value_and_grad(total))(logits)
        assert_allclose(value, case.outputs[f"loss_{combo['tag']}"], err_msg=combo["tag"], **VALUE)
        assert_allclose(first(gradient), case.outputs[f"grad_{combo['tag']}"], err_msg=combo["tag"], **GRADIENT)
    assert_allclose(dsnt.logits_to_points(logits)[0], case.outputs["coords"], **VALUE)


def check_preactivations(case) -> None:
    logits, cotangent = last(case.inputs["logits"]), last(case.inputs["cotangent"])
    for name, rectifier in dsnt.RECTIFIERS.items():
        options = {"threshold": case.attrs["threshold"]} if name == "thresholded_softmax" else {}
        maps, pull = jax.vjp(lambda x, f=rectifier, o=options: f(x, **o), logits)
        assert_allclose(first(maps), case.outputs[name], err_msg=name, **VALUE)
        (gradient,) = pull(jnp.asarray(cotangent))
        assert_allclose(first(gradient), case.outputs[f"{name}_grad"], err_msg=name, **GRADIENT)


def check_heatmap_baseline(case) -> None:
    for name, expected in case.outputs.items():
        if not name.startswith("encoded_"):
            continue
        side, sigma = name.removeprefix("encoded_").split("_s")
        shape = (int(side), int(side))
        ours = dsnt.encode_heatmaps(case.inputs["coords"], shape, float(sigma), case.attrs["clip_size"])
        assert_allclose(first(ours), expected, err_msg=name, **VALUE)
    maps = last(case.inputs["heatmaps"])
    assert_allclose(dsnt.decode_heatmaps(maps)[0], case.outputs["decoded"], **VALUE)
    assert_allclose(dsnt.decode_heatmaps(maps, refine=False)[0], case.outputs["decoded_plain"], **VALUE)


def check_adaptive_avg_pool(case) -> None:
    for name, expected in case.outputs.items():
        shape = tuple(int(n) for n in name.removeprefix("pooled_").split("x"))
        ours = dsnt.adaptive_avg_pool(networks.to_channels_last(case.inputs["image"]), shape)
        assert_allclose(networks.to_channels_first(ours), expected, err_msg=name, **VALUE)


def check_flip_test(case) -> None:
    maps = [last(case.inputs[n]) for n in ("logits", "logits_mirrored")]
    mean = (maps[0] + heatmaps.flip_back(maps[1], case.attrs["flip"], shift=False)) / 2
    points, probabilities = dsnt.logits_to_points(mean)
    assert_allclose(first(probabilities), case.outputs["heatmaps"], **VALUE)
    assert_allclose(points, case.outputs["coords"], **VALUE)
    # The case multiplies row vectors by its matrix.
    affine = np.concatenate([case.inputs["transform_m"].T, case.inputs["transform_b"].T], axis=1)
    assert_allclose(geometry.apply_affine(affine, points[0]), case.outputs["orig"], rtol=1e-5, atol=1e-4)


# --- networks ---


def method_of(case) -> DSNT:
    """The method that a network case describes."""
    attrs = case.attrs
    height, width = case.inputs["image"].shape[2:]
    fields = {"input_size": (width, height), "strategy": attrs.get("output_strat", "dsnt")}
    fields["skeleton"] = skeleton_of(attrs["n_chans"]).name
    fields["rectifier"] = attrs.get("preact", "softmax")
    if fields["strategy"] == "gauss":
        fields["regularizer"] = "none"
    if "stacks" in attrs:
        width = 2 * attrs["num_feats"]
        hourglass = {"stacks": attrs["stacks"], "modules": attrs["blocks"], "backbone_width": width}
        return DSNT(backbone="hourglass", dilate=0, **hourglass, **fields)
    return DSNT(backbone=attrs["arch"], dilate=attrs.get("dilate", 0), truncate=attrs.get("truncate", 0), **fields)


def _image(case) -> np.ndarray:
    """[B, H, W, 3] as the network takes it: bytes are divided by 255."""
    image = networks.to_channels_last(case.inputs["image"])
    return image / np.float32(255) if image.dtype == np.uint8 else image


def check_forward(case) -> None:
    method = method_of(case)
    variables = convert.convert(case.state_dict, method)
    image = _image(case)
    apply = jax.jit(lambda v, x: method.module().apply(v, x, capture_intermediates=True, mutable=["intermediates"]))
    outputs, captured = jax.device_get(apply(variables, image))
    _check_inside(case, captured["intermediates"]["backbone"])
    if method.backbone == "hourglass":
        for stack, maps in enumerate(outputs["maps"]):
            _check_output(case, method, maps, dsnt.logits_to_points(maps)[0], f"_{stack}", "coords")
        return
    maps = outputs["maps"][0]
    points, probabilities = dsnt.logits_to_points(maps, rectifier=method.rectifier)
    if "heatmaps" in case.outputs:
        assert_allclose(first(probabilities), case.outputs["heatmaps"], rtol=0, atol=networks.FORWARD)
    points = outputs["points"][0] if method.strategy == "fc" else points
    _check_output(case, method, maps, points, "", "output")


def _check_output(case, method: DSNT, maps, points, suffix: str, name: str) -> None:
    expected = case.outputs
    assert_allclose(first(maps), expected[f"logits{suffix}"], rtol=0, atol=networks.FORWARD)
    ours = first(maps) if method.strategy == "gauss" else points
    assert_allclose(ours, expected[f"{name}{suffix}"], rtol=0, atol=networks.FORWARD)


def _check_inside(case, captured: dict) -> None:
    """Compares what the parts of the network gave, from the input on, so that the first difference names the part."""
    for name in sorted(n.removesuffix("_stat") for n in case.outputs if n.endswith("_stat")):
        ours = networks.to_channels_first(_part(captured, name))
        stat = [ours.mean(dtype=np.float64), ours.std(ddof=1, dtype=np.float64), np.abs(ours).max()]
        assert_allclose(stat, case.outputs[f"{name}_stat"], rtol=networks.FORWARD, atol=networks.FORWARD, err_msg=name)
        corner = case.outputs[f"{name}_corner"]
        region = tuple(slice(n) for n in corner.shape)
        assert_allclose(ours[region], corner, rtol=networks.FORWARD, atol=networks.FORWARD, err_msg=name)


def _part(captured: dict, name: str):
    """Output of a part by its original name."""

    def output(part: str):
        return captured[part]["__call__"][0]

    if name == "fcn3":
        return nn.max_pool(nn.relu(output("bn1")), (3, 3), (2, 2), ((1, 1), (1, 1)))
    if name.startswith("fcn"):
        blocks = [part for part in captured if part.startswith(f"layer{int(name[3:]) - 3}_")]
        return output(max(blocks, key=lambda part: int(part.split("_")[1])))
    return output(name.replace("layer", "stem_residual").replace("hg", "hourglass"))


def check_train_step(case) -> None:
    attrs, expected = case.attrs, case.outputs
    height, width = case.inputs["image"].shape[2:]
    method = DSNT(
        skeleton=skeleton_of(attrs["n_chans"]).name,
        input_size=(width, height),
        backbone=attrs["arch"],
        dilate=attrs.get("dilate", 0),
        truncate=attrs.get("truncate", 0),
        regularizer={"var": "variance"}.get(attrs["reg"], attrs["reg"]),
        sigma=attrs["hm_sigma"],
        reg_weight=attrs["reg_coeff"],
    )
    variables = convert.convert(case.state_dict, method)
    image = _image(case)
    target, mask = case.inputs["target"], case.inputs["mask"]
    stream = {"image": image, "points": target, "mask": mask, "labelled": mask}

    def loss(params):
        total, aux = method.loss(variables | {"params": params}, {"source": stream}, 0, jax.random.key(0))
        maps = method.module().apply(variables | {"params": params}, image, train=True, mutable=["batch_stats"])[0]
        return total, (aux, maps["maps"])

    step = jax.jit(jax.value_and_grad(loss, has_aux=True))
    (value, (aux, maps)), gradients = jax.device_get(step(variables["params"]))
    points, probabilities = dsnt.logits_to_points(maps[0])
    assert_allclose(first(maps[0]), expected["logits"], rtol=0, atol=networks.FORWARD)
    assert_allclose(points, expected["coords"], rtol=0, atol=networks.FORWARD)
    assert_allclose(dsnt.euclidean_losses(points, target), expected["euclidean"], rtol=0, atol=networks.FORWARD)
    assert_allclose(method.regularization(probabilities, target), expected["reg"], rtol=0, atol=networks.FORWARD)
    assert_allclose(value, expected["loss"], rtol=networks.LOSS)
    _check_gradients(case, method, gradients)
    for name in (n for n in expected if "running" in n):
        ((path, _),) = (t for rule in rules(method) for t in rule.targets(name) or ())
        ours = networks.leaf(aux.batch_stats, path)
        assert_allclose(ours, expected[name], rtol=1e-4, atol=1e-5, err_msg=name)


def _check_gradients(case, method: DSNT, gradients: dict) -> None:
    norms = dict(zip(case.attrs["grad_params"], case.outputs["grad_norms"], strict=True))
    networks.check_gradients(gradients, rules(method), norms)
    for name, path in (("grad_hm_conv", "head/kernel"), ("grad_stem", "backbone/conv1/kernel")):
        expected = case.outputs[name]
        ours = networks.leaf(gradients, path).transpose(3, 2, 0, 1)
        ours = ours.reshape(*ours.shape[: expected.ndim])[tuple(slice(n) for n in expected.shape)]
        assert_allclose(ours, expected, rtol=0, atol=networks.GRADIENT * np.abs(expected).max(), err_msg=name)


# --- training and evaluation ---


def check_optimizers(case) -> None:
    settings = {
        "rmsprop": {
            "learning_rate": 2.5e-4,
            "decay": case.attrs["rmsprop"]["alpha"],
            "eps": case.attrs["rmsprop"]["eps"],
        },
        "sgd": {"learning_rate": 0.2, "momentum": 0.9},
    }
    for name, fields in settings.items():
        config = configs.optim()
        config.update({"optimizer": name, "weight_decay": 0.0} | fields)
        optimizer = optim.create(config, total_steps=len(case.inputs["grads"]))
        params = {"w": jnp.asarray(case.inputs["w0"])}
        state, path = optimizer.init(params), []
        for step, gradient in enumerate(case.inputs["grads"]):
            params, state, _ = optimizer.update({"w": jnp.asarray(gradient)}, state, params, jnp.array(step))
            path.append(params["w"])
        assert_allclose(path, case.outputs[name], err_msg=name, rtol=1e-6, atol=1e-7)


def check_pckh(case) -> None:
    names, inputs = case.attrs["meters"], case.inputs
    for name, expected in case.outputs.items():
        people, threshold = name.split("_at_")
        if people == "syn":
            arrays = [inputs[f"syn_{n}"] for n in ("pred", "target", "mask", "head")]
        else:
            arrays = [inputs[n] for n in (people, "target", "mask", "head_length")]
        meters = pck.pckh_meters(*arrays, threshold=float(threshold))
        assert list(meters) == names
        assert_array_equal(np.float32(list(meters.values())), np.float32(expected), err_msg=name)


CHECKS = {
    "dsnt/softmax_expectation": check_softmax_expectation,
    "dsnt/coordinates": check_coordinates,
    "dsnt/make_gauss": check_make_gauss,
    "dsnt/coord_losses": check_coord_losses,
    "dsnt/reg_losses": check_reg_losses,
    "dsnt/total_loss": check_total_loss,
    "dsnt/preactivations": check_preactivations,
    "dsnt/heatmap_baseline": check_heatmap_baseline,
    "dsnt/adaptive_avg_pool": check_adaptive_avg_pool,
    "dsnt/flip_test": check_flip_test,
    "dsnt/forward": check_forward,
    "dsnt/train_step": check_train_step,
    "dsnt/optimizers": check_optimizers,
    "dsnt/pckh": check_pckh,
}
