"""The streams of methods that lift sequences: windows to train on, whole videos to evaluate."""

import contextlib

import pytest
import tiny
from numpy.testing import assert_array_equal

from jaxpose import methods
from jaxpose.config import base, cmu_mocap
from jaxpose.data import build
from jaxpose.data.sources import cmu_mocap as cmu
from jaxpose.data.sources import h36m
from jaxpose.errors import ConfigError


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    return tiny.config(tmp_path_factory.mktemp("sequences"), "anatomy3d")


@pytest.fixture(scope="module")
def method(config):
    return methods.create(config.method)


@pytest.fixture(scope="module")
def examples(config, method):
    return build.train_examples(config, method)


def take(config, examples, count: int, step: int = 0, **data) -> list[dict]:
    config = config.copy_and_resolve_references()
    config.data.update(data)
    spec = methods.create(config.method).spec(1)
    with contextlib.closing(build.TrainBatches(config, examples, step, spec)) as batches:
        return [next(batches)["source"] for _ in range(count)]


class TestTraining:
    @pytest.fixture(scope="class")
    def batches(self, config, examples):
        return take(config, examples, 3)

    def test_fields_are_those_of_the_method(self, config, method, batches):
        spec = method.spec(config.train.batch_size)["source"]
        for batch in batches:
            assert {name: (v.shape, v.dtype) for name, v in batch.items()} == {
                name: (v.shape, v.dtype) for name, v in spec.items()
            }

    def test_every_frame_and_its_mirror_image_is_an_example(self, examples):
        assert len(examples["source"]) == 2 * sum(map(len, examples["source"].source.videos))

    @pytest.mark.parametrize(("step", "data"), [(0, {"threads": 1}), (0, {"workers": 1}), (2, {"threads": 1})])
    def test_batches_do_not_depend_on_who_reads_or_where_it_began(self, config, examples, batches, step, data):
        for ours, expected in zip(take(config, examples, 3 - step, step, **data), batches[step:], strict=True):
            for name, values in expected.items():
                assert_array_equal(ours[name], values, err_msg=name)

    def test_messages_name_video_and_frame(self, config, method, examples, batches):
        with contextlib.closing(build.TrainBatches(config, examples, 0, method.spec(1))) as stream:
            assert "marionette" in (text := stream.describe({"source": batches[0]}))
        assert "frame" in text


class TestEvaluation:
    @pytest.mark.parametrize("batch_size", [8, 16])
    def test_every_video_once(self, config, method, batch_size):
        config = config.copy_and_resolve_references()
        config.evaluate.batch_size = batch_size
        examples = build.evaluation_examples(config, method)
        batches = [batch["source"] for batch in build.evaluation_stream(config, examples)]
        assert [i for batch in batches for i in batch["index"][batch["valid"]].tolist()] == [0, 1]
        (batch,) = batches
        assert batch["frames"].sum(1)[:2].tolist() == [12, 12]
        assert batch["window"].shape[1] == batch["frames"].shape[1] + method.receptive_field - 1


class TestErrors:
    def test_joints_that_the_method_does_not_know(self, config):
        config = config.copy_and_resolve_references()
        config.method.skeleton = "marionette"
        with pytest.raises(ConfigError, match="config.method.skeleton is 'marionette', but .* joints of 'h36m'"):
            build.train_examples(config, methods.create(config.method))

    def test_source_of_pictures(self, config, method):
        config = config.copy_and_resolve_references()
        config.data.source = "coco"
        with pytest.raises(ConfigError, match="the data sets that have are cmu_mocap, h36m, marionettes"):
            build.evaluation_examples(config, method)


def test_config_has_the_fields_of_the_sources():
    data = base("any").data
    assert dict(data.h36m) == vars(h36m.Options())
    assert cmu_mocap() == dict(data.cmu_mocap) == vars(cmu.Options())
    for split in (data.train, data.validation):
        assert (split.subjects, split.actions, split.clips) == ((), (), ())
