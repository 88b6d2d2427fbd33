"""PRTR, two-stage: pose recognition with cascade transformers (Li et al., CVPR 2021).

    python -m jaxpose.main --config=configs/prtr.py --workdir=runs/prtr

Variant           network               input    data          hardware        published AP (val2017, detector boxes)
(none)            small ResNet          48x96    marionettes   2 CPU cores     -
coco_laptop       small ResNet          48x96    COCO format   2 CPU cores     -
coco              ResNet-50             288x384  COCO 2017     TPU v5e-16      68.2
coco_512          ResNet-50             384x512  COCO 2017     TPU v5e-16      71.0
coco_r101         ResNet-101            288x384  COCO 2017     TPU v5e-16      70.1
coco_r101_512     ResNet-101            384x512  COCO 2017     TPU v5e-16      72.0
coco_w32          HRNet-W32             288x384  COCO 2017     TPU v5e-16      73.1
coco_w32_512      HRNet-W32             384x512  COCO 2017     TPU v5e-16      73.3

The default takes 9 minutes on two cores of an AMD EPYC, data and compilation included, and ends with AP 33.7, AR 44.0
on unseen marionettes with true boxes (measured, one seed).

The published figures are the authors'; this code has not been trained on the whole of COCO. The COCO recipes start
from ImageNet backbones (torchvision's resnet50-19c8e357.pth and resnet101-5d3b4d8f.pth, and
hrnetv2_w32_imagenet_pretrained.pth):

    python -m jaxpose.convert resnet50-19c8e357.pth --config=configs/prtr.py:coco --backbone --output=resnet50.npz
    python -m jaxpose.main --config=configs/prtr.py:coco --config.init_from=resnet50.npz --config.data.dir=/data/coco

coco_laptop reads any COCO-format keypoint set: --config.data.dir=DIR and, relative to it,
--config.data.train.annotations, --config.data.train.images and the same two of data.validation; --config.data.skeleton
and --config.method.skeleton for other joints than COCO's.
"""

from ml_collections import ConfigDict

from jaxpose.config import augmentation, base, coco_folders

COCO_PEOPLE = 149_813  # training examples of COCO 2017

RECIPES = {
    "coco": ("resnet50", (288, 384)),
    "coco_512": ("resnet50", (384, 512)),
    "coco_r101": ("resnet101", (288, 384)),
    "coco_r101_512": ("resnet101", (384, 512)),
    "coco_w32": ("hrnet_w32", (288, 384)),
    "coco_w32_512": ("hrnet_w32", (384, 512)),
}


def get_config(variant: str = "") -> ConfigDict:
    config = base("prtr")
    config.method = ConfigDict({"name": "prtr", "skeleton": "coco", "dtype": config.get_ref("dtype")})
    config.method.update({"dropout": 0.0, "flip_test": True, "score_threshold": 0.2})
    if variant in ("", "coco_laptop"):
        laptop(config)
    elif variant in RECIPES:
        recipe(config, *RECIPES[variant])
    else:
        raise ValueError(
            f"configs/prtr.py has no variant {variant!r}; there are {', '.join(['coco_laptop', *RECIPES])}"
        )
    if variant:
        config.name = f"prtr_{variant}"
        config.data.source = "coco"
        config.data.update(coco_folders())
    return config


def laptop(config: ConfigDict) -> None:
    """A network of less than a million parameters, trained from scratch."""
    config.method.update(
        {
            "input_size": (48, 96),
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
    config.optim.clip_norm = 0.1
    config.optim.schedule.update({"name": "cosine", "warmup": 200})
    config.train.update({"steps": 6000, "batch_size": 32, "checkpoint_every": 1000, "log_every": 100})
    config.evaluate.every = 3000


def recipe(config: ConfigDict, backbone: str, size: tuple[int, int]) -> None:
    """The paper's training on COCO."""
    hrnet = backbone.startswith("hrnet")
    config.method.update({"backbone": backbone, "input_size": size, "channels": "rgb" if hrnet else "bgr"})
    config.init_from = f"{backbone}_imagenet.npz"
    config.data.augmentation = augmentation(scale=0.3, rotation=40.0, mirror=0.5)
    config.optim.learning_rate = 1e-4
    config.optim.weight_decay = 1e-4
    config.optim.clip_norm = 0.1
    if not hrnet:
        config.optim.groups = (
            {"name": "frozen", "match": "^backbone/(conv1|layer1_)", "frozen": True},
            {"name": "backbone", "match": "^backbone/", "multiplier": 0.1},
            {"name": "transformer", "match": ".*"},
        )
    config.train.batch_size = 64 if hrnet else 128
    epoch = COCO_PEOPLE // config.train.batch_size
    drops = (70, 95) if hrnet else (120, 140)
    config.optim.schedule.update({"name": "step", "factors": (0.5,), "boundaries": tuple(e * epoch for e in drops)})
    config.train.update({"steps": 200 * epoch, "checkpoint_every": epoch, "log_every": 100})
    config.evaluate.update({"every": 5 * epoch, "batch_size": 128})
    config.data.update({"workers": 0, "threads": 16})
