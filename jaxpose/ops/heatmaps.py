"""Heatmaps of joints: targets, losses, and positions read back from them.

Maps are [..., H, W, K], channels last. Positions are (x, y) in pixel indices of the map. In the top-down
family (SimpleBaselines, HRNet, AlphaPose) the position in the crop is the position in the map times the stride,
without half-pixel terms.
"""

import jax
import jax.numpy as jnp
import numpy as np

from jaxpose.ops import geometry
from jaxpose.types import Array

NORMALIZATIONS = ("softmax", "sigmoid", "divide_sum")
"""Kinds of normalization that make a map a distribution before its expectation is taken; see `normalize`."""


# --- the flip test ---


def flip_back(maps: Array, flip_index: Array, shift: bool = True) -> jax.Array:
    """Maps of the mirrored crop as maps of the crop itself: columns reversed, left and right joints exchanged.

    Targets are drawn at rounded positions without half-pixel terms, so a map of the mirrored crop, turned back, lies
    on average .75 of a pixel to the left. Published scores include the `shift`, which leaves .25 to the right.

    Args:
      maps: [..., H, W, K] maps of the mirrored crop.
      flip_index: [K] permutation of the joints, see `Skeleton.flip_index`.
      shift: True to move the result one column to the right; the first column keeps its value.

    Returns:
      [..., H, W, K] maps of the crop.
    """
    maps = jnp.asarray(maps)[..., ::-1, :][..., np.asarray(flip_index)]
    if not shift:
        return maps
    return jnp.concatenate([maps[..., :1, :], maps[..., :-1, :]], axis=-2)


def flip_keypoints(keypoints: Array, visible: Array, flip_index: Array, width: int) -> tuple[jax.Array, jax.Array]:
    """Joints of the mirrored image: x -> width - 1 - x, left and right exchanged, invisible ones (0, 0).

    Args:
      keypoints: [..., K, 2] joints in pixels.
      visible: [..., K] visibility, positive where a joint counts.
      flip_index: [K] permutation of the joints, see `Skeleton.flip_index`.
      width: width of the image in pixels.

    Returns:
      The joints [..., K, 2] and their visibility [..., K].
    """
    flip_index = np.asarray(flip_index)
    keypoints, visible = jnp.asarray(keypoints)[..., flip_index, :], jnp.asarray(visible)[..., flip_index]
    mirrored = jnp.stack([width - 1 - keypoints[..., 0], keypoints[..., 1]], axis=-1)
    return jnp.where(visible[..., None] > 0, mirrored, 0), visible


# --- resolution ---


def resize(maps: Array, size: tuple[int, int]) -> jax.Array:
    """Maps of another size, interpolated linearly between centres of pixels, the outermost of which go on outside.

    Whether up or down, a pixel depends on four neighbours alone: torch.nn.functional.interpolate with mode "bilinear"
    and align_corners=False.

    Args:
      maps: [B, H, W, K] maps.
      size: (width, height) of the result in pixels.

    Returns:
      [B, height, width, K] maps.
    """
    maps = jnp.asarray(maps)
    shape = (maps.shape[0], size[1], size[0], maps.shape[3])
    if maps.shape == shape:
        return maps
    return jax.lax.platform_dependent(
        maps,
        cpu=lambda m: _between(_between(m, 1, size[1]), 2, size[0]),
        default=lambda m: jax.image.resize(m, shape, "bilinear", antialias=False),
    )


def _between(maps: jax.Array, axis: int, count: int) -> jax.Array:
    """`resize` along one axis; XLA:CPU takes ten times as long for the matrix product that is the general way."""
    last = maps.shape[axis] - 1
    position = np.clip((np.arange(count) + 0.5) * (maps.shape[axis] / count) - 0.5, 0, last)
    low = position.astype(np.int32)
    weight = np.expand_dims(position - low, [i for i in range(maps.ndim) if i != axis]).astype(maps.dtype)
    low_maps, high_maps = jnp.take(maps, low, axis), jnp.take(maps, np.minimum(low + 1, last), axis)
    return low_maps * (1 - weight) + high_maps * weight


# --- reading maxima ---


def _flat(maps: Array) -> jax.Array:
    """[..., H, W, K] -> [..., H * W, K] float32."""
    maps = jnp.asarray(maps, jnp.float32)
    return maps.reshape(*maps.shape[:-3], -1, maps.shape[-1])


