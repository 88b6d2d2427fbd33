"""Anatomy-aware 3D: what its sequences, windows and errors are, against the original code."""

import jax
import numpy as np
from numpy.testing import assert_allclose, assert_array_equal

from jaxpose.data.examples.sequences import Camera, SequenceExamples, SequenceSource, Video, WholeSequences, mirror
from jaxpose.data.sources import h36m
from jaxpose.evaluation.metrics import mpjpe
from jaxpose.ops import bones, cameras
from jaxpose.skeleton import H36M

METRES_PCK = mpjpe.PCK_3D / 1000
MPI_INF_3DHP_JOINTS = 14
TRAJECTORY_MEAN = np.array([0, -0.3, 5], np.float32)


def _source(case, intrinsics: np.ndarray) -> SequenceSource:
    """The case's videos; joint 0 of its 3D poses is the root's trajectory."""
    attrs = case.attrs
    sides = [[j for j, side in enumerate(H36M.sides) if side == name] for name in ("left", "right")]
    assert sides == [attrs["left"], attrs["right"]]
    ends = [""] if "poses_3d" in case.inputs else [f"_{i}" for i in range(len(intrinsics))]
    poses, flat = ([case.inputs[f"{name}{end}"] for end in ends] for name in ("poses_3d", "poses_2d"))
    still = np.array([1, 0, 0, 0], np.float32), np.zeros(3, np.float32)
    videos = []
    for number, (pose, keypoints) in enumerate(zip(poses, flat, strict=True)):
        joints = pose.copy()
        joints[:, 0] = 0
        camera = Camera(str(number), (1000, 1000), intrinsics[number], *still)
        videos.append(Video("S", "action", camera, keypoints, joints, pose[:, 0]))
    return SequenceSource(case.name, H36M, 50.0, tuple(videos))


def _causal(attrs: dict) -> bool:
    assert attrs["causal_shift"] in (0, attrs["pad"])
    return bool(attrs["causal_shift"])


def check_chunked_generator(case) -> None:
    """Training windows with the recorded choices of video, frame, side and drawn frames."""
    attrs, inputs = case.attrs, case.inputs
    assert attrs["chunk_length"] == 1
    examples = SequenceExamples(
        _source(case, inputs["cameras"]), 2 * attrs["pad"] + 1, attrs["randnum"], _causal(attrs)
    )
    samples = [
        examples.sample(int(video), int(frame), bool(flip), drawn)
        for (video, frame, _, flip), drawn in zip(inputs["pairs"], inputs["sampled_frames"])
    ]
    size = attrs["batch_size"]
    for b, first in enumerate(range(0, len(samples), size)):
        rows = samples[first : first + size]
        batch = {field: np.stack([row[field] for row in rows]) for field in rows[0]}
        expected = {name.removeprefix(f"{b}/"): v for name, v in case.outputs.items() if name.startswith(f"{b}/")}
        assert_array_equal(batch["camera"], expected["cam"])
        assert_array_equal(batch["window"], expected["batch_2d"])
        assert_array_equal(batch["joints_3d"][:, :, 1:], expected["batch_3d"][:, :, 1:])
        assert not batch["joints_3d"][:, :, 0].any()
        _check_drawn(case, b, batch, expected)


def _check_drawn(case, b: int, batch: dict, expected: dict) -> None:
    """Drawn frames: exact before, and after the augmentation with the recorded numbers."""
    pixels = expected["batch_2d_rand"]
    assert_array_equal(batch["drawn"], pixels[..., :2])
    tree = bones.Tree(bones.H36M.parents, tuple(map(tuple, case.attrs["boneindex"])))
    uniform = case.inputs[f"rand_{b}"]
    joints, lengths = jax.device_get(bones.augment_lengths(tree, batch["drawn_3d"], uniform, case.attrs["augdegree"]))
    moved = joints + case.inputs[f"normal_{b}"] + TRAJECTORY_MEAN
    assert_allclose(lengths, expected["bonelennew"], rtol=1e-5, atol=1e-6)
    assert_allclose(joints, expected["batch_3d_randauggt"], rtol=1e-5, atol=1e-5)
    assert_allclose(joints, expected["batch_3d_rand"], rtol=1e-5, atol=1e-5)
    assert_allclose(moved, expected["batch_3d_randaugtraj"], rtol=1e-5, atol=1e-5)


