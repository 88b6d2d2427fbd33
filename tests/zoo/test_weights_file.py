"""One file in place of a run's folder: what it holds, where it can be used, and what is refused."""

import contextlib
import json
import logging
import random

import cv2
import jax
import numpy as np
import pytest
import tiny
from convert import originals
from faults.fuzz import as_json, odd_content
from numpy.testing import assert_allclose, assert_array_equal

import jaxpose
from jaxpose import main, skeleton
from jaxpose.cli import evaluate, export_weights, predict
from jaxpose.convert import files, save_variables
from jaxpose.errors import CheckpointError, ConfigError
from jaxpose.inference import lifter, predictor
from jaxpose.methods.anatomy3d import tiny as anatomy3d_tiny
from jaxpose.methods.heatmap import tiny as heatmap_tiny
from jaxpose.runs.reader import load_for_inference, open_network
from jaxpose.training.pretrained import load_pretrained
from jaxpose.training.train_step import Trainer
from jaxpose.zoo import table, weights_file
from jaxpose.zoo.weights_file import About

FLOAT16_STEP = 2**-11
"""Largest relative error of a number in float16."""


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of one step on drawn people, with scores."""
    config = tiny.config(tiny.write_coco(tmp_path_factory.mktemp("coco")), "heatmap")
    config.train.update({"steps": 1, "checkpoint_every": 1})
    config.evaluate.every = 1
    workdir = tmp_path_factory.mktemp("runs") / "tiny"
    jaxpose.train(config, workdir)
    return workdir


@pytest.fixture(scope="module")
def exported(run):
    file = run.parent / "tiny.safetensors"
    assert export_weights.main([str(run), str(file)]) == 0
    return file


def equal(ours, theirs):
    for mine, other in zip(*map(jax.tree.leaves, (ours, theirs)), strict=True):
        assert_array_equal(mine, other)


# --- what it holds ---


def test_all_of_the_run(run, exported):
    config, method, variables = load_for_inference(run)
    content = weights_file.read(exported)
    assert content.method == method
    equal(content.variables, variables)
    ours, theirs = (each.to_dict() for each in (content.config, config))
    for fields in (ours, theirs):
        fields["data"] |= {"dir": ""}
    assert json.dumps(ours) == json.dumps(theirs)
    assert content.config.data.dir == ""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    last = next(line for line in lines if line["split"] == "validation")
    numbers = {name: value for name, value in last.items() if name not in ("step", "split")}
    assert content.about == About("coco", 1, numbers, "tiny", jaxpose.__version__)
    assert content.about.scores


def test_writing_twice_gives_the_same_bytes(run, exported, tmp_path):
    assert export_weights.main([str(run), str(tmp_path / "again.safetensors")]) == 0
    assert (tmp_path / "again.safetensors").read_bytes() == exported.read_bytes()


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_the_size(run, exported, tmp_path, dtype):
    file = tmp_path / "half.safetensors"
    assert export_weights.main([str(run), str(file), f"--dtype={dtype}"]) == 0
    params, statistics = (sum(x.nbytes for x in jax.tree.leaves(load_for_inference(run)[2][c])) for c in
                          ("params", "batch_stats"))  # fmt: skip
    assert exported.stat().st_size - file.stat().st_size == pytest.approx(params / 2, rel=0.02)
    half, whole = load_for_inference(file)[2], load_for_inference(run)[2]
    assert statistics > 0
    equal(half["batch_stats"], whole["batch_stats"])
    for mine, other in zip(*map(jax.tree.leaves, (half["params"], whole["params"])), strict=True):
        assert mine.dtype == np.float32
        assert_allclose(mine, other, rtol=FLOAT16_STEP if dtype == "float16" else 2**-8, atol=1e-7)


def test_a_parameter_beyond_float16(run, tmp_path):
    config, _, variables = load_for_inference(run)
    variables = jax.tree.map(lambda leaf: np.full(leaf.shape, 1e5, np.float32), variables)
    with pytest.raises(CheckpointError, match=r"params\[.*holds a number that float16 cannot hold"):
        weights_file.write(tmp_path / "half.safetensors", config, variables, About(), "float16")
    assert not (tmp_path / "half.safetensors").exists()


# --- interchangeable with the run's folder ---


def people(source, **options):
    image = np.random.default_rng(0).integers(0, 256, (90, 70, 3), np.uint8)
    return jaxpose.load(source, batch_size=8, **options)([image])[0]


def test_load(run, exported):
    ours, theirs = people(exported), people(run)
    assert_array_equal(ours.keypoints, theirs.keypoints)
    assert_array_equal(ours.scores, theirs.scores)
    flipped = {"method.flip_test": False}
    assert_array_equal(people(exported, changes=flipped).keypoints, people(run, changes=flipped).keypoints)


def test_predict(run, exported, tmp_path):
    cv2.imwrite(str(tmp_path / "a.png"), np.random.default_rng(0).integers(0, 256, (90, 70, 3), np.uint8))
    for name, source in (("ours", exported), ("theirs", run)):
        assert predict.main([str(source), str(tmp_path / "a.png"), f"--output={tmp_path / name}"]) == 0
    ours, theirs = ((tmp_path / name / "poses.json").read_text() for name in ("ours", "theirs"))
    assert ours == theirs


def test_evaluate(run, exported, tmp_path):
    folder = load_for_inference(run)[0].data.dir
    assert evaluate.main([str(exported), f"--config.data.dir={folder}", f"--workdir={tmp_path / 'new'}"]) == 0
    assert evaluate.main([str(run)]) == 0
    ours, theirs = (json.loads((at / "evaluation" / "scores.json").read_text()) for at in (tmp_path / "new", run))
    assert ours == theirs
    assert not (exported.parent / "evaluation").exists()


def test_evaluate_puts_the_results_of_a_file_into_runs(run, exported, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    main.evaluate_weights(str(exported), None, {"data.dir": load_for_inference(run)[0].data.dir})
    assert (tmp_path / "runs" / "tiny" / "evaluation" / "scores.json").is_file()


@pytest.mark.parametrize("flags", [[], ["weights.pth", "--config=heatmap"]])
def test_evaluate_wants_one_of_both(flags, capsys):
    assert evaluate.main(flags) == 2
    assert "give either WEIGHTS" in capsys.readouterr().err


def test_training_starts_from_it(run, exported):
    config = load_for_inference(run)[0]
    config.init_from = str(exported)
    state = Trainer.create(config, jax.devices()[:1]).init()
    equal(state.inference_variables, load_for_inference(run)[2])


def test_it_is_exported_again(exported, tmp_path):
    assert export_weights.main([str(exported), str(tmp_path / "copy.safetensors")]) == 0
    assert (tmp_path / "copy.safetensors").read_bytes() == exported.read_bytes()


def test_it_is_not_written_over(exported, capsys):
    before = exported.read_bytes()
    assert export_weights.main([str(exported), str(exported)]) == 2
    assert "is the file to read" in capsys.readouterr().err
    assert exported.read_bytes() == before


def test_a_name_whose_file_is_not_here(exported, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("JAXPOSE_WEIGHTS", str(tmp_path))
    before = exported.read_bytes()
    assert export_weights.main(["hrnet-w32-coco", str(exported)]) == 1
    assert "hrnet-w32-coco: cannot be downloaded: JAXPOSE_OFFLINE is set" in capsys.readouterr().err
    assert exported.read_bytes() == before


def test_sequences_are_lifted(tmp_path):
    config = jaxpose.load_config("anatomy3d")
    config.method.update(anatomy3d_tiny.FIELDS["anatomy3d"])
    method = jaxpose.methods.create(config.method)
    weights_file.write(tmp_path / "a.safetensors", config, method.init(jax.random.key(0)), About())
    keypoints = np.random.default_rng(0).uniform(0, 1, (20, 17, 3))
    ours = lifter.load(tmp_path / "a.safetensors")(keypoints, size=(640, 480))
    theirs = lifter.Lifter(config, method, method.init(jax.random.key(0)))(keypoints, size=(640, 480))
    assert_array_equal(ours.joints, theirs.joints)


# --- released files, too, start a training ---


def write(path, entries):
    np.savez(path, **entries)
    return path


def test_training_starts_from_an_original_file(tmp_path):
    """Of a whole network, in whatever names; or of a network that finds no poses, for the backbone."""
    config = jaxpose.load_config("heatmap")
    fields = {"backbone": "resnet18", "backbone_width": 4, "backbone_stages": (1, 1, 1, 1), "deconv_features": 8}
    config.method.update(heatmap_tiny.FIELDS["heatmap"] | fields | {"skeleton": "coco"})
    method = jaxpose.methods.create(config.method)
    template = jax.eval_shape(method.init, jax.random.key(0))
    entries = originals.fill(originals.resnet(4, classes=10))
    loaded = load_pretrained(str(write(tmp_path / "classifier.npz", entries)), method)
    assert set(loaded["params"]) == {"backbone"}
    assert_array_equal(loaded["params"]["backbone"]["conv1"]["kernel"], entries["conv1.weight"].transpose(2, 3, 1, 0))
    shapes = {k: v.shape for k, v in entries.items() if not k.startswith("fc.")}
    features, inputs = 8, 32
    for i in range(method.deconv_layers):
        shapes[f"deconv_layers.{3 * i}.weight"] = (inputs, features, 4, 4)
        shapes |= originals.norm(f"deconv_layers.{3 * i + 1}", features, True)
        inputs = features
    shapes |= {"final_layer.weight": (17, features, 1, 1), "final_layer.bias": (17,)}
    loaded = load_pretrained(str(write(tmp_path / "pose.npz", originals.fill(shapes))), method)
    assert jax.tree.structure(loaded) == jax.tree.structure(template)


def test_training_starts_from_nothing_that_is_no_network(tmp_path):
    method = jaxpose.methods.create(jaxpose.load_config("heatmap").method)
    path = write(tmp_path / "other.npz", {"encoder.weight": np.zeros((2, 2))})
    with pytest.raises(CheckpointError, match=r"(?s)no network that jaxpose knows.*as its backbone: "):
        load_pretrained(str(path), method)
    with pytest.raises(CheckpointError, match="nowhere.npz: there is no such run or file"):
        load_pretrained("nowhere.npz", method)


# --- what is refused ---


def test_a_step_or_a_config_of_a_file(exported):
    with pytest.raises(ConfigError, match="has no steps"):
        open_network(exported, step=1)
    with pytest.raises(ConfigError, match="knows its config"):
        open_network(exported, like="heatmap:coco")


def test_another_ending(run, capsys, tmp_path):
    assert export_weights.main([str(run), str(tmp_path / "weights.npz")]) == 2
    assert "weights.npz must end in .safetensors" in capsys.readouterr().err


def test_a_changed_byte(exported, tmp_path):
    data = bytearray(exported.read_bytes())
    places = np.random.default_rng(0).integers(8, len(data), 40)
    for place in places:
        changed = bytearray(data)
        changed[place] ^= 1 << int(place) % 8
        (tmp_path / "changed.safetensors").write_bytes(changed)
        with pytest.raises(CheckpointError, match="changed.safetensors"):
            open_network(tmp_path / "changed.safetensors")


def rewritten(exported, path, change):
    """The file with other metadata, and a digest that fits."""
    arrays, texts = files.load_with_metadata(exported)
    metadata = json.loads(texts["jaxpose"])
    change(metadata)
    save_variables(path, files.nested(arrays, path), {"jaxpose": json.dumps(metadata)})
    return path


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m.update(format=2), "was written by jaxpose .*, which is older"),
        (lambda m: m.pop("config"), "cannot be used: 'config'"),
        (lambda m: m["config"]["method"].update(name="poser"), "config.method.name is 'poser'"),
        (lambda m: m["config"]["method"].update(deconv_features=16), "arrays don't fit its config"),
        (lambda m: m["skeleton"].update(joints=[f"joint{i}" for i in range(17)], limbs=[], upper_body=[]),
         "here another one is called so"),
        (lambda m: m.update(about={"age": 3}), "cannot be used"),
        (lambda m: m.update(about=3), "cannot be used"),
        (lambda m: m.update(skeleton=[]), "cannot be used"),
        (lambda m: m.update(config=[1]), "cannot be used"),
        (lambda m: m.update(format="new"), "cannot be used"),
    ],
)  # fmt: skip
def test_parts_that_make_no_sense(exported, tmp_path, change, message):
    path = rewritten(exported, tmp_path / "odd.safetensors", change)
    with pytest.raises(CheckpointError, match=message):
        weights_file.read(path)


@pytest.mark.parametrize("seed", range(40))
def test_odd_metadata_is_named(exported, tmp_path, seed):
    """Whatever stands in a file whose digest fits: it opens, or a message says why not."""
    arrays, texts = files.load_with_metadata(exported)
    odd = as_json(odd_content(json.loads(texts["jaxpose"]), random.Random(seed))).decode("utf-8", "replace")
    path = tmp_path / "odd.safetensors"
    save_variables(path, files.nested(arrays, path), {"jaxpose": odd})
    with contextlib.suppress(CheckpointError):
        assert weights_file.read(path)


def test_a_skeleton_that_is_new_here(exported, tmp_path):
    def rename(metadata):
        metadata["skeleton"] |= {"name": "robot", "joints": [*metadata["skeleton"]["joints"]]}
        metadata["config"]["method"]["skeleton"] = metadata["config"]["data"]["skeleton"] = "robot"

    content = weights_file.read(rewritten(exported, tmp_path / "robot.safetensors", rename))
    assert content.method.joints == skeleton.get("robot")
    assert content.method.joints.limbs == skeleton.COCO.limbs


def test_other_files_are_none_of_ours(tmp_path, run):
    save_variables(tmp_path / "plain.safetensors", load_for_inference(run)[2])
    assert weights_file.read(tmp_path / "plain.safetensors") is None
    assert weights_file.read(tmp_path / "weights.pth") is None


def test_a_zoo_name_is_a_source(run, tmp_path, monkeypatch, exported):
    """Found in the folder for weights; with the digest of the table."""
    row = table.Weights("tiny-pose", "tiny.safetensors", "-", "-", "-", "heatmap")
    monkeypatch.setattr(table, "rows", lambda: (row,))
    monkeypatch.setenv("JAXPOSE_WEIGHTS", str(exported.parent))
    equal(open_network("tiny-pose").variables, load_for_inference(run)[2])


def test_what_was_learned_on_marionettes_says_so(run, tmp_path, caplog):
    """Once, wherever such weights look at pictures."""
    predictor._warn_of_drawn_people.cache_clear()
    content = open_network(run)
    weights_file.write(tmp_path / "a.safetensors", content.config, content.variables, About("marionettes"))
    jaxpose.load(run)
    assert "marionettes" not in caplog.text
    with caplog.at_level(logging.WARNING, "jaxpose"):
        for _ in range(2):
            jaxpose.load(tmp_path / "a.safetensors")
    assert caplog.text.count("learned from marionettes") == 1
