"""Process start-up: compiler options, compilation cache, and joining several processes."""

import logging
import os
import pathlib

import jax

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


def _join(coordinator: str, num_processes: int, process_id: int) -> None:
    coordinator = coordinator or os.environ.get("JAX_COORDINATOR_ADDRESS", "")
    if coordinator:
        count = num_processes or int(os.environ["JAX_NUM_PROCESSES"])
        index = process_id if process_id >= 0 else int(os.environ["JAX_PROCESS_ID"])
        jax.distributed.initialize(coordinator, num_processes=count, process_id=index)
    elif _in_cluster():
        jax.distributed.initialize()
    if jax.distributed.is_initialized():
        logger.info("process %d of %d, %d devices", jax.process_index(), jax.process_count(), jax.device_count())


def _in_cluster() -> bool:
    """A TPU pod of several hosts, or several tasks of a SLURM or Open MPI job."""
    hosts = os.environ.get("TPU_WORKER_HOSTNAMES", "").split(",")
    tasks = int(os.environ.get("SLURM_NTASKS", 1)), int(os.environ.get("OMPI_COMM_WORLD_SIZE", 1))
    in_step = "SLURM_PROCID" in os.environ or "OMPI_COMM_WORLD_RANK" in os.environ
    return len(hosts) > 1 or (in_step and max(tasks) > 1)
