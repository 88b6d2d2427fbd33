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

from jaxpose import methods, sharding, skeleton
from jaxpose.config import base, find, names
from jaxpose.data.build import stream_data
from jaxpose.data.proposals import RULES
from jaxpose.data.sources import opener
from jaxpose.data.views import Augmentation, CanvasAugmentation, DetectionAugmentation
from jaxpose.errors import ConfigError
from jaxpose.evaluation.evaluator import Evaluator
from jaxpose.evaluation.keypoint_pck import KeypointPck
from jaxpose.evaluation.metrics import boxes, coco, mpjpe, posetrack
from jaxpose.methods.bottom_up import ImageInput
from jaxpose.methods.lifting import SequenceInput
from jaxpose.methods.top_down import ClipInput
from jaxpose.training import optim, stages

FILES = sorted(path.stem for path in (pathlib.Path(__file__).parents[1] / "configs").glob("[a-z]*.py"))


def get_config(name: str, variant: str) -> ConfigDict:
    """Of a variant, or of one stage of it: "VARIANT/STAGE"."""
    variant, _, stage = variant.partition("/")
    config = importlib.import_module(f"configs.{name}").get_config(variant)
    return stages.pick(config, stage) if stage else config


def listed(name: str) -> list[str]:
    """First column of the table of variants in a file's header, in order."""
    header = importlib.import_module(f"configs.{name}").__doc__
    (table,) = re.findall(r"^Variant .*\n((?:.+\n)+)", header, re.MULTILINE)
    first = re.findall(r"^(\(none\)|\w+)  ", table, re.MULTILINE)
    return ["" if variant == "(none)" else variant for variant in first]


METHODS = {
    **dict.fromkeys(("detector", "detector_coco", "sequential", "sequential/detector"), "detr"),
    **dict.fromkeys(("sequential/joint", "sequential_coco"), "sequential_prtr"),
}
"""Methods of variants, or stages, whose name is not that of their file."""
NAMES = [(name, variant) for name in FILES for variant in listed(name)]
STAGES = [(n, f"{v}/{stage['name']}") for n, v in NAMES for stage in get_config(n, v).stages]
CONFIGS = [pytest.param(*names, id=":".join(names)) for names in NAMES + STAGES]


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
        config, expected = get_config(name, variant), METHODS.get(variant, name)
        variant, _, stage = variant.partition("/")
        assert config.name == (f"{name}_{variant}" if variant else name)
        assert not (stage and config.stages)
        assert set(config) == {*base("any"), "method"}
        for section in ("data", "optim", "train", "evaluate", "sharding"):
            assert set(config[section]) == set(base("any")[section])
        assert json.loads(json.dumps(config.to_dict()))["method"]["name"] == expected

    def test_its_method_takes_batches_of_its_own_shape(self, name, variant):
        config = get_config(name, variant)
        method = methods.create(config.method)
        size, joints = config.train.batch_size, skeleton.get(config.data.skeleton).num_joints
        assert method.skeleton == config.data.skeleton
        if isinstance(method, SequenceInput):
            windows = (size, method.receptive_field, joints, 3)
            assert {method.spec(size)["source"][field].shape for field in ("window", "joints_3d")} == {windows}
            return
        people = (method.max_people,) if isinstance(method, ImageInput) else ()
        side = config.method.input_size
        width, height = (side, side) if isinstance(side, int) else side
        spec = method.spec(size)
        assert set(config.data.streams) <= set(spec)
        for label, stream in spec.items():
            frames = (3,) if isinstance(method, ClipInput) else ()
            assert stream["image"].shape == (size, *frames, height, width, 3)
            assert stream["image"].dtype == np.uint8
            if label == "target":
                assert not {"keypoints", "visible"} & set(stream)
            elif method.finds_poses:
                assert stream["keypoints"].shape == (size, *people, joints, 2)
            else:
                assert stream["boxes"].shape == (size, *people, 4)
            assert {leaf.shape[0] for leaf in stream.values()} == {size}

    def test_targets_fit_the_spec(self, name, variant):
        """Traced, not compiled: what the device makes of a batch keeps its size."""
        method = methods.create(get_config(name, variant).method)
        prepared = jax.eval_shape(lambda b, k: method.targets(b, k, train=True), method.spec(4), jax.random.key(0))
        for stream in prepared.values():
            assert {leaf.shape[0] for leaf in jax.tree.leaves(stream)} == {4}
            assert stream["image" if "image" in stream else "window"].dtype == np.float32

    def test_optimizer_has_the_groups_of_every_phase(self, name, variant):
        config = get_config(name, variant)
        optim.create(config.optim, config.train.steps)
        groups = {group["name"] for group in config.optim.groups}
        for phase in methods.create(config.method).phases():
            assert set(phase.updates) <= groups

    def test_metrics_and_suppression_exist(self, name, variant):
        config = get_config(name, variant)
        mesh = sharding.make_mesh(config.sharding, jax.devices()[: config.sharding.fsdp])
        evaluator = Evaluator(config, methods.create(config.method), mesh)
        known = {"coco": coco.NUMBERS, "crowdpose": coco.NUMBERS, "boxes": boxes.NUMBERS, "mpjpe": mpjpe.NUMBERS}
        known |= {"posetrack": ("mAP",), "groups": ("PCK@0.05",)}
        numbers = []
        for metric, kind in evaluator.metrics.items():
            made = kind(evaluator.context)
            if isinstance(made, KeypointPck):
                numbers += [f"{made.number}@{t:g}" for t in made.thresholds]
                continue
            numbers += known[metric]
            if metric == "posetrack":
                assert posetrack.is_complete(evaluator.method.joints.joints)
        assert config.evaluate.best in numbers

    def test_data_settings_exist(self, name, variant):
        config = get_config(name, variant)
        method = methods.create(config.method)
        opener(config.data.source, "open_sequences" if isinstance(method, SequenceInput) else "open_split")
        for stream in method.spec(1):
            data = stream_data(config.data, stream)
            assert set(data.augmentation) == {field.name for field in dataclasses.fields(Augmentation)}
            assert set(data.canvas) == {field.name for field in dataclasses.fields(CanvasAugmentation)}
            assert set(data.detection) == {field.name for field in dataclasses.fields(DetectionAugmentation)}
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


