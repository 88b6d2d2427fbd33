"""Odd inputs for parsers: seeded, and each tells what went wrong with it.

A module `engines_*.py` beside this file registers parsers by its function

    def parsers() -> dict[str, tuple[Callable[[], Content], Callable[[bytes], object]]]:
        return {"coco": (valid_labels, lambda data: coco.parse_keypoints(parse_json(data, "x.json"), "x.json"))}

The first of each pair makes a valid input, new at every call: bytes of a file of any format, or what a JSON file holds
(lists and dictionaries). The second takes the bytes of an odd one; what it gives is not looked at, so that it may go on
to use what it read. A JSON input is changed value by value (`odd_content`) and now and then byte by byte, others byte
by byte (`odd_bytes`). A parser that wants a path writes the bytes to one file of its own, again and again.

    fuzz("coco", 10_000, seed=0)          in this process
    fuzz_apart("coco", 10_000, seed=0)    in a child of limited memory, whose death is a failure, too

Input i of a parser depends on its name, the seed and i alone: `odd_input("coco", 0, 17)` gives it again.
"""

import contextlib
import copy
import dataclasses
import importlib
import json
import logging
import multiprocessing
import os
import pathlib
import random
import re
import resource
import signal
import struct
import threading
from collections.abc import Callable, Iterator
from typing import Any

from jaxpose.errors import JaxposeError

Content = bytes | list | dict
Parser = tuple[Callable[[], Content], Callable[[bytes], object]]

MOST_SECONDS = 10.0
"""An input that takes longer hangs."""
MOST_BYTES = 6 << 30
"""Memory that a child may take beyond what it begins with."""
MOST_FAILURES = 20
"""Failures after which `fuzz` stops."""


class Hang(BaseException):
    """An input took too long."""


class Death(Exception):
    """A child ended within an input."""


@dataclasses.dataclass
class Outcome:
    """What became of odd inputs.

    Attributes:
      tried: number of inputs.
      refused: number of those with a `JaxposeError`.
      accepted: number of those that were read.
      failures: inputs and what else they raised: any exception, `Hang` or `Death`.
    """

    tried: int = 0
    refused: int = 0
    accepted: int = 0
    failures: list[tuple[bytes, BaseException]] = dataclasses.field(default_factory=list)

    def __str__(self) -> str:
        head = f"{self.tried} tried: {self.accepted} read, {self.refused} refused, {len(self.failures)} failed"
        return "\n".join([head, *(f"  {type(e).__name__}: {e} <- {data[:300]!r}" for data, e in self.failures)])

    def __add__(self, other: "Outcome") -> "Outcome":
        mine, others = vars(self).values(), vars(other).values()
        return Outcome(*(a + b for a, b in zip(mine, others, strict=True)))


def all_parsers() -> dict[str, Parser]:
    """Every parser that a module beside this file registers.

    Raises:
      ValueError: two modules register one name.
    """
    found: dict[str, Parser] = {}
    for path in sorted(pathlib.Path(__file__).parent.glob("engines_*.py")):
        registered = importlib.import_module(f"faults.{path.stem}").parsers()
        if twice := set(found) & set(registered):
            raise ValueError(f"{path.name}: registers {sorted(twice)}, which another module registers, too")
        found |= registered
    return found


def fuzz(name: str, count: int, seed: int = 0, first: int = 0) -> Outcome:
    """What becomes of the inputs first, ..., first + count - 1 of a parser; stops after `MOST_FAILURES`."""
    make, parse = all_parsers()[name]
    outcome = Outcome()
    with _log_formatted():
        for i in range(first, first + count):
            _try(parse, odd_input(name, seed, i, make), outcome)
            if len(outcome.failures) >= MOST_FAILURES:
                break
    return outcome


def fuzz_apart(name: str, count: int, seed: int = 0) -> Outcome:
    """As `fuzz`, in a child process; where it dies, another one goes on behind that input."""
    outcome, context = Outcome(), multiprocessing.get_context("spawn")
    while outcome.tried < count and len(outcome.failures) < MOST_FAILURES:
        receiver, sender = context.Pipe(duplex=False)
        rest = count - outcome.tried
        child = context.Process(target=_fuzz_and_tell, args=(sender, name, rest, seed, outcome.tried))
        child.start()
        sender.close()
        at, told = outcome.tried, None
        with contextlib.suppress(EOFError):
            while not isinstance(told := _next(receiver, child), Outcome):
                at = told
        child.join()
        if isinstance(told, Outcome):
            return outcome + told
        before = Outcome(at - outcome.tried + 1)  # which of them were refused is not known
        before.failures.append((odd_input(name, seed, at), Death(f"input {at}: exit code {child.exitcode}")))
        outcome += before
    return outcome


