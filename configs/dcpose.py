"""DCPose: deep dual consecutive network for human pose estimation in videos (Liu et al., CVPR 2021).

    python -m jaxpose.main --config=configs/dcpose.py --workdir=runs/dcpose

Variant             network                     input    data             hardware     published mAP (val)
(none)              small HRNet, three frames   64x96    marionettes      2 CPU cores  -
single_frame        the same, one frame         64x96    marionettes      2 CPU cores  -
no_merger           the same without PTM        64x96    marionettes      2 CPU cores  -
no_fusion           the same without PRF        64x96    marionettes      2 CPU cores  -
no_correction       the same without PCN        64x96    marionettes      2 CPU cores  -
posetrack18_laptop  small HRNet, three frames   64x96    videos, COCO     2 CPU cores  -
posetrack17         HRNet-W48, three frames     288x384  PoseTrack 2017   TPU v5e-16   82.8 (detector boxes)
posetrack18         HRNet-W48, three frames     288x384  PoseTrack 2018   TPU v5e-16   80.9 (detector boxes)

The default learns from clips of marionettes with motion blur and passers-by, single frames and three of them together.
Its evaluation prints, beside PoseTrack's numbers, what the same weights find in the current frame alone ("single
frame"). The stricter comparison is the variant single_frame, which trains the backbone alone on as many examples. mAP
that was measured, one seed each:

               steps          minutes of one core  mAP
(none)         1,200                           13  48.4  (single frame of the same weights: 42.3)
single_frame   1,200                            4  44.0
single_frame   1,200 + 1,600                    8  53.2  (a second run that goes on from the first)

So three frames win where networks see as many examples; while they learn from nothing, as much time is better spent on
more examples of single frames. The paper adds frames to a backbone that has learned all it can. The default takes 9:10
on two cores, and two minutes more where clips are rendered first.

The published figures are the authors'; this code has not been trained on PoseTrack. The recipes start from an HRNet-W48
that was trained on COCO (pose_hrnet_w48_384x288.pth), which stays frozen:

    python -m jaxpose.main --config=configs/dcpose.py:posetrack18 --config.init_from=pose_hrnet_w48_384x288.pth
        --config.data.dir=/data/posetrack18 --config.data.validation.boxes=detections.json

where detections.json is a list of image_id, bbox and score as COCO has it; those that score less than 0.2 are left out,
as the authors do. Without it, true boxes are looked at. The authors give neither their number of training people nor
of steps: an epoch is taken to be as long as the paper's count of all poses (80,144 and 153,615); the log tells how many
people training has, by which --config.train.steps and --config.optim.schedule.boundaries can be made exact.

The rate falls after epochs 5, 9, 13 and 17. Under the version of PyTorch that the original code names, it falls
by all four factors after the first epoch instead: --config.optim.schedule.boundaries=(EPOCH,) and
--config.optim.schedule.factors=(1e-4,), of PoseTrack 2018 (0.96,).

posetrack18_laptop reads any videos with keypoints in COCO's format: --config.data.dir=DIR and, relative to it,
--config.data.train.annotations, --config.data.train.images and the same two of data.validation; see
jaxpose/data/sources/posetrack.py.

A run finds and follows people in videos:

    jaxpose predict runs/dcpose dance.mp4 --detector runs/prtr_detector --output out
"""

import functools

from ml_collections import ConfigDict

from jaxpose.config import augmentation, base

POSES = {"posetrack17": 80_144, "posetrack18": 153_615}
"""Annotated poses as the paper counts them, of training and validation together."""
ABLATIONS = {
    "single_frame": {"single_frame": True},
    "no_merger": {"merger": False},
    "no_fusion": {"fusion": False},
    "no_correction": {"correction": False},
}


