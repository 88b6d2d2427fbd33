"""Compiles a config's train step for a TPU slice without having one.

    jaxpose compile --config=prtr:coco --topology=v5e:4x4

uses the real TPU compiler (`pip install jaxpose[tpu-compile]`) on any Linux machine and prints, for one device: memory
needed against memory there is, arithmetic, bytes moved, collectives with their bytes, operations that a TPU is slow at,
and the roofline time with what bounds it. Exit status 1: the step does not fit, or does not compile.
"""

import argparse
import dataclasses
import os
import pathlib
import re
import time
from collections.abc import Sequence
from typing import Any

import jax
from jax.experimental import topologies

from jaxpose import sharding
from jaxpose.cli import command, config_flags
from jaxpose.cli.hlo import count_collectives, count_slow, count_traffic
from jaxpose.errors import ConfigError
from jaxpose.files.whole import write_text
from jaxpose.training import stages
from jaxpose.training.train_step import Trainer

GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Chip:
    """One device of a TPU generation; published peak figures.

    Attributes:
      memory: bytes of HBM.
      flops: bfloat16 operations a second.
      bandwidth: bytes a second to and from HBM.
      interconnect: bytes a second between chips.
      accelerator: name of the slice type, to which the number of its cores is appended.
      cores: cores of a chip, as slice names count them.
    """

    memory: float
    flops: float
    bandwidth: float
    interconnect: float
    accelerator: str
    cores: int


CHIPS = {
    "v5e": Chip(16 * GIB, 197e12, 819e9, 200e9, "v5litepod", 1),
    "v5p": Chip(95 * GIB, 459e12, 2765e9, 600e9, "v5p", 2),
    "v6e": Chip(32 * GIB, 918e12, 1640e9, 448e9, "v6e", 1),
}


@dataclasses.dataclass(frozen=True)
class Report:
    """The work of one device in one step.

    Attributes:
      devices: number of devices of the slice.
      memory: {part of memory: bytes}.
      flops: arithmetic operations; loops count as one round.
      traffic: bytes between HBM and the cores; loops count as one round.
      collectives: {kind: (count, bytes)}.
      slow: {kind: count} of operations in `SLOW`.
      parameters: bytes of all parameters.
      statistics: bytes of all batch statistics.
      compile_seconds: time of the compilation on this machine.
      chip: figures of the device.
    """

    devices: int
    memory: dict[str, int]
    flops: float
    traffic: float
    collectives: dict[str, tuple[int, int]]
    slow: dict[str, int]
    parameters: int
    statistics: int
    compile_seconds: float
    chip: Chip

    @property
    def needed(self) -> int:
        return sum(self.memory.values())

    @property
    def fits(self) -> bool:
        return self.needed <= self.chip.memory

    def times(self) -> dict[str, float]:
        """{resource: seconds of a step that it alone would limit}. Ring collectives pass every byte twice."""
        traffic = sum(size for _, size in self.collectives.values()) * 2 * (self.devices - 1) / self.devices
        return {
            "arithmetic": self.flops / self.chip.flops,
            "memory": self.traffic / self.chip.bandwidth,
            "interconnect": traffic / self.chip.interconnect,
        }

    def __str__(self) -> str:
        parts = ", ".join(f"{name} {size / GIB:.2f}" for name, size in self.memory.items())
        lines = [
            f"compiled for {self.devices} devices in {self.compile_seconds:.0f} s; all figures for one device and step",
            f"memory        {self.needed / GIB:.2f} GiB of {self.chip.memory / GIB:.0f} GiB ({parts})",
            f"arithmetic    {self.flops / 1e12:.3f} TFLOP",
            f"HBM traffic   {self.traffic / 1e9:.2f} GB",
        ]
        for kind, (count, size) in sorted(self.collectives.items()):
            lines.append(f"{kind:<13} {size / 1e6:.3f} MB in {count} operations")
        lines.append(f"parameters    {self.parameters / 1e6:.3f} MB, batch statistics {self.statistics / 1e6:.3f} MB")
        lines.append("slow paths    " + (", ".join(f"{n} {kind}" for kind, n in sorted(self.slow.items())) or "none"))
        times = self.times()
        bound = max(times, key=lambda name: times[name])
        listed = ", ".join(f"{name} {1e3 * seconds:.2f} ms" for name, seconds in times.items())
        loops = self.slow.get("while", 0)
        lines.append(f"roofline      {1e3 * times[bound]:.2f} ms, bound by {bound} ({listed})")
        if loops:
            lines.append(f"              one round of each of {loops} loops is counted, so the step takes longer")
        lines.append("FITS" if self.fits else "DOES NOT FIT: lower config.train.batch_size, or raise train.accumulate")
        return "\n".join(lines)


