"""Heatmaps by a vision transformer: ViTPose (Xu et al., NeurIPS 2022).

    python -m jaxpose.main --config=configs/vitpose.py --workdir=runs/vitpose

Variant      network    head     input    data         hardware     published AP (val2017, detector boxes, flip test)
(none)       small      classic  128x128  marionettes  2 CPU cores  -
coco_small   ViTPose-S  classic  192x256  COCO 2017    TPU v5e-16   73.8
coco         ViTPose-B  classic  192x256  COCO 2017    TPU v5e-16   75.8
coco_simple  ViTPose-B  simple   192x256  COCO 2017    TPU v5e-16   75.5
coco_large   ViTPose-L  classic  192x256  COCO 2017    TPU v5e-16   78.3
coco_huge    ViTPose-H  classic  192x256  COCO 2017    TPU v5e-16   79.1
mpii         ViTPose-B  classic  192x256  MPII         TPU v5e-16   -

Measured on two cores of an AMD EPYC, one seed: the default reaches PCKh@0.5 73.3 on 400 unseen marionettes after 2,300
steps, in 10:21 (77.7 after 4,000). In as much time convolutions are ahead, as with little data: the default of
configs/heatmap.py reaches 84.6. coco, compiled for 16 chips of v5e: 18.2 ms a step by the roofline, bound by arithmetic
(memory 14.6 ms), and 3.95 GiB of 16.

The published figures are the authors'; this code has not been trained on COCO or MPII. The recipes are in bfloat16 and
start from a masked autoencoder (MAE, He et al., CVPR 2022: mae_pretrain_vit_base.pth, _large, _huge):

    python -m jaxpose.main --config=configs/vitpose.py:coco --config.init_from=mae_pretrain_vit_base.pth \\
        --config.data.dir=/data/coco

Released checkpoints open by themselves: jaxpose predict vitpose-b-coco photo.jpg. Detector boxes:
--config.data.validation.boxes=COCO_val2017_detections_AP_H_56_person.json. On GPUs --config.method.attention=cudnn is
flash attention.
"""

from ml_collections import ConfigDict

from jaxpose.config import LENGTHS, augmentation, base, coco_folders, mpii_folders

SIZES = {
    "small": {"layers": 12, "drop_path": 0.3, "decay": 0.9, "decay_layers": 12},
    "base": {"layers": 12, "drop_path": 0.3, "decay": 0.75, "decay_layers": 12},
    "large": {"layers": 24, "drop_path": 0.5, "decay": 0.8, "decay_layers": 16},
    "huge": {"layers": 32, "drop_path": 0.55, "decay": 0.85, "decay_layers": 32},
}
"""Depth and regularization of the authors' configs. That of the large network counts 16 layers where it has 24, so that
its last layers learn faster than the head."""

RECIPES = {
    "coco_small": ("small", "classic"),
    "coco": ("base", "classic"),
    "coco_simple": ("base", "simple"),
    "coco_large": ("large", "classic"),
    "coco_huge": ("huge", "classic"),
    "mpii": ("base", "classic"),
}


def get_config(variant: str = "") -> ConfigDict:
    config = base("vitpose", variant, [*RECIPES])
    config.method = ConfigDict({"name": "vitpose", "skeleton": "mpii", "dtype": config.get_ref("dtype")})
    config.data.skeleton = "mpii"
    config.data.unbiased = True
    config.evaluate.metrics = ("pckh",)
    config.evaluate.best = "PCKh@0.5"
    if variant:
        recipe(config, *RECIPES[variant], coco=variant.startswith("coco"))
    else:
        laptop(config)
    return config


def laptop(config: ConfigDict) -> None:
    """A small transformer, trained from scratch."""
    config.method.update(
        {
            "input_size": (128, 128),
            "size": "",
            "width": 128,
            "layers": 4,
            "heads": 4,
            "head_features": 32,
            "drop_path": 0.0,
        }
    )
    config.data.padding = 1.1
    config.data.marionettes.train = 4000
    config.data.augmentation = augmentation(scale=0.1, rotation=10.0, mirror=0.5)
    config.optim.update({"learning_rate": 2e-3, "weight_decay": 0.05, "clip_norm": 1.0})
    config.optim.schedule.update({"name": "cosine", "warmup": 200})
    config.train.update({"steps": 2300, "batch_size": 32, "checkpoint_every": 500, "log_every": 50})
    config.evaluate.every = 2300


def recipe(config: ConfigDict, size: str, head: str, coco: bool) -> None:
    """The authors' training: AdamW, 210 epochs of 512 examples a step, smaller rates for layers near the image."""
    options = SIZES[size]
    config.method.update({"input_size": (192, 256), "size": size, "head": head, "drop_path": options["drop_path"]})
    config.method.rematerialize = size == "huge"
    config.dtype = "bfloat16"
    config.init_from = f"mae_{size}.npz"
    if coco:
        config.method.skeleton = config.data.skeleton = "coco"
        config.data.update({"source": "coco", **coco_folders()})
        config.evaluate.metrics = ("coco",)
        config.evaluate.best = "AP"
    else:
        config.data.update({"source": "mpii", "padding": 1.0, **mpii_folders()})
    config.data.augmentation = augmentation(scale=0.5, rotation=40.0, mirror=0.5, half_body=0.3)
    config.data.update({"workers": 0, "threads": 16})
    config.optim.update({"learning_rate": 5e-4, "weight_decay": 0.1, "clip_norm": 1.0})
    config.optim.groups = groups(options["layers"], options["decay"], options["decay_layers"])
    batch_size = 512
    epoch = LENGTHS["coco" if coco else "mpii"] // batch_size
    boundaries = (170 * epoch, 200 * epoch)
    config.optim.schedule.update({"name": "step", "warmup": 500, "factors": (0.1,), "boundaries": boundaries})
    config.train.update({"steps": 210 * epoch, "batch_size": batch_size, "checkpoint_every": epoch, "log_every": 50})
    config.evaluate.update({"every": epoch, "batch_size": 256})


def groups(layers: int, decay: float, decay_layers: int) -> tuple[dict, ...]:
    """Parameter groups by layer, apart for kernels, which alone decay: layer i learns at decay^(layers + 1 - i).

    Args:
      layers: number of layers of the transformer.
      decay: factor from one layer to the one before it.
      decay_layers: number of layers that the rule counts; patches and positions are layer 0.
    """
    parts = [("embedding", "backbone/(patch_embed|positions)", 0)]
    parts += [(f"layer{i}", f"backbone/block{i - 1}/", i) for i in range(1, layers + 1)]
    parts += [("head", "", decay_layers + 1)]
    found = []
    for name, path, number in parts:
        rate = decay ** (decay_layers + 1 - number)
        found.append({"name": name, "match": f"^{path}.*kernel$", "multiplier": rate})
        found.append({"name": f"{name}_vectors", "match": f"^{path}", "multiplier": rate, "weight_decay": 0.0})
    return tuple(found)
