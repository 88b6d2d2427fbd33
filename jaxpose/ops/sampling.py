"""Differentiable crops, warps and grid samples: bilinear interpolation at any points, and the points' many conventions.

Images are [B, H, W, C]. `sample` takes points as (x, y) in pixel indices, and everything else comes down to it.
Gradients flow into images and points. Products and sums stay out of the matrix unit, or have it compute in full
precision, so that positions keep float32.

Along an axis, n points of a normalised grid in [-1, 1] are placed by one of three rules, and a position g is turned
into a pixel of an axis of m pixels by the rule of the same name:

  "corners"  g_i = -1 + 2 i / (n - 1), both ends included; pixel (g + 1) (m - 1) / 2; PyTorch's align_corners=True
  "centers"  g_i = -1 + (2 i + 1) / n, centres of n cells; pixel ((g + 1) m - 1) / 2; PyTorch's align_corners=False
  "starts"   g_i = -1 + 2 i / n, the right end not reached; pixel (g + 1) m / 2; the crops of top-down methods
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from jaxpose.ops.arrays import EXACT
from jaxpose.types import Array

PADDINGS = ("zeros", "border")
RULES = ("corners", "centers", "starts")
CONVENTIONS = {"torch7": "corners", "caffe": "starts"}
"""Spatial transformers that take coordinates as (y, x), and how they place their grids."""


def sample(images: Array, points: Array, padding: str = "zeros", dense: bool = False) -> jax.Array:
    """Bilinear interpolation of images at any points.

    At integer positions the gradient by the position is that towards the next pixel.

    Args:
      images: [B, H, W, C] images of any type.
      points: [B, ..., 2] points (x, y) in pixel indices.
      padding: rule for points outside. "zeros": each of the four neighbours that is outside counts as 0. "border":
        positions are moved to the nearest pixel, and have no gradient where they were moved or lie on the outermost
        pixel.
      dense: True if there are at least about as many points as pixels. A TPU then fetches the four neighbours in one
        piece, from a copy of the images that is four times as large; those of a single channel it fetches not at all,
        but multiplies rows and columns with their weights. The result is the same up to rounding.

    Returns:
      [B, ..., C] values in the type of `images` where that is floating, else float32.

    Raises:
      ValueError: unknown padding.

    Examples:
      >>> image = np.arange(6.0).reshape(1, 2, 3, 1)  # 2 rows of 3 pixels: 0 1 2 and 3 4 5
      >>> sample(image, np.array([[[1.0, 0.0], [0.5, 0.5], [2.5, 1.0]]]))[0, :, 0].tolist()
      [1.0, 2.0, 2.5]
    """
    _one_of("padding", padding, PADDINGS)
    images, points = jnp.asarray(images), jnp.asarray(points, jnp.float32)
    height, width = images.shape[1:3]
    x, y = points[..., 0], points[..., 1]
    if padding == "border":
        x, y = _clamp(x, width), _clamp(y, height)
    if dense:
        on_tpu = _sample_products if images.shape[3] == 1 else _sample_pieces
        total = jax.lax.platform_dependent(images, x, y, tpu=on_tpu, default=_sample_pixels)
    else:
        total = _sample_pixels(images, x, y)
    return total.astype(images.dtype if jnp.issubdtype(images.dtype, jnp.floating) else jnp.float32)


def _sample_pixels(images: jax.Array, x: jax.Array, y: jax.Array) -> jax.Array:
    """`sample`, neighbour after neighbour."""
    height, width = images.shape[1:3]
    flat = images.reshape(len(images), height * width, images.shape[3])
    left, top = jnp.floor(x), jnp.floor(y)
    total = jnp.float32(0)
    for row, row_weight in ((top, top + 1 - y), (top + 1, y - top)):
        for column, column_weight in ((left, left + 1 - x), (left + 1, x - left)):
            inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
            weight = jnp.where(inside, row_weight * column_weight, 0)
            total += weight[..., None] * _pick(flat, _index(row, height) * width + _index(column, width))
    return total


def _sample_pieces(images: jax.Array, x: jax.Array, y: jax.Array) -> jax.Array:
    """`_sample_pixels` from 2 x 2 pixels laid one after another, with a ring of zeros around the image."""
    height, width = images.shape[1] + 1, images.shape[2] + 1
    ringed = jnp.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)))
    pieces = [ringed[:, i : i + height, j : j + width] for i in range(2) for j in range(2)]
    flat = jnp.concatenate(pieces, -1).reshape(len(images), height * width, -1)
    left, top = jnp.floor(x), jnp.floor(y)
    touched = (top >= -1) & (top < height - 1) & (left >= -1) & (left < width - 1)
    picked = _pick(flat, _index(top + 1, height) * width + _index(left + 1, width))
    weights = [(a * b)[..., None] for a in (top + 1 - y, y - top) for b in (left + 1 - x, x - left)]
    parts = zip(weights, jnp.split(picked, 4, -1), strict=True)
    return jnp.where(touched[..., None], sum(weight * part for weight, part in parts), 0)


def _sample_products(images: jax.Array, x: jax.Array, y: jax.Array) -> jax.Array:
    """`_sample_pixels` as a product of the whole image with the weights of its rows and then of its columns.

    A TPU moves 128 numbers where it fetches one: for single channels products take a fortieth of the traffic.
    """
    batch, height, width, channels = images.shape
    places = x.shape[1:]
    rows, columns = (_hats(at.reshape(batch, -1), size) for at, size in ((y, height), (x, width)))
    exact = functools.partial(jnp.einsum, precision=EXACT)
    lines = exact("bpr,brxc->bcpx", rows, images.astype(jnp.float32))
    total = jnp.sum(lines * columns[:, None], axis=-1)
    return jnp.moveaxis(total, 1, -1).reshape(batch, *places, channels)


def _hats(position: jax.Array, size: int) -> jax.Array:
    """Weights [..., size] of each of `size` pixels in a row at positions [...]."""
    first = jnp.floor(position)[..., None]
    share, pixels = position[..., None] - first, jnp.arange(size, dtype=jnp.float32)
    return jnp.where(pixels == first, 1 - share, 0) + jnp.where(pixels == first + 1, share, 0)


def _clamp(position: jax.Array, size: int) -> jax.Array:
    moved = jax.lax.stop_gradient(jnp.clip(position, 0, size - 1))
    return jnp.where((position > 0) & (position < size - 1), position, moved)


def _index(position: jax.Array, size: int) -> jax.Array:
    return jnp.clip(position, 0, size - 1).astype(jnp.int32)


@jax.vmap
def _pick(flat: jax.Array, index: jax.Array) -> jax.Array:
    """Rows of [H * W, C] as float32."""
    return flat.at[index].get(mode="clip").astype(jnp.float32)


# --- normalised grids ---


def fractions(count: int, rule: str) -> np.ndarray:
    """Positions [count] of `count` points along an axis, 0 its start and 1 its end; see the rules above.

    Raises:
      ValueError: unknown rule.
    """
    _one_of("rule", rule, RULES)
    if rule == "corners":
        return np.linspace(0, 1, count, dtype=np.float32)
    return ((np.arange(count) + (0.5 if rule == "centers" else 0)) / count).astype(np.float32)


def to_pixels(grid: Array, size: tuple[int, int], rule: str) -> jax.Array:
    """Normalised positions [..., 2] (x, y) as pixel indices of an image of `size` (width, height)."""
    _one_of("rule", rule, RULES)
    extent = jnp.array(size, jnp.float32) - (1 if rule == "corners" else 0)
    return (jnp.asarray(grid, jnp.float32) + 1) / 2 * extent - (0.5 if rule == "centers" else 0)


def grid_sample(images: Array, grid: Array, align_corners: bool, padding: str = "zeros") -> jax.Array:
    """Bilinear interpolation at normalised positions, as torch.nn.functional.grid_sample does it.

    Args:
      images: [B, H, W, C] images.
      grid: [B, h, w, 2] positions (x, y); -1 and 1 are the ends of the image.
      align_corners: True if the ends are the centres of the outermost pixels, False if they are their outer edges.
      padding: rule for positions outside, see `sample`.

    Returns:
      [B, h, w, C] values.

    Examples:
      >>> image = np.arange(8.0).reshape(1, 2, 4, 1)
      >>> grid = affine_grid(np.array([[[-1.0, 0, 0], [0, 1, 0]]]), (4, 2), align_corners=False)  # mirrored
      >>> grid_sample(image, grid, align_corners=False)[0, :, :, 0].tolist()
      [[3.0, 2.0, 1.0, 0.0], [7.0, 6.0, 5.0, 4.0]]
    """
    size = (images.shape[2], images.shape[1])
    return sample(images, to_pixels(grid, size, _torch_rule(align_corners)), padding)


def affine_grid(theta: Array, size: tuple[int, int], align_corners: bool) -> jax.Array:
    """The grid that `grid_sample` reads to apply affine maps, as torch.nn.functional.affine_grid makes it.

    Args:
      theta: [B, 2, 3] maps from normalised output positions (x, y, 1) to normalised input positions (x, y).
      size: (width, height) of the output in pixels.
      align_corners: meaning of -1 and 1, see `grid_sample`.

    Returns:
      [B, height, width, 2] normalised positions (x, y).
    """
    return _apply(theta, _lattice(size, _torch_rule(align_corners)) * 2 - 1)


def _torch_rule(align_corners: bool) -> str:
    return "corners" if align_corners else "centers"


def _lattice(size: tuple[int, int], rule: str) -> jax.Array:
    """Fractions (x, y) of a grid's points [height, width, 2]."""
    x, y = np.meshgrid(fractions(size[0], rule), fractions(size[1], rule))
    return jnp.asarray(np.stack([x, y], -1))