def get_config(variant: str = "") -> ConfigDict:
    variants = {
        "": laptop,
        **{name: functools.partial(laptop, **changes) for name, changes in ABLATIONS.items()},
        "posetrack18_laptop": videos,
        "posetrack17": functools.partial(recipe, learning_rate=1e-3, factor=0.1, poses=POSES["posetrack17"]),
        "posetrack18": functools.partial(recipe, learning_rate=1e-4, factor=0.99, poses=POSES["posetrack18"]),
    }
    config = base("dcpose", variant, list(filter(None, variants)))
    config.method = ConfigDict({"name": "dcpose", "skeleton": "posetrack", "dtype": config.get_ref("dtype")})
    config.data.skeleton = "posetrack"
    config.evaluate.update({"metrics": ("posetrack", "coco"), "best": "mAP"})
    variants[variant](config)
    if variant.startswith("posetrack"):
        config.data.source = "posetrack"
        config.data.update(folders())
    return config


def folders() -> dict:
    """`data.train` and `data.validation` for PoseTrack as it is unpacked."""
    splits = {"train": "train", "validation": "val"}
    return {split: {"annotations": f"annotations/{name}", "images": "."} for split, name in splits.items()}


# --- on a laptop ---


def laptop(config: ConfigDict, **changes: bool) -> None:
    """An HRNet and a refinement that learn from scratch together, less than a million parameters."""
    config.method.update(
        {
            "input_size": (64, 96),
            "backbone": "hrnet_w16",
            "backbone_stages": (1, 1, 1),
            "backbone_blocks": 1,
            "stem_width": 16,
            "stem_blocks": 1,
            "sigma": 1.0,
            "fusion_blocks": 1,
            "combination_blocks": 1,
            "combination_features": 16,
            "dilations": (2,),
            "freeze_backbone": False,
        }
    )
    config.method.update(changes)
    config.data.clips.distance = (3, 3)
    clips = {"scene": "clip", "frames": 5, "people": (1, 2), "occlusion": 0.8}
    config.data.marionettes.update(clips | {"train": 600, "validation": 80})
    config.data.augmentation = augmentation(scale=0.15, rotation=15.0, mirror=0.5)
    config.optim.update({"optimizer": "adamw", "learning_rate": 5e-3, "weight_decay": 1e-4})
    config.optim.schedule.update({"name": "cosine", "warmup": 100})
    config.train.update({"steps": 1200, "batch_size": 16, "checkpoint_every": 400, "log_every": 50})
    config.evaluate.every = 1200


def videos(config: ConfigDict) -> None:
    """The same on somebody's own videos."""
    laptop(config)
    config.data.augmentation = augmentation(scale=0.35, rotation=45.0, mirror=0.5, half_body=0.3)


# --- the paper's ---


def recipe(config: ConfigDict, learning_rate: float, factor: float, poses: int) -> None:
    """The refinement on a frozen backbone: Adam, batches of 64, 20 epochs."""
    config.method.update({"backbone": "hrnet_w48", "input_size": (288, 384), "freeze_backbone": True})
    config.init_from = "hrnet_w48_coco.npz"
    config.data.augmentation = augmentation(scale=0.35, rotation=45.0, mirror=0.5, half_body=0.3)
    config.data.validation.box_threshold = 0.2
    config.optim.update({"optimizer": "adam", "learning_rate": learning_rate, "weight_decay": 0.0})
    config.optim.groups = (
        {"name": "refinement", "match": "^refinement/"},
        {"name": "backbone", "match": ".*", "frozen": True},
    )
    epoch = poses // 64
    drops = tuple(epochs * epoch for epochs in (5, 9, 13, 17))
    config.optim.schedule.update({"name": "step", "boundaries": drops, "factors": (factor,)})
    config.train.update({"steps": 20 * epoch, "batch_size": 64, "checkpoint_every": epoch, "log_every": 100})
    config.evaluate.update({"every": epoch, "batch_size": 64, "suppression": "none"})
    config.data.update({"workers": 0, "threads": 16})
