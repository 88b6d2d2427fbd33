"""The training stream is a function of (seed, step); evaluation sees every example once."""

import numpy as np
import pytest
import tiny

from jaxpose import methods
from jaxpose.data import build
from jaxpose.data.loader import TrainStream, evaluation_batches
from jaxpose.errors import ConfigError


@pytest.fixture(scope="module")
def examples(tmp_path_factory):
    config = tiny.config(tiny.write_coco(tmp_path_factory.mktemp("coco"), images=10))
    return build.train_examples(config, methods.create(config.method))["source"]


def take(examples, count: int, **options) -> list[dict[str, np.ndarray]]:
    stream = TrainStream(examples, **{"seed": 0, "batch_size": 4} | options)
    batches = [next(stream) for _ in range(count)]
    stream.close()
    return batches


def assert_equal(a: dict, b: dict) -> None:
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)


class TestTraining:
    @pytest.fixture(scope="class")
    def reference(self, examples):
        return take(examples, 6)

    @pytest.mark.parametrize("options", [{"threads": 1}, {"workers": 1}, {"workers": 2, "prefetch": 1}])
    def test_does_not_depend_on_threads_and_workers(self, examples, reference, options):
        for ours, theirs in zip(take(examples, 6, **options), reference, strict=True):
            assert_equal(ours, theirs)

    def test_starts_at_any_step(self, examples, reference):
        assert_equal(take(examples, 1, step=5)[0], reference[5])

    def test_processes_share_the_batch(self, examples, reference):
        shares = [take(examples, 3, process=(i, 2)) for i in range(2)]
        for step in range(3):
            together = {
                k: np.stack([s[step][k] for s in shares], 1).reshape(reference[step][k].shape) for k in shares[0][0]
            }
            assert_equal(together, reference[step])

    def test_every_epoch_is_a_new_order_with_new_views(self, examples):
        index = np.concatenate([b["index"] for b in take(examples, 5)])
        assert sorted(index[:10]) == list(range(10))
        assert sorted(index[10:]) == list(range(10))
        assert index[:10].tolist() != index[10:].tolist()
        images = {b["index"][0]: [] for b in take(examples, 5)}
        for batch in take(examples, 5):
            for i, image in zip(batch["index"], batch["image"], strict=True):
                images.setdefault(i, []).append(image.tobytes())
        assert all(len(set(views)) == len(views) == 2 for views in images.values())

    def test_seed_counts(self, examples, reference):
        assert any(a["index"].tolist() != b["index"].tolist() for a, b in zip(take(examples, 6, seed=1), reference))

    def test_batch_must_divide(self, examples):
        with pytest.raises(ConfigError, match="batch_size is 4, not a multiple of 3 processes"):
            take(examples, 1, process=(0, 3))


class TestEvaluation:
    @pytest.mark.parametrize("processes", [1, 2])
    def test_every_example_once_in_order(self, examples, processes):
        shares = [list(evaluation_batches(examples, batch_size=4, process=(p, processes))) for p in range(processes)]
        assert {len(s) for s in shares} == {3}
        index, valid = (
            np.concatenate([np.concatenate([s[b][name] for s in shares]) for b in range(3)])
            for name in ("index", "valid")
        )
        assert index[valid].tolist() == list(range(10))
        assert valid.sum() == 10
        assert valid.size == 12
