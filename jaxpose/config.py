"""The fields that every config has, with values that suit a laptop. Config files start from `base()`.

What fields name (a method, a data set, a metric) is found by `find`: there are no tables to keep.
"""

import importlib
import importlib.util
import inspect
import pathlib
import pkgutil
import sys
import types
from collections.abc import Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from jaxpose.errors import ConfigError, did_you_mean


def names(package: str) -> list[str]:
    """The public modules of a package, sorted: "jaxpose.data.sources" -> ["cmu_mocap", "coco", ...]."""
    path = importlib.import_module(package).__path__
    return sorted(info.name for info in pkgutil.iter_modules(path) if not info.name.startswith("_"))


def find(name: str, package: str, field: str) -> Any:
    """What a config field names: something of this library, or of anybody else's.

    Args:
      name: module of `package` ("coco"), or dotted path of anything that can be imported ("mylab.data.Birds").
      package: full name of the package of this library ("jaxpose.data.sources").
      field: full name of the config field, for messages ("config.data.source").

    Returns:
      The module for a plain name; for a dotted path "a.b.C" the attribute C of the module a.b, or the module a.b.C if
      there is no such attribute.

    Raises:
      ConfigError: nothing has that name. Errors within what is imported are raised as they are.
    """
    if "." in name and all(part.isidentifier() for part in name.split(".")):
        return _imported(name, field)
    known = names(package)
    if name in known:
        return importlib.import_module(f"{package}.{name}")
    raise unknown(name, known, package, field)


def unknown(name: str, known: Sequence[str], package: str, field: str) -> ConfigError:
    """The error about a field that names nothing; it says what there is. Arguments as for `find`."""
    example = f"mylab.{package.rpartition('.')[2]}.Mine"
    hint = did_you_mean(name, known)
    end = f".{hint}" if hint else ""
    return ConfigError(f"{field} is {name!r}; it can be {', '.join(known)}, or a dotted path such as {example}{end}")


def _imported(path: str, field: str) -> Any:
    module, _, attribute = path.rpartition(".")
    found = _module(module)
    if found is None:
        raise ConfigError(f"{field} is {path!r}, but Python finds no module {module!r}; add its folder to PYTHONPATH")
    if hasattr(found, attribute):
        return getattr(found, attribute)
    if (inner := _module(path)) is None:
        raise ConfigError(f"{field} is {path!r}, but {found.__name__!r} has no {attribute!r}")
    return inner


def _module(path: str) -> Any:
    """The module, or None if there is none; an import that fails within it is an error."""
    try:
        return importlib.import_module(path)
    except ModuleNotFoundError as error:
        if error.name and f"{path}.".startswith(f"{error.name}."):
            return None
        raise


# --- config files ---


def load_config(name: str, changes: Mapping[str, Any] | None = None) -> Any:
    """A config that comes with the library, or one's own, as a ConfigDict.

    Args:
      name: installed config ("prtr") or path of a file ("configs/prtr.py"), and after a colon its variant.
      changes: {field: value} of fields that are to differ ({"train.steps": 100}).

    Raises:
      ConfigError: no such file, variant or field, or a value of another type than the field's.

    Examples:
      >>> config = load_config("heatmap:coco", {"train.batch_size": 64})
      >>> config.method.name, config.data.source, config.train.batch_size
      ('heatmap', 'coco', 64)
    """
    file, _, variant = name.partition(":")
    path = find_config(file)
    get_config = getattr(_executed(path), "get_config", None)
    if get_config is None:
        raise ConfigError(f"config {name!r}: {path} has no function get_config")
    if variant and not inspect.signature(get_config).parameters:
        raise ConfigError(f"config {name!r}: {path} has no variants")
    config = get_config(variant) if variant else get_config()
    if not isinstance(config, ConfigDict):
        raise ConfigError(f"config {name!r}: get_config gives {type(config).__name__}, expected ConfigDict")
    for field, value in (changes or {}).items():
        set_field(config, field, value)
    return config


