"""Skeletons of cases: the library's where a case has its joints and mirror pairs, else ones with made-up names."""

import zlib
from collections.abc import Iterable, Sequence

from jaxpose import skeleton
from jaxpose.skeleton import Skeleton

USUAL = ("coco", "mpii", "crowdpose", "hand")
"""Skeletons that cases without mirror pairs mean by their number of joints, the first that fits."""
SIGMA = 0.05
"""OKS constant of joints that nothing is said about."""


def skeleton_of(
    joints: int,
    pairs: Iterable[Sequence[int]] | None = None,
    upper_body: Iterable[int] | None = None,
    sigmas: Sequence[float] | None = None,
) -> Skeleton:
    """The skeleton of a case, known to the library by its name afterwards.

    Args:
      joints: number K of joints.
      pairs: pairs of joints that mirroring exchanges; None for those of the usual skeleton of K joints.
      upper_body: joints above the hips; None for those of the usual skeleton.
      sigmas: [K] OKS constants; None for those of the usual skeleton.

    Returns:
      The usual skeleton where it is as asked for, else one with made-up joints.
    """
    usual = next((skeleton.get(name) for name in USUAL if skeleton.get(name).num_joints == joints), None)
    exchanged = None if pairs is None else {tuple(sorted(map(int, pair))) for pair in pairs}
    upper = None if upper_body is None else tuple(sorted(map(int, upper_body)))
    if usual is not None:
        wanted = (exchanged, upper, None if sigmas is None else tuple(round(float(s), 9) for s in sigmas))
        found = (set(usual.flip_pairs), usual.upper_body_indices, tuple(round(s, 9) for s in usual.sigmas))
        if all(w is None or w == f for w, f in zip(wanted, found, strict=True)):
            return usual
        exchanged = found[0] if exchanged is None else exchanged
        upper = found[1] if upper is None else upper
        sigmas = usual.sigmas if sigmas is None else sigmas
    return _made(joints, exchanged or set(), upper or (), tuple(sigmas or (SIGMA,) * joints))


def _made(joints: int, pairs: set, upper: tuple[int, ...], sigmas: tuple[float, ...]) -> Skeleton:
    names = [f"joint{i}" for i in range(joints)]
    for number, (a, b) in enumerate(sorted(pairs)):
        names[a], names[b] = f"left_part{number}", f"right_part{number}"
    content = (tuple(names), tuple(names[i] for i in upper), tuple(map(float, sigmas)))
    name = f"golden{joints}_{zlib.crc32(repr(content).encode()):x}"
    made = Skeleton(name, content[0], (), content[2], content[1])
    return skeleton.SKELETONS.setdefault(name, made)
