"""DEKR: every cell near the middle of a person tells the whole pose (Geng et al., CVPR 2021).

An HRNet sees the whole image. One head draws heatmaps of all joints and of people's centres. The other has a branch for
each joint, whose adaptive convolutions look where that joint is, and tells at every cell the vector to it. Peaks of the
centre heatmap choose cells, their vectors are poses, and the joints' heatmaps score them.

A cell is a pixel of the maps. Input pixel = 4 x cell exactly, without a half-pixel term.
"""

import dataclasses
import functools
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from flax.typing import Dtype

from jaxpose.methods.base import LossAux, Phase
from jaxpose.methods.bottom_up import BottomUp, joints_on_map
from jaxpose.methods.dekr import decode
from jaxpose.methods.dekr.adaptive import AdaptiveBlock, BranchConv
from jaxpose.nn.heads import SMALL_NORMAL, heatmap_conv
from jaxpose.nn.hrnet import ConvNorm
from jaxpose.nn.names import OriginalNames
from jaxpose.nn.recognition import Recognized, Shapes
from jaxpose.nn.resnet import BasicBlock
from jaxpose.ops import geometry
from jaxpose.types import Array, Batch, Layout, Poses, Stream, Variables, image_field

STRIDE = decode.STRIDE
AREAS = ("origin", "box")
LEAST_BOX = 32.0**2
"""Least squared diagonal of a person's box in input pixels, so that a person of one joint has a finite weight."""
FLIP_SHIFT = 3
"""Pixels by which the mirrored input moves left, so that its cells fall on those of the input."""
BALANCED_REFLECTION = 0.25
"""Mirroring moves input pixel 4 c to S - 1 - 4 c, which is cell R - 1/4 - c."""
_POSITIVE = ("offset_features", "offset_blocks", "sigma", "center_sigma", "radius")


# --- network (section 3) ---


class DEKRNetwork(nn.Module):
    """A backbone and two heads.

    Attributes:
      backbone: an HRNet that returns all its branches.
      num_joints: number of joints K, without the centre.
      heatmap_features: number of channels of the heatmap head.
      offset_features: number of channels of each joint's branch.
      offset_blocks: number of adaptive blocks of each branch.
      dtype: compute precision; the last convolutions work in float32 at least.
    """

    backbone: nn.Module
    num_joints: int
    heatmap_features: int
    offset_features: int = 15
    offset_blocks: int = 2
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, image: jax.Array, train: bool = False) -> dict[str, jax.Array]:
        """Normalised [B, H, W, 3], sides divisible by 32, -> float32 maps at stride 4.

        Returns:
          "heatmaps" [B, h, w, K + 1], the centre last; "offsets" [B, h, w, K, 2] (x, y), cell minus joint in cells.
        """
        x = merge_branches(self.backbone(image, train))
        return {"heatmaps": self._heatmaps(x, train), "offsets": self._offsets(x, train)}

    def _heatmaps(self, x: jax.Array, train: bool) -> jax.Array:
        x = ConvNorm(self.heatmap_features, size=1, dtype=self.dtype, name="heatmap_transition")(x, train)
        x = BasicBlock(self.heatmap_features, dtype=self.dtype, name="heatmap_block")(x, train)
        x = x.astype(jnp.promote_types(self.dtype, jnp.float32))
        return heatmap_conv(self.num_joints + 1, name="heatmap_final")(x)

    def _offsets(self, x: jax.Array, train: bool) -> jax.Array:
        channels = self.num_joints * self.offset_features
        x = ConvNorm(channels, size=1, dtype=self.dtype, name="offset_transition")(x, train)
        x = rearrange(x, "b h w (k f) -> b h w k f", k=self.num_joints)
        for index in range(self.offset_blocks):
            x = AdaptiveBlock(dtype=self.dtype, name=f"offset_block{index}")(x, train)
        precise = jnp.promote_types(self.dtype, jnp.float32)
        return BranchConv(2, size=1, dtype=precise, kernel_init=SMALL_NORMAL, name="offset_final")(x)


