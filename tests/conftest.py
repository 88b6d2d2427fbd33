"""Every test runs on the CPU, seen as eight devices, and downloads nothing; compiled programs are kept between runs."""

import os
import pathlib
from collections.abc import Iterator

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(pathlib.Path("~/.cache/jaxpose/xla").expanduser()))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.5")
os.environ["JAXPOSE_OFFLINE"] = "1"

import jax
import pytest
from absl import flags

from jaxpose.runs import startup
from jaxpose.skeleton import SKELETONS

jax.config.update("jax_num_cpu_devices", 8)
startup.use_fast_cpu_preset()
if not flags.FLAGS.is_parsed():
    flags.FLAGS.mark_as_parsed()

TEST_DATA = os.environ.get("JAXPOSE_TEST_DATA", "")


@pytest.fixture(autouse=True)
def known_skeletons() -> Iterator[None]:
    """Skeletons that a test adds are unknown to the next."""
    before = dict(SKELETONS)
    yield
    SKELETONS.clear()
    SKELETONS.update(before)


@pytest.fixture(scope="session")
def real_data() -> pathlib.Path:
    """The folder of small real data sets that JAXPOSE_TEST_DATA names."""
    if not TEST_DATA:
        pytest.skip("needs real data: set JAXPOSE_TEST_DATA to a folder with coco_mini/ and samples/coco/")
    return pathlib.Path(TEST_DATA)