def _apply(matrix: Array, points: jax.Array) -> jax.Array:
    """Affine maps [B, 2, 3] of points [h, w, 2] -> [B, h, w, 2]."""
    m = jnp.asarray(matrix, jnp.float32)[:, None, None]
    return m[..., 0] * points[..., :1] + m[..., 1] * points[..., 1:] + m[..., 2]


# --- spatial transformers of (y, x) order ---


def swap_order(theta: Array) -> jax.Array:
    """Affine maps [..., 2, 3] on (y, x, 1) as those on (x, y, 1), and the other way round."""
    return jnp.asarray(theta)[..., ::-1, :][..., (1, 0, 2)]


def invert_theta(theta: Array, floor: float = 0.0) -> jax.Array:
    """Inverse affine maps: [A | b] -> [A^-1 | -A^-1 b], RMPE section 3.1, in either order of coordinates.

    Args:
      theta: [..., 2, 3] affine maps.
      floor: least absolute determinant to divide by. Where A's is smaller the result is that much too small, and the
        division has no gradient; 0, as in the original, gives the inverse whatever the determinant.

    Returns:
      [..., 2, 3] inverse maps.
    """
    theta = jnp.asarray(theta, jnp.float32)
    (a, b, s), (c, d, t) = ([theta[..., i, j] for j in range(3)] for i in range(2))
    determinant = a * d - b * c
    if floor:
        least = jnp.where(determinant < 0, -floor, floor)
        determinant = jnp.where(jnp.abs(determinant) < floor, least, determinant)
    rows = [jnp.stack([d, -b, b * t - d * s], -1), jnp.stack([-c, a, c * s - a * t], -1)]
    return jnp.stack(rows, -2) / determinant[..., None, None]


