"""The page of a network on the hub: front matter that is YAML, and what people have to know."""

import dataclasses
import types

import jax
import pytest
import test_docs
import yaml

import jaxpose
from jaxpose import cli, skeleton
from jaxpose.cli import command
from jaxpose.methods.anatomy3d import tiny as anatomy3d_tiny
from jaxpose.methods.heatmap import tiny as heatmap_tiny
from jaxpose.methods.higherhrnet import tiny as higherhrnet_tiny
from jaxpose.zoo.model_card import model_card
from jaxpose.zoo.weights_file import About, Content

ABOUT = About("coco", 210_000, {"AP": 0.74412, "AP50": 0.9}, "pose", "0.2.0")
TINY = {"heatmap": heatmap_tiny, "higherhrnet": higherhrnet_tiny, "anatomy3d": anatomy3d_tiny}


def content(about=ABOUT, name="heatmap"):
    config = jaxpose.load_config(name)
    config.method.update(TINY[name].FIELDS[name])
    method = jaxpose.methods.create(config.method)
    return Content(config, method, jax.eval_shape(method.init, jax.random.key(0)), about)


def front_matter(card):
    empty, front, _ = card.split("---\n", 2)
    assert empty == ""
    return yaml.safe_load(front)


def test_front_matter():
    assert front_matter(model_card(content(), "lab/pose", "apache-2.0")) == {
        "library_name": "jaxpose",
        "pipeline_tag": "keypoint-detection",
        "tags": ["jaxpose", "jax", "human-pose-estimation", "heatmap"],
        "license": "apache-2.0",
        "datasets": ["coco"],
    }


@pytest.mark.parametrize("data", ["", "mylab.poses.Ours", "marionettes"])
def test_front_matter_without_licence_and_data_that_others_know(data):
    found = front_matter(model_card(content(About(data)), "lab/pose"))
    assert set(found) == {"library_name", "pipeline_tag", "tags"}


@pytest.mark.parametrize("text", ['mine: "yes"', "a\nb: c", "größer 😀", "- #"])
def test_front_matter_holds_any_text(text):
    assert front_matter(model_card(content(), "lab/pose", text))["license"] == text


def test_text():
    card = model_card(content(), "lab/pose")
    assert "\n# pose\n" in card
    assert "| Method | `heatmap` |" in card
    assert "| Input | crop of a person, 32 × 32 pixels (width × height) |" in card
    assert "| Skeleton | `mpii`, 16 joints: right_ankle, " in card
    assert "| Learned from | coco, 210,000 steps |" in card
    assert "| Written by | jaxpose 0.2.0 |" in card
    assert "Measured by its author on their validation data." in card
    assert "| AP | 0.7441 |\n| AP50 | 0.9 |" in card
    assert "marionettes" not in card


def test_parameters_are_counted():
    sizes = [leaf.size for leaf in jax.tree.leaves(content().variables["params"])]
    assert f"| Parameters | {sum(sizes) / 1e6:.2f} million |" in model_card(content(), "lab/pose")


def test_what_learned_from_drawn_people_says_so():
    card = model_card(content(About("marionettes", 300)), "lab/pose")
    assert "marionettes, which are drawn people, and **is not for photographs**" in card
    assert "photo.jpg" not in card


def test_detectors_find_boxes():
    method = types.SimpleNamespace(finds_poses=False, takes_boxes=False, input_kind="whole image", joints=skeleton.COCO)
    card = model_card(dataclasses.replace(content(), method=method), "lab/boxes")
    assert "A network that finds boxes of people" in card
    assert "Skeleton" not in card


def test_without_scores():
    card = model_card(content(About()), "lab/pose")
    assert "The file holds none." in card
    assert "Measured" not in card
    assert "Learned from" not in card


@pytest.mark.parametrize("name", list(TINY))
def test_its_commands_exist(name, monkeypatch):
    monkeypatch.setattr(command, "run", lambda parser, work, arguments=None, informs="": parser.read(arguments) and 0)
    text = model_card(content(name=name), "lab/pose")
    words = test_docs.command_lines(text)
    assert [line[1] for line in words] == ["lift" if name == "anatomy3d" else "predict", "evaluate"]
    assert all(cli.main(line[1:]) == 0 and line[2] == "hf://lab/pose" for line in words)
    assert "--config.init_from=hf://lab/pose" in text


@pytest.mark.parametrize(
    ("name", "words"),
    [("higherhrnet", "| Input | whole image, its short side "), ("anatomy3d", "| Input | sequence of 2D joints, ")],
)
def test_what_the_network_looks_at(name, words):
    assert words in model_card(content(name=name), "lab/pose")