def _next(receiver: Any, child: Any) -> "int | Outcome":
    """What a child says next; one that says nothing hangs where no signal reaches it, and is ended."""
    if not receiver.poll(6 * MOST_SECONDS):
        child.kill()
    return receiver.recv()


def _fuzz_and_tell(sender: Any, name: str, count: int, seed: int, first: int) -> None:
    """Sends the number of every input before it is tried, and the outcome at the end."""
    make, parse = all_parsers()[name]
    _limit_memory()
    outcome = Outcome()
    with _log_formatted():
        for i in range(first, first + count):
            sender.send(i)
            _try(parse, odd_input(name, seed, i, make), outcome)
            if len(outcome.failures) >= MOST_FAILURES:
                break
    outcome.failures = [(data, _plain(error)) for data, error in outcome.failures]
    sender.send(outcome)


def _plain(error: BaseException) -> BaseException:
    """An exception that can be sent to another process."""
    return error if isinstance(error, Hang) else Exception(f"{type(error).__name__}: {error}")


def _limit_memory() -> None:
    pages = int(pathlib.Path("/proc/self/statm").read_text().split()[0])
    limit = pages * os.sysconf("SC_PAGE_SIZE") + MOST_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit, resource.getrlimit(resource.RLIMIT_AS)[1]))


def _try(parse: Callable[[bytes], object], data: bytes, outcome: Outcome) -> None:
    outcome.tried += 1
    try:
        with _in_time():
            parse(data)
        outcome.accepted += 1
    except JaxposeError:
        outcome.refused += 1
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # whatever a parser lets through, a panic of compiled code among it
        outcome.failures.append((data, error))