def merge_branches(branches: list[jax.Array]) -> jax.Array:
    """Maps [B, H, W, C], [B, H/2, W/2, 2 C], ..., all enlarged to the first one's size, [B, H, W, 15 C] for four."""
    size = branches[0].shape[:3]
    enlarged = [jax.image.resize(b, (*size, b.shape[-1]), "bilinear") for b in branches[1:]]
    return jnp.concatenate([branches[0], *enlarged], axis=-1)


# --- targets (section 3.4 and the released code) ---


def person_centers(keypoints: Array, visible: Array) -> jax.Array:
    """Mean of the labelled joints, of all joints where none is labelled.

    An unlabelled joint is written as the image's corner, so the latter is the place to which that corner went.

    Args:
      keypoints: [..., K, 2] in any frame.
      visible: [..., K], positive where labelled.

    Returns:
      [..., 2].
    """
    labelled = jnp.asarray(visible) > 0
    counted = labelled | ~labelled.any(-1, keepdims=True)
    return jnp.sum(jnp.where(counted[..., None], keypoints, 0), -2) / jnp.sum(counted, -1)[..., None]


def person_areas(keypoints: Array, visible: Array, kind: str = "origin") -> jax.Array:
    """Sizes of people: squared diagonals of boxes, in pixels^2 of the frame of `keypoints`.

    Args:
      keypoints: [..., K, 2] pixels of the image.
      visible: [..., K], positive where labelled.
      kind: kind of box, "box" for that around the labelled joints; "origin" for one that reaches to the image's corner
        (0, 0) besides, as in the released code, whose weights therefore depend on where a person stands.

    Returns:
      [...]; 0 without labelled joints.
    """
    labelled = (jnp.asarray(visible) > 0)[..., None]
    border = 0.0 if kind == "origin" else jnp.inf
    low = jnp.min(jnp.where(labelled, keypoints, border), -2, initial=border)
    high = jnp.max(jnp.where(labelled, keypoints, -border), -2, initial=-border)
    return jnp.sum(jnp.square(jnp.where(labelled.any(-2), high - low, 0)), -1)


def gaussian_maps(points: Array, drawn: Array, size: tuple[int, int], sigmas: Array) -> tuple[jax.Array, jax.Array]:
    """Gaussians of height 1 around exact positions, one map a joint for everybody; the larger value stays.

    Each is cut to columns from floor(x - 3 sigma - 1) to below ceil(x + 3 sigma + 2), and rows alike.

    Args:
      points: [..., N, J, 2] in cells; those outside of [0, width) x [0, height) are not drawn.
      drawn: [..., N, J] bool.
      size: (width, height) of the maps.
      sigmas: [J] standard deviations in cells.

    Returns:
      maps [..., H, W, J] float32, and bool [..., H, W, J] where any Gaussian's square is.
    """
    points, sigmas = jnp.asarray(points, jnp.float32), jnp.asarray(sigmas, jnp.float32)[:, None]
    drawn = drawn & jnp.all((points >= 0) & (points < jnp.array(size, jnp.float32)), -1)
    first, end = jnp.floor(points - 3 * sigmas - 1), jnp.ceil(points + 3 * sigmas + 2)

    def profile(axis: int) -> tuple[jax.Array, jax.Array]:
        """Values and extent [..., N, L, J] along an axis of L cells."""
        low, high, center = (v[..., None, :, axis] for v in (first, end, points))
        cell = jnp.arange(size[axis], dtype=jnp.float32)[:, None]
        within = (cell >= low) & (cell < high) & drawn[..., None, :]
        return jnp.where(within, jnp.exp(-jnp.square(cell - center) / (2 * jnp.square(sigmas[:, 0]))), 0), within

    (columns, in_columns), (rows, in_rows) = profile(0), profile(1)
    maps = jnp.max(rows[..., :, None, :] * columns[..., None, :, :], -4, initial=0)
    return maps, jnp.any(in_rows[..., :, None, :] & in_columns[..., None, :, :], -4)


