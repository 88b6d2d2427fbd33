"""How the benchmarks beside this file take times."""

import time
from collections.abc import Callable

import jax


def seconds(call: Callable[[], object], rounds: int, calls: int) -> list[float]:
    """Mean seconds a call, one figure a round, after one call that compiles."""
    jax.block_until_ready(call())
    figures = []
    for _ in range(rounds):
        start = time.perf_counter()
        for _ in range(calls):
            result = call()
        jax.block_until_ready(result)
        figures.append((time.perf_counter() - start) / calls)
    return figures


def milliseconds(call: Callable[[], object], rounds: int, calls: int, images: int) -> list[float]:
    """Milliseconds an image, as `seconds` for a call that handles several."""
    return [1000 * figure / images for figure in seconds(call, rounds, calls)]
