"""The papers' recipes against what their authors did: epochs of the data sets' true lengths, rates, views, batches.

Numbers here are written down once more, apart from those of the configs, each with where it comes from.
"""

import dataclasses
import importlib
import pathlib
import re

import pytest
from ml_collections import ConfigDict

from jaxpose.training import stages

FILES = sorted(path.stem for path in (pathlib.Path(__file__).parents[1] / "configs").glob("[a-z]*.py"))

LENGTHS = {
    "coco": 149_813,  # people of COCO train2017 after HRNet's selection (its log: "load 149813 samples")
    "coco_images": 118_287,  # of COCO train2017 (its web page)
    "coco_people_images": 64_115,  # of them with people: images in annotations of person_keypoints_train2017.json
    "crowdpose": 12_000,  # images, 10,000 of training and 2,000 of validation (Li et al., CVPR 2019)
    "mpii": 22_246,  # people in HRNet's annot/train.json; its valid.json has the other 2,958 of Newell's 25,204
    "h36m": 3_119_616,  # frames of S1, S5, S6, S7, S8 by four cameras and their mirror images (VideoPose3D's log)
    "posetrack17": 80_144,  # poses, as DCPose's paper counts those of training and validation
    "posetrack18": 153_615,
    "regda": 500 * 32,  # what RegDA's code calls an epoch, whatever the data set
    "rmpe2017": 8000 * 16,  # 8,000 steps, here of 16 people
}
"""Examples of an epoch by the data set that a recipe trains on."""

SIMPLE = {"scale": 0.3, "rotation": 40.0, "mirror": 0.5, "half_body": 0.0}
HRNET = {"scale": 0.35, "rotation": 45.0, "mirror": 0.5, "half_body": 0.3}
MPII = {"scale": 0.25, "rotation": 30.0, "mirror": 0.5, "half_body": 0.0}
VITPOSE = {"scale": 0.5, "rotation": 40.0, "mirror": 0.5, "half_body": 0.3}


@dataclasses.dataclass(frozen=True)
class Recipe:
    """What an author's training was.

    Attributes:
      data: data set, see `LENGTHS`.
      epochs: number of epochs.
      drops: epochs after which the rate changes.
      factors: factors of the changes, the last for all further ones.
      batch: number of examples of a step.
      rate: learning rate at first.
      views: random views; None for methods that see whole images or sequences.
    """

    data: str
    epochs: int
    drops: tuple[int, ...]
    factors: tuple[float, ...]
    batch: int
    rate: float
    views: dict | None = None


def _recipes() -> dict[tuple[str, str], Recipe]:
    found = {}

    def add(file: str, variants: str, *fields, **more) -> None:
        found.update({(file, variant): Recipe(*fields, **more) for variant in variants.split()})

    add("heatmap", "coco coco_r101 coco_r152 coco_r152_384", "coco", 140, (90, 120), (0.1,), 128, 1e-3, SIMPLE)
    add("heatmap", "coco_w32 coco_w32_384 coco_w48", "coco", 210, (170, 200), (0.1,), 128, 1e-3, HRNET)
    add("heatmap", "coco_w48_384", "coco", 210, (170, 200), (0.1,), 96, 1e-3, HRNET)
    add("heatmap", "mpii", "mpii", 140, (90, 120), (0.1,), 128, 1e-3, MPII)
    add("heatmap", "mpii_w32", "mpii", 210, (170, 200), (0.1,), 128, 1e-3, MPII)
    add("dsnt", "mpii mpii_r34", "mpii", 120, (60, 90), (0.1,), 32, 2.5e-4, MPII)
    add("dsnt", "mpii_hourglass", "mpii", 120, (60, 90), (0.1,), 16, 2.5e-4, MPII)  # the authors' 6 fit no pod
    add("dsnt", "coco_r50", "coco", 210, (170, 200), (0.1,), 512, 5e-4, VITPOSE)  # mmpose's config has the same views
    long = (270, (170, 200, 210, 230, 250), (0.1, 0.1, 100.0, 0.1, 0.1), 128, 1e-3, HRNET)
    add("rmpe", "coco coco_duc coco_dcn coco_r152 coco_w32", "coco", *long)
    short = (200, (90, 120, 140, 160, 190), (0.1, 0.1, 100.0, 0.1, 0.1), 128, 1e-3, SIMPLE)
    add("rmpe", "coco_simple", "coco", *short)  # as the log of the released simple_res50_256x192.pth says
    still = {"scale": 0.0, "rotation": 0.0, "mirror": 0.5, "half_body": 0.0}
    add("rmpe", "mpii_sppe", "rmpe2017", 30, (20,), (0.2,), 16, 2.5e-4, still)
    add("rmpe", "mpii", "rmpe2017", 30, (20,), (0.2,), 16, 5e-5, still)
    resnets = "coco coco_512 coco_r101 coco_r101_512"
    add("prtr", resnets, "coco", 200, (120, 140), (0.5,), 128, 1e-4, SIMPLE)
    add("prtr", "coco_w32 coco_w32_512", "coco", 200, (70, 95), (0.5,), 64, 1e-4, SIMPLE)
    add("prtr", "deformable_coco", "coco", 100, (50, 70), (0.5,), 64, 1e-4, SIMPLE)
    add("prtr", "detector_coco", "coco_images", 300, (200,), (0.1,), 64, 1e-4)
    add("prtr", "sequential_coco", "coco_images", 100, (60, 80), (0.5,), 32, 1e-4)  # ours, the authors gave none
    add("higherhrnet", "coco coco_w32_640 coco_w48", "coco_people_images", 300, (200, 260), (0.1,), 48, 1e-3)
    add("higherhrnet", "crowdpose crowdpose_w48", "crowdpose", 300, (200, 260), (0.1,), 48, 1e-3)
    add("dekr", "coco coco_w48", "coco_people_images", 140, (90, 120), (0.1,), 48, 1e-3)
    add("dekr", "crowdpose crowdpose_w48", "crowdpose", 300, (200, 260), (0.1,), 48, 1e-3)
    add("dcpose", "posetrack17", "posetrack17", 20, (5, 9, 13, 17), (0.1,), 64, 1e-3, HRNET)
    add("dcpose", "posetrack18", "posetrack18", 20, (5, 9, 13, 17), (0.99,), 64, 1e-4, HRNET)
    every = tuple(range(1, 60))
    add("anatomy3d", "h36m h36m_gt h36m_causal h36m_direct", "h36m", 60, every, (0.95,), 1024, 1e-3)
    add(
        "vitpose",
        "coco_small coco coco_simple coco_large coco_huge",
        "coco",
        210,
        (170, 200),
        (0.1,),
        512,
        5e-4,
        VITPOSE,
    )
    add("vitpose", "mpii", "mpii", 210, (170, 200), (0.1,), 512, 5e-4, VITPOSE)
    for variant in ("surreal_lsp", "surreal_h36m", "rhd_h3d", "freihand_rhd"):
        first = Recipe("regda", 70, (44, 59), (0.1,), 32, 0.1)
        found |= {("regda", f"{variant}/pretrain"): first}
        baseline = dataclasses.replace(first, rate=1e-3)
        found |= {("regda", f"{variant}/{name}"): baseline for name in ("source_only", "oracle")}
        adaptation = Recipe("regda", 10 if variant == "surreal_h36m" else 30, (), (), 32, 0.1)
        found |= {("regda", f"{variant}/{name}"): adaptation for name in ("dd", "regda")}
    return found