def set_field(config: Any, field: str, value: Any) -> None:
    """Sets a field of a config.

    Args:
      config: config that is changed in place.
      field: name of the field as "section.name"; a method may have fields that its config does not list.
      value: new value.

    Raises:
      ConfigError: no such field, or a value of another type.
    """
    *sections, name = field.split(".")
    section: Any = config
    for part in sections:
        section = section.get(part) if isinstance(section, ConfigDict) else None
    if not isinstance(section, ConfigDict) or (name not in section and sections != ["method"]):
        raise ConfigError(f"the config has no field {field!r}")
    try:
        with config.unlocked():
            section[name] = value
    except TypeError as error:
        raise ConfigError(f"config.{field} cannot be {value!r}: {error}") from error


def complete(config: Any, defaults: Any) -> None:
    """Adds the fields that came into being after a config was written, with the values of `defaults`."""
    for name, value in defaults.items():
        if name not in config:
            config[name] = value
        elif isinstance(value, type(config)):
            complete(config[name], value)


def find_config(file: str) -> pathlib.Path:
    """The file that "prtr", "prtr.py", "configs/prtr.py" or any path means; a file that exists at the path comes first.

    Raises:
      ConfigError: there is none.
    """
    path = pathlib.Path(file).expanduser()
    if path.suffix == ".py" and path.is_file():
        return path
    known = sorted(each.stem for each in _installed().glob("[a-z]*.py"))
    name = path.name.removesuffix(".py")
    if path.parent in (pathlib.Path(), pathlib.Path("configs")) and name in known:
        return _installed() / f"{name}.py"
    hint = did_you_mean(name, known) or f" Installed configs: {', '.join(known)}."
    raise ConfigError(f"config {file!r}: there is no such config file.{hint}")


def _installed() -> pathlib.Path:
    """The folder of the configs that come with the library: in it, or beside it in a working copy."""
    package = pathlib.Path(__file__).parent
    inside = package / "configs"
    return inside if inside.is_dir() else package.parent / "configs"


def _executed(path: pathlib.Path) -> types.ModuleType:
    spec = importlib.util.spec_from_file_location(f"jaxpose_config_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# --- fields ---


def base(name: str, variant: str = "", variants: Sequence[str] = ()) -> ConfigDict:
    """A config without `method`: config files fill that in and change what they need.

    Args:
      name: name of the paper. Runs go to runs/NAME, or runs/NAME_VARIANT, unless --workdir says otherwise.
      variant: variant of the config; empty for the default.
      variants: names of the config's variants.

    Raises:
      ConfigError: there is no such variant.
    """
    if variant and variant not in variants:
        hint = did_you_mean(variant, variants)
        end = f".{hint}" if hint else ""
        raise ConfigError(f"configs/{name}.py has no variant {variant!r}; there are {', '.join(variants)}{end}")
    config = ConfigDict()
    config.name = f"{name}_{variant}" if variant else name
    config.seed = 0
    config.dtype = "float32"  # compute precision: float32 or bfloat16
    config.init_from = ""  # to start from: another run's folder, a file of weights, their name, or hf://ORG/NAME
    config.stages = ()  # runs in a row that make one experiment; see jaxpose/training/stages.py
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
            "stream": "",  # evaluate the validation data of this stream of training; empty: those of config.data
            "metrics": ("coco",),  # coco, crowdpose: AP and AR; pckh, pck: correct keypoints by size of head or torso;
            # groups: correct keypoints by groups of joints; boxes: AP and AR of a detector's boxes; posetrack: AP of
            # joints, and MOTA, in videos; mpjpe: errors of 3D poses, in millimetres
            "sizes": (),  # square pixels up to which a person is small, and medium, if not COCO's; adds AP_S
            "best": "AP",  # the metric by which the best checkpoint is kept; of errors, the lowest
            "gap": (),  # two stages: say how much of the way from the first to the second each stage has covered
            "suppression": "hard",  # of duplicate poses: hard, soft, parametric, none
            "oks": 0.9,  # above which a pose is a duplicate, if hard or soft
            "rescoring": "",  # file of jaxpose fit-rescoring, by which poses are scored anew
            "pose_nms": {"rules": "alphapose", "file": ""},  # if parametric: see jaxpose/evaluation/suppression
        }
    )
    config.sharding = ConfigDict({"fsdp": 1, "min_size": 2**18})  # see jaxpose/sharding.py
    return config


