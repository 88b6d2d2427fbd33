"""The rasteriser against brute force, and visibility against what the rasteriser shows."""

from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxpose.marionettes import render
from jaxpose.marionettes.render import BOX, CONE, ELLIPSOID, Rays, Solids, entry_depths, joined, rasterise, surface

RAYS = Rays(((np.arange(40) - 19.5) / 40).astype(np.float32), ((np.arange(32) - 15.5) / 40).astype(np.float32), True)


def solid(kind, axes, centre, length=0.0, near=1.0, far=1.0, cut=False, person=0):
    one = {
        "length": length,
        "near": near,
        "far": far,
        "cut": cut,
        "kind": kind,
        "material": 0,
        "person": person,
        "part": 0,
    }
    return Solids(
        axes=np.asarray(axes, float)[None],
        centre=np.asarray(centre, float)[None],
        **{name: np.array([value]) for name, value in one.items()},
        rest_axes=np.eye(3)[None],
        rest_centre=np.zeros((1, 3)),
    )


def turn(seed):
    q, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))
    return q * np.sign(np.linalg.det(q))


def inside(solids, points, size=1.0):
    """Whether points [..., 3] lie in the one solid, scaled about its spine, from the definition of its shape."""
    local = (points - solids.centre[0]) @ np.linalg.inv(solids.axes[0]).T
    if solids.kind[0] == BOX:
        return (np.abs(local) <= size).all(axis=-1)
    s = np.linspace(0, 1, 400)
    centres = np.stack([0 * s, s * solids.length[0], 0 * s], axis=-1)
    radii = size * (solids.near[0] + s * (solids.far[0] - solids.near[0]))
    return (np.linalg.norm(local[..., None, :] - centres, axis=-1) <= radii).any(axis=-1)


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from([ELLIPSOID, CONE, BOX]),
    st.integers(0, 10**6),
    st.floats(30, 200),
    st.floats(20, 150),
    st.floats(20, 150),
    st.floats(0.5, 1.6),
)
def test_depths_are_those_of_the_shape(kind, seed, length, near, far, squash):
    axes = turn(seed) @ (np.diag([squash, 1.0, 1.0]) if kind == CONE else np.diag([near, far, length]))
    size = {"length": length, "near": near, "far": far} if kind == CONE else {}
    one = solid(kind, axes, [40.0, -30.0, 1500.0], **size)
    buffers = rasterise(one, RAYS)
    depths = np.arange(900.0, 2000.0, 1.0)
    for row, column in ((16, 20), (14, 21), (12, 24), (18, 17), (10, 20), (16, 27)):
        ray = np.array([RAYS.columns[column], RAYS.rows[row], 1.0])
        crossed = inside(one, ray * depths[:, None])
        found = float(buffers.depth[row, column])
        assert found <= depths[np.argmax(crossed)] + 0.3 or not crossed.any()  # nothing nearer was missed
        assert np.isfinite(found) == (buffers.owner[row, column] == 0)
        if np.isfinite(found):
            assert inside(one, ray * found, 1.01)
            assert not inside(one, ray * found, 0.99)


@settings(max_examples=40, deadline=None)
@given(st.sampled_from([ELLIPSOID, CONE, BOX]), st.integers(0, 10**6), st.booleans())
def test_bounding_rectangles_lose_nothing(kind, seed, perspective):
    rng = np.random.default_rng(seed)
    axes = turn(seed) @ np.diag(rng.uniform(0.6, 1.5, 3) if kind == CONE else rng.uniform(30, 250, 3))
    length, near, far = rng.uniform(50, 400), rng.uniform(20, 150), rng.uniform(20, 150)
    size = {"length": length, "near": near, "far": far} if kind == CONE else {}
    one = solid(kind, axes, [*rng.uniform(-500, 500, 2), 1500.0], **size)
    scale = 1.0 if perspective else 1500.0
    rays = Rays(RAYS.columns * np.float32(scale), RAYS.rows * np.float32(scale), perspective)
    far, near = np.full((1, 2), 1e9), np.full(1, 100.0)
    with mock.patch.object(render, "_reach", return_value=(-far, far, near)):
        everywhere = rasterise(one, rays)
    shown = rasterise(one, rays)
    np.testing.assert_array_equal(shown.owner, everywhere.owner)
    np.testing.assert_array_equal(shown.depth, everywhere.depth)
    if perspective:
        points = np.stack([*np.meshgrid(rays.columns, rays.rows), np.ones(shown.owner.shape)], axis=-1)
        depth = entry_depths(one, points.reshape(-1, 3).astype(np.float64)).reshape(shown.depth.shape)
        both = np.isfinite(depth) & np.isfinite(shown.depth)
        assert (np.isfinite(depth) != np.isfinite(shown.depth)).mean() < 0.004  # rays that graze the outline
        assert np.abs(depth[both] - shown.depth[both]).max(initial=0.0) < 2.0


