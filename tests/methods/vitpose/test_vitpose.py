import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from jaxpose import load_config
from jaxpose.convert.conversion import ConversionError, convert, convert_backbone
from jaxpose.errors import ConfigError
from jaxpose.methods.vitpose import ViTPose, names
from jaxpose.training import optim
from jaxpose.types import synthetic_batch

METHOD = ViTPose(input_size=(32, 48), size="", width=16, layers=2, heads=2, head_features=4)
EXPERTS = dataclasses.replace(METHOD, experts=3, expert_features=4)


@pytest.fixture(scope="module")
def variables():
    return METHOD.init(jax.random.key(0))


@pytest.fixture(scope="module")
def prepared():
    stream = synthetic_batch(METHOD.spec(3))["source"]
    rng = np.random.default_rng(0)
    stream["keypoints"] = (rng.random((3, 17, 2)) * METHOD.input_size).astype(np.float32)
    stream["visible"] = np.ones((3, 17), np.float32)
    return METHOD.targets({"source": stream}, jax.random.key(1), train=True)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"size": "giant"}, "size is 'giant'"),
        ({"width": 15}, "size is ''"),
        ({"head": "linear"}, "head is 'linear'"),
        ({"input_size": (40, 48)}, r"input_size is \(40, 48\)"),
        ({"expert": 1}, "expert is 1, but ViTPose needs 0 to 0"),
        ({"experts": 2, "expert_features": 16}, "expert_features is 16"),
        ({"drop_path": 1.0}, "drop_path is 1.0"),
        ({"attention": "flash"}, "attention is 'flash'"),
    ],
)
def test_fields_that_cannot_work(fields, message):
    with pytest.raises(ConfigError, match=message):
        dataclasses.replace(METHOD, **fields)


@pytest.mark.parametrize(("size", "millions"), [("small", 24), ("base", 90), ("large", 308), ("huge", 637)])
def test_published_sizes(size, millions):
    """The numbers of parameters that the paper gives, in millions (table 3)."""
    shapes = jax.eval_shape(ViTPose(size=size).init, jax.random.key(0))
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes["params"])) / 1e6 == pytest.approx(millions, rel=0.02)


# --- crops, targets and reading agree ---


def test_a_target_is_read_where_the_joint_is():
    """Between cells and up to the border, within the accuracy of the truncated Gaussian."""
    method = ViTPose(input_size=(192, 256))
    rng = np.random.default_rng(0)
    keypoints = np.float32(rng.uniform((20, 20), (170, 230), (2, 17, 2)))
    stream = synthetic_batch(method.spec(2))["source"] | {"keypoints": keypoints}
    stream["visible"] = np.ones((2, 17), np.float32)
    found, _ = method.read(method.labels(stream)["target"])
    assert_allclose(found, keypoints, rtol=0, atol=0.05)


def test_invisible_joints_have_no_target(prepared):
    stream = dict(prepared["source"])
    stream["visible"] = stream["visible"] * (np.arange(17) != 5)
    labels = METHOD.labels(stream)
    assert_array_equal(labels["weight"][:, 5], 0)
    assert_array_equal(labels["target"][..., 5], 0)


# --- network ---


def test_drop_path_leaves_out_whole_parts(variables, prepared):
    """In training some examples skip parts, in evaluation none; without a rate nothing is random."""
    image = prepared["source"]["image"]

    def maps(method, seed):
        outputs, _ = method.apply(
            variables, image, True, mutable=["batch_stats"], rngs={"dropout": jax.random.key(seed)}
        )
        return np.asarray(outputs["maps"])

    dropping = dataclasses.replace(METHOD, drop_path=0.5)
    assert np.abs(maps(dropping, 0) - maps(dropping, 1)).max() > 0
    plain = dataclasses.replace(METHOD, drop_path=0.0)
    assert_array_equal(maps(plain, 0), maps(plain, 1))
    assert_array_equal(METHOD.maps(variables, image), dropping.maps(variables, image))


