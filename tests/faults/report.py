"""What faults do, counted: python tests/faults/report.py [--inputs 200000] [--kills 20] [--flips 20] [--seed 0]

It prints, kind by kind, kills that a training survived, flipped bits that were found, loads beside a trainer, and odd
inputs of every parser; and ends with status 1 if anything was lost, silently wrong, or worse than a message.
"""

import argparse
import collections
import importlib
import logging
import pathlib
import sys
import time

sys.path[:0] = [str(pathlib.Path(__file__).resolve().parents[1])]

from faults import engines_runs, fuzz  # noqa: E402


def main() -> int:
    """The script; returns its exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=200_000, help="odd inputs, of all parsers together")
    parser.add_argument("--kills", type=int, default=20, help="times that a training is killed")
    parser.add_argument("--flips", type=int, default=20, help="bits that are flipped in each kind of file")
    parser.add_argument("--seconds", type=int, default=60, help="time that readers load beside a trainer")
    parser.add_argument("--seed", type=int, default=0, help="number that all of it depends on")
    options = parser.parse_args()
    logging.disable(logging.ERROR)
    bad = kills(options) + readers(options) + flips(options) + inputs(options)
    print("nothing lost, nothing silently wrong" if not bad else f"{bad} failures")
    return 1 if bad else 0


def kills(options: argparse.Namespace) -> int:
    survived, tried = engines_runs.kills(options.kills, options.seed)
    print(f"kills: {survived} of {tried} survived, with the end that an undisturbed training has")
    return tried - survived


def readers(options: argparse.Namespace) -> int:
    loads, failures, trainer = engines_runs.readers(options.seconds)
    print(
        f"readers: {loads} loads beside a trainer, {failures} failed; the trainer {'went on' if trainer else 'ended'}"
    )
    return failures + (not trainer)


def flips(options: argparse.Namespace) -> int:
    silent = 0
    names = sorted(path.stem for path in pathlib.Path(__file__).parent.glob("engines_*.py"))
    modules = [importlib.import_module(f"faults.{name}") for name in names]
    for engine in (module for module in modules if hasattr(module, "flips")):
        for kind, (found, harmless, wrong, tried) in engine.flips(options.flips, options.seed).items():
            print(f"flipped bits, {kind}: {found} found, {harmless} without effect, {wrong} silent, of {tried}")
            silent += wrong
    return silent


def inputs(options: argparse.Namespace) -> int:
    names = sorted(fuzz.all_parsers())
    each, failed = -(-options.inputs // len(names)), collections.Counter()
    total = fuzz.Outcome()
    for name in names:
        started = time.monotonic()
        outcome = fuzz.fuzz_apart(name, each, options.seed)
        print(f"odd inputs, {name}: {outcome} ({time.monotonic() - started:.0f} s)", flush=True)
        total += outcome
    for _, error in total.failures:
        failed[type(error).__name__] += 1
    kinds = f" {dict(failed)}" if failed else ""
    print(f"odd inputs of {len(names)} parsers: {total.tried} tried, {sum(failed.values())} failed{kinds}")
    return len(total.failures)


if __name__ == "__main__":
    sys.exit(main())
