"""The recipes of RegDA find their data sets where those lie, and show labels of the source alone."""

import contextlib

import domains
import pytest

from configs import regda
from jaxpose import methods
from jaxpose.data import build

PAIRS = [(domains.hand((80, 80), 60), domains.hand((240, 240), 60)) for _ in range(3)]
EXAMPLES = {  # source, target, test
    "surreal_lsp": (10, 9, 9),
    "surreal_h36m": (10, 15, 3200),
    "rhd_h3d": (6, 24, 6),
    "freihand_rhd": (20, 6, 6),
}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """All data sets, each in the folder of its name."""
    root = tmp_path_factory.mktemp("domains")
    for part in ("training", "evaluation"):
        domains.write_rhd(root / "rhd", PAIRS, part=part)
    for part in ("train", "test"):
        domains.write_surreal(root / "surreal", part)
    for subject in (1, 5, 6, 7, 8, 9, 11):
        domains.write_frames(root / "h36m_frames", subject)
    domains.write_h3d(root / "h3d")
    domains.write_freihand(root / "freihand")
    domains.write_lsp(root / "lsp", count=9)
    return root


@pytest.mark.parametrize("variant", list(EXAMPLES))
def test_recipes(root, variant):
    source, target, _ = regda.RECIPES[variant]
    config = regda.get_config(variant)
    config.data.dir, config.data.streams.source.dir = str(root / target), str(root / source)
    config.train.batch_size, config.data.threads = 4, 2
    method = methods.create(config.method)
    examples = build.train_examples(config, method)
    tested = build.evaluation_examples(config, method)
    assert (len(examples["source"]), len(examples["target"]), len(tested)) == EXAMPLES[variant]
    spec = method.spec(4)
    with contextlib.closing(build.TrainBatches(config, examples, 0, spec)) as batches:
        batch = next(batches)
    for name, fields in spec.items():
        for field, wanted in fields.items():
            found = batch[name][field]
            assert (found.shape, found.dtype) == (wanted.shape, wanted.dtype)
    assert batch["source"]["visible"].any()
    assert not {"keypoints", "visible"} & set(batch["target"])