def test_recomputed_layers_change_nothing(variables, prepared):
    def gradient(method):
        loss = lambda params: method.heatmap_loss(variables | {"params": params}, prepared, 0, jax.random.key(2))[0]
        return jax.jit(jax.grad(loss))(variables["params"])

    again = gradient(dataclasses.replace(METHOD, rematerialize=True))
    for kept, recomputed in zip(jax.tree.leaves(gradient(METHOD)), jax.tree.leaves(again), strict=True):
        assert_allclose(recomputed, kept, rtol=1e-4, atol=1e-7)


def test_experts_differ_and_are_chosen_by_example():
    """One expert for all examples, or one each: the same numbers."""
    shapes, rng = jax.eval_shape(EXPERTS.init, jax.random.key(0)), np.random.default_rng(0)
    variables = jax.tree.map(lambda leaf: np.float32(rng.random(leaf.shape)), shapes)
    image = jax.random.normal(jax.random.key(1), (3, 48, 32, 3))
    each = EXPERTS.apply(variables, image, False, jnp.arange(3))["maps"]
    for number in range(3):
        alone = dataclasses.replace(EXPERTS, expert=number).maps(variables, image)
        error = np.abs(each[number] - alone[number]).max()
        other = dataclasses.replace(EXPERTS, expert=(number + 1) % 3).maps(variables, image)
        assert error < 1e-3 * np.abs(other[number] - alone[number]).max()


# --- names ---


def flat(variables):
    return optim.flatten(variables["params"]) | optim.flatten(variables.get("batch_stats", {}))


def authors_entries(method, variables):
    """The entries that the authors' program would have for the same network."""
    entries = {}
    for path, leaf in flat(variables).items():
        leaf = np.asarray(leaf)
        module, _, entry = path.rpartition("/")
        if entry == "positions":
            entries["backbone.pos_embed"] = leaf
        elif module.startswith("backbone/block") and "/attention/" in module and not module.endswith("out"):
            block = module.split("/")[1].removeprefix("block")
            part = ["query", "key", "value"].index(module.rpartition("/")[2])
            name = f"backbone.blocks.{block}.attn.qkv.{'weight' if entry == 'kernel' else 'bias'}"
            width = method.shape[0]
            whole = entries.setdefault(name, np.zeros((3 * width, width) if entry == "kernel" else 3 * width))
            whole[part * width : (part + 1) * width] = (
                leaf.reshape(width, width).T if entry == "kernel" else leaf.ravel()
            )
        else:
            name, value = authors_entry(module, entry, leaf)
            entries[name] = value
    return entries