def offset_targets(
    keypoints: Array,
    visible: Array,
    centers: Array,
    present: Array,
    areas: Array,
    size: tuple[int, int],
    radius: int = 4,
) -> tuple[jax.Array, jax.Array]:
    """Targets of the cells around one image's centres; see `_write_person` for cells of several people.

    Args:
      keypoints: [N, K, 2] in cells; joints outside of [0, width) x [0, height) do not count.
      visible: [N, K], positive where a joint counts.
      centers: [N, 2] in cells; a person owns the cells from trunc(center) - radius to below trunc(center) + radius, if
        trunc(center) is inside.
      present: [N] bool, whether the person has a centre.
      areas: [N] squared diagonals in input pixels, see `person_areas`.
      size: (width, height) of the maps.
      radius: half the side of a person's window in cells.

    Returns:
      offsets [H, W, K, 2], cell minus joint in cells, and weights [H, W, K], 1 / sqrt(area), 0 where nothing is told.
    """
    keypoints, areas = jnp.asarray(keypoints, jnp.float32), jnp.asarray(areas, jnp.float32)
    limits, middle = jnp.array(size, jnp.float32), jnp.trunc(jnp.asarray(centers, jnp.float32))
    joints = (visible > 0) & jnp.all((keypoints >= 0) & (keypoints < limits), -1)
    present = present & jnp.all((middle >= 0) & (middle < limits), -1) & (areas > 0)
    cells = _cells(*size)
    maps = (size[1], size[0], keypoints.shape[1])
    empty = jnp.zeros((*maps, 2)), jnp.zeros(maps), jnp.zeros(maps[:2])

    def write(state, person):
        return _write_person(cells, radius, state, person), None

    (offsets, weights, _), _ = jax.lax.scan(write, empty, (keypoints, joints & present[:, None], middle, areas))
    return offsets, weights


def _cells(width: int, height: int) -> np.ndarray:
    """[H, W, 2] (x, y) of every cell."""
    return np.stack(np.meshgrid(np.arange(width), np.arange(height)), -1).astype(np.float32)


def _write_person(cells: np.ndarray, radius: int, state: tuple, person: tuple) -> tuple:
    """The maps of `offset_targets` after one more person, in annotation order.

    Joint after joint, a cell is written if it holds no offset of that joint, or if it does not belong to a smaller
    person. It then belongs to the writer, with all further joints: so the smaller person wins, the later of two equal
    ones, and a larger one who finds a joint free. An offset of exactly 0 counts as none.
    """
    offsets, weights, owners = state
    keypoints, joints, middle, area = person
    window = jnp.all((cells >= middle - radius) & (cells < middle + radius), -1)
    possible = window[..., None] & joints
    free = ~jnp.any(offsets != 0, -1)
    entered = possible & (free | (owners >= area)[..., None])
    written = possible & (jnp.cumsum(entered, -1) > 0)
    return (
        jnp.where(written[..., None], cells[:, :, None] - keypoints, offsets),
        jnp.where(written, 1 / jnp.sqrt(area), weights),
        jnp.where(written.any(-1), area, owners),
    )


# --- losses (section 3.4) ---


def heatmap_loss(maps: Array, targets: Array, weights: Array) -> jax.Array:
    """Weighted squared difference, averaged over all elements of [B, H, W, J]."""
    return jnp.mean(jnp.square(jnp.asarray(maps, jnp.float32) - targets) * weights)


def offset_loss(offsets: Array, targets: Array, weights: Array, beta: float = 1 / 9) -> jax.Array:
    """Weighted smooth L1 difference, averaged over the coordinates that have a weight; 0 without any.

    Args:
      offsets: [B, H, W, K, 2].
      targets: [B, H, W, K, 2].
      weights: [B, H, W, K, 1] of joints, or [B, H, W, K, 2] of their coordinates.
      beta: difference from which on the loss is linear.
    """
    difference = jnp.abs(jnp.asarray(offsets, jnp.float32) - targets)
    smooth = jnp.where(difference < beta, 0.5 * jnp.square(difference) / beta, difference - 0.5 * beta)
    count = jnp.sum(jnp.broadcast_to(weights > 0, smooth.shape))
    return jnp.sum(smooth * weights) / jnp.maximum(count, 1)


# --- the flip test ---


