"""Images a second of each part of a config: host pipeline, forward pass, train step, decoding.

    python experiments/benchmarks/throughput.py --config=configs/prtr.py [--repeats=5]

Every part is timed by itself on batches of `train.batch_size`, after one call that compiles it. Printed are the median
and the range over the repeats. The host pipeline reads the config's own data (marionettes are written first).
"""

import statistics

import jax
from absl import app, flags
from ml_collections import config_flags
from timing import seconds

from jaxpose import sharding
from jaxpose.data import build
from jaxpose.runs import startup
from jaxpose.training.train_step import Trainer

config_flags.DEFINE_config_file("config", "configs/prtr.py", "Config file.")
flags.DEFINE_integer("repeats", 5, "Timed rounds.")
flags.DEFINE_integer("calls", 10, "Calls in a round.")


def main(arguments: list[str]) -> None:
    del arguments
    startup.start()
    config = flags.FLAGS.config
    trainer = Trainer.create(config)
    method, size = trainer.method, config.train.batch_size
    batches = build.TrainBatches(config, build.train_examples(config, method), 0, method.spec(1))
    batch = sharding.put_batch(next(batches), trainer.mesh)
    state = trainer.init()
    ready = jax.jit(lambda b: method.targets(b, jax.random.key(0), train=False))(batch)
    forward, decode = jax.jit(method.forward), jax.jit(method.decode)
    outputs = forward(state.inference_variables, ready)

    def step() -> object:
        nonlocal state
        state, metrics = trainer.step(state, batch)
        return metrics

    parts = {
        "host pipeline": lambda: next(batches),
        "forward": lambda: forward(state.inference_variables, ready),
        "decode": lambda: decode(outputs, ready),
        "train step": step,
    }
    device = jax.devices()[0].device_kind
    print(f"{config.name}, batch {size}, {jax.device_count()} x {device}, images/s: median (lowest - highest)")
    for name, call in parts.items():
        figures = [size / figure for figure in seconds(call, flags.FLAGS.repeats, flags.FLAGS.calls)]
        print(f"{name:<14} {statistics.median(figures):9.0f} ({min(figures):.0f} - {max(figures):.0f})")
    batches.close()


if __name__ == "__main__":
    app.run(main)