def maxima(maps: Array, nowhere: float = 0.0) -> tuple[jax.Array, jax.Array]:
    """Position and value of each map's maximum, the first in row-major order.

    Args:
      maps: [..., H, W, K] maps.
      nowhere: both coordinates of a joint of whose map nothing is above 0: 0 in the original programs, -1 in mmpose.

    Returns:
      The positions [..., K, 2] in pixels of the map, whole numbers in float32; and the scores [..., K], the maxima,
      whatever their sign, NaN for a map that holds one.
    """
    width = maps.shape[-2]
    flat = _flat(maps)
    best, scores = jnp.argmax(flat, axis=-2), jnp.max(flat, axis=-2)
    scores = jnp.where(jnp.any(jnp.isnan(flat), axis=-2), jnp.nan, scores)  # a CPU's maximum may pass over it
    positions = jnp.stack([best % width, best // width], axis=-1).astype(jnp.float32)
    return jnp.where(scores[..., None] > 0, positions, nowhere), scores


def quarter_offset(maps: Array, positions: Array, amount: float = 0.25, by_axis: bool = False) -> jax.Array:
    """Moves positions towards the larger neighbour, by `amount` along each axis.

    A position moves if its nearest pixel (px, py) has 1 < px < W - 1 and 1 < py < H - 1. So index 1 stays, as in all
    code of this family, while W - 2 moves. Equal neighbours do not move it.

    Args:
      maps: [..., H, W, K] maps.
      positions: [..., K, 2] positions in pixels of the map, such as those of `maxima`.
      amount: length of a move in pixels of the map.
      by_axis: True to decide for each axis by itself, as mmpose does: a move along x asks for 1 < px < W - 1, py > 0.

    Returns:
      [..., K, 2] positions in pixels of the map.
    """
    height, width = maps.shape[-3:-1]
    flat, positions = _flat(maps), jnp.asarray(positions)
    pixel = jnp.floor(positions + 0.5).astype(jnp.int32)
    x, y = jnp.clip(pixel[..., 0], 0, width - 1), jnp.clip(pixel[..., 1], 0, height - 1)

    def value(column: jax.Array, row: jax.Array) -> jax.Array:
        cell = jnp.clip(row, 0, height - 1) * width + jnp.clip(column, 0, width - 1)
        return jnp.take_along_axis(flat, cell[..., None, :], axis=-2)[..., 0, :]

    slope = jnp.stack([value(x + 1, y) - value(x - 1, y), value(x, y + 1) - value(x, y - 1)], axis=-1)
    inside = (pixel > 1) & (pixel < jnp.array([width - 1, height - 1]))
    inside = inside & (pixel[..., ::-1] > 0) if by_axis else jnp.all(inside, axis=-1, keepdims=True)
    return positions + jnp.where(inside, amount * jnp.sign(slope), 0)


def decode(maps: Array, stride: Array | float) -> tuple[jax.Array, jax.Array]:
    """The family's decoding: maxima, moved by a quarter of a pixel, in pixels of the crop.

    Args:
      maps: [..., H, W, K] maps.
      stride: pixels of the crop for each pixel of the map, a number or (x, y).

    Returns:
      The positions [..., K, 2] in pixels of the crop and the scores [..., K].

    Examples:
      >>> maps, _ = gaussian_targets(np.array([[32.0, 48.0]]), np.ones(1), stride=4, size=(48, 64))
      >>> positions, scores = decode(maps, stride=4)
      >>> positions.tolist(), scores.tolist()
      ([[32.0, 48.0]], [1.0])
    """
    positions, scores = maxima(maps)
    return quarter_offset(maps, positions) * jnp.asarray(stride, jnp.float32), scores


# --- targets ---


def gaussian_targets(
    keypoints: Array,
    visible: Array,
    stride: Array | float,
    size: tuple[int, int],
    sigma: float = 2.0,
    radius: int | None = None,
    center_inside: bool = False,
    between: bool = False,
) -> tuple[jax.Array, jax.Array]:
    """A map for each joint: a truncated Gaussian of height 1, centred on the nearest pixel.

    The centre is trunc(position / stride + .5), so what lies up to 1.5 pixels before the first one falls on it. A joint
    whose window lies outside the map gets weight 0. A window that ends exactly one pixel before the map still counts
    as inside, with an empty map, as in the original code.

    AlphaPose draws the same. The maps of RMPE (2017) have sigma 1.75 and radius 3.

    Args:
      keypoints: [..., K, 2] joints in pixels of the crop.
      visible: [..., K] weights of the joints; those above .5 are drawn.
      stride: pixels of the crop for each pixel of the map, a number or (x, y).
      size: (width, height) of the map in pixels.
      sigma: standard deviation in pixels of the map.
      radius: half the side of the square outside of which the map is 0, in pixels of the map; None for three sigma.
      center_inside: True to give weight 0 to a joint whose centre lies outside the map, whatever its window shows
        (RegDA).
      between: True to centre the Gaussian on the joint itself, between pixels, in the same window (UDP).

    Returns:
      The maps [..., H, W, K] and the weights [..., K], both float32. Positions that are not finite get weight 0.

    Examples:
      >>> maps, weight = gaussian_targets(np.array([[32.0, 48.0]]), np.ones(1), stride=4, size=(48, 64))
      >>> maps.shape, float(maps[12, 8, 0]), weight.tolist()
      ((64, 48, 1), 1.0, [1.0])
    """
    radius = round(3 * sigma) if radius is None else radius
    place = jnp.asarray(keypoints, jnp.float32) / jnp.asarray(stride, jnp.float32)
    center = jnp.trunc(place + 0.5)
    limits = jnp.array(size, jnp.float32)
    before, after = (0, 0) if center_inside else (radius + 1, radius)
    inside = jnp.all((center - after < limits) & (center + before >= 0), axis=-1)
    weight = jnp.where(inside, jnp.asarray(visible, jnp.float32), 0)

    def profile(axis: int) -> jax.Array:
        pixel = jnp.arange(size[axis], dtype=jnp.float32)[:, None]
        within = jnp.abs(pixel - center[..., None, :, axis]) <= radius
        offset = pixel - (place if between else center)[..., None, :, axis]
        return jnp.where(within, jnp.exp(-jnp.square(offset) / (2 * sigma**2)), 0)

    columns = jnp.where(weight[..., None, :] > 0.5, profile(0), 0)
    return profile(1)[..., :, None, :] * columns[..., None, :, :], weight


# --- targets of several people ---


def joint_pixels(keypoints: Array, visible: Array, size: tuple[int, int]) -> tuple[jax.Array, jax.Array]:
    """The pixels of a map that joints fall in: positions cut towards zero, so pixel 0 begins just above -1.

    Args:
      keypoints: [..., K, 2] joints in pixels of the map.
      visible: [..., K] visibility, positive where a joint counts.
      size: (width, height) of the map in pixels.

    Returns:
      The pixels [..., K, 2], whole numbers in float32, (0, 0) for joints that do not count; and a mask [..., K] of the
      joints that count, False also where a position is outside or not finite.
    """
    pixels = jnp.trunc(jnp.asarray(keypoints, jnp.float32))
    inside = jnp.all((pixels >= 0) & (pixels < jnp.array(size, jnp.float32)), axis=-1)
    counted = inside & (jnp.asarray(visible) > 0)
    return jnp.where(counted[..., None], pixels, 0), counted


def people_targets(keypoints: Array, visible: Array, size: tuple[int, int], sigma: Array | float = 2.0) -> jax.Array:
    """A map for each joint of everybody in an image, as bottom-up methods (HigherHRNet, DEKR) draw them.

    A joint is a Gaussian of height 1 on the pixel it falls in (see `joint_pixels`), not on the nearest one, cut to the
    square that reaches 3 sigma + 1 to each side. Where people overlap the larger value stays. With a fractional sigma
    the square's first pixel is rounded, to the even one of two equally near, and the peak lies 3 sigma + 1 after it,
    between pixels.

    Args:
      keypoints: [..., N, K, 2] joints in pixels of the map.
      visible: [..., N, K] visibility, positive where a joint is drawn.
      size: (width, height) of the map in pixels.
      sigma: standard deviation in pixels of the map: one number, a negative one for width / 64, or one for each person
        [..., N].

    Returns:
      [..., H, W, K] float32 maps.
    """
    if np.ndim(sigma) == 0 and not isinstance(sigma, jax.Array) and sigma < 0:
        sigma = size[0] / 64
    sigma = jnp.asarray(sigma, jnp.float32)[..., None, None]
    reach = 3 * sigma + 1
    pixels, drawn = joint_pixels(keypoints, visible, size)
    first, end = jnp.round(pixels - reach), jnp.round(pixels + reach + 1)

    def profile(axis: int) -> jax.Array:
        """[..., N, L, K] along an axis of L pixels."""
        low, high, peak = (v[..., None, :, axis] for v in (first, end, first + reach))
        pixel = jnp.arange(size[axis], dtype=jnp.float32)[:, None]
        within = (pixel >= low) & (pixel < high) & drawn[..., None, :]
        return jnp.where(within, jnp.exp(-jnp.square(pixel - peak) / (2 * jnp.square(sigma))), 0)

    return jax.lax.platform_dependent(profile(1), profile(0), cpu=_largest_in_turn, default=_largest)


def _largest(rows: jax.Array, columns: jax.Array) -> jax.Array:
    """Maxima over people of products: profiles [..., N, H, K] and [..., N, W, K] -> [..., H, W, K]."""
    return jnp.max(rows[..., :, None, :] * columns[..., None, :, :], axis=-4, initial=0)


def _largest_in_turn(rows: jax.Array, columns: jax.Array) -> jax.Array:
    """`_largest` person by person, which takes XLA:CPU a sixth of the time."""
    rows, columns = jnp.moveaxis(rows, -3, 0), jnp.moveaxis(columns, -3, 0)

    def add(maps: jax.Array, person: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
        row, column = person
        return jnp.maximum(maps, row[..., :, None, :] * column[..., None, :, :]), None

    empty = jnp.zeros((*rows.shape[1:-1], *columns.shape[-2:]), rows.dtype)
    return jax.lax.scan(add, empty, (rows, columns))[0]


# --- losses on maps ---


def _wide(maps: Array) -> jax.Array:
    """Maps in float32 at least."""
    maps = jnp.asarray(maps)
    return maps.astype(jnp.promote_types(maps.dtype, jnp.float32))


def mse(maps: Array, targets: Array, weight: Array) -> jax.Array:
    """Half the mean squared difference over all elements; the weight multiplies both maps, so it enters squared.

    Args:
      maps: [B, H, W, K] maps of the network.
      targets: [B, H, W, K] wanted maps.
      weight: [B, K] weights of the joints.

    Returns:
      The loss [].
    """
    difference = (jnp.asarray(maps, jnp.float32) - targets) * weight[:, None, None, :]
    return 0.5 * jnp.mean(jnp.square(difference))


def ohkm(maps: Array, targets: Array, weight: Array, top: int = 8) -> jax.Array:
    """`mse` over each person's `top` joints of largest loss (online hard keypoint mining).

    Args:
      maps: [B, H, W, K] maps of the network.
      targets: [B, H, W, K] wanted maps.
      weight: [B, K] weights of the joints.
      top: number of joints that count.

    Returns:
      The loss [].
    """
    difference = (jnp.asarray(maps, jnp.float32) - targets) * weight[:, None, None, :]
    losses = 0.5 * jnp.mean(jnp.square(difference), axis=(1, 2))
    return jnp.mean(jax.lax.top_k(losses, top)[0])


def joint_mse(maps: Array, targets: Array) -> jax.Array:
    """Half the mean squared difference of each joint's map; unlike in `mse`, weights are left to the caller.

    Args:
      maps: [B, H, W, K] maps of the network.
      targets: [B, H, W, K] wanted maps.

    Returns:
      [B, K] losses.
    """
    return 0.5 * jnp.mean(jnp.square(_wide(maps) - targets), axis=(1, 2))


def joint_kl(maps: Array, targets: Array, epsilon: float = 0.0) -> jax.Array:
    """KL(target || map) of each joint, where maps become distributions by softmax and targets by division (RegDA).

    A target without mass, as an invisible joint has it, gives 0 and no gradient if epsilon is 0.

    Args:
      maps: [B, H, W, K] logits.
      targets: [B, H, W, K] wanted maps, not negative.
      epsilon: number added to every pixel of a target before it is divided by its sum.

    Returns:
      [B, K] losses.
    """
    targets = _wide(targets) + epsilon
    total = jnp.sum(targets, axis=(1, 2), keepdims=True)
    wanted = targets / jnp.where(total > 0, total, 1)
    found = jax.nn.log_softmax(_wide(maps), axis=(1, 2))
    surprise = jnp.log(jnp.where(wanted > 0, wanted, 1)) - found
    return jnp.sum(jnp.where(wanted > 0, wanted * surprise, 0), axis=(1, 2))


def masked_mse(maps: Array, targets: Array, mask: Array) -> jax.Array:
    """Each image's mean squared difference, 0 where the mask is 0; pixels that are masked out count in the divisor.

    Args:
      maps: [B, H, W, K] maps of the network.
      targets: [B, H, W, K] wanted maps.
      mask: [B, H, W] factors of the pixels.

    Returns:
      [B] losses.
    """
    return jnp.mean(jnp.square(_wide(maps) - targets) * mask[..., None], axis=(1, 2, 3))


def accuracy(maps: Array, targets: Array, threshold: float = 0.5, swapped: bool = True) -> jax.Array:
    """The family's training monitor: share of joints whose maximum is near the target's, averaged over joints.

    Distances are in units of a tenth of the map. A joint counts where the target's maximum has x > 1 and y > 1. With no
    joint to count the accuracy is 0.

    Args:
      maps: [B, H, W, K] maps of the network.
      targets: [B, H, W, K] wanted maps.
      threshold: distance below which a maximum is near.
      swapped: True to divide x by the height and y by the width, as SimpleBaselines and HRNet do; AlphaPose does not.

    Returns:
      The share [], in [0, 1].
    """
    height, width = maps.shape[1:3]
    unit = jnp.array([height, width] if swapped else [width, height], jnp.float32) / 10
    truth, _ = maxima(targets)
    found, _ = maxima(maps)
    distance = jnp.linalg.norm((found - truth) / unit, axis=-1)
    counted = jnp.all(truth > 1, axis=-1)
    number = jnp.sum(counted, axis=0)
    share = jnp.sum(counted & (distance < threshold), axis=0) / jnp.maximum(number, 1)
    return jnp.sum(share) / jnp.maximum(jnp.sum(number > 0), 1)


# --- integral regression ---


def normalize(maps: Array, kind: str = "softmax") -> tuple[jax.Array, jax.Array]:
    """Maps as distributions, and the confidence of each joint.

    Args:
      maps: [..., H, W, K] logits; for "divide_sum" non-negative numbers.
      kind: kind of normalization, "softmax", "sigmoid" (divided by the sum afterwards) or "divide_sum".

    Returns:
      The probabilities [..., H, W, K], which sum to 1 over H and W, and the confidence [..., K]: the largest value of
      the sigmoid, or 1 for the other kinds, whose values say how narrow a map is rather than how sure. A map of zeros
      is spread evenly; where a number of a map, or their sum, is not finite, the probabilities are NaN.

    Raises:
      ValueError: another kind.
    """
    maps = jnp.asarray(maps, jnp.float32)
    if kind == "softmax":
        return jax.nn.softmax(maps, axis=(-3, -2)), jnp.ones(maps.shape[:-3] + maps.shape[-1:])
    if kind not in NORMALIZATIONS:
        raise ValueError(f"unknown normalization {kind!r}; known: {', '.join(NORMALIZATIONS)}")
    values = jax.nn.sigmoid(maps) if kind == "sigmoid" else maps
    confidence = jnp.max(values, axis=(-3, -2)) if kind == "sigmoid" else jnp.ones(maps.shape[:-3] + maps.shape[-1:])
    total = jnp.sum(values, axis=(-3, -2), keepdims=True)
    even = 1 / (maps.shape[-3] * maps.shape[-2])
    probabilities = jnp.where(total == 0, even, values / jnp.where(total == 0, 1, total))
    finite = jnp.isfinite(total) & jnp.all(jnp.isfinite(maps), axis=(-3, -2), keepdims=True)
    return jnp.where(finite, probabilities, jnp.nan), confidence


def _mean_index(marginal: jax.Array) -> jax.Array:
    """Expected index [..., K] of distributions [..., N, K]."""
    return jnp.sum(marginal * jnp.arange(marginal.shape[-2], dtype=jnp.float32)[:, None], axis=-2)


@jax.custom_vjp
def _symmetric_mean_index(marginal: jax.Array) -> jax.Array:
    return _mean_index(marginal)


def _symmetric_forward(marginal: jax.Array) -> tuple[jax.Array, jax.Array]:
    mean = _mean_index(marginal)
    length = marginal.shape[-2]
    after = jnp.arange(length, dtype=jnp.float32)[:, None] >= mean[..., None, :]
    return mean, jnp.where(after | (mean > length)[..., None, :], 2.0, -2.0)


def _symmetric_backward(slope: jax.Array, gradient: jax.Array) -> tuple[jax.Array]:
    return (slope * gradient[..., None, :],)


_symmetric_mean_index.defvjp(_symmetric_forward, _symmetric_backward)


def expectation(probabilities: Array, symmetric: bool = False) -> jax.Array:
    """Expected positions of distributions over a map.

    The exact gradient of an expected index by the probability at pixel i is i, so errors weigh more at the right and
    lower ends of a map. AlphaPose replaces it by 2 from the expected index on and by -2 before it (Fang et al., TPAMI
    2022, "symmetric integral keypoints regression").

    Args:
      probabilities: [..., H, W, K] distributions.
      symmetric: True to use that gradient instead of the exact one; the value is the same.

    Returns:
      [..., K, 2] float32 positions (x, y) in pixels of the map.
    """
    probabilities = jnp.asarray(probabilities, jnp.float32)
    mean = _symmetric_mean_index if symmetric else _mean_index
    return jnp.stack([mean(jnp.sum(probabilities, axis=-3)), mean(jnp.sum(probabilities, axis=-2))], axis=-1)


def integral_loss(
    maps: Array, targets: Array, weight: Array, kind: str = "sigmoid", symmetric: bool = True
) -> jax.Array:
    """L1 distance of expected positions, as fractions of the map, summed over joints and averaged over people.

    Args:
      maps: [B, H, W, K] logits.
      targets: [B, K, 2] true positions as fractions (x / width, y / height) of the map, which are those of the crop.
      weight: [B, K] weights of the joints, or [B, K, 2] of single coordinates.
      kind: kind of normalization, see `normalize`.
      symmetric: True for the symmetric gradient, see `expectation`.

    Returns:
      The loss [].
    """
    height, width = maps.shape[1:3]
    fractions = expectation(normalize(maps, kind)[0], symmetric) / jnp.array([width, height], jnp.float32)
    weight = weight if weight.ndim == 3 else weight[..., None]
    return jnp.sum(jnp.abs(fractions - targets) * weight) / len(maps)


def decode_integral(maps: Array, stride: Array | float, kind: str = "sigmoid") -> tuple[jax.Array, jax.Array]:
    """Expected positions in pixels of the crop, and their confidence.

    Args:
      maps: [..., H, W, K] logits.
      stride: pixels of the crop for each pixel of the map, a number or (x, y).
      kind: kind of normalization, see `normalize`.

    Returns:
      The positions [..., K, 2] in pixels of the crop and the scores [..., K].
    """
    probabilities, confidence = normalize(maps, kind)
    return expectation(probabilities) * jnp.asarray(stride, jnp.float32), confidence


# --- the crops of 2017 and 2018 ---


def grow_boxes(boxes: Array, image_size: tuple[float, float], amount: float = 0.15) -> jax.Array:
    """Boxes grown by a share of their size on every side and cut at the image's border.

    Args:
      boxes: [..., 4] boxes (x1, y1, x2, y2) in pixels.
      image_size: (width, height) of the image in pixels.
      amount: share of the width or height.

    Returns:
      [..., 4] boxes (x1, y1, x2, y2) in pixels.
    """
    boxes = jnp.asarray(boxes, jnp.float32)
    margin = amount * (boxes[..., 2:] - boxes[..., :2])
    limits = jnp.array(image_size, jnp.float32)
    low, high = jnp.maximum(boxes[..., :2] - margin, 0), jnp.minimum(boxes[..., 2:] + margin, limits)
    return jnp.concatenate([low, high], axis=-1)


def padded_crop_to_image(boxes: Array, size: tuple[int, int], gap: float = 0.0) -> jax.Array:
    """The map to image pixels from a crop, or from its heatmap, in which a box is padded on both sides to the aspect.

    Args:
      boxes: [..., 4] boxes (x1, y1, x2, y2) in pixels.
      size: (width, height) of the crop or heatmap in pixels.
      gap: pixels by which the padding is too narrow: 1 in RMPE (2017), 0 in AlphaPose (2018).

    Returns:
      [..., 2, 3] affine maps.
    """
    boxes = jnp.asarray(boxes, jnp.float32)
    extent = boxes[..., 2:] - boxes[..., :2]
    region = geometry.widen_to_aspect(extent, size[0] / size[1])
    corner = boxes[..., :2] - jnp.maximum(region - extent - gap, 0) / 2
    scale = region[..., 1, None, None] / size[1] * jnp.eye(2)
    return jnp.concatenate([scale, corner[..., None]], axis=-1)
