"""PRTR: pose recognition with cascade transformers (Li et al., CVPR 2021): the pose stage, the person detector before
it, and both as one network.

    python -m jaxpose.main --config=configs/prtr.py --workdir=runs/prtr

Variant           network                      input      data          hardware     published (val2017)
(none)            small ResNet                 48x96      marionettes   2 CPU cores  -
deformable        small ResNet, deformable     48x96      marionettes   2 CPU cores  -
detector          small ResNet, DETR           128x128    marionettes   2 CPU cores  -
sequential        small ResNet, DETR, both     128x128    marionettes   2 CPU cores  -
coco_laptop       small ResNet                 48x96      COCO format   2 CPU cores  -
coco              ResNet-50                    288x384    COCO 2017     TPU v5e-16   AP 68.2 (detector boxes, as below)
coco_512          ResNet-50                    384x512    COCO 2017     TPU v5e-16   AP 71.0
coco_r101         ResNet-101                   288x384    COCO 2017     TPU v5e-16   AP 70.1
coco_r101_512     ResNet-101                   384x512    COCO 2017     TPU v5e-16   AP 72.0
coco_w32          HRNet-W32                    288x384    COCO 2017     TPU v5e-16   AP 73.1
coco_w32_512      HRNet-W32                    384x512    COCO 2017     TPU v5e-16   AP 73.3
deformable_coco   ResNet-50, deformable        288x384    COCO 2017     TPU v5e-16   AP 70.8
detector_coco     ResNet-50, DETR              1344x1344  COCO 2017     TPU v5e-16   -
sequential_coco   ResNet-50, both              1344x1344  COCO 2017     TPU v5e-16   -

The default takes 9 minutes on two cores of an AMD EPYC, data and compilation included, and ends with AP 33.9, AR 44.4
on unseen marionettes with true boxes. deformable, with fewer steps, takes 33 minutes beside other work (21 of a core),
and ends with AP 39.0, AR 48.9. The detector takes 7.5 minutes on the same two cores, to box AP 51.1, AP50 90.3.
sequential trains it, and in a second stage of 12 minutes goes on from it, to box AP 58.6, AP50 94.2, and for poses
AP 6.5, AP50 22.6; half of its people are lower than 57 pixels and narrower than 26, and a cell of the sharpest features
is four. --stage=detector stops before the second stage. All measured, one seed each.

The published figures are the authors'; this code has not been trained on the whole of COCO. The COCO recipes start
from ImageNet backbones (torchvision's resnet50-19c8e357.pth and resnet101-5d3b4d8f.pth, and
hrnetv2_w32_imagenet_pretrained.pth):

    python -m jaxpose.main --config=configs/prtr.py:coco --config.init_from=resnet50-19c8e357.pth \\
        --config.data.dir=/data/coco

coco_laptop reads any COCO-format keypoint set: --config.data.dir=DIR and, relative to it,
--config.data.train.annotations, --config.data.train.images and the same two of data.validation; --config.data.skeleton
and --config.method.skeleton for other joints than COCO's.

Two stages together: jaxpose predict runs/prtr photo.jpg --detector runs/prtr_detector --output out. The
detector's evaluation writes boxes that a pose stage's --config.data.validation.boxes reads.

detector_coco is DETR's training with people as the only class. The released detr-r50-e632da11.pth, which is the faster
start, is named in --config.init_from in the same way, and keeps what it knows of people.
sequential_coco goes on from a detector's run, as the authors did. They published no training of this form, so that the
rest of the recipe is ours: a tenth of the rate for all that the detector has learned. The paper's figure for this form,
AP 66.2, is that of an HRNet-W48.
"""

import functools

from ml_collections import ConfigDict

from jaxpose.config import LENGTHS, augmentation, base, coco_folders

RECIPES = {
    "coco": ("resnet50", (288, 384)),
    "coco_512": ("resnet50", (384, 512)),
    "coco_r101": ("resnet101", (288, 384)),
    "coco_r101_512": ("resnet101", (384, 512)),
    "coco_w32": ("hrnet_w32", (288, 384)),
    "coco_w32_512": ("hrnet_w32", (384, 512)),
}
METHODS = {"detector": "detr", "detector_coco": "detr", "sequential": "detr", "sequential_coco": "sequential_prtr"}
"""Of variants that are not the pose stage alone; "sequential" changes it in its second stage."""
FROZEN = {"name": "frozen", "match": "^backbone/(conv1|layer1_)", "frozen": True}
BACKBONE = {"name": "backbone", "match": "^backbone/", "multiplier": 0.1}
TRANSFORMER = {"name": "transformer", "match": ".*"}
LEARNED = {"name": "detector", "match": "^detector/", "multiplier": 0.1}
LOOKS = {"name": "looks", "match": "(/offsets/|^reference_points/)", "multiplier": 0.1}
"""Where deformable attention looks."""


