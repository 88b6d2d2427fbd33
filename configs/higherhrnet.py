"""HigherHRNet: bottom-up pose with heatmaps at two resolutions and tags (Cheng et al., CVPR 2020).

    python -m jaxpose.main --config=configs/higherhrnet.py --workdir=runs/higherhrnet

Variant         network   input  data         hardware     published AP (val2017, flip test; and scales .5, 1, 2)
(none)          small     192    marionettes  2 CPU cores  -
one_resolution  small     192    marionettes  2 CPU cores  - (the default without its high-resolution stage)
coco            W32       512    COCO 2017    TPU v5e-16   67.1  69.9
coco_w32_640    W32       640    COCO 2017    TPU v5e-16   68.5  70.6
coco_w48        W48       640    COCO 2017    TPU v5e-16   69.9  72.1
crowdpose       W32       512    CrowdPose    TPU v5e-16   -
crowdpose_w48   W48       640    CrowdPose    TPU v5e-16   65.9  67.6 (test; easy, medium, hard 73.3, 66.5, 57.9)

On two cores of an AMD EPYC the default trains in 12:52, and 70 s render the pictures; it finds unseen marionettes with
AP 11.3, AP50 44.5 (measured, one seed; small, medium, large people 10.9, 13.9, 9.7). Without its high-resolution stage
it is AP 6.4 (4.6, 9.8, 6.0).

The published figures are the authors'; this code has not been trained on the whole of COCO or CrowdPose. The recipes
start from HRNet's ImageNet weights (hrnet_w32-36af842e.pth, hrnet_w48-8ef0771d.pth):

    python -m jaxpose.main --config=configs/higherhrnet.py:coco --config.init_from=hrnet_w32-36af842e.pth \\
        --config.data.dir=DIR

The batch is 48 images. The authors took 40 for W48, which 16 devices cannot share equally.

The released pose_higher_hrnet_w32_512.pth and its siblings (those of half precision too) become ours by the same
command without --backbone. Several test scales: --config.method.scales="(0.5, 1.0, 2.0)" with --mode=evaluate.
"""

from ml_collections import ConfigDict

from jaxpose.config import LENGTHS, base, coco_folders, crowdpose_folders

RECIPES = {
    "coco": ("hrnet_w32", 512, 48),
    "coco_w32_640": ("hrnet_w32", 640, 48),
    "coco_w48": ("hrnet_w48", 640, 48),
    "crowdpose": ("hrnet_w32", 512, 48),
    "crowdpose_w48": ("hrnet_w48", 640, 48),
}


def get_config(variant: str = "") -> ConfigDict:
    config = base("higherhrnet", variant, ["one_resolution", *RECIPES])
    config.method = ConfigDict({"name": "higherhrnet", "skeleton": "coco", "dtype": config.get_ref("dtype")})
    config.method.update({"flip_test": True, "scales": (1.0,)})
    config.evaluate.update({"suppression": "none", "batch_size": 16})
    if variant in ("", "one_resolution"):
        laptop(config, high_resolution=not variant)
    else:
        recipe(config, *RECIPES[variant], crowdpose=variant.startswith("crowdpose"))
    return config


def laptop(config: ConfigDict, high_resolution: bool) -> None:
    """A small network, trained from scratch on pictures of two to four people."""
    config.method.update(
        {
            "input_size": 192,
            "max_people": 8,
            "backbone": "hrnet_w12",
            "backbone_stages": (1, 1, 1),
            "backbone_blocks": 1,
            "stem_width": 16,
            "stem_blocks": 1,
            "deconv_layers": int(high_resolution),
            "deconv_features": 12,
            "deconv_blocks": 1,
        }
    )
    config.data.marionettes.update({"scene": "crowd", "people": (2, 4), "width": 192, "height": 192, "train": 3000})
    config.data.canvas.update({"scale": (0.8, 1.25), "rotation": 10.0, "shift": 20.0})
    config.optim.learning_rate = 4e-3
    config.optim.schedule.update({"name": "cosine", "warmup": 100})
    config.train.update({"steps": 1600, "batch_size": 16, "checkpoint_every": 400, "log_every": 50})
    config.evaluate.update({"every": 800, "sizes": (28.0**2, 42.0**2)})


def recipe(config: ConfigDict, backbone: str, side: int, batch_size: int, crowdpose: bool) -> None:
    """The paper's training: Adam without weight decay, 300 epochs."""
    config.method.update({"input_size": side, "backbone": backbone})
    config.init_from = f"{backbone}_imagenet.npz"
    config.data.source = "coco"
    if crowdpose:
        config.method.skeleton = config.data.skeleton = "crowdpose"
        config.data.update(crowdpose_folders())
        config.evaluate.metrics = ("crowdpose",)
    else:
        config.data.update(coco_folders())
    config.data.update({"workers": 0, "threads": 16})
    config.optim.update({"optimizer": "adam", "learning_rate": 1e-3, "weight_decay": 0.0})
    epoch = LENGTHS["crowdpose_images" if crowdpose else "coco_images_with_people"] // batch_size
    boundaries = (200 * epoch, 260 * epoch)
    config.optim.schedule.update({"name": "step", "factors": (0.1,), "boundaries": boundaries})
    config.train.update({"steps": 300 * epoch, "batch_size": batch_size, "checkpoint_every": epoch, "log_every": 100})
    config.evaluate.update({"every": 10 * epoch, "batch_size": 32})