@contextlib.contextmanager
def _in_time() -> Iterator[None]:
    """Raises `Hang` within a block that takes too long, where signals can be had."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(*_: Any) -> None:
        raise Hang(f"not done after {MOST_SECONDS:g} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, MOST_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@contextlib.contextmanager
def _log_formatted() -> Iterator[None]:
    """The library's log goes nowhere, but every message is put together, so that one that cannot be is a failure."""

    class Nowhere(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            record.getMessage()

    logger, handler = logging.getLogger("jaxpose"), Nowhere()
    level, propagate = logger.level, logger.propagate
    logger.setLevel(logging.DEBUG)
    logger.propagate = False
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        logger.propagate = propagate


# --- odd inputs ---


def odd_input(name: str, seed: int, i: int, make: Callable[[], Content] | None = None) -> bytes:
    """Input i of a parser; `make` spares the look for it."""
    rng = random.Random(f"{name} {seed} {i}")
    content = (make or all_parsers()[name][0])()
    if isinstance(content, bytes):
        return odd_bytes(content, rng)
    data = as_json(odd_content(content, rng))
    return odd_bytes(data, rng) if rng.random() < 0.1 else data


_DEEP, _RAW = "deep:", "raw:"
_SPECIAL = re.compile(rb'"(?:deep:(\d{1,7})|raw:([^"\\]*))"')

ODD = (
    None, True, False, 0, -0.0, 1, -1, 2, 3, 0.5, 0.9, -0.9, 1.5, 64.9, 255, 256, 65535, 65536, 99999, 1e-300, 1e9,
    2**31 - 1, 2**31, -(2**31) - 1, 2**32, 2**53 + 1, 2**63 - 1, 2**63, -(2**63) - 1, 2**64, 10**12, 10**40, 1e38,
    -1e38, 1e39, 1e300, -1e300, float("nan"), float("inf"), float("-inf"),
    "", " ", "0", "1", "2", "-1", "0.9", "1e5", "NaN", "inf", "nan", "true", "a", "person", "left_", "../x", "/etc/x",
    "a\0b", "\ud800", "\u0660", "1_0", "x" * 3000, "e" * 300, "9" * 300, "%s %d", "{}", "a/../../b", ".", "..",
    [], {}, [[]], [None], [0], [1, 2], [1, 2, 3, 4], ["a"], [0] * 100, {"a": 1}, {"id": 1},
    {"size": [2, 2], "counts": "x"},
    _RAW + "1e400", _RAW + "-1e400", _RAW + "1E1", _RAW + "-0", _RAW + "9" * 5000, _RAW + "{}", _RAW + "[,]",
    _DEEP + "500", _DEEP + "900", _DEEP + "960", _DEEP + "20000", _DEEP + "1000000",
)  # fmt: skip
"""Values in place of others."""


def as_json(content: Any) -> bytes:
    """JSON in UTF-8; texts "raw:..." become what follows, "deep:N" N lists in each other."""

    def special(found: re.Match) -> bytes:
        depth, text = found.groups()
        return text if depth is None else b"[" * int(depth) + b"]" * int(depth)

    return _SPECIAL.sub(special, json.dumps(content).encode())


def odd_content(content: Any, rng: random.Random) -> Any:
    """A copy of lists and dictionaries in which one to four things are odd."""
    holder = [json.loads(json.dumps(content))]
    for _ in range(rng.choice((1, 1, 1, 2, 2, 3, 4))):
        _change(holder, rng)
    return holder[0]


def _slot(holder: list, rng: random.Random) -> tuple[Any, Any]:
    """A list or dictionary somewhere in `holder`, and one of its keys."""
    container: Any = holder
    key: Any = 0
    while True:
        inner = container[key]
        if not isinstance(inner, list | dict) or not inner or rng.random() < 0.12:
            return container, key
        container, key = inner, rng.choice(list(inner) if isinstance(inner, dict) else range(len(inner)))


def _change(holder: list, rng: random.Random) -> None:
    container, key = _slot(holder, rng)
    value = container[key]
    kind = rng.choice(("odd", "odd", "odd", "near", "near", "delete", "repeat", "rename", "swap", "wrap", "reorder"))
    if kind == "near":
        container[key] = _near(value, rng)
    elif kind == "delete" and container is not holder:
        del container[key]
    elif kind == "repeat":
        _repeat(container, key, rng)
    elif kind == "rename" and isinstance(container, dict):
        container[rng.choice((key.upper(), key + "s", "id", "name", "", "keypoints"))] = container.pop(key)
    elif kind == "swap":
        other, place = _slot(holder, rng)
        container[key], other[place] = copy.deepcopy(other[place]), copy.deepcopy(value)
    elif kind == "wrap":
        container[key] = rng.choice(([value], {"value": value}, [value, copy.deepcopy(value)], json.dumps(value)))
    elif kind == "reorder" and isinstance(value, list):
        rng.shuffle(value)
    else:
        container[key] = copy.deepcopy(rng.choice(ODD))


def _near(value: Any, rng: random.Random) -> Any:
    """Much the same: another number, text or length."""
    if isinstance(value, bool) or value is None:
        return rng.choice((int(value or 0), not value, str(value)))
    if isinstance(value, int | float):
        scale = rng.choice((-1, 0.01, 100, 1e6, 1e12, 1e35))
        return rng.choice((value + 1, value - 1, value + 0.5, value * scale, str(value), [value], bool(value)))
    if isinstance(value, str):
        return rng.choice((value + value, value[: len(value) // 2], value[:-1], value.upper(), f" {value} ", [value]))
    if isinstance(value, list):
        return rng.choice((value[:-1], value[: len(value) // 2], value + value, value[::-1], [value[:1]] * 3))
    return rng.choice(
        ([value], list(value), [*map(list, value.items())], {str(k).upper(): v for k, v in value.items()})
    )


def _repeat(container: Any, key: Any, rng: random.Random) -> None:
    times = rng.choice((1, 1, 1, 2, 40))
    copied = [copy.deepcopy(container[key]) for _ in range(times if len(json.dumps(container[key])) < 5000 else 1)]
    if isinstance(container, list):
        container[key:key] = copied
    else:
        container[f"{key}2"] = copied[0]


_NUMBERS = [
    struct.pack(form, number)
    for form, numbers in (
        ("B", (0, 1, 0x7F, 0x80, 0xFF)),
        ("<H", (0xFFFF, 0x7FFF)),
        ("<I", (0, 1, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)),
        (">I", (1, 0x7FFFFFFF, 0x80000000)),
        ("<Q", (0, 1 << 40, 1 << 62, (1 << 63) - 1, (1 << 64) - 1)),
        ("<f", (float("nan"), float("inf"), 1e38)),
        ("<d", (float("nan"), float("inf"), -1e300)),
    )
    for number in numbers
]


def odd_bytes(data: bytes, rng: random.Random) -> bytes:
    """A copy of bytes with one to eight changes: bits, numbers, slices cut, moved, repeated or made up."""
    found = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 4, 8))):
        at = rng.randrange(len(found) + 1)
        end = min(len(found), at + rng.choice((1, 2, 4, 8, 16, 64, 1024)))
        kind = rng.choice(
            ("bit", "bit", "bit", "byte", "number", "number", "cut", "insert", "repeat", "remove", "zero")
        )
        if kind == "bit" and at < len(found):
            found[at] ^= 1 << rng.randrange(8)
        elif kind == "byte" and at < len(found):
            found[at] = rng.randrange(256)
        elif kind == "number":
            number = rng.choice(_NUMBERS)
            found[at : at + len(number)] = number
        elif kind == "cut":
            del found[at:]
        elif kind == "insert":
            found[at:at] = rng.randbytes(rng.choice((1, 2, 4, 64)))
        elif kind == "repeat":
            found[at:at] = found[at:end] * rng.choice((1, 1, 2, 100))
        elif kind == "remove":
            del found[at:end]
        elif kind == "zero":
            found[at:end] = bytes(end - at)
    return bytes(found)