def mirror_input(image: jax.Array) -> jax.Array:
    """Images [B, H, W, C] mirrored, their content then moved left so that cells meet; the last columns stay."""
    mirrored = image[:, :, ::-1]
    return jnp.concatenate([mirrored[:, :, FLIP_SHIFT:], mirrored[:, :, -FLIP_SHIFT:]], axis=2)


def to_poses(offsets: Array) -> jax.Array:
    """Offsets [..., H, W, K, 2] -> joints in cells, of the same shape."""
    return jnp.asarray(_cells(offsets.shape[-3], offsets.shape[-4]))[:, :, None] - jnp.asarray(offsets, jnp.float32)


def mirror_poses(poses: jax.Array, flip_index: np.ndarray) -> jax.Array:
    """Poses [..., H, W, K, 2] of the mirrored input as those of the input, still in the mirrored order of cells."""
    width = poses.shape[-3]
    swapped = poses[..., flip_index, :]
    return jnp.stack([width - 1 - swapped[..., 0], swapped[..., 1]], -1)


def merge_views(views: list[dict[str, jax.Array]], flip_index: np.ndarray) -> tuple[jax.Array, jax.Array]:
    """Heatmaps [B, h, w, K + 1] and poses [B, h, w, K, 2] in cells, averaged over the network's outputs for the views.

    Args:
      views: those of the input and, in a flip test, of `mirror_input`.
      flip_index: [K] of the skeleton.
    """
    heatmaps, poses = views[0]["heatmaps"], to_poses(views[0]["offsets"])
    if len(views) == 1:
        return heatmaps, poses
    back = mirror_poses(to_poses(views[1]["offsets"]), flip_index)[:, :, ::-1]
    channels = np.append(flip_index, len(flip_index))
    return (heatmaps + views[1]["heatmaps"][:, :, ::-1][..., channels]) / 2, (poses + back) / 2


# --- method ---


