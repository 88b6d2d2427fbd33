"""Config files: every variant that a file's header lists can be built, and its parts fit each other."""

import dataclasses
import importlib
import json
import pathlib
import re

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from jaxpose import methods, optim, skeleton
from jaxpose.config import base
from jaxpose.data.proposals import RULES
from jaxpose.data.sources import SOURCES
from jaxpose.data.streams import stream_data
from jaxpose.data.transforms import Augmentation, CanvasAugmentation
from jaxpose.metrics import coco
from jaxpose.metrics.keypoint_pck import KeypointPck
from jaxpose.metrics.suppression import Suppression

FILES = sorted(path.stem for path in (pathlib.Path(__file__).parents[1] / "configs").glob("[a-z]*.py"))


def get_config(name: str, variant: str) -> ConfigDict:
    return importlib.import_module(f"configs.{name}").get_config(variant)


def listed(name: str) -> list[str]:
    """First column of the table of variants in a file's header, in order."""
    header = importlib.import_module(f"configs.{name}").__doc__
    (table,) = re.findall(r"^Variant .*\n((?:.+\n)+)", header, re.MULTILINE)
    first = re.findall(r"^(\(none\)|\w+)  ", table, re.MULTILINE)
    return ["" if variant == "(none)" else variant for variant in first]


CONFIGS = [pytest.param(name, variant, id=f"{name}:{variant}") for name in FILES for variant in listed(name)]


def test_files_are_found():
    assert {"prtr", "heatmap", "dsnt", "rmpe"} <= set(FILES)


@pytest.mark.parametrize("name", FILES)
def test_the_header_lists_the_variants(name):
    """Those, and no others, are the ones that an unknown variant is answered with."""
    with pytest.raises(ValueError, match=r"no variant 'nothing'; there are ") as error:
        get_config(name, "nothing")
    known = str(error.value).partition("; there are ")[2].split(", ")
    variants = listed(name)
    assert sorted(known) == sorted(v for v in variants if v)
    assert variants[0] == ""
    assert len(set(variants)) == len(variants)


@pytest.mark.parametrize(("name", "variant"), CONFIGS)
class TestVariant:
    def test_it_has_a_name_of_its_own_and_no_other_fields(self, name, variant):
        config = get_config(name, variant)
        assert config.name == (f"{name}_{variant}" if variant else name)
        assert set(config) == {*base("any"), "method"}
        for section in ("data", "optim", "train", "evaluate", "sharding"):
            assert set(config[section]) == set(base("any")[section])
        assert json.loads(json.dumps(config.to_dict()))["method"]["name"] == name

    def test_its_method_takes_batches_of_its_own_shape(self, name, variant):
        config = get_config(name, variant)
        method = methods.create(config.method)
        size, joints = config.train.batch_size, skeleton.get(config.data.skeleton).num_joints
        people = {"person": (), "image": (config.method.get("max_people", 30),)}[method.sees]
        side = config.method.input_size
        width, height = side if method.sees == "person" else (side, side)
        spec = method.spec(size)
        assert method.skeleton == config.data.skeleton
        assert set(config.data.streams) <= set(spec)
        for stream in spec.values():
            assert stream["image"].shape == (size, height, width, 3)
            assert stream["image"].dtype == np.uint8
            assert stream["keypoints"].shape == (size, *people, joints, 2)
            assert {leaf.shape[0] for leaf in stream.values()} == {size}

    def test_targets_fit_the_spec(self, name, variant):
        """Traced, not compiled: what the device makes of a batch keeps its size."""
        method = methods.create(get_config(name, variant).method)
        prepared = jax.eval_shape(lambda b, k: method.targets(b, k, train=True), method.spec(4), jax.random.key(0))
        for stream in prepared.values():
            assert {leaf.shape[0] for leaf in jax.tree.leaves(stream)} == {4}
            assert stream["image"].dtype == np.float32

    def test_optimizer_has_the_groups_of_every_phase(self, name, variant):
        config = get_config(name, variant)
        optim.create(config.optim, config.train.steps)
        groups = {group["name"] for group in config.optim.groups}
        for phase in methods.create(config.method).phases():
            assert set(phase.updates) <= groups

    def test_metrics_and_suppression_exist(self, name, variant):
        config = get_config(name, variant)
        Suppression.create(config.evaluate, skeleton.get(config.method.skeleton).num_joints)
        numbers = []
        for metric in config.evaluate.metrics:
            pck = (
                None
                if metric in ("coco", "crowdpose")
                else KeypointPck.create(metric, skeleton.get(config.method.skeleton))
            )
            numbers += [f"{pck.name}@{t:g}" for t in pck.thresholds] if pck else coco.NUMBERS
            assert pck is None or not config.data.validation.boxes
        assert config.evaluate.best in numbers

    def test_data_settings_exist(self, name, variant):
        config = get_config(name, variant)
        assert config.data.source in SOURCES
        for stream in methods.create(config.method).spec(1):
            data = stream_data(config.data, stream)
            assert set(data.augmentation) == {field.name for field in dataclasses.fields(Augmentation)}
            assert set(data.canvas) == {field.name for field in dataclasses.fields(CanvasAugmentation)}
            assert data.proposals.rule in ("", *RULES)

    def test_schedule_fits_the_training(self, name, variant):
        config = get_config(name, variant)
        steps, schedule = config.train.steps, config.optim.schedule
        rate = optim.create(config.optim, steps).learning_rate
        assert 0 < config.train.checkpoint_every <= steps
        assert 0 < config.evaluate.every <= steps
        if schedule.name == "step":
            assert sorted(schedule.boundaries) == list(schedule.boundaries)
            assert schedule.boundaries[0] > 0
            assert schedule.boundaries[-1] < steps
        assert 0 <= float(rate(steps - 1)) <= float(config.optim.learning_rate)