def authors_entry(module, entry, leaf):
    parts = module.split("/")
    kinds = {"kernel": "weight", "scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}
    if parts[0] == "head":
        place = {"deconv0": "deconv_layers.0", "bn0": "deconv_layers.1", "deconv1": "deconv_layers.3"}
        place |= {"bn1": "deconv_layers.4", "final_layer": "final_layer"}
        if entry == "kernel":
            leaf = leaf[::-1, ::-1].transpose(2, 3, 0, 1) if "deconv" in parts[1] else leaf.transpose(3, 2, 0, 1)
        return f"keypoint_head.{place[parts[1]]}.{kinds[entry]}", leaf
    if parts[1] == "patch_embed":
        return f"backbone.patch_embed.proj.{kinds[entry]}", leaf.transpose(3, 2, 0, 1) if entry == "kernel" else leaf
    if parts[1] == "norm":
        return f"backbone.last_norm.{kinds[entry]}", leaf
    names_of = {
        "attention/out": "attn.proj",
        "fc1": "mlp.fc1",
        "mlp/fc2": "mlp.fc2",
        "norm1": "norm1",
        "norm2": "norm2",
    }
    inner = "/".join(parts[2:])
    place = names_of.get(inner) or inner.replace("mlp/expert", "mlp.experts.")
    if entry == "kernel":
        leaf = leaf.reshape(-1, leaf.shape[-1]).T
    return f"backbone.blocks.{parts[1].removeprefix('block')}.{place}.{kinds[entry]}", leaf


@pytest.mark.parametrize("method", [METHOD, EXPERTS, dataclasses.replace(METHOD, head="simple")])
def test_entries_of_the_authors_files(method):
    variables = method.init(jax.random.key(0))
    converted = convert(authors_entries(method, variables), method)
    for path, leaf in flat(variables).items():
        assert_array_equal(flat(converted)[path], leaf, err_msg=path)


def test_a_missing_entry_is_named(variables):
    entries = authors_entries(METHOD, variables)
    del entries["backbone.blocks.1.attn.qkv.bias"]
    with pytest.raises(ConversionError, match="missing: params/backbone/block1/attention/key/bias"):
        convert(entries, METHOD)


# --- masked autoencoders to start from ---


def autoencoder(variables, side=5):
    """A file of MAE for the same transformer, with the positions of side x side tokens."""
    entries = {
        name.removeprefix("backbone.").replace("last_norm", "norm"): value
        for name, value in authors_entries(METHOD, variables).items()
        if name.startswith("backbone.")
    }
    entries["pos_embed"] = np.random.default_rng(0).normal(size=(1, 1 + side**2, 16)).astype(np.float32)
    return entries | {"cls_token": np.zeros((1, 1, 16)), "decoder_blocks.0.norm1.weight": np.zeros(8)}


def test_start_from_a_masked_autoencoder(variables):
    """Everything but the head; positions as PyTorch resizes them."""
    functional = pytest.importorskip("torch.nn.functional", reason="PyTorch resizes the positions to compare with")
    import torch

    entries = autoencoder(variables)
    found = convert_backbone(entries, METHOD)
    assert set(found.variables) == {"params"}
    assert set(found.variables["params"]) == {"backbone"}
    assert found.ignored == ("cls_token", "decoder_blocks.0.norm1.weight")
    taken = optim.flatten(found.variables["params"])
    table = np.asarray(taken.pop("backbone/positions"))
    for path, leaf in taken.items():
        assert_array_equal(leaf, flat(variables)[path], err_msg=path)
    grid = torch.tensor(entries["pos_embed"][:, 1:]).reshape(1, 5, 5, 16).permute(0, 3, 1, 2)
    expected = functional.interpolate(grid, size=(3, 2), mode="bicubic", align_corners=False)
    assert_allclose(table[0, 1:].reshape(3, 2, 16), expected[0].permute(1, 2, 0).numpy(), rtol=0, atol=1e-5)
    assert_array_equal(table[:, 0], entries["pos_embed"][:, 0])


def test_positions_of_the_same_grid_stay():
    table = np.random.default_rng(0).normal(size=(1, 17, 8))
    assert_allclose(names.resized(table, (4, 4)), table, rtol=0, atol=1e-12)


# --- rates ---


def test_rates_fall_towards_the_image():
    """Layer i of 12 learns at .75^(13 - i); only matrices decay."""
    config = load_config("vitpose:coco")
    optimizer = optim.create(config.optim, config.train.steps)
    shapes = jax.eval_shape(ViTPose(size="base").init, jax.random.key(0))["params"]
    owner = optimizer.assign(list(optim.flatten(shapes)))
    group = {g.name: g for g in optimizer.groups}
    of = lambda path: group[owner[path]]
    assert of("backbone/positions").multiplier == pytest.approx(0.75**13)
    assert of("backbone/block0/fc1/kernel").multiplier == pytest.approx(0.75**12)
    assert of("backbone/block11/fc1/kernel").multiplier == pytest.approx(0.75)
    assert of("backbone/block1/attention/query/kernel").multiplier == pytest.approx(0.75**11)
    assert of("backbone/norm/scale").multiplier == of("head/final_layer/kernel").multiplier == 1
    undecayed = {path for path in owner if of(path).weight_decay == 0}
    assert undecayed == {path for path in owner if not path.endswith("kernel")}
