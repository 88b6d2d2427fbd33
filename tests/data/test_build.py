"""The streams of a method: what each of them shows, and that it is a function of (seed, step)."""

import contextlib
import dataclasses
import json

import numpy as np
import pytest
import tiny
from numpy.testing import assert_allclose, assert_array_equal

from jaxpose import methods
from jaxpose.config import augmentation
from jaxpose.data import build
from jaxpose.data.examples.people import PersonExamples
from jaxpose.data.loader import TrainStream
from jaxpose.data.proposals import PoseGuidedProposals, inside
from jaxpose.data.views import View
from jaxpose.errors import ConfigError
from jaxpose.methods.base import Method
from jaxpose.skeleton import COCO

PEOPLE = 12
SEEDS = range(100)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny.write_coco(tmp_path_factory.mktemp("coco"), images=PEOPLE)


@pytest.fixture(scope="module")
def config(folder):
    return tiny.config(folder, "rmpe")


@pytest.fixture(scope="module")
def examples(config):
    return build.train_examples(config, methods.create(config.method))


def take(config, examples, count: int, step: int = 0, **data) -> list[dict]:
    """Batches of some steps, read with other `data` settings."""
    config = config.copy_and_resolve_references()
    config.data.update(data)
    spec = methods.create(config.method).spec(1)
    with contextlib.closing(build.TrainBatches(config, examples, step, spec)) as batches:
        return [next(batches) for _ in range(count)]


def assert_equal(a: dict, b: dict) -> None:
    assert a.keys() == b.keys()
    for stream in a:
        assert a[stream].keys() == b[stream].keys()
        for name in a[stream]:
            assert_array_equal(a[stream][name], b[stream][name], err_msg=f"{stream}/{name}")


class TestStreams:
    @pytest.fixture(scope="class")
    def batches(self, config, examples):
        return take(config, examples, 3)

    def test_fields_are_those_of_the_method(self, config, batches):
        spec = methods.create(config.method).spec(config.train.batch_size)
        assert set(spec) == {"source", "plain"}
        for batch in batches:
            found = {s: {name: (v.shape, v.dtype) for name, v in fields.items()} for s, fields in batch.items()}
            assert found == {s: {name: (v.shape, v.dtype) for name, v in f.items()} for s, f in spec.items()}

    def test_what_the_method_does_not_ask_for_is_in_no_batch(self, config, examples):
        """Labels of a stream whose spec names none stay where they are, but messages can name its images."""
        spec = methods.create(config.method).spec(1)
        spec["plain"] = {"image": spec["plain"]["image"]}
        assert {"keypoints", "visible", "centered_keypoints"} <= set(examples["source"].load(0, None))
        with contextlib.closing(build.TrainBatches(config, examples, 0, spec)) as batches:
            batch = next(batches)
            named = batches.describe(batch)
        assert set(batch["plain"]) == {"image", "index", "valid"}
        assert set(batch["source"]) == set(spec["source"])
        assert f"{batch['plain']['index'][0]:03d}.jpg" in named

    def test_streams_draw_for_themselves(self, batches):
        assert any(b["source"]["index"].tolist() != b["plain"]["index"].tolist() for b in batches)

    def test_views_of_one_person_differ(self, batches):
        views = {stream: {} for stream in ("source", "plain")}
        for batch in batches:
            for stream, fields in batch.items():
                views[stream] |= dict(zip(fields["index"].tolist(), fields["to_image"]))
        both = views["source"].keys() & views["plain"].keys()
        assert len(both) >= PEOPLE // 2
        assert all(np.abs(views["source"][i] - views["plain"][i]).max() > 1e-3 for i in both)

    @pytest.mark.parametrize("data", [{"threads": 1}, {"workers": 1}, {"workers": 2}])
    def test_batches_do_not_depend_on_who_reads(self, config, examples, batches, data):
        for ours, theirs in zip(take(config, examples, 3, **data), batches, strict=True):
            assert_equal(ours, theirs)

    def test_batches_do_not_depend_on_the_first_step(self, config, examples, batches):
        assert_equal(take(config, examples, 1, step=2)[0], batches[2])

    @pytest.mark.parametrize("stream", ["source", "plain"])
    def test_the_seed_counts_for_every_stream(self, config, examples, batches, stream):
        config = config.copy_and_resolve_references()
        config.seed = 1
        index = [[b[stream]["index"].tolist() for b in found] for found in (take(config, examples, 3), batches)]
        assert index[0] != index[1]

    def test_messages_name_the_images_of_all_streams(self, config, examples, batches):
        spec = methods.create(config.method).spec(1)
        with contextlib.closing(build.TrainBatches(config, examples, 0, spec)) as source:
            named = source.describe(batches[0])
        assert named.startswith(f"{batches[0]['source']['index'][0]:03d}.jpg, ")
        assert f"{batches[0]['plain']['index'][0]:03d}.jpg" in named