def get_config(variant: str = "") -> ConfigDict:
    variants = {
        "": laptop,
        "coco_laptop": laptop,
        "deformable": deformable,
        "detector": detector,
        "sequential": sequential,
        **{name: functools.partial(recipe, backbone=b, size=size) for name, (b, size) in RECIPES.items()},
        "deformable_coco": deformable_recipe,
        "detector_coco": detector_recipe,
        "sequential_coco": sequential_recipe,
    }
    config = base("prtr", variant, list(filter(None, variants)))
    name = METHODS.get(variant, "prtr")
    config.method = ConfigDict({"name": name, "skeleton": "coco", "dtype": config.get_ref("dtype")})
    if name == "prtr":
        config.method.update({"dropout": 0.0, "flip_test": True, "score_threshold": 0.2})
    variants[variant](config)
    if "coco" in variant:
        config.data.source = "coco"
        config.data.update(coco_folders())
    return config


# --- on a laptop ---


def small_network(config: ConfigDict) -> None:
    """A backbone and a transformer that learn from scratch, less than a million parameters."""
    config.method.update(
        {
            "backbone": "resnet18",
            "backbone_width": 16,
            "backbone_stages": (1, 1, 1, 1),
            "dilation": True,
            "frozen_norm": False,
            "frozen_stages": 0,
            "hidden_dim": 64,
            "heads": 4,
            "encoder_layers": 1,
            "decoder_layers": 2,
            "feedforward": 128,
        }
    )
    config.optim.clip_norm = 0.1


def laptop(config: ConfigDict) -> None:
    """The pose stage."""
    small_network(config)
    config.method.update(
        {
            "input_size": (48, 96),
            "num_queries": 32,
            "channels": "rgb",
            "flip_shift": False,
            "background_logit": True,
        }
    )
    config.data.padding = 1.1
    config.data.marionettes.train = 4000
    config.data.augmentation = augmentation(scale=0.1, rotation=10.0, mirror=0.5)
    config.optim.learning_rate = 2e-3
    config.optim.schedule.update({"name": "cosine", "warmup": 200})
    config.train.update({"steps": 6000, "batch_size": 32, "checkpoint_every": 1000, "log_every": 100})
    config.evaluate.every = 3000


def deformable(config: ConfigDict) -> None:
    """The pose stage with deformable attention to the maps of three stages and a coarser one."""
    laptop(config)
    config.method.update({"deformable": True, "encoder_points": 2, "decoder_points": 4})
    config.optim.groups = (LOOKS, TRANSFORMER)
    config.train.steps = 4000
    config.evaluate.every = 2000


def crowds(config: ConfigDict) -> None:
    """Pictures of one to three people, and canvases of their size."""
    config.data.marionettes.update({"scene": "crowd", "people": (1, 3), "width": 128, "height": 128, "train": 3000})
    config.data.detection.update({"short_sides": (0.8, 0.85, 0.9, 0.95, 1.0), "crop": 0.0})
    config.method.update({"input_size": (128, 128), "short_side": 128, "long_side": 128, "max_people": 4})
    config.evaluate.update({"batch_size": 16, "sizes": (19.0**2, 28.0**2)})


def detector(config: ConfigDict) -> None:
    """DETR."""
    small_network(config)
    crowds(config)
    config.method.update({"decoder_layers": 3, "num_queries": 16, "dropout": 0.0})
    config.optim.learning_rate = 1e-3
    config.optim.schedule.update({"name": "cosine", "warmup": 200})
    config.train.update({"steps": 4000, "batch_size": 16, "checkpoint_every": 1000, "log_every": 100})
    config.evaluate.update({"every": 2000, "metrics": ("boxes",), "best": "box_AP50"})