def data() -> ConfigDict:
    """Marionettes by default; a "coco" source reads `dir`, `train` and `validation`."""
    return ConfigDict(
        {
            "source": "marionettes",  # module of jaxpose.data.sources, which says what else it reads; or a dotted path
            "dir": "",  # where the data set is; marionettes are written to ~/.cache/jaxpose/data unless it is set
            "skeleton": "coco",
            "allow_outside": False,  # True reads images that annotations name by absolute paths, or by ".."
            "train": {"annotations": "", "images": ""} | videos(),
            "validation": {"annotations": "", "images": "", "boxes": "", "box_threshold": 0.0} | videos(),
            # boxes: a detection file, "simulated" by what the field `simulated` says, or "image" for whole images;
            # empty: true boxes
            "marionettes": marionettes(),
            "h36m": {"detector": "cpn_ft_h36m_dbb", "scores": "score.pkl"},  # see jaxpose/data/sources/h36m.py
            "cmu_mocap": cmu_mocap(),
            "padding": 1.25,  # of a person's box
            "half_pixel": False,  # crops by pixel borders rather than indices; see PersonCrop
            "unbiased": False,  # crops of UDP
            "antialias": False,
            "augmentation": augmentation(),  # of crops
            "canvas": canvas(),  # of whole images
            "detection": detection(),  # of whole images for detectors
            "clips": {"distance": (2, 2)},  # of the first frames before and after one that are too far to look at
            "proposals": {"rule": "", "file": "", "from_step": 0},  # random training boxes; jaxpose/data/proposals.py
            "simulated": {"seed": 0, "copies": 3, "jitter": 0.1, "misses": 0.0, "false_positives": 0.0},
            "streams": {},  # {stream: fields of data that differ for it}, for methods with several
            "workers": 0,  # processes that read; 0: threads
            "threads": 4,
        }
    )


def marionettes() -> dict:
    """Pictures of single people; see `jaxpose.marionettes.MarionettesConfig`."""
    pictures = {"scene": "single", "look": "studio", "width": 160, "height": 160, "frames": 1, "people": (1, 1)}
    return pictures | {"occlusion": 0.2, "train": 3000, "validation": 400, "seed": 0}


def videos() -> dict:
    """Which videos a split of a source of sequences has; without names, those of its usual split."""
    return {"subjects": (), "actions": (), "clips": ()}  # subjects and actions: h36m; clips: cmu_mocap


def cmu_mocap() -> dict:
    """Simulated cameras and 2D detector; see `jaxpose.data.sources.cmu_mocap.Options`."""
    rates = {"captured_rate": 120.0, "rate": 50.0}
    hidden = {"hidden": 0.08, "hidden_seconds": 0.4, "hidden_noise": 0.06}
    return rates | {"cameras": 4, "seed": 0, "noise": 0.012} | hidden


def augmentation(**fields: Any) -> dict:
    """No random views, but for `fields`; see `jaxpose.data.views.Augmentation`."""
    none = {"scale": 0.0, "octaves": False, "rotation": 0.0, "uniform_rotation": False, "rotation_probability": 0.6}
    return none | {"mirror": 0.0, "half_body": 0.0, "area": ()} | fields


def canvas() -> dict:
    """Random views of whole images, those of HigherHRNet and DEKR; see `jaxpose.data.examples.images`."""
    return {"scale": (0.75, 1.5), "rotation": 30.0, "shift": 40.0, "mirror": 0.5, "side": "short"}


def detection() -> dict:
    """Random views of whole images, those of DETR; see `jaxpose.data.views.DetectionAugmentation`.

    Lengths are multiples of `config.method.short_side`, 800 pixels in the paper.
    """
    short_sides = (0.6, 0.64, 0.68, 0.72, 0.76, 0.8, 0.84, 0.88, 0.92, 0.96, 1.0)
    crop = {"crop": 0.5, "crop_short_sides": (0.5, 0.625, 0.75), "crop_sides": (0.48, 0.75)}
    return {"short_sides": short_sides, "mirror": 0.5} | crop


def coco_folders() -> dict:
    """`data.train` and `data.validation` for COCO 2017 as it is unpacked."""
    return {
        split: {"annotations": f"annotations/person_keypoints_{name}.json", "images": name}
        for split, name in (("train", "train2017"), ("validation", "val2017"))
    }