class TestSettingsOfStreams:
    def test_they_change_their_stream_alone(self, config):
        config = config.copy_and_resolve_references()
        config.data.augmentation = augmentation(scale=0.3, rotation=40.0)
        config.data.streams = {"plain": {"padding": 1.0, "proposals": {"rule": ""}, "augmentation": {"rotation": 5.0}}}
        found = build.train_examples(config, methods.create(config.method))
        source, plain = found["source"], found["plain"]
        assert (source.crop.padding, plain.crop.padding) == (1.25, 1.0)
        assert (source.proposals is None, plain.proposals is None) == (False, True)
        assert (source.augmentation.rotation, plain.augmentation.rotation) == (40.0, 5.0)
        assert source.augmentation.scale == plain.augmentation.scale == 0.3
        assert (source.centered, plain.centered) == (True, False)
        assert source.source is plain.source
        assert config.data.padding == 1.25

    def test_another_folder_is_another_source(self, config, tmp_path):
        config = config.copy_and_resolve_references()
        config.data.streams = {"plain": {"dir": str(tiny.write_coco(tmp_path, images=3))}}
        found = build.train_examples(config, methods.create(config.method))
        assert (len(found["source"]), len(found["plain"])) == (PEOPLE, 3)

    @pytest.mark.parametrize(
        ("changes", "named"),
        [
            ({"pading": 1.0}, "pading"),
            ({"proposals": {"rul": ""}}, "proposals.rul"),
            ({"detection": {"corp": 0.0}}, "detection.corp"),
        ],
    )
    def test_misspelt_settings_are_refused(self, config, changes, named):
        config = config.copy_and_resolve_references()
        config.data.streams = {"plain": changes}
        with pytest.raises(ConfigError, match=rf"config.data.streams.plain has the fields \['{named}'\]"):
            build.train_examples(config, methods.create(config.method))

    def test_settings_of_no_stream_are_reported(self, config, caplog):
        config = config.copy_and_resolve_references()
        config.data.streams = {"plane": {"padding": 1.0}}
        build.train_examples(config, methods.create(config.method))
        assert "config.data.streams.plane changes nothing" in caplog.text

    def test_evaluation_has_no_random_views(self, config):
        config = config.copy_and_resolve_references()
        found = build.evaluation_examples(config, methods.create(config.method))
        assert (found.proposals, found.centered) == (None, False)
        assert len(found) == 3 * PEOPLE  # the tiny config's stand-in for a detector
        assert set(found.load(0, None)) == set(methods.create(config.method).spec(1)["plain"])


def test_methods_that_look_at_something_else_have_no_examples(config):
    """That is told before any data are opened."""

    class Cloud(Method):
        input_kind = "cloud of points"
        spec = module = targets = init = phases = forward = decode = None

    config = config.copy_and_resolve_references()
    config.data.dir = "nowhere"
    for examples in (build.train_examples, build.evaluation_examples):
        with pytest.raises(ConfigError, match="Cloud takes a cloud of points; .* ClipInput, CropInput"):
            examples(config, Cloud())


