"""Anatomy-aware 3D human pose from video (Chen et al., TCSVT 2021, arXiv 2002.10322): 2D joints in, 3D joints out.

    python -m jaxpose.main --config=configs/anatomy3d.py --workdir=runs/anatomy3d

Variant       network                      frames  data                     hardware     published MPJPE (mm)
(none)        lengths and directions       27      marionettes              2 CPU cores  -
direct        the same without bones       27      marionettes              2 CPU cores  -
causal        past frames only             27      marionettes              2 CPU cores  -
cmu           lengths and directions       27      CMU motion capture       2 CPU cores  -
cmu_direct    the same without bones       27      CMU motion capture       2 CPU cores  -
h36m          lengths and directions       243     Human3.6M, CPN           TPU v5e-16   44.1 (P-MPJPE 35.0)
h36m_gt       lengths and directions       243     Human3.6M, true 2D       TPU v5e-16   32.3
h36m_causal   past frames only             243     Human3.6M, CPN           TPU v5e-16   -
h36m_direct   the same without bones       243     Human3.6M, CPN           TPU v5e-16   -

Errors are those of people (marionettes, Human3.6M) or clips (CMU) that training does not see, over all of their frames,
with a flip test. A direct variant regresses joints from the first sub-network's trunk, with the same data, channels,
batches and steps.

What was measured, one seed each, in millimetres; minutes are of one core, data included:

                        steps  minutes  MPJPE  P-MPJPE  N-MPJPE  MPJVE
(none)                  3,000      7.5   67.0     40.4     53.4    7.0
direct                  3,000      2     75.4     47.6     61.5   10.4
direct                 12,000      8     69.0     40.3     52.2    8.2
cmu                     3,000      7.5   68.0     49.3     67.4    7.3
cmu_direct              3,000      2     72.5     54.5     71.9   10.0

The published figures are the authors', as later papers quote them; this code has not been trained on Human3.6M. Data
sets are read from --config.data.dir: data_3d_h36m.npz, data_2d_h36m_cpn_ft_h36m_dbb.npz and score.pkl as
jaxpose/data/sources/h36m.py describes; subjects/01/01.asf and so on, as mocap.cs.cmu.edu gives them
(jaxpose/data/sources/cmu_mocap.py: cameras and 2D noise are simulated).

Joints that another program or jaxpose predict found become 3D with jaxpose lift.
"""

from ml_collections import ConfigDict

from jaxpose.config import LENGTHS, base

VARIANTS = ("direct", "causal", "cmu", "cmu_direct", "h36m", "h36m_gt", "h36m_causal", "h36m_direct")


def get_config(variant: str = "") -> ConfigDict:
    config = base("anatomy3d", variant, VARIANTS)
    config.method = ConfigDict({"name": "anatomy3d", "skeleton": "h36m", "dtype": config.get_ref("dtype")})
    config.data.skeleton = "h36m"
    config.optim.update({"optimizer": "amsgrad", "learning_rate": 1e-3, "weight_decay": 0.0})
    config.evaluate.update({"metrics": ("mpjpe",), "best": "MPJPE"})
    parts = variant.split("_")
    if "h36m" in parts:
        recipe(config, truth="gt" in parts)
    else:
        laptop(config)
    if "cmu" in parts:
        config.data.source = "cmu_mocap"
    config.method.update({"causal": "causal" in parts, "direct": "direct" in parts})
    return config


def laptop(config: ConfigDict) -> None:
    """A network of less than a million parameters, trained from scratch."""
    config.method.update({"widths": (3, 3, 3), "channels": 128, "num_drawn": 16, "dropout": 0.1})
    config.data.marionettes.update(
        {"scene": "sequence", "width": 1000, "height": 1000, "frames": 120, "train": 480, "validation": 64}
    )
    config.optim.schedule.update({"name": "cosine", "warmup": 100})
    config.train.update({"steps": 3000, "batch_size": 128, "checkpoint_every": 1000, "log_every": 100})
    config.evaluate.update({"every": 3000, "batch_size": 16})


def recipe(config: ConfigDict, truth: bool) -> None:
    """The paper's training on Human3.6M: 60 epochs over every frame and its mirror image.

    Args:
      config: config to change.
      truth: True for exact 2D joints instead of those that CPN found. Their confidence is the detector's all the same,
        as in the original.
    """
    epochs, batch_size = 60, 1024
    epoch = LENGTHS["h36m"] // batch_size
    config.method.update({"widths": (3, 3, 3, 3, 3), "channels": 1024, "num_drawn": 50, "dropout": 0.25})
    config.method.update({"bn_momentum_steps": epochs * epoch, "bn_momentum_every": epoch})
    config.data.update({"source": "h36m", "workers": 0, "threads": 16})
    if truth:
        config.data.h36m.detector = "gt"
    boundaries = tuple(e * epoch for e in range(1, epochs))
    config.optim.schedule.update({"name": "step", "factors": (0.95,), "boundaries": boundaries})
    config.train.update({"steps": epochs * epoch, "batch_size": batch_size, "checkpoint_every": epoch})
    config.train.log_every = 100
    config.evaluate.update({"every": 5 * epoch, "batch_size": 16})
