"""Anatomy3D: bones, cameras, augmentation, the network for windows and for sequences, a training step, evaluation."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from numpy.testing import assert_allclose, assert_array_equal

from golden_checks import networks
from jaxpose import convert
from jaxpose.data.sources import h36m
from jaxpose.evaluation.metrics import MetricContext, mpjpe
from jaxpose.methods.anatomy3d.method import Anatomy3D
from jaxpose.methods.anatomy3d.names import rules
from jaxpose.ops import bones, cameras
from jaxpose.skeleton import H36M
from jaxpose.training import optim

METRES = 1e-5
"""Largest difference of positions and lengths that no network made."""


def method_of(case) -> Anatomy3D:
    """The network of a case, without flip test. Cases have Human3.6M's bones, and number them like the library."""
    attrs = case.attrs
    method = Anatomy3D(
        widths=tuple(attrs["filter_widths"]),
        channels=attrs["channels"],
        causal=attrs["causal"],
        temperature=attrs["temperature"],
        dropout=attrs["dropout"],
        bn_momentum=attrs["bn_momentum"],
        flip_test=False,
    )
    check_bones_of(case, method.tree)
    assert attrs["receptive_field"] == method.receptive_field
    return method


def check_bones_of(case, tree: bones.Tree) -> None:
    assert_array_equal(tree.bones, case.attrs["boneindex"])
    assert_array_equal(tree.parents, case.attrs.get("parents", tree.parents))


# --- functions ---


def check_bones(case) -> None:
    tree, joints = bones.H36M, case.inputs["joints"]
    check_bones_of(case, tree)
    assert_array_equal(tree.shift_pairs, case.attrs["shift_pairs"])
    points_up = {n for n, (end, start) in enumerate(tree.bones) if tree.parents[end] != start}
    assert points_up == set(case.attrs["reversed_bones"])
    lengths, directions = bones.lengths(tree, joints), bones.directions(tree, joints)
    assert_allclose(lengths, case.outputs["length"], rtol=0, atol=METRES)
    assert_allclose(directions, case.outputs["direction"].reshape(directions.shape), rtol=0, atol=METRES)
    assert_allclose(bones.shifts(tree, joints), case.outputs["shift"], rtol=0, atol=METRES)
    composed = bones.compose(tree, directions, lengths)
    assert_allclose(composed, joints - joints[..., :1, :], rtol=0, atol=METRES)


def check_bone_augmentation(case) -> None:
    tree, arrays = bones.H36M, case.inputs
    check_bones_of(case, tree)
    joints, lengths = bones.augment_lengths(tree, arrays["joints"], arrays["rand"], case.attrs["augdegree"])
    assert_allclose(joints, case.outputs["joints"], rtol=0, atol=METRES)
    assert_allclose(lengths, case.outputs["bone_length_new"], rtol=0, atol=METRES)


def check_camera(case) -> None:
    """Row i of the points belongs to camera i of the subject that the case names."""
    _check_calibration(case)
    arrays, expected = case.inputs, case.outputs
    places = [_place(text, case.attrs["subjects"]) for text in case.attrs["case_subjects"]]
    pose = [np.stack([expected[name][place] for place in places]) for name in ("orientation", "translation")]
    to_camera = cameras.world_to_camera(arrays["points_world"], *pose)
    assert_allclose(to_camera, expected["world_to_camera"], rtol=0, atol=METRES)
    to_world = cameras.camera_to_world(expected["world_to_camera"], *pose)
    assert_allclose(to_world, expected["camera_to_world"], rtol=0, atol=METRES)
    project = jax.jit(cameras.project, static_argnums=2)
    for name, distort in (("project_2d", True), ("project_2d_linear", False)):
        seen = project(arrays["points_camera"], expected["intrinsic"], distort)
        assert_allclose(seen, expected[name], rtol=0, atol=METRES)
    seen = cameras.project(arrays["points_camera"], expected["intrinsic"])
    for row, size, pixels in zip(seen, expected["resolution"], expected["project_pixels"], strict=True):
        assert_allclose(cameras.screen_to_pixels(row, size), pixels, rtol=0, atol=1e-2)
        assert_allclose(cameras.normalize_screen(pixels, size), row, rtol=0, atol=METRES)
    assert_allclose(cameras.rotate(arrays["q"], arrays["v"]), expected["qrot"], rtol=0, atol=METRES)
    assert_allclose(cameras.conjugate(arrays["q"]), expected["qinverse"], rtol=0, atol=0)
    for name in (n for n in expected if n.startswith("normalized_pixels_")):
        size = tuple(int(n) for n in name.removeprefix("normalized_pixels_").split("x"))
        screen = cameras.normalize_screen(arrays["pixels"], size)
        assert_allclose(screen, expected[name], rtol=0, atol=1e-6)
        assert_allclose(cameras.screen_to_pixels(screen, size), expected["image_coordinates"], rtol=1e-6)