class TestClips:
    """People of the tiny data set, whose pictures are the frames 000.jpg to 011.jpg of one video."""

    @pytest.fixture(scope="class")
    def clip_config(self, folder):
        config = tiny.config(folder, "dcpose")
        config.data.clips.distance = (4, 3)
        return config

    @pytest.fixture(scope="class")
    def method(self, clip_config):
        return methods.create(clip_config.method)

    def test_fields_are_those_of_the_method(self, clip_config, method):
        (batch,) = take(clip_config, build.train_examples(clip_config, method), 1)
        spec = method.spec(clip_config.train.batch_size)["source"]
        found = {name: (v.shape, v.dtype) for name, v in batch["source"].items()}
        assert found == {name: (v.shape, v.dtype) for name, v in spec.items()}

    @pytest.mark.parametrize("data", [{"threads": 1}, {"workers": 2}])
    def test_batches_do_not_depend_on_who_reads(self, clip_config, method, data):
        """Neither views nor the frames that are drawn beside each do."""
        examples = build.train_examples(clip_config, method)
        for ours, theirs in zip(take(clip_config, examples, 3, **data), take(clip_config, examples, 3), strict=True):
            assert_equal(ours, theirs)
        margins = np.concatenate([b["source"]["margin"] for b in take(clip_config, examples, 6)])
        assert [set(side.tolist()) for side in margins.T] == [{1, 2, 3}, {1, 2}]

    def test_evaluation_takes_the_farthest_frames(self, clip_config, method):
        examples = build.evaluation_examples(clip_config, method)
        margins = [examples.load(i, None)["margin"].tolist() for i in range(PEOPLE)]
        assert margins == [[min(3, i) or 1, min(2, PEOPLE - 1 - i) or 1] for i in range(PEOPLE)]

    def test_detections_that_are_too_doubtful_are_left_out(self, clip_config, method, folder, tmp_path):
        config = clip_config.copy_and_resolve_references()
        boxes = [{"image_id": 100 + i, "bbox": [10, 10, 44, 60], "score": 0.1 * i, "category_id": 1} for i in range(12)]
        (tmp_path / "boxes.json").write_text(json.dumps(boxes))
        config.data.validation.boxes = str(tmp_path / "boxes.json")
        counts = []
        for threshold in (0.0, 0.2, 0.75):
            config.data.validation.box_threshold = threshold
            counts.append(len(build.evaluation_examples(config, method)))
        assert counts == [12, 10, 4]

    def test_distance_has_no_other_fields(self, clip_config, method):
        config = clip_config.copy_and_resolve_references()
        config.data.streams = {"source": {"clips": {"distence": (2, 2)}}}
        with pytest.raises(ConfigError, match=r"has the fields \['clips.distence'\]"):
            build.train_examples(config, method)


class TestProposals:
    @pytest.fixture(scope="class")
    def late(self, examples) -> PersonExamples:
        return dataclasses.replace(examples["source"], proposals_from=3)

    def test_they_start_at_their_step(self, examples, late):
        never = dataclasses.replace(late, proposals=None)
        views = [[], [], []]
        for found, who in zip(views, (late, never, examples["source"]), strict=True):
            with contextlib.closing(TrainStream(who, seed=0, batch_size=8)) as stream:
                found += [next(stream) for _ in range(5)]
        for step, (ours, without, always) in enumerate(zip(*views, strict=True)):
            equal, other = (without, always) if step < 3 else (always, without)
            assert_equal({"source": ours}, {"source": equal})
            assert all(np.abs(ours["to_image"] - other["to_image"]).max((1, 2)) > 1e-3)

    @pytest.mark.parametrize("options", [{"workers": 2}, {"step": 2}])
    def test_their_step_is_global(self, late, options):
        """Neither worker processes nor a restart shift it."""
        found = []
        for changes in ({}, options):
            with contextlib.closing(TrainStream(late, seed=0, batch_size=8, **changes)) as stream:
                found.append({step: next(stream) for step in range(changes.get("step", 0), 5)})
        for step, batch in found[1].items():
            assert_equal({"source": batch}, {"source": found[0][step]})

    def test_config_says_when(self, config):
        config = config.copy_and_resolve_references()
        config.data.proposals.from_step = 7
        found = build.train_examples(config, methods.create(config.method))["source"]
        assert found.proposals_from == 7
        same = lambda step: np.array_equal(*(found.load(0, np.random.default_rng(1), s)["image"] for s in (0, step)))
        assert same(6)
        assert not same(7)


def undone(examples: PersonExamples, example: dict, region: View) -> View:
    """`region`, turned and mirrored like an example."""
    linear = np.linalg.inv(example["to_image"][:, :2].astype(np.float64))
    rotation = np.degrees(np.arctan2(linear[0, 1], linear[1, 1]))
    return View(region.center, region.size, rotation, mirror=bool(np.linalg.det(linear) < 0))


