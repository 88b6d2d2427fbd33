"""Files open by themselves: entries tell the network, the table or the user what they can't."""

import json
import logging

import cv2
import jax
import numpy as np
import pytest
from convert import originals
from numpy.testing import assert_allclose, assert_array_equal

from jaxpose.cli import predict
from jaxpose.convert.conversion import convert
from jaxpose.data.build import person_crop
from jaxpose.errors import CheckpointError, ConfigError
from jaxpose.inference.predictor import Predictor
from jaxpose.runs.reader import load_for_inference
from jaxpose.zoo import table
from jaxpose.zoo.opening import open_file
from jaxpose.zoo.recognition import recognize, shapes_of

WIDTH, JOINTS = 4, 17


def pose_resnet(joints=JOINTS, features=8):
    """Entries of a small SimpleBaselines network as its authors name them."""
    shapes = originals.resnet(WIDTH)
    inputs = 8 * WIDTH
    for i in range(3):
        shapes[f"deconv_layers.{3 * i}.weight"] = (inputs, features, 4, 4)
        shapes |= originals.norm(f"deconv_layers.{3 * i + 1}", features, True)
        inputs = features
    shapes |= {"final_layer.weight": (joints, features, 1, 1), "final_layer.bias": (joints,)}
    entries = originals.fill(shapes)
    return {name: abs(value) if name.endswith("running_var") else value for name, value in entries.items()}


def as_mmpose(entries, head="head."):
    parts = ("deconv_layers", "final_layer")
    return {(head if name.startswith(parts) else "backbone.") + name: value for name, value in entries.items()}


STYLES = {
    "authors": lambda entries: entries,
    "mmpose 1.x": as_mmpose,
    "mmpose 0.x": lambda entries: as_mmpose(entries, "keypoint_head."),
}


def write(path, entries):
    np.savez(path, **entries)
    return path


@pytest.mark.parametrize("style", STYLES)
def test_each_style_opens_as_the_same_network(style, tmp_path):
    entries = pose_resnet()
    config, method, variables = open_file(write(tmp_path / "weights.npz", STYLES[style](entries)))
    assert config.method.name == "heatmap"
    assert (method.backbone, method.backbone_width, method.backbone_stages) == ("resnet18", WIDTH, (1, 1, 1, 1))
    assert (method.deconv_layers, method.deconv_features, method.joints.num_joints) == (3, 8, JOINTS)
    assert method.channels == ("bgr" if style == "authors" else "rgb")
    assert method.decoding == ("quarter" if style == "authors" else "mmpose")
    for mine, other in zip(*map(jax.tree.leaves, (variables, convert(entries, method))), strict=True):
        assert_array_equal(mine, other)


def test_the_table_tells_what_entries_cannot(tmp_path):
    """By the publisher's name of the file: UDP's crops and decoding."""
    name = "td-hm_res50_udp-8xb64-210e_coco-256x192-00000000_20220101.pth"
    path = write(tmp_path / "weights.npz", as_mmpose(pose_resnet())).rename(tmp_path / name)
    torch = pytest.importorskip("torch", reason="PyTorch writes the file")
    torch.save({"meta": {}, "state_dict": {k: torch.tensor(v) for k, v in as_mmpose(pose_resnet()).items()}}, path)
    config, method, _ = open_file(path)
    assert (method.decoding, method.flip_shift, config.data.unbiased) == ("udp", False, True)


def test_the_user_tells_what_entries_cannot(tmp_path):
    path = write(tmp_path / "weights.npz", pose_resnet(16))
    config, method, _ = open_file(path)
    assert (method.skeleton, config.data.source, method.input_size) == ("mpii", "mpii", (256, 256))
    path = write(tmp_path / "weights.npz", originals.fill(hrnet_shapes()))
    _, method, _ = open_file(path, like="heatmap:coco_w32_384")
    assert method.input_size == (288, 384)


def hrnet_shapes():
    shapes = originals.hrnet(32, 1)
    return shapes | {"final_layer.weight": (17, 32, 1, 1), "final_layer.bias": (17,)}


def test_what_was_taken_from_where_is_in_the_log(tmp_path, caplog):
    caplog.set_level(logging.INFO, "jaxpose")
    open_file(write(tmp_path / "weights.npz", as_mmpose(pose_resnet())))
    assert "heatmap, backbone 'resnet18'" in caplog.text
    assert "all else is that of heatmap:coco, by assumption (--as says otherwise)" in caplog.text


