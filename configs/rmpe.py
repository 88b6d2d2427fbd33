"""RMPE: regional multi-person pose estimation (Fang et al., ICCV 2017), and today's AlphaPose.

    python -m jaxpose.main --config=configs/rmpe.py --workdir=runs/rmpe

Variant         network                     input    data         hardware     published AP (val2017, detector, flip)
(none)          small, with transformers    64x96    marionettes  2 CPU cores  -
coco            FastPose R50                192x256  COCO 2017    TPU v5e-16   72.0
coco_duc        FastPose-DUC R50-shuffle    192x256  COCO 2017    TPU v5e-16   72.4
coco_dcn        FastPose-DCN R50            192x256  COCO 2017    TPU v5e-16   72.8
coco_r152       FastPose-DUC R152           192x256  COCO 2017    TPU v5e-16   73.3
coco_simple     SimplePose R50              192x256  COCO 2017    TPU v5e-16   70.6
coco_w32        HRNet-W32                   192x256  COCO 2017    TPU v5e-16   72.5
mpii            8 hourglasses + transformer 256x256  MPII         TPU v5e-16   - (76.7 mAP, multi-person test)
mpii_sppe       8 hourglasses               256x256  MPII         TPU v5e-16   -

The default learns people in pictures of several from random boxes (pose-guided proposals) with the symmetric spatial
transformer, and is evaluated with three displaced boxes a person, of which parametric pose NMS makes one pose. Beside
it trains, with as many steps, the same network on true boxes without transformer ("plain"); the evaluation prints the
margins over that and over what is left without pose NMS. That network is also the parallel branch that guides the
transformer.

The default takes 8 and a half minutes on two cores of an AMD EPYC, data and compilation included (measured, one seed).
1,347 displaced boxes of 449 people become 470 poses. AP with them, on unseen marionettes:

                                      with pose NMS    without
    transformer and random boxes      25.5             18.5
    plain                             19.8             16.3

The published figures are the authors'; this code has not been trained on the whole of COCO or MPII. The COCO recipes
are AlphaPose's "2x" with half bodies: 270 epochs, from epoch 210 on with random boxes and the rate set back. That of
coco_simple is its "1x", by which SimplePose was released: 200 epochs, random boxes from 140 on, narrower views and no
half bodies. They start from torchvision's ImageNet backbones:

    python -m jaxpose.main --config=configs/rmpe.py:coco --config.init_from=resnet50-19c8e357.pth \\
        --config.data.dir=/data/coco

Released models (fast_res50_256x192.pth, ...) become ours by the same command without --backbone. The 2017 recipe is
trained in two runs: mpii_sppe, then mpii with --config.init_from=WORKDIR of the first. Its network then starts both the
pose network and the frozen parallel branch (of its first four stacks).
"""

from ml_collections import ConfigDict

from jaxpose.config import LENGTHS, augmentation, base, coco_folders, mpii_folders

MPII_EPOCH = 8000  # steps that the 2017 code calls an epoch

RECIPES = {
    "coco": ("fastpose", "se_resnet50"),
    "coco_duc": ("fastpose_duc", "shuffle50"),
    "coco_dcn": ("fastpose", "se_resnet50"),
    "coco_r152": ("fastpose_duc", "se_resnet152"),
    "coco_simple": ("simplepose", "resnet50"),
    "coco_w32": ("hrnet_w32", ""),
}

LONG = {"epochs": 270, "drops": (170, 200), "proposals": 210, "later_drops": (230, 250)}
"""Of AlphaPose's "2x", in epochs: when the rate falls, when random boxes set it back, and when it falls again."""
SHORT = {"epochs": 200, "drops": (90, 120), "proposals": 140, "later_drops": (160, 190)}
"""The same of its "1x"."""

BRANCHES = ({"name": "parallel", "match": "^parallel/"}, {"name": "pose", "match": ".*"})


def get_config(variant: str = "") -> ConfigDict:
    config = base("rmpe", variant, [*RECIPES, "mpii", "mpii_sppe"])
    config.method = ConfigDict({"name": "rmpe", "skeleton": "coco", "dtype": config.get_ref("dtype")})
    config.method.update({"flip_test": True, "sstn": False, "parallel": "none"})
    config.evaluate.suppression = "parametric"
    if not variant:
        laptop(config)
    elif variant in RECIPES:
        recipe(config, *RECIPES[variant])
        config.method.deformable = variant == "coco_dcn"
    else:
        hourglasses(config, transformer=variant == "mpii")
    return config