def _check_calibration(case) -> None:
    """Human3.6M's cameras, of which the original's tables have one row a subject and one column a camera."""
    expected = case.outputs
    for column, name in enumerate(case.attrs["camera_ids"]):
        for row, subject in enumerate(case.attrs["subjects"]):
            camera = h36m.camera(subject, name)
            assert_allclose(camera.intrinsics, expected["intrinsic"][column], rtol=0, atol=1e-6)
            assert_array_equal(camera.size, expected["resolution"][column])
            assert_allclose(camera.orientation, expected["orientation"][row, column], rtol=0, atol=1e-6)
            assert_allclose(camera.position, expected["translation"][row, column], rtol=0, atol=1e-6)


def _place(text: str, subjects: list[str]) -> tuple[int, int]:
    """Row and column of "S5 camera 1" in tables of subjects and cameras."""
    subject, camera = text.split(" camera ")
    return subjects.index(subject), int(camera)


def check_schedules(case) -> None:
    """One step stands for an epoch."""
    epochs = case.attrs["epochs"]
    drops = {"name": "step", "warmup": 0, "boundaries": tuple(range(1, epochs)), "factors": (0.95,)}
    rate = optim.schedule(1e-3, _Fields(drops), epochs)
    assert_allclose([rate(e) for e in range(epochs)], case.outputs["learning_rate"], rtol=1e-5)
    for every in (1, 7):
        method = Anatomy3D(bn_momentum_steps=epochs * every, bn_momentum_every=every)
        after = [method.norm_momentum(jnp.asarray((e + 1) * every + every - 1)) for e in range(epochs)]
        assert_allclose(after, case.outputs["bn_momentum"], rtol=1e-5)


class _Fields(dict):
    __getattr__ = dict.__getitem__


# --- networks ---


def check_train_forward(case) -> None:
    method, arrays, expected = method_of(case), case.inputs, case.outputs
    inputs = [arrays[name] for name in ("x", "rand", "rand_aug")]
    variables = convert.convert(case.state_dict, method)
    apply = jax.jit(functools.partial(method.module().apply, capture_intermediates=True, mutable=["intermediates"]))
    outputs, state = apply(variables, *inputs)
    names = {
        "joints": "joints",
        "bone_length": "lengths",
        "rand_joints": "drawn",
        "bone_length_aug": "augmented_lengths",
        "rand_joints_aug": "augmented",
        "direction_1": "directions1",
        "direction_2": "directions2",
        "shift_1": "shifts1",
        "shift_2": "shifts2",
    }
    for name, ours in names.items():
        found = outputs[ours].reshape(expected[name].shape)
        assert_allclose(found, expected[name], rtol=0, atol=networks.FORWARD, err_msg=name)
    for name in (n for n in expected if n.startswith("stats/")):
        found = networks.statistics(_output_of(name.removeprefix("stats/"), method, state["intermediates"]))
        assert_allclose(found, expected[name], rtol=1e-4, atol=networks.FORWARD, err_msg=name)


def _output_of(name: str, method: Anatomy3D, captured: dict) -> np.ndarray:
    """What a layer of the original gave at its first call: the sum of those layers that it is divided into here."""
    paths = [path for rule in rules(method) for path, _ in rule.targets(f"{name}.weight") or ()]
    return sum(networks.leaf(captured, path.rpartition("/")[0])["__call__"][0] for path in paths)