def owners(config: ConfigDict) -> dict[str, str]:
    """{path: group} of the parameters of a config's network, traced but not computed."""
    params = jax.eval_shape(methods.create(config.method).init, jax.random.key(0))["params"]
    return optim.create(config.optim, config.train.steps).assign(list(optim.flatten(params)))


GROUPED = [param for param in CONFIGS if len(get_config(*param.values).optim.groups) > 1]


@pytest.mark.parametrize(("name", "variant"), GROUPED)
def test_every_group_has_parameters_and_every_parameter_a_group(name, variant):
    config = get_config(name, variant)
    assert set(owners(config).values()) == {group["name"] for group in config.optim.groups}


LOOKS = re.compile(r"/offsets/|^reference_points/")


@pytest.mark.parametrize(
    "variant", ["coco", "deformable", "deformable_coco", "detector_coco", "sequential/joint", "sequential_coco"]
)
def test_groups_of_prtr_hold_what_they_are_named_for(variant):
    expected = {}
    for path in (owner := owners(get_config("prtr", variant))):
        if variant.endswith("coco") and re.match(r"backbone/(conv1/|layer1_\d/)", path):
            expected[path] = "frozen"
        elif LOOKS.search(path):
            expected[path] = "looks"
        elif variant.endswith("coco") and path.startswith("backbone/"):
            expected[path] = "backbone"
        elif variant.startswith("sequential") and path.startswith("detector/"):
            expected[path] = "detector"
        else:
            expected[path] = "transformer"
    assert owner == expected
    assert ("looks" in owner.values()) == ("deformable" in variant)
    assert {"input_projection", "project0_conv", "pose", "detector"} & {path.split("/")[0] for path in owner}


class TestFind:
    """Names in configs; "jaxpose.data.formats" stands for any package of the library."""

    PACKAGE = "jaxpose.data.formats"

    @pytest.fixture
    def mylab(self, tmp_path, monkeypatch):
        """A package outside the library."""
        name = f"mylab_{tmp_path.name}"  # modules stay imported, so that every test has its own
        folder = tmp_path / name
        folder.mkdir()
        (folder / "__init__.py").touch()
        (folder / "data.py").write_text("class Birds: pass\n")
        (folder / "broken.py").write_text("import a_library_that_nobody_has\n")
        monkeypatch.syspath_prepend(tmp_path)
        return name

    def find(self, name):
        return find(name, self.PACKAGE, "config.data.format")

    def test_public_modules_have_names(self):
        assert {"asf", "posetrack", "storage"} <= set(names(self.PACKAGE))
        assert names(self.PACKAGE) == sorted(n for n in names(self.PACKAGE) if not n.startswith("_"))

    def test_a_plain_name_is_a_module_of_the_package(self):
        assert self.find("asf") is importlib.import_module(f"{self.PACKAGE}.asf")

    def test_a_dotted_path_is_an_attribute_or_else_a_module(self, mylab):
        assert self.find(f"{mylab}.data.Birds").__name__ == "Birds"
        assert self.find(f"{mylab}.data") is importlib.import_module(f"{mylab}.data")

    @pytest.mark.parametrize(
        ("name", "message"),
        [
            ("posetrak", r"config\.data\.format is 'posetrak'; it can be asf, .*mylab\.formats\.Mine\. "
             r"Did you mean 'posetrack'\?"),
            ("xyzzy", r"is 'xyzzy'; it can be asf, .*Mine$"),
            ("", r"is ''; it can be asf"),
            ("../asf.py", r"is '\.\./asf\.py'; it can be asf"),
            ("nolab.data.Birds", r"is 'nolab\.data\.Birds', but Python finds no module 'nolab\.data'"),
            ("jaxpose.data.Birds", r"'jaxpose\.data' has no 'Birds'"),
        ],
    )  # fmt: skip
    def test_an_unknown_name_is_told(self, name, message):
        with pytest.raises(ConfigError, match=message):
            self.find(name)

    def test_errors_of_what_is_imported_are_not_hidden(self, mylab):
        with pytest.raises(ModuleNotFoundError, match="a_library_that_nobody_has"):
            self.find(f"{mylab}.broken.Birds")