def check_unchunked_generator(case) -> None:
    """Whole sequences, plain and mirrored, symmetric and causal."""
    pad, outputs = case.attrs["pad"], case.outputs
    source = _source(case, case.inputs["camera"][None])
    (video,), flip = source.videos, H36M.flip_index
    frames = len(video)
    for causal, prefix in ((False, ""), (True, "causal_")):
        whole = WholeSequences(source, 2 * pad + 1, causal).load(0)
        assert whole["frames"].sum() == frames
        window = whole["window"][: frames + 2 * pad]
        assert_array_equal(window, outputs[f"{prefix}batch_2d"][0])
        assert_array_equal(mirror(window, flip), outputs[f"{prefix}batch_2d"][1])
        truth = outputs[f"{prefix}batch_3d"]
        kept = slice(2 * pad if causal else pad, frames + (2 * pad if causal else pad))
        assert_array_equal(video.joints[:, 1:], truth[0, kept, 1:])
        assert_array_equal(video.root, truth[0, kept, 0])
        assert_array_equal(mirror(video.joints, flip)[:, 1:], truth[1, kept, 1:])
    assert_array_equal(video.camera.intrinsics, outputs["cam"][0])
    assert_array_equal(cameras.mirror_intrinsics(video.camera.intrinsics), outputs["cam"][1])


def check_skeleton(case) -> None:
    attrs = case.attrs
    assert list(h36m.KEPT) == attrs["kept_of_32"]
    assert list(bones.H36M.parents) == attrs["parents"]
    for name in ("left", "right"):
        assert [j for j, side in enumerate(H36M.sides) if side == name] == attrs[f"joints_{name}"]
    assert attrs["fps"] == h36m.RATE
    assert_array_equal(h36m.keep_joints(case.inputs["positions_32"]), case.outputs["positions_17"])


def check_metrics(case) -> None:
    predicted, truth, outputs = case.inputs["predicted"], case.inputs["target"], case.outputs
    close = lambda ours, name, tolerance=1e-6: assert_allclose(ours, outputs[name], rtol=1e-5, atol=tolerance)
    close(mpjpe.mpjpe(predicted, truth), "mpjpe_per_frame")
    close(mpjpe.mpjpe(predicted, truth).mean(), "mpjpe")
    close((mpjpe.distances(predicted, truth) * case.inputs["w"]).mean(), "weighted_mpjpe")
    close(mpjpe.p_mpjpe(predicted, truth), "p_mpjpe_per_frame")
    close(mpjpe.p_mpjpe(predicted, truth).mean(), "p_mpjpe")
    close(mpjpe.n_mpjpe(predicted, truth), "n_mpjpe_per_frame")
    close(mpjpe.n_mpjpe(predicted, truth).mean(), "n_mpjpe")
    close(mpjpe.velocity_errors(predicted, truth).mean(), "mean_velocity_error")
    close(mpjpe.pck_3d(predicted, truth, METRES_PCK, joints=MPI_INF_3DHP_JOINTS), "pck_per_frame")
    thresholds = np.arange(mpjpe.PCK_3D) / 1000
    close(mpjpe.auc_3d(predicted, truth, thresholds, joints=MPI_INF_3DHP_JOINTS), "auc_per_frame")


CHECKS = {
    "anatomy3d/h36m_skeleton": check_skeleton,
    "anatomy3d/metrics": check_metrics,
    "anatomy3d/chunked_generator": check_chunked_generator,
    "anatomy3d/unchunked_generator": check_unchunked_generator,
}
