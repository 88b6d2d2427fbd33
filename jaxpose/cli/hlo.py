"""Figures of a compiled program, read from its text: collectives, slow operations, traffic with HBM."""

import collections
import re
from collections.abc import Iterator
from typing import NamedTuple

ITEM_BYTES = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s16": 2, "u16": 2, "f32": 4, "s32": 4, "u32": 4,
              "f64": 8, "s64": 8, "u64": 8}  # fmt: skip
SLOW = ("gather", "scatter", "sort", "while", "custom-call")
"""Operations that a TPU runs element by element, or that keep it from seeing the whole step."""
COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
NO_TRAFFIC = ("parameter", "tuple", "get-tuple-element", "bitcast", "constant", "after-all", "while", "conditional",
              "call", "partition-id", "replica-id", "iota", "opt-barrier")  # fmt: skip
"""Operations that move nothing themselves."""


def count_collectives(hlo: str) -> dict[str, tuple[int, int]]:
    """{kind: (count, bytes of the results)} of the collectives in a compiled program's text."""
    found: dict[str, tuple[int, int]] = collections.defaultdict(lambda: (0, 0))
    pattern = re.compile(rf"= (.*?) ({'|'.join(COLLECTIVES)})(-start)?\(")
    for line in hlo.splitlines():
        if match := pattern.search(line):
            shapes = [_shape_bytes(s) for s in re.findall(r"(\w+)\[([\d,]*)\]", match[1])]
            size = sum(shapes) // (2 if match[3] and match[2] != "all-reduce" else 1)  # -start also lists its operands
            count, total = found[match[2]]
            found[match[2]] = (count + 1, total + size)
    return dict(found)


def count_slow(hlo: str) -> dict[str, int]:
    """{kind: count} of the operations in a compiled program's text that are in `SLOW`; custom calls by target."""
    pattern = re.compile(rf"= \(?[\w\[\],]+.*? ({'|'.join(SLOW)})\(")
    target = re.compile(r'custom_call_target="(\w+)"')
    found: collections.Counter = collections.Counter()
    for line in hlo.splitlines():
        if match := pattern.search(line):
            called = target.search(line) if match[1] == "custom-call" else None
            found[f"custom-call {called[1]}" if called else match[1]] += 1
    return dict(found)


def _shape_bytes(shape: tuple[str, str]) -> int:
    size = ITEM_BYTES.get(shape[0], 0)
    for side in filter(None, shape[1].split(",")):
        size *= int(side)
    return size


# --- traffic ---


class Buffer(NamedTuple):
    """An array of a program: its bytes, and whether it lies in HBM rather than in a core's own memory."""

    size: int
    in_hbm: bool


class Instruction(NamedTuple):
    """A line of a program: its operation, the arrays that it makes, and the names of its operands."""

    operation: str
    made: list[Buffer]
    operands: list[str]


def count_traffic(hlo: str) -> int:
    """Bytes that a program moves between HBM and the cores. A loop counts as one round.

    The compiler's own estimate counts arrays in a core's memory as well, and of a slice the whole array that it is cut
    from. Here every fusion reads its operands and writes its results, if they lie in HBM, and a copy or slice that runs
    beside others moves what it copies.

    Args:
      hlo: text of the optimized program. A layout with "S(1)" is that of an array in a core's memory.
    """
    total = 0
    for computation in _computations(hlo):
        for instruction in computation.values():
            if instruction.operation.endswith("-start") and instruction.operation[:-6] in ("copy", "slice", "async"):
                total += _copied(instruction.made)
            elif not instruction.operation.endswith("-done") and instruction.operation not in NO_TRAFFIC:
                read = (computation[name].made for name in instruction.operands if name in computation)
                total += sum(buffer.size for made in (instruction.made, *read) for buffer in made if buffer.in_hbm)
    return total


def _copied(made: list[Buffer]) -> int:
    """Traffic of an asynchronous copy, which lists where it reads and where it writes: the smaller of both."""
    sides = [buffer for buffer in made if buffer.size > 4]
    return min((buffer.size for buffer in sides), default=0) * min(sum(buffer.in_hbm for buffer in sides), 2)


def _computations(hlo: str) -> Iterator[dict[str, Instruction]]:
    """{name: instruction} of the program's entry, and of the bodies and conditions of its loops."""
    called = set(re.findall(r"(?:body|condition|branch_computations|to_apply)=\{?%?([\w.-]+)", hlo))
    for part in re.split(r"\n\n", hlo):
        head = re.match(r"\s*(ENTRY )?%?([\w.-]+) \(", part)
        if head and (head[1] or head[2] in called):
            yield dict(filter(None, map(_instruction, part.splitlines())))


def _instruction(line: str) -> tuple[str, Instruction] | None:
    found = re.match(r"\s+(?:ROOT )?%?([\w.-]+) = (.*?) ([\w-]+)\((.*)", line)
    if not found:
        return None
    name, types, operation, rest = found.groups()
    made = [
        Buffer(_shape_bytes((shape[1], shape[2])), "S(" not in (shape[3] or ""))
        for shape in re.finditer(r"(\w+)\[([\d,]*)\](\{[^}]*\})?", types)
    ]
    return name, Instruction(operation, made, re.findall(r"%([\w.-]+)", rest.partition("), ")[0]))
