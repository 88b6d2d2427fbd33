"""Process start-up: compiler options, compilation cache, and joining several processes."""

import logging
import os
import pathlib
import re

import jax

from jaxpose.errors import ConfigError

logger = logging.getLogger(__name__)

CPU_PRESET = "--xla_cpu_opt_preset=CPU_OPT_PRESET_FAST_COMPILE"
"""Without it XLA:CPU fuses residual chains into every kernel gradient: a deep network's step takes 3 times as long."""


def start(coordinator: str = "", num_processes: int = 0, process_id: int = -1, cache: bool = True) -> None:
    """Sets up JAX. Call it before anything asks for a device.

    Several processes are joined where flags or the environment say so: explicit arguments; JAX_COORDINATOR_ADDRESS
    with JAX_NUM_PROCESSES and JAX_PROCESS_ID; a TPU pod or a SLURM or Open MPI job, which JAX finds out by itself.

    Args:
      coordinator: address "host:port" of process 0.
      num_processes: number of processes.
      process_id: number of this process, from 0.
      cache: keep compiled programs in ~/.cache/jaxpose (or JAX_COMPILATION_CACHE_DIR) for the next start.
    """
    use_fast_cpu_preset()
    if cache and not getattr(jax.config, "jax_compilation_cache_dir", None):
        folder = pathlib.Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "jaxpose" / "xla"
        jax.config.update("jax_compilation_cache_dir", str(folder))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
    _join(coordinator, num_processes, process_id)


def use_fast_cpu_preset() -> None:
    """Puts `CPU_PRESET` among the compiler's flags, unless the environment chose another preset."""
    flags = os.environ.get("XLA_FLAGS", "")
    if "xla_cpu_opt_preset" not in flags:
        os.environ["XLA_FLAGS"] = f"{flags} {CPU_PRESET}".strip()


def check_processes(coordinator: str, num_processes: int, process_id: int) -> tuple[str, int, int]:
    """Address of process 0, number of processes and number of this one, as arguments and the environment say.

    Arguments are those of `start`; JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID count where they are
    not given. Without an address the other two are not looked at.

    Raises:
      ConfigError: one is missing, or they don't fit each other.
    """
    address = coordinator or os.environ.get("JAX_COORDINATOR_ADDRESS", "")
    if not address:
        if num_processes or process_id >= 0:
            raise ConfigError("--num-processes and --process-id need --coordinator=HOST:PORT, the address of process 0")
        return "", 0, -1
    count = num_processes or _from_environment("JAX_NUM_PROCESSES")
    index = process_id if process_id >= 0 else _from_environment("JAX_PROCESS_ID")
    if count is None or index is None:
        raise ConfigError(f"--coordinator={address} needs --num-processes and --process-id")
    if not 0 <= index < count:
        raise ConfigError(f"--process-id is {index}; with --num-processes={count} it can be 0 to {count - 1}")
    if not re.fullmatch(r".+:\d{1,5}", address):
        raise ConfigError(f"--coordinator is {address!r}; expected HOST:PORT, such as 10.0.0.1:1234")
    return address, count, index


def _from_environment(name: str) -> int | None:
    text = os.environ.get(name, "")
    if text and not (text.isascii() and text.isdecimal()):
        raise ConfigError(f"the environment variable {name} is {text!r}; expected a whole number")
    return int(text) if text else None


def _join(coordinator: str, num_processes: int, process_id: int) -> None:
    address, count, index = check_processes(coordinator, num_processes, process_id)
    if address:
        jax.distributed.initialize(address, num_processes=count, process_id=index)
    elif _in_cluster():
        jax.distributed.initialize()
    if jax.distributed.is_initialized():
        logger.info("process %d of %d, %d devices", jax.process_index(), jax.process_count(), jax.device_count())


def _in_cluster() -> bool:
    """A TPU pod of several hosts, or several tasks of a SLURM or Open MPI job."""
    hosts = os.environ.get("TPU_WORKER_HOSTNAMES", "").split(",")
    tasks = _from_environment("SLURM_NTASKS") or 1, _from_environment("OMPI_COMM_WORLD_SIZE") or 1
    in_step = "SLURM_PROCID" in os.environ or "OMPI_COMM_WORLD_RANK" in os.environ
    return len(hosts) > 1 or (in_step and max(tasks) > 1)