LENGTHS = {
    "coco": 149_813,  # people of train2017 who train top-down methods: no crowd, a joint and an area
    "coco_images": 118_287,  # of train2017, with or without people
    "coco_images_with_people": 64_115,  # of train2017
    "crowdpose_images": 12_000,  # of training and validation together
    "mpii": 22_246,  # people of Newell's split in the JSON form, the files that `mpii_folders` names
    "h36m": 2 * 1_559_808,  # frames of five subjects, seen by four cameras, each and its mirror image
}
"""Examples of an epoch by the data set that a recipe trains on; the log of a run tells how many it has."""


def crowdpose_folders() -> dict:
    """`data.train` and `data.validation` for CrowdPose: training on train and validation together, test on test."""
    names = (("train", "trainval"), ("validation", "test"))
    return {split: {"annotations": f"json/crowdpose_{name}.json", "images": "images"} for split, name in names}


def mpii_folders() -> dict:
    """`data.train` and `data.validation` for MPII with Newell's split in the JSON form that HRNet publishes."""
    return {
        "train": {"annotations": "annot/train.json", "images": "images"},
        "validation": {"annotations": "annot/valid.json", "images": "images", "head_boxes": "annot/gt_valid.mat"},
    }


def _splits(train: dict, validation: dict, **fields: Any) -> dict:
    """`data.train` and `data.validation` with common fields; people's own boxes unless they say otherwise."""
    common = {"boxes": ""} | fields
    return {"train": common | train, "validation": common | validation}


def surreal_folders() -> dict:
    """`data.train` and `data.validation` for SURREAL as RegDA takes it; see jaxpose/data/sources/surreal.py."""
    train, test = ({"annotations": part, "images": part, "part": part} for part in ("train", "test"))
    return _splits(train, test)


def h36m_frames_folders() -> dict:
    """`data.train` and `data.validation` for pictures of Human3.6M; see jaxpose/data/sources/h36m_frames.py."""
    train, test = {"subjects": (1, 5, 6, 7, 8), "part": "all"}, {"subjects": (9, 11), "part": "test"}
    return _splits(train, test, annotations="annotations", images="images")


def lsp_folders() -> dict:
    """`data.train` and `data.validation` for LSP as RegDA takes it: all whole images, for both."""
    fields = {"annotations": "joints.mat", "images": "images", "range": ()}
    return _splits(fields, fields, hidden="unlabelled", boxes="image")


def rhd_folders() -> dict:
    """`data.train` and `data.validation` for Rendered Handpose; see jaxpose/data/sources/rhd.py."""
    train, test = (
        {"annotations": f"RHD_published_v2/{part}/anno_{part}.pickle", "images": f"RHD_published_v2/{part}/color"}
        for part in ("training", "evaluation")
    )
    return _splits(train, test)


def h3d_folders() -> dict:
    """`data.train` and `data.validation` for Hand-3D-Studio, hands without objects; see jaxpose/data/sources/h3d.py."""
    fields = {"annotations": "H3D_crop/annotation.json", "images": "H3D_crop", "hands": "without_object"}
    return _splits({"part": "train"}, {"part": "test"}, **fields)


def freihand_folders() -> dict:
    """`data.train` and `data.validation` for FreiHAND, all versions; see jaxpose/data/sources/freihand.py."""
    fields = {"annotations": "training_xyz.json", "images": "training/rgb", "version": "all"}
    return _splits({"part": "train"}, {"part": "test"}, **fields)


def optim() -> ConfigDict:
    """One group of all parameters under AdamW with a constant rate; see jaxpose/training/optim.py."""
    return ConfigDict(
        {
            "optimizer": "adamw",
            "learning_rate": 1e-3,
            "weight_decay": 1e-4,
            "b1": 0.9,
            "b2": 0.999,
            "decay": 0.99,
            "eps": 1e-8,
            "momentum": 0.9,
            "nesterov": False,
            "clip_norm": 0.0,
            "schedule": {
                "name": "constant",
                "warmup": 0,
                "boundaries": (0,),
                "factors": (1.0,),
                "gamma": 1e-4,
                "power": 0.75,
            },
            "groups": ({"name": "all", "match": ".*"},),
        }
    )