class TestCentered:
    """Joints as the crop of the true box shows them."""

    @pytest.fixture(scope="class", params=["alphapose", "rmpe2017"])
    def found(self, request, examples) -> list[tuple[PersonExamples, int, bool, dict]]:
        """(examples, person, whether it is a patch, example) for some draws."""
        rule = request.param
        changed = dataclasses.replace(examples["source"].augmentation, scale=0.15, rotation=30.0, mirror=0.5)
        proposals = PoseGuidedProposals.single(rule)
        who = dataclasses.replace(examples["source"], proposals=proposals, augmentation=changed)
        draws = []
        for seed in SEEDS:
            patch = np.random.default_rng(seed).random() > proposals.patch_threshold
            draws.append((who, seed % PEOPLE, patch, who.load(seed % PEOPLE, np.random.default_rng(seed))))
        return draws

    def test_both_kinds_turned_and_mirrored_are_among_the_draws(self, found):
        mirrored = [np.linalg.det(example["to_image"][:, :2]) < 0 for *_, example in found]
        turned = [abs(example["to_image"][0, 1]) > 1e-3 for *_, example in found]
        kinds = {(bool(patch), bool(m), bool(t)) for (_, _, patch, _), m, t in zip(found, mirrored, turned)}
        assert len(kinds) == 8

    def test_a_patch_is_not_to_be_undone(self, found):
        """Joints lie where the example shows them; those outside the true box do not count."""
        for who, person, patch, example in found:
            if not patch:
                continue
            assert_allclose(example["centered_keypoints"], example["keypoints"], atol=1e-3)
            assert (example["centered_visible"] <= example["visible"]).all()
            region = who.proposals.base(who.people.box[person], (64, 80))
            within = inside(region, who.people.keypoints[person])
            assert example["centered_visible"].sum() == within.sum()

    def test_others_are_shown_as_the_true_box_is(self, found):
        """That box is grown by the rule of 2017, which pads less in turn: at the border of the image it is smaller."""
        for who, person, patch, example in found:
            if patch:
                continue
            growth, box = who.proposals.growth, who.people.box[person].astype(np.float64)
            crop = dataclasses.replace(who.crop, padding=who.crop.padding / (1 + 2 * growth))
            region = crop.view(who.proposals.base(box, (64, 80)))
            if not growth:
                assert_allclose(region.size, who.crop.view(box).size)
            view = undone(who, example, region)
            keypoints, visibility = who.people.keypoints[person], who.people.visibility[person]
            counted = visibility * inside(who.proposals.base(box, (64, 80)), keypoints)
            expected, counts = who.crop.joints(view, keypoints, counted, COCO)
            assert_array_equal(example["centered_visible"], counts)
            seen = counts > 0
            assert seen.any()
            assert_allclose(example["centered_keypoints"][seen], expected[seen], atol=5e-3)
            assert np.abs(example["centered_keypoints"][seen] - example["keypoints"][seen]).max() > 0.05

    def test_the_person_fills_the_centered_crop(self, found):
        """The true box lies in the middle of what the parallel branch is to see."""
        for who, person, patch, example in found:
            if patch or who.proposals.growth:
                continue
            view = undone(who, example, who.crop.view(who.people.box[person]))
            x, y, w, h = who.people.box[person]
            corners = np.array([[x, y], [x + w, y], [x, y + h], [x + w, y + h]])
            shown, _ = who.crop.joints(dataclasses.replace(view, mirror=False), corners, np.ones(4), COCO)
            assert_allclose(shown.mean(0), [16, 16], atol=1e-3)
            assert_allclose(np.linalg.norm(shown[0] - shown[2]), 32 / 1.25, rtol=1e-4)

    def test_without_random_boxes_it_is_the_crop_itself(self, examples):
        who = dataclasses.replace(
            examples["source"],
            proposals=None,
            augmentation=dataclasses.replace(examples["source"].augmentation, scale=0.0),
        )
        example = who.load(3, np.random.default_rng(0))
        assert_allclose(example["centered_keypoints"], example["keypoints"], atol=1e-4)
        assert_array_equal(example["centered_visible"], example["visible"])
