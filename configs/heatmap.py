"""Top-down heatmaps: SimpleBaselines (Xiao et al., ECCV 2018) and HRNet (Sun et al., CVPR 2019).

    python -m jaxpose.main --config=configs/heatmap.py --workdir=runs/heatmap

Variant         network      input    data         hardware     published AP (val2017, detector boxes, flip test)
(none)          small        128x128  marionettes  2 CPU cores  -
lspet           small        128x128  LSPET        2 CPU cores  -
coco            ResNet-50    192x256  COCO 2017    TPU v5e-16   70.4
coco_r101       ResNet-101   192x256  COCO 2017    TPU v5e-16   71.4
coco_r152       ResNet-152   192x256  COCO 2017    TPU v5e-16   72.0
coco_r152_384   ResNet-152   288x384  COCO 2017    TPU v5e-16   74.3
coco_w32        HRNet-W32    192x256  COCO 2017    TPU v5e-16   74.4
coco_w32_384    HRNet-W32    288x384  COCO 2017    TPU v5e-16   75.8
coco_w48        HRNet-W48    192x256  COCO 2017    TPU v5e-16   75.1
coco_w48_384    HRNet-W48    288x384  COCO 2017    TPU v5e-16   76.3
                                                                published PCKh@0.5 (validation)
mpii            ResNet-50    256x256  MPII         TPU v5e-16   88.5
mpii_w32        HRNet-W32    256x256  MPII         TPU v5e-16   90.3

Measured on two cores of an AMD EPYC, one seed: the default reaches PCKh@0.5 84.6 on 400 unseen marionettes after 3,200
steps, in 8 minutes and another to render them; lspet reaches PCK@0.2 30.7 on images 2,001 to 2,400 after as many steps
(--config.data.dir=DIR with joints.mat and images/ of Leeds Sports Pose Extended, whose labels are noisy).

The published figures are the authors'; this code has not been trained on the whole of COCO or MPII. The recipes start
from ImageNet backbones (torchvision's resnet50-19c8e357.pth, ..., hrnet_w32-36af842e.pth, hrnet_w48-8ef0771d.pth):

    python -m jaxpose.main --config=configs/heatmap.py:coco --config.init_from=resnet50-19c8e357.pth \\
        --config.data.dir=/data/coco

The released pose_resnet_50_256x192.pth and its siblings become ours by the same command without --backbone. Detector
boxes: --config.data.validation.boxes=COCO_val2017_detections_AP_H_56_person.json.
"""

from ml_collections import ConfigDict

from jaxpose.config import LENGTHS, augmentation, base, coco_folders, mpii_folders

RECIPES = {
    "coco": ("resnet50", (192, 256)),
    "coco_r101": ("resnet101", (192, 256)),
    "coco_r152": ("resnet152", (192, 256)),
    "coco_r152_384": ("resnet152", (288, 384)),
    "coco_w32": ("hrnet_w32", (192, 256)),
    "coco_w32_384": ("hrnet_w32", (288, 384)),
    "coco_w48": ("hrnet_w48", (192, 256)),
    "coco_w48_384": ("hrnet_w48", (288, 384)),
    "mpii": ("resnet50", (256, 256)),
    "mpii_w32": ("hrnet_w32", (256, 256)),
}


def get_config(variant: str = "") -> ConfigDict:
    config = base("heatmap", variant, ["lspet", *RECIPES])
    config.method = ConfigDict({"name": "heatmap", "skeleton": "mpii", "dtype": config.get_ref("dtype")})
    config.method.update({"sigma": 2.0, "flip_test": True})
    config.data.skeleton = "mpii"
    config.evaluate.metrics = ("pckh",)
    config.evaluate.best = "PCKh@0.5"
    if variant in ("", "lspet"):
        laptop(config)
    else:
        recipe(config, *RECIPES[variant], coco=variant.startswith("coco"))
    if variant == "lspet":
        lspet(config)
    return config


def laptop(config: ConfigDict) -> None:
    """A small residual network, trained from scratch."""
    config.method.update(
        {
            "input_size": (128, 128),
            "backbone": "resnet18",
            "backbone_width": 16,
            "backbone_stages": (1, 1, 1, 1),
            "deconv_features": 32,
        }
    )
    config.data.padding = 1.1
    config.data.marionettes.train = 4000
    config.data.augmentation = augmentation(scale=0.1, rotation=10.0, mirror=0.5)
    config.optim.learning_rate = 5e-3
    config.optim.schedule.update({"name": "cosine", "warmup": 100})
    config.train.update({"steps": 3200, "batch_size": 32, "checkpoint_every": 500, "log_every": 50})
    config.evaluate.every = 1600


def lspet(config: ConfigDict) -> None:
    """Real pictures: the first 2,000 images of LSPET, tested on the next 400."""
    config.method.skeleton = config.data.skeleton = "lsp"
    config.method.color_jitter = 0.2
    config.data.source = "lsp"
    config.data.antialias = True
    for split, limits in (("train", (0, 2000)), ("validation", (2000, 2400))):
        config.data[split].update({"annotations": "joints.mat", "images": "images", "range": limits})
    config.data.augmentation = augmentation(scale=0.3, rotation=40.0, mirror=0.5)
    config.evaluate.metrics = ("pck",)
    config.evaluate.best = "PCK@0.2"


def recipe(config: ConfigDict, backbone: str, size: tuple[int, int], coco: bool) -> None:
    """The papers' training: Adam, 140 epochs (SimpleBaselines) or 210 (HRNet), four times 32 examples a step."""
    hrnet = backbone.startswith("hrnet")
    large = size[1] == 384
    config.method.update(
        {
            "input_size": size,
            "backbone": backbone,
            "channels": "rgb" if hrnet else "bgr",
            "sigma": 3.0 if large else 2.0,
        }
    )
    config.init_from = f"{backbone}_imagenet.npz"
    if coco:
        config.method.skeleton = config.data.skeleton = "coco"
        config.data.update({"source": "coco", **coco_folders()})
        config.evaluate.metrics = ("coco",)
        config.evaluate.best = "AP"
        scale, rotation = (0.35, 45.0) if hrnet else (0.3, 40.0)
        config.data.augmentation = augmentation(
            scale=scale, rotation=rotation, mirror=0.5, half_body=0.3 if hrnet else 0.0
        )
    else:
        config.data.update({"source": "mpii", "padding": 1.0, **mpii_folders()})
        config.data.augmentation = augmentation(scale=0.25, rotation=30.0, mirror=0.5)
    config.data.update({"workers": 0, "threads": 16})
    config.optim.update({"optimizer": "adam", "learning_rate": 1e-3, "weight_decay": 0.0})
    batch_size = 96 if backbone == "hrnet_w48" and large else 128
    epoch = LENGTHS["coco" if coco else "mpii"] // batch_size
    epochs, drops = (210, (170, 200)) if hrnet else (140, (90, 120))
    boundaries = tuple(e * epoch for e in drops)
    config.optim.schedule.update({"name": "step", "factors": (0.1,), "boundaries": boundaries})
    config.train.update(
        {"steps": epochs * epoch, "batch_size": batch_size, "checkpoint_every": epoch, "log_every": 100}
    )
    config.evaluate.update({"every": epoch, "batch_size": 128})
