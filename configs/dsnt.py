"""DSNT: numerical coordinate regression with convolutional networks (Nibali et al., arXiv 1801.07372).

    python -m jaxpose.main --config=configs/dsnt.py --workdir=runs/dsnt

Variant           network                      input  maps  data         hardware     published PCKh@0.5
(none)            small ResNet                 128    16    marionettes  2 CPU cores  -
lspet             small ResNet                 128    16    LSPET        2 CPU cores  -
mpii              ResNet-50, DSNT + JS         224    28    MPII         TPU v5e-16   89.5 (test set)
mpii_r34          ResNet-34, DSNT + JS         224    28    MPII         TPU v5e-16   -
mpii_hourglass    2 hourglasses, DSNT + JS     256    64    MPII         TPU v5e-16   -
coco_r50          ResNet-50, deconvolution     256    64    COCO 2017    TPU v5e-16   AP 67.4 (val2017, mmpose)

The strategies that the paper compares are options of any variant:
    no regularizer   --config.method.regularizer=none
    heatmap matching --config.method.regularizer=none --config.method.strategy=gauss
    fully connected  --config.method.regularizer=none --config.method.strategy=fc
with --config.method.dilate=0 ... 3 for maps of 7, 14, 28 and 56 a side from 224. Regularizers, their weight, the width
of the Gaussian and the rectifier are fields of config.method (see jaxpose/methods/dsnt/method.py).

Measured on two cores of an AMD EPYC, one seed: the default reaches PCKh@0.5 80.4 on 400 unseen marionettes after 2,800
steps, in 9:26 with rendering; lspet reaches PCK@0.2 26.2 on images 2,001 to 2,400 after as many steps.

The published figure on MPII is the authors' (as later papers quote it); this code has not been trained on the whole of
MPII or on COCO. coco_r50 is the network that mmpose releases, with its crops and its flip test, and the paper's losses.
The recipes start from torchvision's ImageNet backbones, the hourglass from nothing:

    python -m jaxpose.main --config=configs/dsnt.py:mpii --config.init_from=resnet50-19c8e357.pth \\
        --config.data.dir=/data/mpii

with the layout of MPII that jaxpose/data/sources/mpii.py describes, which has 22,246 people to train on; the authors'
files have 25,925. The hourglass sees 16 people at a time, where the authors took 6, which 16 devices cannot share.
lspet reads --config.data.dir=DIR with joints.mat and images/ of Leeds Sports Pose Extended.
"""

from ml_collections import ConfigDict

from jaxpose.config import LENGTHS, augmentation, base, coco_folders, mpii_folders

MPII_MEAN = (0.440442830, 0.444026709, 0.432682842)

RECIPES = {
    "mpii": ("resnet50", 32),
    "mpii_r34": ("resnet34", 32),
    "mpii_hourglass": ("hourglass", 16),
}
IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}


def get_config(variant: str = "") -> ConfigDict:
    config = base("dsnt", variant, ["lspet", "coco_r50", *RECIPES])
    config.method = ConfigDict({"name": "dsnt", "skeleton": "mpii", "dtype": config.get_ref("dtype")})
    config.method.update({"strategy": "dsnt", "regularizer": "js", "reg_weight": 1.0, "sigma": 1.0})
    config.method.update({"rectifier": "softmax", "dilate": 2, "flip_test": True})
    config.data.skeleton = "mpii"
    config.data.half_pixel = True
    config.evaluate.metrics = ("pckh",)
    config.evaluate.best = "PCKh@0.5"
    if variant in ("", "lspet"):
        laptop(config)
    elif variant == "coco_r50":
        coco(config)
    else:
        recipe(config, *RECIPES[variant])
    if variant == "lspet":
        lspet(config)
    return config