def sequential(config: ConfigDict) -> None:
    """The detector, and then both together: it, and a transformer of joints on features of all stages."""
    detector(config)
    joints = {
        "name": "sequential_prtr",
        "aux_loss": True,
        "levels": (0, 1, 2, 3),
        "keypoint_dim": 64,
        "keypoint_heads": 4,
        "keypoint_encoder_layers": 1,
        "keypoint_decoder_layers": 2,
        "keypoint_feedforward": 128,
        "keypoint_queries": 32,
        "top_people": 8,
    }
    fields = {f"method.{name}": value for name, value in joints.items()}
    fields |= {"train.steps": 2500, "evaluate.every": 2500, "optim.groups": (LEARNED, TRANSFORMER)}
    fields |= {"evaluate.metrics": ("coco", "boxes"), "evaluate.best": "AP", "evaluate.suppression": "none"}
    config.stages = (
        {"name": "detector", "init_from": "", "fields": {}},
        {"name": "joint", "init_from": "detector", "fields": fields},
    )


# --- the paper's ---


def recipe(config: ConfigDict, backbone: str, size: tuple[int, int]) -> None:
    """The pose stage on COCO."""
    hrnet = backbone.startswith("hrnet")
    config.method.update({"backbone": backbone, "input_size": size, "channels": "rgb" if hrnet else "bgr"})
    config.init_from = f"{backbone}_imagenet.npz"
    config.data.augmentation = augmentation(scale=0.3, rotation=40.0, mirror=0.5)
    groups = () if hrnet else (FROZEN, BACKBONE, TRANSFORMER)
    drops = (70, 95) if hrnet else (120, 140)
    published(config, 64 if hrnet else 128, "coco", epochs=200, drops=drops, factor=0.5, groups=groups)
    config.evaluate.update({"every": 5 * config.train.checkpoint_every, "batch_size": 128})


def deformable_recipe(config: ConfigDict) -> None:
    """The pose stage with deformable attention."""
    recipe(config, "resnet50", (288, 384))
    config.method.deformable = True
    groups = (FROZEN, LOOKS, BACKBONE, TRANSFORMER)
    published(config, 64, "coco", epochs=100, drops=(50, 70), factor=0.5, groups=groups)
    config.evaluate.every = 5 * config.train.checkpoint_every


def detector_recipe(config: ConfigDict) -> None:
    """DETR's training, for people."""
    config.method.update({"backbone": "resnet50", "input_size": (1344, 1344)})
    config.init_from = "resnet50_imagenet.npz"
    groups = (FROZEN, BACKBONE, TRANSFORMER)
    published(config, 64, "coco_images", epochs=300, drops=(200,), factor=0.1, groups=groups)
    config.evaluate.update({"every": 10 * config.train.checkpoint_every, "batch_size": 32})
    config.evaluate.update({"metrics": ("boxes",), "best": "box_AP"})


def sequential_recipe(config: ConfigDict) -> None:
    """Both stages together, from a detector."""
    config.method.update({"backbone": "resnet50", "input_size": (1344, 1344), "dropout": 0.0, "max_people": 20})
    config.init_from = "runs/prtr_detector_coco"
    groups = (FROZEN, BACKBONE, LEARNED, TRANSFORMER)
    published(config, 32, "coco_images", epochs=100, drops=(60, 80), factor=0.5, groups=groups)
    config.evaluate.update({"every": 5 * config.train.checkpoint_every, "batch_size": 32})
    config.evaluate.update({"metrics": ("coco", "boxes"), "suppression": "none"})


def published(
    config: ConfigDict,
    batch_size: int,
    examples: str,
    *,
    epochs: int,
    drops: tuple[int, ...],
    factor: float,
    groups: tuple[dict, ...],
) -> None:
    """AdamW with decay of everything, clipped gradients, and a rate that falls by `factor` after some epochs.

    Args:
      config: config to change.
      batch_size: number of examples of a step on all devices together.
      examples: data set whose examples make an epoch, see `jaxpose.config.LENGTHS`.
      epochs: number of epochs in all.
      drops: epochs after which the rate falls.
      factor: factor by which it falls.
      groups: parameter groups; none for a single one.
    """
    epoch = LENGTHS[examples] // batch_size
    config.optim.update({"learning_rate": 1e-4, "weight_decay": 1e-4, "clip_norm": 0.1})
    if groups:
        config.optim.groups = groups
    boundaries = tuple(e * epoch for e in drops)
    config.optim.schedule.update({"name": "step", "factors": (factor,), "boundaries": boundaries})
    config.train.batch_size = batch_size
    config.train.update({"steps": epochs * epoch, "checkpoint_every": epoch, "log_every": 100})
    config.data.update({"workers": 0, "threads": 16})