def laptop(config: ConfigDict) -> None:
    """A small network between transformers, and the same without, both trained from scratch."""
    config.method.update(
        {
            "input_size": (64, 96),
            "network": "simplepose",
            "backbone": "resnet18",
            "backbone_width": 16,
            "backbone_stages": (1, 1, 1, 1),
            "deconv_features": 32,
            "sstn": True,
            "localization_width": 8,
            "localization_stages": (1, 1, 1, 1),
            "parallel": "trained",
            "determinant_floor": 0.05,
        }
    )
    config.data.marionettes.update({"scene": "crowd", "people": (2, 4), "width": 240, "height": 180})
    config.data.marionettes.update({"train": 1000, "validation": 150})
    config.data.validation.boxes = "simulated"
    config.data.simulated.update({"copies": 3, "jitter": 0.12})
    config.data.augmentation = augmentation(scale=0.1, rotation=10.0, mirror=0.5)
    config.data.proposals.rule = "alphapose"
    config.data.streams = {"plain": {"proposals": {"rule": ""}}}
    config.optim.learning_rate = 5e-3
    config.optim.groups = BRANCHES
    config.optim.schedule.update({"name": "cosine", "warmup": 100})
    config.train.update({"steps": 1700, "batch_size": 32, "checkpoint_every": 500, "log_every": 50})
    config.evaluate.every = 850


def recipe(config: ConfigDict, network: str, backbone: str) -> None:
    """AlphaPose's training on COCO: Adam, four times 32 examples a step, its "1x" for SimplePose and else its "2x"."""
    simple = network == "simplepose"
    plan = SHORT if simple else LONG
    config.method.update({"network": network, "input_size": (192, 256), "color_jitter": 0.0})
    if backbone:
        config.method.backbone = backbone
    config.init_from = f"{backbone or network}_imagenet.npz"
    config.data.update({"source": "coco", "workers": 0, "threads": 16, **coco_folders()})
    views = {"scale": 0.3, "rotation": 40.0} if simple else {"scale": 0.35, "rotation": 45.0, "half_body": 0.3}
    config.data.augmentation = augmentation(mirror=0.5, **views)
    batch_size = 128
    epoch = LENGTHS["coco"] // batch_size
    config.data.proposals.update({"rule": "alphapose", "from_step": plan["proposals"] * epoch})
    config.optim.update({"optimizer": "adam", "learning_rate": 1e-3, "weight_decay": 0.0})
    config.optim.schedule.update(
        {
            "name": "step",
            "boundaries": tuple(e * epoch for e in (*plan["drops"], plan["proposals"], *plan["later_drops"])),
            "factors": (0.1, 0.1, 100.0, 0.1, 0.1),
        }
    )
    steps = plan["epochs"] * epoch
    config.train.update({"steps": steps, "batch_size": batch_size, "checkpoint_every": epoch, "log_every": 100})
    config.evaluate.update({"every": 5 * epoch, "batch_size": 128})


def hourglasses(config: ConfigDict, transformer: bool) -> None:
    """The training of 2017 on MPII: RMSprop, batches of 5 on one GPU, here of 16."""
    config.method.update(
        {
            "skeleton": "mpii",
            "input_size": (256, 256),
            "network": "hourglass",
            "mean": (0.0, 0.0, 0.0),
            "color_jitter": 0.4,
            "loss": "mse_2017",
            "sigma": 1.75,
            "radius": 3,
            "sstn": transformer,
            "parallel": "frozen" if transformer else "none",
            "flip_shift": False,
        }
    )
    config.data.update({"source": "mpii", "skeleton": "mpii", "workers": 0, "threads": 16})
    config.data.padding = 1.04  # of the source's box of 1.25 heights: 1.3 heights
    config.data.update(mpii_folders())
    config.data.augmentation = augmentation(mirror=0.5)
    config.data.proposals.rule = "rmpe2017" if transformer else ""
    config.evaluate.update({"metrics": ("pckh",), "best": "PCKh@0.5", "every": MPII_EPOCH, "batch_size": 64})
    config.evaluate.pose_nms.rules = "rmpe2017"
    config.optim.update({"optimizer": "rmsprop", "learning_rate": 5e-5 if transformer else 2.5e-4, "weight_decay": 0.0})
    drop = 20 * MPII_EPOCH
    config.optim.schedule.update({"name": "step", "boundaries": (drop,), "factors": (0.2,)})
    if transformer:
        config.optim.groups = (BRANCHES[0] | {"frozen": True}, BRANCHES[1])
    config.train.update(
        {"steps": drop + 10 * MPII_EPOCH, "batch_size": 16, "checkpoint_every": MPII_EPOCH, "log_every": 100}
    )
