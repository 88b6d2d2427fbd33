"""The fields that every config has, with values that suit a laptop. Config files start from `base()`."""

from ml_collections import ConfigDict


def base(name: str) -> ConfigDict:
    """A config without `method`: config files fill that in and change what they need.

    Args:
      name: of the paper; runs go to runs/NAME unless --workdir says otherwise.
    """
    config = ConfigDict()
    config.name = name
    config.seed = 0
    config.dtype = "float32"  # compute precision: float32 or bfloat16
    config.init_from = ""  # parameters to start from, as written by python -m jaxpose.convert
    config.data = data()
    config.optim = optim()
    config.train = ConfigDict(
        {
            "steps": 1000,
            "batch_size": 64,  # global
            "accumulate": 1,  # parts of a batch that go through the network one after the other
            "ema_decay": 0.0,  # 0: no average is kept
            "log_every": 50,
            "checkpoint_every": 500,
            "keep": 2,  # latest checkpoints that stay, besides the best
        }
    )
    config.evaluate = ConfigDict(
        {
            "every": 0,  # steps; 0: never while training
            "batch_size": 64,
            "best": "AP",  # the metric by which the best checkpoint is kept
            "suppression": "hard",  # of duplicate poses: hard, soft, none
            "oks": 0.9,  # above which a pose is a duplicate
        }
    )
    config.sharding = ConfigDict({"fsdp": 1, "min_size": 2**18})  # see jaxpose/sharding.py
    return config


def data() -> ConfigDict:
    """Marionettes by default; a "coco" source reads `dir`, `train` and `validation`."""
    return ConfigDict(
        {
            "source": "marionettes",  # marionettes, coco, records
            "dir": "",  # where the data set is; marionettes are written to ~/.cache/jaxpose/data unless it is set
            "skeleton": "coco",
            "train": {"annotations": "", "images": ""},
            "validation": {"annotations": "", "images": "", "boxes": ""},  # boxes: detection file; empty: true boxes
            "marionettes": {"scene": "single", "look": "studio", "train": 3000, "validation": 400, "seed": 0},
            "padding": 1.25,  # of a person's box
            "augmentation": {"scale": 0.0, "rotation": 0.0, "mirror": 0.0, "half_body": 0.0},
            "workers": 0,  # processes that read; 0: threads
            "threads": 4,
        }
    )


def coco_folders() -> dict:
    """`data.train` and `data.validation` for COCO 2017 as it is unpacked."""
    return {
        split: {"annotations": f"annotations/person_keypoints_{name}.json", "images": name}
        for split, name in (("train", "train2017"), ("validation", "val2017"))
    }


def optim() -> ConfigDict:
    """One group of all parameters under AdamW with a constant rate; see jaxpose/optim.py."""
    return ConfigDict(
        {
            "optimizer": "adamw",
            "learning_rate": 1e-3,
            "weight_decay": 1e-4,
            "b1": 0.9,
            "b2": 0.999,
            "eps": 1e-8,
            "momentum": 0.9,
            "clip_norm": 0.0,
            "schedule": {"name": "constant", "warmup": 0, "boundaries": (0,), "factor": 1.0},
            "groups": ({"name": "all", "match": ".*"},),
        }
    )