RECIPES = _recipes()
CASES = [pytest.param(*key, recipe, id=":".join(key)) for key, recipe in RECIPES.items()]


def get_config(file: str, variant: str) -> ConfigDict:
    """Of a variant, or of one stage of it: "VARIANT/STAGE"."""
    variant, _, stage = variant.partition("/")
    config = importlib.import_module(f"configs.{file}").get_config(variant)
    return stages.pick(config, stage) if stage else config


def hardware(file: str) -> dict[str, str]:
    """{variant: hardware} by the table in a file's header."""
    header = importlib.import_module(f"configs.{file}").__doc__
    return dict(re.findall(r"^(\w+|\(none\))  .*?(2 CPU cores|TPU v5e-\d+)", header, re.MULTILINE))


def test_every_recipe_is_known():
    large = {(file, v) for file in FILES for v, machine in hardware(file).items() if machine.startswith("TPU")}
    assert large == {(file, variant.partition("/")[0]) for file, variant in RECIPES}


@pytest.mark.parametrize(("file", "variant", "recipe"), CASES)
class TestRecipe:
    def test_epochs_of_the_true_length(self, file, variant, recipe):
        """Within a batch for each epoch, which has whole ones."""
        config = get_config(file, variant)
        batch, length = config.train.batch_size, LENGTHS[recipe.data]
        near = {"rel": batch / length}
        assert batch == recipe.batch
        assert config.train.steps * batch / length == pytest.approx(recipe.epochs, **near)
        assert config.train.checkpoint_every * batch / length == pytest.approx(1, **near)
        drops = config.optim.schedule.boundaries if config.optim.schedule.name == "step" else ()
        assert [boundary * batch / length for boundary in drops] == pytest.approx(recipe.drops, **near)

    def test_rate(self, file, variant, recipe):
        config = get_config(file, variant)
        assert config.optim.learning_rate == pytest.approx(recipe.rate)
        if recipe.drops:
            assert tuple(config.optim.schedule.factors) == recipe.factors

    def test_views(self, file, variant, recipe):
        views = get_config(file, variant).data.augmentation
        if recipe.views is not None:
            assert {name: views[name] for name in recipe.views} == recipe.views

    def test_devices_share_batches(self, file, variant, recipe):
        config = get_config(file, variant)
        devices = int(hardware(file)[variant.partition("/")[0]].rpartition("-")[2])
        for batch in (config.train.batch_size, config.evaluate.batch_size):
            assert batch % devices == 0


@pytest.mark.parametrize("variant", [v for file, v in RECIPES if file == "rmpe" and v.startswith("coco")])
def test_random_boxes_begin_where_the_rate_is_set_back(variant):
    config = get_config("rmpe", variant)
    rise = tuple(config.optim.schedule.factors).index(100.0)
    assert config.data.proposals.from_step == config.optim.schedule.boundaries[rise]


def test_exact_keypoints_of_h36m_have_the_detector_s_confidence():
    """The original program reads score.pkl whatever the keypoints."""
    assert get_config("anatomy3d", "h36m_gt").data.h36m.to_dict() == {"detector": "gt", "scores": "score.pkl"}
