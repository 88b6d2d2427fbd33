"""RegDA: regressive domain adaptation for unsupervised keypoint detection (Jiang et al., CVPR 2021).

    python -m jaxpose.main --config=configs/regda.py --workdir=runs/regda

One domain is labelled, the source; of the other one, the target, there are pictures alone. A config is several runs,
each in a folder of its own within the run folder: "pretrain" learns from the source; "source_only" goes on with that;
"dd" and "regda" adapt to the target, by the disparity discrepancy and by the paper; "oracle" is told the target's
labels. All are tested on labelled pictures of the target, and the table at the end says how much of the way from
source_only to oracle each of them has covered. --stage=regda trains no others than that and what it builds on.

Variant            network       input    source               target             hardware     published PCK@0.05
(none)             small ResNet  64x64    studio marionettes   street ones        2 CPU cores  -
marionettes_lspet  small ResNet  64x64    studio marionettes   LSPET              2 CPU cores  -
surreal_lsp        ResNet-101    256x256  SURREAL              LSP                TPU v5e-16   RegDA 74.6, ERM 63.9
surreal_h36m       ResNet-101    256x256  SURREAL              Human3.6M          TPU v5e-16   RegDA 75.6, ERM 67.3
rhd_h3d            ResNet-101    256x256  Rendered Handpose    Hand-3D-Studio     TPU v5e-16   RegDA 72.5, ERM 61.8
freihand_rhd       ResNet-101    256x256  FreiHAND             Rendered Handpose  TPU v5e-16   -

PCK@0.05 that was measured, on street marionettes and on pictures of LSPET; nothing was tuned for either target:

                         pretrain  source_only    dd  regda  oracle  of the gap, regda has closed
default, seed 0              29.8         27.9  35.3   35.7    44.4  48 %
default, seed 1              30.7         31.8  36.8   36.9    43.2  45 %
default, seed 2              29.6         31.7  35.1   36.5    42.9  42 %
marionettes_lspet, seed 0     4.6          4.9   6.3    6.4    11.7  22 %

All stages of the default together take 16.5 minutes of two cores.

The published figures are the authors', of batches as they cut them ("batch_PCK@0.05" here); ERM is source_only. This
code has not been trained on these data sets. Their recipes start from torchvision's resnet101-5d3b4d8f.pth:

    python -m jaxpose.main --config=configs/regda.py:surreal_lsp --config.init_from=resnet101-5d3b4d8f.pth \\
        --config.data.streams.source.dir=/data/surreal --config.data.dir=/data/lsp

Where they differ from the original: adaptation starts from the last state of "pretrain" rather than from its best on
the source, joints of the target count alike, whether or not labels show them (--config.method.target_weights=True for
the original's use of labels), and turned crops show what is beyond their border. source_only and oracle learn by the
mean squared error and Adam from ImageNet, as in the original, whose LSP is all training and all test: the oracle has
seen it. In the variants for a laptop the stages differ in what they see and minimize alone: network, optimizer, rates
and number of steps are the same.

marionettes_lspet: --config.data.dir=DIR with joints.mat and images/ of Leeds Sports Pose Extended, of which the first
2,000 images are the target without their joints, though with the boxes around people that come from them, and the next
400 the test.
"""

import functools
from typing import Any

from ml_collections import ConfigDict

from jaxpose.config import (
    augmentation,
    base,
    freihand_folders,
    h3d_folders,
    h36m_frames_folders,
    lsp_folders,
    rhd_folders,
    surreal_folders,
)

FEATURES = {"name": "features", "match": "^(backbone|upsampling)/", "multiplier": 0.1}
HEAD = {"name": "head", "match": "^head/"}
ADVERSARY = {"name": "adversary", "match": "^adversary/"}
BACKBONE = {"name": "backbone", "match": "^backbone/", "multiplier": 0.1}
ALL = {"name": "all", "match": ".*"}
EPOCH = 500  # steps that the original code calls so

DATA = {
    "surreal": surreal_folders(),
    "lsp": lsp_folders(),
    "h36m_frames": h36m_frames_folders(),
    "rhd": rhd_folders(),
    "h3d": h3d_folders(),
    "freihand": freihand_folders(),
}
RECIPES = {
    "surreal_lsp": ("surreal", "lsp", 30),
    "surreal_h36m": ("surreal", "h36m_frames", 10),
    "rhd_h3d": ("rhd", "h3d", 30),
    "freihand_rhd": ("freihand", "rhd", 30),
}
"""Source, target and epochs of adaptation."""


def get_config(variant: str = "") -> ConfigDict:
    variants = {"": laptop, "marionettes_lspet": lspet}
    variants |= {name: functools.partial(recipe, *fields) for name, fields in RECIPES.items()}
    config = base("regda", variant, list(filter(None, variants)))
    config.method = ConfigDict({"name": "regda", "skeleton": "mpii", "dtype": config.get_ref("dtype")})
    config.method.update({"adaptation": "regda", "head_layers": 2, "sigma": 2.0, "margin": 4.0, "trade_off": 1.0})
    config.data.skeleton = "mpii"
    config.evaluate.update({"metrics": ("groups",), "best": "PCK@0.05", "gap": ("source_only", "oracle")})
    adaptation_rates(config)
    variants[variant](config)
    return config


