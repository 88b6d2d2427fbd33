"""Ways to compute the deformable convolutions of DEKR's adaptive blocks: time and memory here, operations on a TPU.

    python experiments/benchmarks/deform.py [--side=32] [--batch=2] [--ways=pixels/loop,pieces/loop]
    python experiments/benchmarks/deform.py --tpu=v5e:2x2 --batch=1 --side=128

One block of 17 branches with 15 channels each, on a square map, moved by N(0, 2^2) cells. The ways:

  pixels   the four neighbours of a position are fetched one by one and weighted
  pieces   the four neighbours lie side by side in a copy of the map and are fetched at once
  one-hot  hat functions of the distance to every row and column, multiplied with the whole map: no gather, no scatter

each with all taps at once ("all") or tap after tap, read again for the gradient ("loop", which the library does).
Printed are the best of several calls after one that compiles, and the temporary memory of the gradient.

With --tpu the compiler for a TPU, of which none is needed, compiles one tap of each way. It says how many gathers and
scatters remain, and estimates cycles for everything but these: a gather may cost (cycles of one-hot - cycles) / rows
before one-hot is faster.
"""

import functools
import re
import time

from absl import app, flags

flags.DEFINE_integer("batch", 2, "Images.")
flags.DEFINE_integer("side", 32, "Rows and columns of the map; a quarter of the image's.")
flags.DEFINE_integer("joints", 17, "Branches.")
flags.DEFINE_integer("features", 15, "Channels of a branch.")
flags.DEFINE_integer("rounds", 5, "Timed calls.")
flags.DEFINE_list("ways", [], "Those to run; all that fit into memory by default.")
flags.DEFINE_string("tpu", "", "Topology to compile for instead, such as v5e:2x2.")

OPERATIONS = ("gather", "scatter", "sort")


def ways() -> dict:
    """{name: function of images [B K, H, W, C], points [T, B K, H, W, 2] and kernels [T, K, C, C]}."""
    import jax
    import jax.numpy as jnp

    from jaxpose.ops import sampling

    def tap(sample, images, points, kernel):
        values = sample(images, points[..., 0], points[..., 1])
        values = values.reshape(-1, len(kernel), *values.shape[1:])
        return jnp.einsum("bkhwc,kco->bkhwo", values, kernel)

    def together(sample, images, points, kernels):
        return sum(tap(sample, images, p, k) for p, k in zip(points, kernels, strict=True))

    def loop(sample, images, points, kernels):
        again = jax.checkpoint(functools.partial(tap, sample), prevent_cse=False)
        shape = jax.eval_shape(again, images, points[0], kernels[0])

        def add(total, of_tap):
            return total + again(images, *of_tap), None

        return jax.lax.scan(add, jnp.zeros(shape.shape), (points, kernels))[0]

    readers = {
        "pixels": sampling._sample_pixels,
        "pieces": sampling._sample_pieces,
        "one-hot": sampling._sample_products,
    }
    takers = {"all": together, "loop": loop}
    return {f"{r}/{t}": functools.partial(takers[t], readers[r]) for r in readers for t in takers}


def arguments(taps: int) -> tuple:
    """Images, points and kernels as `ways` take them."""
    import numpy as np

    f, rng = flags.FLAGS, np.random.default_rng(0)
    cells = np.stack(np.meshgrid(np.arange(f.side), np.arange(f.side)), -1)
    branches = f.batch * f.joints
    images = rng.normal(size=(branches, f.side, f.side, f.features))
    points = cells + rng.normal(size=(taps, branches, f.side, f.side, 2)) * 2
    kernels = rng.normal(size=(taps, f.joints, f.features, f.features))
    return tuple(a.astype(np.float32) for a in (images, points, kernels))


def gradient_of(way):
    import jax
    import jax.numpy as jnp

    return jax.grad(lambda *a: jnp.sum(way(*a) ** 2), (0, 1, 2))


def best_ms(call, given: tuple) -> float:
    import jax

    jax.block_until_ready(call(*given))
    figures = []
    for _ in range(flags.FLAGS.rounds):
        start = time.perf_counter()
        jax.block_until_ready(call(*given))
        figures.append(1000 * (time.perf_counter() - start))
    return min(figures)


def measure(names: list[str]) -> None:
    """Times on this machine."""
    import jax
    import numpy as np

    given = jax.device_put(arguments(9))
    f, expected = flags.FLAGS, None
    print(f"{jax.devices()[0].device_kind}, {f.batch} maps of {f.side} x {f.side}, {f.joints} x {f.features} channels")
    print(f"{'way':>14} {'forward ms':>11} {'with gradient ms':>17} {'temporary MiB':>14}")
    for name in names or [n for n in ways() if not n.startswith("one-hot") or f.side <= 32]:
        forward = jax.jit(ways()[name])
        backward = jax.jit(gradient_of(ways()[name])).lower(*given).compile()
        found = forward(*given)
        expected = found if expected is None else expected
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3)
        memory = backward.memory_analysis().temp_size_in_bytes / 2**20
        print(
            f"{name:>14} {best_ms(forward, given):>11.1f} {best_ms(backward, given):>17.1f} {memory:>14.0f}", flush=True
        )


def compile_for_tpu(names: list[str], topology: str) -> None:
    """What the TPU compiler says about one tap."""
    import jax
    from jax.experimental import topologies

    device = topologies.get_topology_desc(topology, platform="tpu").devices[0]
    placed = jax.sharding.SingleDeviceSharding(device)
    given = [jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=placed) for a in arguments(1)]
    print(f"{topology}, one tap, {given[1].size // 2} positions; estimated cycles leave out gathers and scatters")
    print(f"{'way':>14} {'':>8} {'Mcycles':>8} {'GFLOP':>8} {'GB':>6} {'temporary MiB':>14}  gathers, scatters, sorts")
    for name in names or [n for n in ways() if n.endswith("/all")]:
        for kind, function in (("forward", ways()[name]), ("gradient", gradient_of(ways()[name]))):
            compiled = jax.jit(function).trace(*given).lower(lowering_platforms=("tpu",)).compile()
            text, cost = compiled.as_text(), compiled.cost_analysis()
            cycles = sum(int(n) for n in re.findall(r'"estimated_cycles":"(\d+)"', text)) / 1e6
            counts = ", ".join(str(len(re.findall(rf" {operation}\(", text))) for operation in OPERATIONS)
            memory = compiled.memory_analysis().temp_size_in_bytes / 2**20
            figures = f"{cycles:>8.2f} {cost['flops'] / 1e9:>8.1f} {cost['bytes accessed'] / 1e9:>6.2f} {memory:>14.0f}"
            print(f"{name:>14} {kind:>8} {figures}  {counts}", flush=True)


def main(given: list[str]) -> None:
    del given
    names, topology = flags.FLAGS.ways, flags.FLAGS.tpu
    if topology:
        from jaxpose.cli.compile import prepare_environment

        prepare_environment(topology)
        compile_for_tpu(names, topology)
    else:
        from jaxpose.runs import startup

        startup.start()
        measure(names)


if __name__ == "__main__":
    app.run(main)