def check_test_forward(case) -> None:
    """Sequences at once; the same with padding behind them; and, of some frames, window by window."""
    method, x, expected = method_of(case), case.inputs["x"], case.outputs
    variables = convert.convert(case.state_dict, method)
    size, count = x.shape[:2]
    lift, slide = jax.jit(method.lift), jax.jit(method.slide)
    behind = jnp.pad(x, ((0, 0), (0, 3), (0, 0), (0, 0)), mode="edge")
    outputs = lift(variables, method.pad(behind), np.broadcast_to(np.arange(count + 3) < count, (size, count + 3)))
    outputs = {name: np.asarray(value) for name, value in outputs.items()}
    lengths = np.broadcast_to(outputs["lengths"], (size, count + 3, method.tree.num_bones))
    tolerance = {"rtol": 0, "atol": networks.FORWARD}
    assert_allclose(outputs["joints"][:, :count], expected["joints"], **tolerance)
    assert_allclose(lengths[:, :count], expected["bone_length"], **tolerance)
    directions = expected["direction"].reshape(size, -1, 3, count).transpose(0, 3, 1, 2)
    assert_allclose(outputs["directions"][:, :count], directions, **tolerance)
    window = method.pad(x)
    for frame in (0, count - 1):
        alone = slide(variables, window[:, frame : frame + method.receptive_field], expected["bone_length"][:, frame])
        assert_allclose(alone, expected["joints"][:, frame], **tolerance)


def check_evaluate(case) -> None:
    """Predictions of whole videos in one padded batch, and their errors in mm by action."""
    plain, names = method_of(case), [n for n in case.inputs if n.startswith("poses_2d_")]
    variables = convert.convert(case.state_dict, plain)
    videos = [case.inputs[name] for name in names]
    length = max(len(video) for video in videos)
    padded = np.stack([np.pad(video, ((0, length - len(video)), (0, 0), (0, 0)), mode="edge") for video in videos])
    frames = np.arange(length) < np.array([len(video) for video in videos])[:, None]
    batch = {"source": {"window": plain.pad(padded), "frames": frames, "valid": np.ones(len(videos), bool)}}
    for kind, flip_test in (("plain", False), ("flip", True)):
        method = dataclasses.replace(plain, flip_test=flip_test)
        poses = jax.device_get(jax.jit(method.predict)(variables, batch))
        assert_array_equal(poses.valid, frames)
        for i, video in enumerate(videos):
            expected = case.outputs[f"{kind}/prediction_{i}"]
            found = poses.keypoints[i, : len(video)] / 1000
            assert_allclose(found, expected, rtol=0, atol=networks.FORWARD, err_msg=f"{kind} {i}")
            assert_array_equal(poses.scores[i, : len(video)], video[..., 2])
        _check_errors(case, kind, poses)


def _check_errors(case, kind: str, poses) -> None:
    """The original compares causal predictions with the poses of frames (F - 1) / 2 before."""
    metric, actions = mpjpe.SequenceErrors(MetricContext(H36M)), case.attrs["actions"]
    late = (case.attrs["receptive_field"] - 1) // 2 if case.attrs["causal"] else 0
    for number, videos in enumerate(actions):
        for i in videos:
            truth = 1000 * case.inputs[f"poses_3d_{i}"]
            truth[:, 0] = 0
            count = len(truth)
            truth = truth[np.maximum(np.arange(count) - late, 0)]
            metric.update(
                {
                    "index": np.full(count, i),
                    "frame": np.arange(count),
                    "keypoints": poses.keypoints[i, :count],
                    "truth": truth,
                    "action": np.full(count, f"action {number}"),
                }
            )
    numbers = metric.compute()
    found = [[numbers[f"{name}/action {i}"] for name in mpjpe.NUMBERS] for i in range(len(actions))]
    assert_allclose(found, case.outputs[f"{kind}/per_action"], rtol=1e-4)
    assert_allclose([numbers[name] for name in mpjpe.NUMBERS], case.outputs[f"{kind}/average"], rtol=1e-4)


