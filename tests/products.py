"""The products of a program: every matrix product and convolution of a jaxpr, and the precision that it asks for."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core

from jaxpose.ops.arrays import EXACT


class Product(NamedTuple):
    """A matrix product or convolution.

    Attributes:
      kind: name of the primitive.
      types: types of both factors.
      exact: True if it asks for float32 as it is written on every device.
      scope: names of the modules that it is made in, "a/b/c".
    """

    kind: str
    types: tuple[np.dtype, np.dtype]
    exact: bool
    scope: str


def products(function: Callable, *inputs: Any) -> list[Product]:
    """All products of a function for some inputs, those of loops and branches included."""
    return list(_walk(jax.make_jaxpr(function)(*inputs).jaxpr, ""))


def _walk(jaxpr: core.Jaxpr, scope: str) -> Iterator[Product]:
    for equation in jaxpr.eqns:
        here = "/".join(filter(None, (scope, str(equation.source_info.name_stack))))
        if equation.primitive.name in ("dot_general", "conv_general_dilated"):
            first, second = map(_type, equation.invars[:2])
            asked = equation.params["precision"]
            yield Product(equation.primitive.name, (first, second), asked in (EXACT, (EXACT, EXACT)), here)
        for inner in jax.tree.leaves(list(equation.params.values()), is_leaf=_is_jaxpr):
            if _is_jaxpr(inner):
                yield from _walk(getattr(inner, "jaxpr", inner), here)


def _type(variable: Any) -> np.dtype:
    return np.dtype(variable.aval.dtype)


def _is_jaxpr(value: Any) -> bool:
    return isinstance(value, (core.Jaxpr, core.ClosedJaxpr))


def round_factors(patch: Any, unless_exact: bool) -> None:
    """Has every product made from now on round float32 factors to bfloat16, as a TPU does by itself.

    Args:
      patch: pytest's monkeypatch.
      unless_exact: True to leave those alone that ask for precision, as a TPU does; False to round all.
    """

    def rounded(function: Callable) -> Callable:
        def call(lhs: jax.Array, rhs: jax.Array, *args: Any, **options: Any) -> jax.Array:
            exact = options.get("precision") in (EXACT, (EXACT, EXACT))
            if not (exact and unless_exact) and lhs.dtype == rhs.dtype == jnp.float32:
                lhs, rhs = (jax.lax.reduce_precision(x, exponent_bits=8, mantissa_bits=7) for x in (lhs, rhs))
            return function(lhs, rhs, *args, **options)

        return call

    for name in ("dot_general", "conv_general_dilated"):
        patch.setattr(jax.lax, name, rounded(getattr(jax.lax, name)))