def laptop(config: ConfigDict) -> None:
    """A network of a third of a million parameters, trained from scratch."""
    config.method.update(
        {
            "input_size": (128, 128),
            "backbone": "resnet18",
            "backbone_width": 16,
            "backbone_stages": (1, 1, 2),
            "dilate": 1,
            "color_jitter": 0.0,
        }
    )
    config.data.padding = 1.1
    config.data.marionettes.train = 4000
    config.data.augmentation = augmentation(scale=0.1, octaves=True, rotation=10.0, mirror=0.5)
    config.optim.learning_rate = 5e-3
    config.optim.schedule.update({"name": "cosine", "warmup": 100})
    config.train.update({"steps": 2800, "batch_size": 32, "checkpoint_every": 500, "log_every": 50})
    config.evaluate.every = 2800


def lspet(config: ConfigDict) -> None:
    """Real pictures: the first 2,000 images of LSPET, tested on the next 400."""
    config.method.skeleton = config.data.skeleton = "lsp"
    config.method.color_jitter = 0.2
    config.data.source = "lsp"
    config.data.antialias = True
    for split, limits in (("train", (0, 2000)), ("validation", (2000, 2400))):
        config.data[split].update({"annotations": "joints.mat", "images": "images", "range": limits})
    config.data.augmentation = augmentation(scale=0.25, octaves=True, rotation=30.0, mirror=0.5)
    config.evaluate.metrics = ("pck",)
    config.evaluate.best = "PCK@0.2"


def recipe(config: ConfigDict, backbone: str, batch_size: int) -> None:
    """The paper's training on MPII: RMSprop, 120 epochs."""
    side = 224
    config.method.backbone = backbone
    config.init_from = f"{backbone}_imagenet.npz"
    if backbone == "hourglass":
        side = 256
        config.init_from = ""
        config.method.update({"stacks": 2, "dilate": 0, "mean": MPII_MEAN})
    config.method.update({"input_size": (side, side), "color_jitter": 0.4})
    config.data.update({"source": "mpii", "padding": 1.0, "antialias": True, "workers": 0, "threads": 16})
    config.data.update(mpii_folders())
    config.data.augmentation = augmentation(
        scale=0.25, octaves=True, rotation=30.0, rotation_probability=0.4, mirror=0.5
    )
    config.optim.update({"optimizer": "rmsprop", "learning_rate": 2.5e-4, "weight_decay": 0.0})
    epoch = LENGTHS["mpii"] // batch_size
    boundaries = (60 * epoch, 90 * epoch)
    config.optim.schedule.update({"name": "step", "factors": (0.1,), "boundaries": boundaries})
    config.train.update({"steps": 120 * epoch, "batch_size": batch_size, "checkpoint_every": epoch, "log_every": 100})
    config.evaluate.update({"every": epoch, "batch_size": 128})


def coco(config: ConfigDict) -> None:
    """mmpose's training on COCO, 210 epochs of Adam, with the paper's losses."""
    config.method.update(
        {"skeleton": "coco", "input_size": (256, 256), "backbone": "resnet50", "dilate": 0, **IMAGENET}
    )
    config.method.update({"deconv_layers": 3, "corners": True, "flip_points": True, "score": "one", "sigma": 2.0})
    config.method.color_jitter = 0.0
    config.init_from = "resnet50_imagenet.npz"
    config.data.update({"source": "coco", "skeleton": "coco", "half_pixel": False, "workers": 0, "threads": 16})
    config.data.update(coco_folders())
    config.data.augmentation = augmentation(scale=0.5, rotation=40.0, mirror=0.5, half_body=0.3)
    config.optim.update({"optimizer": "adam", "learning_rate": 5e-4, "weight_decay": 0.0})
    batch_size = 512
    epoch = LENGTHS["coco"] // batch_size
    boundaries = (170 * epoch, 200 * epoch)
    config.optim.schedule.update({"name": "step", "warmup": 500, "factors": (0.1,), "boundaries": boundaries})
    config.train.update({"steps": 210 * epoch, "batch_size": batch_size, "checkpoint_every": epoch, "log_every": 100})
    config.evaluate.update({"every": 10 * epoch, "batch_size": 256, "metrics": ("coco",), "best": "AP"})