def check_train_step(case) -> None:
    arrays, expected, weights = case.inputs, case.outputs, case.attrs["weights"]
    method = dataclasses.replace(
        method_of(case),
        shift_weight=weights["wjs"],
        direction_weight=weights["wd"],
        length_weight=weights["wl"],
        first_weight=weights["snd"],
        linear_projection=weights["linear_projection"],
    )
    variables = convert.convert(case.state_dict, method)
    stream = _training_stream(method, arrays)
    for name, ours in {"2d_randaug": "augmented", "3d_length": "lengths", "3d_direct": "directions"}.items():
        assert_allclose(stream[ours], expected[f"inputs_{name}"], rtol=0, atol=METRES, err_msg=name)

    @jax.jit
    @functools.partial(jax.value_and_grad, has_aux=True)
    def step(params):
        inputs = stream["window"], stream["drawn"], stream["augmented"]
        outputs, mutated = method.module().apply(
            variables | {"params": params}, *inputs, train=True, mutable=["batch_stats"]
        )
        losses = method.criterion(outputs, stream, case.attrs["frame_of_the_rand_loss"])
        return sum(losses.values()), (losses, outputs, mutated["batch_stats"])

    (total, (losses, outputs, batch_stats)), gradients = jax.device_get(step(variables["params"]))
    _check_losses(losses | {"total": total}, expected)
    assert_allclose(outputs["joints"], expected["predicted_3d_pos"][:, 0], rtol=0, atol=networks.FORWARD)
    assert_allclose(outputs["lengths"], expected["bonelength"], rtol=0, atol=networks.FORWARD)
    norms = dict(zip(case.attrs["grad_names"], expected["grad_norm"], strict=True))
    networks.check_gradients(gradients, rules(method), norms)
    for name in (n for n in expected if n.startswith("running_")):
        entry = "{1}.{0}".format(*name.split("/"))
        ((path, _),) = (t for rule in rules(method) for t in rule.targets(entry) or ())
        found = networks.leaf(batch_stats, path)[: len(expected[name])]
        assert_allclose(found, expected[name], rtol=1e-4, atol=1e-5, err_msg=name)


def _training_stream(method: Anatomy3D, arrays: dict) -> dict:
    """What `targets` makes of a batch, with the random numbers of the case."""
    joints = arrays["batch_3d"].copy()
    joints[:, :, 0] = 0
    stream = {"window": arrays["batch_2d"], "joints_3d": joints, "drawn": arrays["batch_2d_rand"][..., :2]}
    return stream | method.labels(stream) | {
        "drawn_3d": arrays["batch_3d_rand"],
        "augmented_3d": arrays["batch_3d_randauggt"],
        "augmented": method.project(arrays["batch_3d_randaugtraj"], arrays["cam"]),
        "augmented_lengths": arrays["bonelennew"],
    }  # fmt: skip


def _check_losses(losses: dict, expected: dict) -> None:
    names = {
        "loss_total": ("total",),
        "loss_3d_pos": ("joints",),
        "loss_3d_pos_rand": ("drawn",),
        "loss_3d_pos_randaug": ("augmented",),
        "loss_length": ("lengths",),
        "loss_lengthaug": ("augmented_lengths",),
        "loss_len": ("drawn", "augmented", "lengths", "augmented_lengths"),
        "loss_direct": ("directions",),
        "loss_js": ("shifts",),
    }
    for name, ours in names.items():
        assert_allclose(sum(losses[n] for n in ours), expected[name], rtol=networks.LOSS, err_msg=name)


CHECKS = {
    "anatomy3d/bones": check_bones,
    "anatomy3d/bone_augmentation": check_bone_augmentation,
    "anatomy3d/camera": check_camera,
    "anatomy3d/schedules": check_schedules,
    "anatomy3d/train_forward": check_train_forward,
    "anatomy3d/test_forward": check_test_forward,
    "anatomy3d/train_step": check_train_step,
    "anatomy3d/evaluate": check_evaluate,
}