@dataclasses.dataclass(frozen=True)
class DEKR(BottomUp):
    """The defaults are those of DEKR-W32 on COCO at 512 pixels.

    CrowdPose was trained with `center_sigma` 2 and `least_area` 0, and is tested with `decrease` .8.

    Attributes:
      heatmap_features: number of channels of the heatmap head; 0 for as many as the backbone's finest branch.
      offset_features: number of channels of each joint's branch.
      offset_blocks: number of adaptive blocks of each branch.
      sigma, center_sigma: standard deviations of heatmap targets of joints and of centres, in cells.
      background: weight of heatmap cells near nobody's joint.
      radius: number of cells to each side of a centre that tell the pose.
      area: kind of size by which people are weighted and claim cells, "origin" or "box"; see `person_areas`.
      least_area: least annotated area, in pixels^2 of the original image, of people who have a centre.
      keep_unlabelled: whether people without labelled joints have a centre too, at the image's corner, as in the
        original.
      aligned_mirror: whether labels of mirrored training images lie on their content. The original puts them .75 cells
        to the left; networks trained so are biased by -.375 cells in x, which the flip test makes up for.
      heatmap_weight, offset_weight: factors of the losses.
      unflipped_shift: number of cells that is added to x without the flip test; .375 for networks trained with the
        original's mirror.
      threshold: centre score above which a cell is a candidate.
      pool_thresholds, decrease: fields of `decode.Selection`.
      nms_threshold: field of `decode.Selection`; 0 for .05 with one test scale and .15 with several.
      nms_count: field of `decode.Selection`; 0 for half the joints.
      matching: whether joints are moved to peaks of their heatmaps, see `decode.Matching`.
    """

    heatmap_features: int = 0
    offset_features: int = 15
    offset_blocks: int = 2
    sigma: float = 2.0
    center_sigma: float = 4.0
    background: float = 0.1
    radius: int = 4
    area: str = "origin"
    least_area: float = 32.0**2
    keep_unlabelled: bool = False
    aligned_mirror: bool = False
    heatmap_weight: float = 1.0
    offset_weight: float = 0.03
    unflipped_shift: float = 0.0
    threshold: float = 0.01
    pool_thresholds: tuple[float, float] = (300.0, 200.0)
    decrease: float = 0.9
    nms_threshold: float = 0.0
    nms_count: int = 0
    matching: bool = False

    mask_strides: ClassVar[tuple[int, ...]] = (STRIDE,)
    own_start: ClassVar[str] = "offset_block"

    def __post_init__(self):
        super().__post_init__()
        self.require(self.area in AREAS, "area", '"origin" or "box"')
        for field in _POSITIVE:
            self.require(getattr(self, field) > 0, field, "a positive number")
        fits = all(2 * scale == int(2 * scale) for scale in self.scales)
        self.require(fits, "scales", "multiples of .5, so that the sides of all canvases are multiples of 32")
        self.require(
            self.nms_count < self.joints.num_joints, "nms_count", "fewer than all joints, or 0 for half of them"
        )

    # --- network ---

    @property
    def map_size(self) -> int:
        """R, side of a training canvas in cells."""
        return self.input_size // STRIDE

    def module(self) -> DEKRNetwork:
        dtype = jnp.dtype(self.dtype)
        backbone = self.hrnet("branches")
        return DEKRNetwork(
            backbone,
            num_joints=self.joints.num_joints,
            heatmap_features=self.heatmap_features or backbone.width,
            offset_features=self.offset_features,
            offset_blocks=self.offset_blocks,
            dtype=dtype,
        )

    # --- targets and losses ---

    def labels(self, stream: Stream) -> Stream:
        """Targets and weights.

        "heatmaps" and "heatmap_weight" [B, R, R, K + 1]; "offsets" [B, R, R, K, 2] and "offset_weight" [B, R, R, K].
        """
        reflection = BALANCED_REFLECTION if self.aligned_mirror else 1.0
        keypoints, visible = joints_on_map(stream, self.map_size, self.joints.flip_index, reflection)
        counted = stream["people"] & stream["valid"][:, None]
        visible = jnp.where(counted[..., None], visible, 0)
        centers = person_centers(keypoints, visible)
        present = counted & (stream["area"] >= self.least_area)
        if not self.keep_unlabelled:
            present &= jnp.any(visible > 0, -1)
        size = self.map_size, self.map_size
        points = jnp.concatenate([keypoints, centers[:, :, None]], 2)
        drawn = jnp.concatenate([visible > 0, present[..., None]], 2)
        heatmaps, near = gaussian_maps(points, drawn, size, self.sigmas)
        mask = stream[f"mask_{STRIDE}"] * stream["valid"][:, None, None]
        tell = jax.vmap(functools.partial(offset_targets, size=size, radius=self.radius))
        offsets, offset_weight = tell(keypoints, visible, centers, present, self.areas(stream))
        return {
            "heatmaps": heatmaps,
            "heatmap_weight": jnp.where(near, 1, self.background) * mask[..., None],
            "offsets": offsets,
            "offset_weight": offset_weight,
        }

    @property
    def sigmas(self) -> np.ndarray:
        """[K + 1] standard deviations of the heatmap targets, in cells."""
        return np.array([self.sigma] * self.joints.num_joints + [self.center_sigma], np.float32)

    def areas(self, stream: Stream) -> jax.Array:
        """[B, N] `person_areas` in the original image, brought to input pixels."""
        to_image = stream["to_image"]
        original = geometry.apply_affine(to_image[:, None], stream["keypoints"])
        a, b, c, d = (to_image[:, i, j] for i in (0, 1) for j in (0, 1))
        areas = person_areas(original, stream["visible"], self.area) / jnp.abs(a * d - b * c)[:, None]
        return jnp.maximum(areas, LEAST_BOX) if self.area == "box" else areas

    def criterion(self, outputs: dict[str, jax.Array], stream: Stream) -> dict[str, jax.Array]:
        """The weighted losses "heatmap" and "offset" of the network's outputs, for a stream with `labels`."""
        heatmap = heatmap_loss(outputs["heatmaps"], stream["heatmaps"], stream["heatmap_weight"])
        offset = offset_loss(outputs["offsets"], stream["offsets"], stream["offset_weight"][..., None])
        return {"heatmap": self.heatmap_weight * heatmap, "offset": self.offset_weight * offset}

    def loss(self, variables: Variables, batch: Batch, step: jax.Array, key: jax.Array) -> tuple[jax.Array, LossAux]:
        """The sum of both losses, which are the metrics too."""
        stream = batch["source"]
        outputs, mutated = self.apply(variables, stream["image"], train=True, mutable=["batch_stats"])
        losses = self.criterion(outputs, stream)
        return sum(losses.values(), jnp.zeros(())), LossAux(losses, mutated["batch_stats"])

    @classmethod
    def recognize(cls, shapes: Shapes) -> Recognized | None:
        from jaxpose.methods.dekr import names

        return names.recognize(shapes)

    def original_names(self) -> OriginalNames:
        from jaxpose.methods.dekr import names

        return OriginalNames(names.rules(self), names.prepare)

    def phases(self) -> tuple[Phase, ...]:
        return (Phase("pose", self.loss),)

    # --- inference ---

    def layout(self, width: int, height: int) -> Layout:
        """The short side fills a multiple of 64 pixels; the long one is padded to a multiple of `bucket`."""
        short = -(-self.input_size // 64) * 64
        fitted = (short / min(width, height) * max(width, height) + 63) // 64 * 64
        long = int(-(-fitted // self.bucket) * self.bucket)
        portrait = width < height
        base = (short, long) if portrait else (long, short)
        shown = width if portrait else base[0] / base[1] * height
        center = np.array([int(width / 2 + 0.5), int(height / 2 + 0.5)], np.float64)
        sizes = tuple((int(scale * base[0]), int(scale * base[1])) for scale in self.scales)
        to_canvas = tuple(geometry.crop_affine(center, np.array([shown, shown]), size) for size in sizes)
        return Layout(sizes, to_canvas, base=self.scales.index(1))

    def forward(self, variables: Variables, batch: Batch) -> dict[str, jax.Array]:
        """For each test scale s, "heatmaps_xs" [B, h, w, K + 1] and "poses_xs" [B, h, w, K, 2] in cells."""
        outputs = {}
        for scale in self.scales:
            views = self._views(variables, batch["source"][image_field(scale)])
            heatmaps, poses = merge_views(views, self.joints.flip_index)
            if not self.flip_test:
                poses = poses.at[..., 0].add(self.unflipped_shift)
            outputs |= {f"heatmaps_x{scale:g}": heatmaps, f"poses_x{scale:g}": poses}
        return outputs

    def _views(self, variables: Variables, image: jax.Array) -> list[dict[str, jax.Array]]:
        """The network's outputs for images [B, H, W, 3] and, in a flip test, for the mirrored ones."""
        if not self.flip_test:
            return [self.apply(variables, image)]
        both = rearrange([image, mirror_input(image)], "flip b h w c -> (b flip) h w c")
        outputs = self.apply(variables, both)
        return [{name: maps[view::2] for name, maps in outputs.items()} for view in (0, 1)]

    @property
    def selection(self) -> decode.Selection:
        """The rules by which people are chosen among the cells."""
        return decode.Selection(
            max_people=self.max_people,
            threshold=self.threshold,
            pool_thresholds=self.pool_thresholds,
            nms_threshold=self.nms_threshold or None,
            nms_count=self.nms_count or None,
            decrease=self.decrease,
            matching=decode.Matching() if self.matching else None,
        )

    def decode(self, outputs: dict[str, jax.Array], batch: Batch) -> Poses:
        """The people of every image, `max_people` rows; see `decode.decode`."""
        stream = batch["source"]
        maps = []
        for scale in self.scales:
            heatmaps = outputs[f"heatmaps_x{scale:g}"]
            poses = outputs[f"poses_x{scale:g}"]
            maps.append(decode.ScaleMaps(scale, heatmaps[..., -1], poses, heatmaps[..., :-1]))
        people = decode.decode(maps, self.selection)
        keypoints = geometry.apply_affine(stream["to_image"][:, None], people.keypoints)
        return Poses(
            keypoints=keypoints,
            scores=people.scores,
            person_score=people.person_score,
            valid=people.valid & stream["valid"][:, None],
        )