def adaptation_rates(config: ConfigDict) -> None:
    """SGD whose rate falls slowly, a tenth of it for the features."""
    config.optim.update({"optimizer": "sgd", "learning_rate": 0.1, "weight_decay": 1e-4, "nesterov": True})
    config.optim.schedule.update({"name": "inverse", "gamma": 1e-4, "power": 0.75})
    config.optim.groups = (FEATURES, HEAD, ADVERSARY)


def stage(name: str, init_from: str = "", fields: dict[str, Any] | None = None) -> dict[str, Any]:
    """One of `config.stages`."""
    return {"name": name, "init_from": init_from, "fields": fields or {}}


# --- on a laptop ---


def laptop(config: ConfigDict) -> None:
    """A small residual network, trained from scratch; pictures of one person in two looks."""
    config.method.update(
        {
            "input_size": (64, 64),
            "backbone": "resnet18",
            "backbone_width": 16,
            "backbone_stages": (1, 1, 1),
            "deconv_features": (32, 32),
            "deconv_kernels": (4, 4),
            "sigma": 1.0,
            "color_jitter": 0.2,
        }
    )
    config.data.padding = 1.1
    config.data.antialias = True
    config.data.augmentation = augmentation(scale=0.1, rotation=10.0)
    config.data.marionettes.update({"look": "street", "width": 96, "height": 96})
    config.data.streams = {"source": {"marionettes": {"look": "studio", "validation": 100}}}
    config.train.update({"steps": 2000, "batch_size": 32, "checkpoint_every": 1000, "log_every": 100})
    config.evaluate.update({"every": 2000, "batch_size": 50})
    supervised = {"method.adaptation": "none", "optim.groups": (FEATURES, HEAD)}
    pretraining = {
        **{"method.adaptation": "none", "optim.groups": (ALL,), "optim.schedule.name": "cosine"},
        **{"train.steps": 4000, "train.checkpoint_every": 2000, "evaluate.every": 4000},
    }
    config.stages = (
        stage("pretrain", fields=pretraining),
        stage("source_only", "pretrain", supervised),
        stage("oracle", "pretrain", supervised | {"data.streams": {}}),
        stage("dd", "pretrain", {"method.adaptation": "disparity"}),
        stage("regda", "pretrain"),
    )


def lspet(config: ConfigDict) -> None:
    """To real pictures."""
    laptop(config)
    config.method.skeleton = config.data.skeleton = "lsp"
    marionettes = config.data.marionettes.to_dict() | config.data.streams.source.marionettes.to_dict()
    config.data.source = "lsp"
    for split, limits in (("train", (0, 2000)), ("validation", (2000, 2400))):
        config.data[split].update({"annotations": "joints.mat", "images": "images", "range": limits})
    config.data.streams = {"source": {"source": "marionettes", "dir": "", "marionettes": marionettes}}


# --- the paper's ---


def recipe(source: str, target: str, epochs: int, config: ConfigDict) -> None:
    """ResNet-101 at 256 x 256, batches of 32 and 32."""
    hands = target in ("h3d", "rhd")
    views = augmentation(
        rotation=180.0 if hands else 30.0, uniform_rotation=True, rotation_probability=1.0, area=(0.6, 1.3)
    )
    config.method.update({"input_size": (256, 256), "backbone": "resnet101"})
    config.method.update({"brightness": 0.25, "contrast": 0.25, "saturation": 0.25, "blur": 0.8})
    if hands:
        config.method.skeleton = config.data.skeleton = "hand"
    config.data.update({"source": target, "padding": 1.0, "antialias": True, "workers": 0, "threads": 16})
    config.data.update(DATA[target])
    config.data.streams = {"source": {"source": source, "dir": "", **DATA[source], "augmentation": views}}
    if target == "lsp":
        config.method.distort_target = False
    else:
        config.data.augmentation = views
    config.train.update({"steps": epochs * EPOCH, "batch_size": 32, "checkpoint_every": EPOCH, "log_every": 100})
    config.evaluate.update({"every": EPOCH, "batch_size": 32})
    config.init_from = "resnet101_imagenet.npz"
    config.stages = published_stages()


def published_stages() -> tuple[dict, ...]:
    """70 epochs on the source, and the adaptation that starts from them; the baselines start from ImageNet."""
    supervised = {
        **{"method.adaptation": "none", "method.head_layers": 1, "train.steps": 70 * EPOCH},
        **{"optim.schedule.name": "step", "optim.schedule.factors": (0.1,)},
        **{"optim.schedule.boundaries": (44 * EPOCH, 59 * EPOCH)},
    }
    pretraining = supervised | {"optim.groups": (BACKBONE, ALL)}
    baseline = supervised | {"method.loss": "mse", "optim.groups": (ALL,), "optim.optimizer": "adam"}
    baseline |= {"optim.learning_rate": 1e-3, "optim.weight_decay": 0.0}
    return (
        stage("pretrain", fields=pretraining),
        stage("source_only", fields=baseline),
        stage("oracle", fields=baseline | {"data.streams": {}}),
        stage("dd", "pretrain", {"method.adaptation": "disparity"}),
        stage("regda", "pretrain"),
    )