def test_a_config_of_another_network(tmp_path, caplog):
    """The entries count, and the log says so; another method is refused."""
    path = write(tmp_path / "weights.npz", pose_resnet())
    assert open_file(path, like="heatmap:coco")[1].backbone == "resnet18"
    assert "its entries are of backbone='resnet18'" in caplog.text
    assert "which counts; heatmap:coco has backbone='resnet50'" in caplog.text
    with pytest.raises(ConfigError, match="is of heatmap, but vitpose:coco is a config of vitpose"):
        open_file(path, like="vitpose:coco")


def test_an_unknown_network_is_described(tmp_path):
    entries = {"encoder.0.weight": np.zeros((2, 2)), "encoder.0.bias": np.zeros(2), "decoder.weight": np.zeros((2, 2))}
    with pytest.raises(CheckpointError) as caught:
        open_file(write(tmp_path / "other.npz", entries))
    assert "no network that jaxpose knows. Its 3 entries begin with encoder (2), decoder (1)" in str(caught.value)


def test_joints_that_no_skeleton_has(tmp_path):
    with pytest.raises(CheckpointError, match="its 5 joints are no known skeleton"):
        open_file(write(tmp_path / "weights.npz", pose_resnet(5)))


def test_entries_of_a_classifier_are_no_pose_network():
    with pytest.raises(CheckpointError, match="no network that jaxpose knows"):
        recognize(shapes_of(originals.fill(originals.resnet(WIDTH, classes=10))), "resnet.pth")


# --- used like a run ---


@pytest.fixture
def photo(tmp_path):
    path = tmp_path / "photo.png"
    cv2.imwrite(str(path), np.random.default_rng(0).integers(0, 256, (120, 90, 3), np.uint8))
    return path


def poses_of(file, photo, output, *flags):
    assert predict.main([str(file), str(photo), "--output", str(output), *flags]) == 0
    return json.loads((output / "poses.json").read_text())


def test_predict_takes_a_file(tmp_path, photo):
    """mmpose's names, no config: the poses that the network gives, in the pixels of the photograph."""
    file = write(tmp_path / "weights.npz", as_mmpose(pose_resnet()))
    (found,) = poses_of(file, photo, tmp_path / "found")
    config, method, variables = open_file(file)
    predictor = Predictor(method, variables, crop=person_crop(config.data, method))
    (people,) = predictor([cv2.imread(str(photo))[..., ::-1]])
    assert_allclose(found["keypoints"], people.to_coco()[0]["keypoints"], rtol=0, atol=0.02)
    assert len(found["keypoints"]) == 3 * JOINTS


def test_predict_takes_a_name_of_the_zoo(tmp_path, photo, monkeypatch):
    monkeypatch.setenv("JAXPOSE_WEIGHTS", str(tmp_path))
    with pytest.raises(CheckpointError, match="download a file like pose_resnet_50_256x192.pth"):
        load_for_inference("resnet50-coco-authors")
    write(tmp_path / "weights.npz", pose_resnet()).rename(tmp_path / "hourglass.npz")
    row = table.Weights("mine", "hourglass.npz", "https://example.org", "MIT", "A paper", "heatmap:coco")
    monkeypatch.setattr(table, "rows", lambda: (row,))
    (found,) = poses_of("mine", photo, tmp_path / "found")
    assert len(found["keypoints"]) == 3 * JOINTS


def test_predict_is_told_what_entries_cannot(tmp_path, photo):
    """By a config, and field by field."""
    file = write(tmp_path / "weights.npz", as_mmpose(pose_resnet()))
    usual = poses_of(file, photo, tmp_path / "usual")
    for number, flag in enumerate(["--as=heatmap:coco", "--config.method.decoding=dark"]):
        other = poses_of(file, photo, tmp_path / f"other{number}", flag)
        assert other[0]["keypoints"] != usual[0]["keypoints"]


def test_what_goes_with_runs_alone_is_refused(tmp_path, photo, capsys):
    file = write(tmp_path / "weights.npz", pose_resnet())
    (tmp_path / "run").mkdir()
    for source, flag, message in (
        (file, "--step=3", "is a file of weights, which has no steps"),
        (tmp_path / "run", "--as=heatmap:coco", "is a run, which knows its config"),
        (file, "--config.method.deconv_features=4", "another network"),
    ):
        assert predict.main([str(source), str(photo), "--output", str(tmp_path / "found"), flag]) != 0
        assert message in capsys.readouterr().err