def transformer_grid(theta: Array, size: tuple[int, int], convention: str = "torch7") -> jax.Array:
    """Normalised input positions (y, x) [B, height, width, 2] that a spatial transformer reads.

    Args:
      theta: [B, 2, 3] maps from normalised output positions (y, x, 1) to normalised input positions (y, x).
      size: (width, height) of the output in pixels.
      convention: "torch7" with the rule "corners", as RMPE was trained, or "caffe" with "starts", as its demo has it.

    Returns:
      [B, height, width, 2] normalised positions (y, x).
    """
    _one_of("convention", convention, tuple(CONVENTIONS))
    return _apply(theta, (_lattice(size, CONVENTIONS[convention]) * 2 - 1)[..., ::-1])


def spatial_transform(
    images: Array, theta: Array, size: tuple[int, int] | None = None, convention: str = "torch7"
) -> jax.Array:
    """A spatial transformer in RMPE's convention, with zeros outside.

    Args:
      images: [B, H, W, C] images.
      theta: [B, 2, 3] affine maps, see `transformer_grid`.
      size: (width, height) of the output in pixels; None for that of `images`.
      convention: placement of the grid, see `transformer_grid`.

    Returns:
      [B, height, width, C] images.
    """
    full = (images.shape[2], images.shape[1])
    grid = transformer_grid(theta, size or full, convention)
    return sample(images, to_pixels(grid[..., ::-1], full, CONVENTIONS[convention]))


# --- pixels ---


def warp_affine(images: Array, to_image: Array, size: tuple[int, int], padding: str = "zeros") -> jax.Array:
    """Images seen through affine maps, such as the crops of top-down methods.

    Interpolation is exact, where OpenCV's warpAffine rounds positions to 1/32 pixel.

    Args:
      images: [B, H, W, C] images.
      to_image: [B, 2, 3] maps from output pixels to pixels of the image; the inverse of `geometry.crop_affine`.
      size: (width, height) of the output in pixels.
      padding: rule for pixels outside, see `sample`.

    Returns:
      [B, height, width, C] images.
    """
    pixels = np.stack(np.meshgrid(np.arange(size[0]), np.arange(size[1])), -1).astype(np.float32)
    return sample(images, _apply(to_image, jnp.asarray(pixels)), padding)


def crop_and_resize(
    images: Array, boxes: Array, size: tuple[int, int], rule: str = "starts", padding: str = "zeros"
) -> jax.Array:
    """Upright boxes cut out of images and brought to one size; differentiable by boxes too.

    Args:
      images: [B, H, W, C] images.
      boxes: [B, N, 4] boxes (x, y, w, h) in pixel indices: a fraction u of a box's width is the pixel x + u w.
      size: (width, height) of a crop in pixels.
      rule: placement of the crop's pixels in the box. "starts": pixel i at i / n, the map of `geometry.crop_affine`;
        "corners": the outermost pixels on the box's edges; "centers": pixels in the middle of n cells.
      padding: rule for pixels outside, see `sample`.

    Returns:
      [B, N, height, width, C] crops.

    Examples:
      >>> image = np.arange(16.0).reshape(1, 4, 4, 1)
      >>> crop_and_resize(image, np.array([[[1.0, 0.0, 2.0, 2.0]]]), size=(2, 2))[0, 0, :, :, 0].tolist()
      [[1.0, 2.0], [5.0, 6.0]]
    """
    boxes = jnp.asarray(boxes, jnp.float32)[:, :, None, None]
    return sample(images, boxes[..., :2] + boxes[..., 2:] * _lattice(size, rule), padding)


def _one_of(name: str, found: str, known: tuple[str, ...]) -> None:
    if found not in known:
        raise ValueError(f"{name} is {found!r}; it can be {', '.join(map(repr, known))}")
