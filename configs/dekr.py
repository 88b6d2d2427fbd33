"""DEKR: bottom-up pose by disentangled keypoint regression (Geng et al., CVPR 2021).

    python -m jaxpose.main --config=configs/dekr.py --workdir=runs/dekr

Variant         network   input  data         hardware     published AP (val2017, flip test; and scales .5, 1, 2)
(none)          small     128    marionettes  2 CPU cores  -
coco            W32       512    COCO 2017    TPU v5e-16   68.0  70.7
coco_w48        W48       640    COCO 2017    TPU v5e-16   71.0  72.3
crowdpose       W32       512    CrowdPose    TPU v5e-16   65.7  67.0 (test; easy, medium, hard 73.0, 66.4, 57.5)
crowdpose_w48   W48       640    CrowdPose    TPU v5e-16   67.3  68.0 (test; easy, medium, hard 74.6, 68.1, 58.7)

On two cores of an AMD EPYC the default takes 11:44, rendering included, and finds unseen marionettes with AP 4.6,
AP50 19.1 (measured, one seed; small, medium, large people 3.0, 6.8, 5.6).

The published figures are the authors', with rescoring; this code has not been trained on the whole of COCO or
CrowdPose. The recipes start from HRNet's ImageNet weights (hrnet_w32-36af842e.pth and
hrnetv2_w48_imagenet_pretrained.pth):

    python -m jaxpose.main --config=configs/dekr.py:coco --config.init_from=hrnet_w32-36af842e.pth \\
        --config.data.dir=/data/coco

The batch is 48 images; the authors took 40, which 16 devices cannot share equally. Eight devices can:
--config.train.batch_size=40.

The released pose_dekr_hrnetw32_coco.pth and its siblings become ours by the same command without --backbone. A network
that scores poses anew is trained on a run's own poses by `jaxpose fit-rescoring`, and used through
--config.evaluate.rescoring=FILE. Several test scales: --config.method.scales="(0.5, 1.0, 2.0)" with --mode=evaluate.

Labels of mirrored training images lie three pixels beside their content, as in the released program, and the flip test
makes up for it; without one, set --config.method.aligned_mirror=True for a network of your own.
"""

from ml_collections import ConfigDict

from jaxpose.config import LENGTHS, base, coco_folders, crowdpose_folders

RECIPES = {
    "coco": ("hrnet_w32", 512, 48),
    "coco_w48": ("hrnet_w48", 640, 48),
    "crowdpose": ("hrnet_w32", 512, 48),
    "crowdpose_w48": ("hrnet_w48", 640, 48),
}


def get_config(variant: str = "") -> ConfigDict:
    config = base("dekr", variant, list(RECIPES))
    config.method = ConfigDict({"name": "dekr", "skeleton": "coco", "dtype": config.get_ref("dtype")})
    config.method.update({"flip_test": True, "scales": (1.0,), "aligned_mirror": False})
    config.evaluate.update({"suppression": "none", "batch_size": 16})
    if not variant:
        laptop(config)
    else:
        recipe(config, *RECIPES[variant], crowdpose=variant.startswith("crowdpose"))
    return config


def laptop(config: ConfigDict) -> None:
    """A small network, trained from scratch on pictures of two to four people."""
    config.method.update(
        {
            "input_size": 128,
            "max_people": 8,
            "backbone": "hrnet_w12",
            "backbone_stages": (1, 1, 1),
            "backbone_blocks": 1,
            "stem_width": 16,
            "stem_blocks": 1,
            "kernel_deviation": 0.0,
            "offset_features": 4,
            "offset_blocks": 1,
            "center_sigma": 2.0,
            "least_area": 0.0,
            "area": "box",
            "aligned_mirror": True,
        }
    )
    config.data.marionettes.update({"scene": "crowd", "people": (1, 3), "width": 128, "height": 128, "train": 3000})
    config.data.canvas.update({"scale": (0.8, 1.25), "rotation": 10.0, "shift": 15.0})
    config.optim.learning_rate = 4e-3
    config.optim.schedule.update({"name": "cosine", "warmup": 100})
    config.train.update({"steps": 1000, "batch_size": 16, "checkpoint_every": 250, "log_every": 50})
    config.evaluate.update({"every": 500, "sizes": (19.0**2, 28.0**2)})


def recipe(config: ConfigDict, backbone: str, side: int, batch_size: int, crowdpose: bool) -> None:
    """The paper's training: Adam without weight decay, 140 epochs on COCO and 300 on CrowdPose."""
    config.method.update({"input_size": side, "backbone": backbone})
    config.init_from = f"{backbone}_imagenet.npz"
    config.data.source = "coco"
    epochs, drops, images = 140, (90, 120), "coco_images_with_people"
    if crowdpose:
        epochs, drops, images = 300, (200, 260), "crowdpose_images"
        config.method.update({"skeleton": "crowdpose", "center_sigma": 2.0, "least_area": 0.0, "decrease": 0.8})
        config.data.skeleton = "crowdpose"
        config.data.update(crowdpose_folders())
        config.evaluate.metrics = ("crowdpose",)
    else:
        config.data.update(coco_folders())
    config.data.update({"workers": 0, "threads": 16})
    config.optim.update({"optimizer": "adam", "learning_rate": 1e-3, "weight_decay": 0.0})
    epoch = LENGTHS[images] // batch_size
    boundaries = tuple(e * epoch for e in drops)
    config.optim.schedule.update({"name": "step", "factors": (0.1,), "boundaries": boundaries})
    steps = epochs * epoch
    config.train.update({"steps": steps, "batch_size": batch_size, "checkpoint_every": epoch, "log_every": 100})
    config.evaluate.update({"every": 10 * epoch, "batch_size": 32})