def test_a_sphere_is_where_it_should_be():
    one = solid(ELLIPSOID, 100.0 * np.eye(3), [0.0, 0.0, 1000.0])
    rays = Rays(np.zeros(1, np.float32), np.zeros(1, np.float32), True)
    buffers = rasterise(one, rays)
    assert float(buffers.depth[0, 0]) == pytest.approx(900.0, abs=1e-3)
    spots = surface(one, buffers, rays)
    np.testing.assert_allclose(spots.normal[:, 0], [0.0, 0.0, -1.0], atol=1e-6)
    np.testing.assert_allclose(spots.point[:, 0], [0.0, 0.0, 900.0], atol=1e-3)


def test_the_nearer_solid_wins_in_any_order():
    near = solid(BOX, np.diag([50.0, 50.0, 20.0]), [0.0, 0.0, 800.0], person=1)
    far = solid(ELLIPSOID, 200.0 * np.eye(3), [0.0, 0.0, 1500.0], person=2)
    for order in ([near, far], [far, near]):
        both = joined(order)
        owner = rasterise(both, RAYS).owner
        assert both.person[owner[16, 20]] == 1
        assert both.person[owner[16, 24]] == 2


def test_a_cut_cone_is_open_at_its_end():
    axes = np.stack([[1.0, 0.0, 0.0], [0.0, 0.0, -1.0], [0.0, 1.0, 0.0]], axis=-1)  # opens towards the camera
    pipe = {"length": 300.0, "near": 80.0, "far": 80.0}
    axis = Rays(np.zeros(1, np.float32), np.zeros(1, np.float32), True)
    closed = rasterise(solid(CONE, axes, [0.0, 0.0, 1500.0], **pipe), axis)
    opened = rasterise(solid(CONE, axes, [0.0, 0.0, 1500.0], cut=True, **pipe), axis)
    assert float(closed.depth[0, 0]) == pytest.approx(1120.0, abs=1e-2)
    assert float(opened.depth[0, 0]) == pytest.approx(1420.0, abs=1e-2)  # the cap at the near end, from inside the pipe


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6))
def test_normals_point_outwards(seed):
    rng = np.random.default_rng(seed)
    kind = [ELLIPSOID, CONE, BOX][seed % 3]
    axes = turn(seed) @ np.diag(rng.uniform(0.7, 1.4, 3) if kind == CONE else rng.uniform(60, 200, 3))
    size = {"length": 200.0, "near": 90.0, "far": 60.0} if kind == CONE else {}
    one = solid(kind, axes, [0.0, 0.0, 1500.0], **size)
    spots = surface(one, rasterise(one, RAYS), RAYS)
    np.testing.assert_allclose(np.linalg.norm(spots.normal, axis=0), 1.0, atol=1e-4)
    pick = np.linspace(0, spots.point.shape[1] - 1, 12).astype(int)
    p, n = spots.point.T[pick].astype(float), spots.normal.T[pick].astype(float)
    assert inside(one, p - 3.0 * n).mean() > 0.9
    assert not inside(one, p + 3.0 * n).any()


def test_solids_behind_the_camera_are_not_drawn():
    assert (rasterise(solid(ELLIPSOID, 100.0 * np.eye(3), [0.0, 0.0, -500.0]), RAYS).owner == -1).all()