def prepare_environment(topology: str) -> Chip:
    """Lets libtpu compile without a TPU. Has to be called before JAX looks for devices.

    Raises:
      ConfigError: a topology that is not "GENERATION:AxB[xC]" of a known generation.
    """
    generation, _, shape = topology.partition(":")
    if generation not in CHIPS or not re.fullmatch(r"\d+(x\d+)+", shape):
        raise ConfigError(f"--topology is {topology!r}; expected one like v5e:4x4, of a generation in {list(CHIPS)}")
    chip = CHIPS[generation]
    cores = chip.cores
    for side in shape.split("x"):
        cores *= int(side)
    os.environ["TPU_SKIP_MDS_QUERY"] = "1"
    os.environ["TPU_ACCELERATOR_TYPE"] = f"{chip.accelerator}-{cores}"
    os.environ["TPU_WORKER_HOSTNAMES"] = "localhost"
    os.environ["ALLOW_MULTIPLE_LIBTPU_LOAD"] = "1"  # no TPU is touched, so no lock on it is needed
    jax.config.update("jax_platforms", "cpu")
    return chip


def compile_step(config: Any, topology: str, chip: Chip) -> tuple[Any, Report]:
    """The compiled train step of `config` on a slice, and what it costs.

    Raises:
      ConfigError: the TPU compiler is not installed.
    """
    try:
        slice_ = topologies.get_topology_desc(topology, platform="tpu")
    except Exception as error:
        hint = "The TPU compiler comes with pip install 'jaxpose[tpu-compile]'"
        raise ConfigError(f"{topology}: {error}. {hint}") from error
    trainer = Trainer.create(config, slice_.devices)
    placed = sharding.batch_sharding(trainer.mesh)
    batch = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=placed), trainer.method.spec(config.train.batch_size)
    )
    state = trainer.template()
    start = time.monotonic()
    with jax.sharding.use_abstract_mesh(trainer.mesh.abstract_mesh):
        compiled = trainer.jitted.trace(state, batch).lower(lowering_platforms=("tpu",)).compile()
    seconds = time.monotonic() - start
    memory, cost = compiled.memory_analysis(), compiled.cost_analysis()
    report = Report(
        devices=trainer.mesh.size,
        memory={
            "state and batch": memory.argument_size_in_bytes,
            "outputs": memory.output_size_in_bytes - memory.alias_size_in_bytes,
            "temporary": memory.temp_size_in_bytes,
            "program": memory.generated_code_size_in_bytes,
        },
        flops=cost["flops"],
        traffic=count_traffic(compiled.as_text()),
        collectives=count_collectives(compiled.as_text()),
        slow=count_slow(compiled.as_text()),
        parameters=_size(state.params),
        statistics=_size(state.batch_stats),
        compile_seconds=seconds,
        chip=chip,
    )
    return compiled, report


def _size(tree: Any) -> int:
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit status: 0 if the step fits the memory of a device."""
    parser = command.Parser("compile", __doc__, fields=True)
    config_flags.add_config(parser)
    add = parser.add_argument
    topology = "TPU generation and slice, such as v5e:4x4, v5p:4x4x4 or v6e:2x2 (default %(default)s)"
    add("--topology", default="v5e:4x4", help=topology)
    add("--stage", default="", help="stage of a config with stages (default: the last one)")
    add("--hlo", type=pathlib.Path, help="file to write the compiled program's text to")
    return command.run(parser, _run, arguments)


def _run(options: argparse.Namespace) -> int:
    config = config_flags.load(options.config, options.fields)
    chip = prepare_environment(options.topology)
    compiled, report = compile_step(stages.pick(config, options.stage), options.topology, chip)
    print(report)
    if options.hlo:
        write_text(options.hlo, compiled.as_text())
    return 0 if report.fits else 1
