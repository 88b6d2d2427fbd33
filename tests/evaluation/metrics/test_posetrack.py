"""PoseTrack's numbers: what counts, what is matched with what, and that neither cuts nor file forms change them."""

import dataclasses
import json
import logging

import cv2
import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from jaxpose import skeleton as skeletons
from jaxpose.data.formats import posetrack as forms
from jaxpose.errors import DataError, StorageError
from jaxpose.evaluation import poseval
from jaxpose.evaluation.metrics import MetricContext, posetrack
from jaxpose.evaluation.metrics.posetrack import PoseTrackKeypoints
from jaxpose.evaluation.poseval import Figures, Frame

SKELETON = skeletons.from_coco_category(forms.category())
JOINTS = len(forms.EVALUATED)
HEAD = 50.0
"""Length of the head's box, 30 x 40: joints count within 15 pixels."""


def truth(people, video="v"):
    """Ground truth of 2018: people[t] = {track: (x, y) of the corner} of each frame."""
    rng = np.random.default_rng(5)
    shape = rng.uniform(0, 100, (len(forms.KEYPOINTS), 2)).round()
    images, annotations = [], []
    for t, found in enumerate(people):
        images.append({"id": t + 1, "file_name": f"images/{video}/{t:06d}.jpg", "nframes": len(people)})
        for track, corner in found.items():
            points = np.concatenate([shape + corner, np.ones((len(shape), 1))], -1)
            points[3:5] = 0
            person = {"image_id": t + 1, "track_id": track, "keypoints": points.ravel().tolist()}
            annotations.append(person | {"id": len(annotations) + 1, "bbox_head": [0, 0, 30, 40]})
    return {"images": images, "annotations": annotations, "categories": [forms.category()]}


def rows(content, offset=(0.0, 0.0), score=0.9):
    """The people of the truth as predictions, moved by an offset."""
    triples = np.array([person["keypoints"] for person in content["annotations"]]).reshape(-1, SKELETON.num_joints, 3)
    return {
        "image_id": np.array([person["image_id"] for person in content["annotations"]]),
        "index": np.arange(len(triples)),
        "keypoints": triples[..., :2] + offset,
        "scores": np.full(triples.shape[:2], score),
        "track_id": np.array([person["track_id"] for person in content["annotations"]]),
    }


def pick(found, which):
    return {name: values[which] for name, values in found.items()}


def evaluate(content, found, skeleton=SKELETON, **options):
    metric = PoseTrackKeypoints(MetricContext(skeleton, content, **options))
    metric.update(found)
    return metric.compute()


TWO = [{0: (0, 0), 1: (300, 0)}, {0: (5, 0), 1: (300, 5)}, {0: (10, 0), 1: (300, 10)}, {0: (15, 0), 1: (300, 15)}]


class TestWhole:
    def test_perfect_predictions(self):
        content = truth(TWO)
        numbers = evaluate(content, rows(content))
        assert set(numbers) == {
            *(f"{name}/{part}" for name in ("mAP", "MOTA") for part in poseval.PARTS),
            *("mAP", "MOTA", "MOTP", "MOT_precision", "MOT_recall"),
        }
        np.testing.assert_allclose(list(numbers.values()), 1)

    @pytest.mark.parametrize(("distance", "expected"), [(14.999, 1), (15.0, 1), (15.001, 0)])
    def test_threshold_is_inclusive(self, distance, expected):
        content = truth(TWO)
        numbers = evaluate(content, rows(content, (0, distance)))
        assert numbers["mAP"] == pytest.approx(expected)
        assert numbers.get("MOT_recall") == pytest.approx(expected)
        if expected:
            assert numbers["MOTP"] == pytest.approx(1 - distance / (0.6 * HEAD))

    def test_false_alarm_counts_by_its_score(self):
        """A stranger in the first frame, above or below all others: 8 of 9 right, or the same area as without."""
        content = truth(TWO)
        found = rows(content)
        stranger = pick(found, slice(0, 1)) | {"keypoints": found["keypoints"][:1] + 1000, "index": [99]}
        for score, expected in ((0.95, 8 / 9), (0.1, 1.0)):
            stranger["scores"] = np.full((1, SKELETON.num_joints), score)
            joined = {name: np.concatenate([values, stranger[name]]) for name, values in found.items()}
            numbers = evaluate(content, joined)
            assert numbers["mAP"] == pytest.approx(expected)
            assert numbers["MOTA"] == pytest.approx(1 - 1 / 6)
            assert numbers["MOT_precision"] == pytest.approx(6 / 7)

    def test_switches(self):
        """Two people exchange tracks in the third frame: two switches among 6 objects; the last frame is left out."""
        content = truth(TWO)
        found = rows(content)
        third = found["image_id"] == 3
        found["track_id"][third] = 1 - found["track_id"][third]
        assert evaluate(content, found)["MOTA"] == pytest.approx(1 - 2 / 6)
        found["track_id"][found["image_id"] == 4] += 100
        assert evaluate(content, found)["MOTA"] == pytest.approx(1 - 2 / 6)

    def test_a_track_is_remembered_while_out_of_sight(self):
        content = truth([{0: (0, 0)}, {0: (0, 0)}, {0: (0, 0)}, {0: (0, 0)}])
        found = pick(rows(content), [0, 2, 3])
        assert evaluate(content, found)["MOT_recall"] == pytest.approx(2 / 3)
        found["track_id"][1] = 8
        assert evaluate(content, found)["MOTA"] == pytest.approx(1 - (1 + 1 + 1) / 3)

    def test_frame_without_predictions_is_a_miss_and_a_false_alarm(self):
        content = truth([{0: (0, 0)}, {0: (0, 0)}, {0: (0, 0)}])
        numbers = evaluate(content, pick(rows(content), [0, 2]))
        assert numbers["MOTA"] == pytest.approx(1 - 2 / 2)
        assert numbers["MOT_precision"] == pytest.approx(1 / 2)
        assert numbers["mAP"] == pytest.approx(2 / 3)

    def test_frames_without_people_do_not_count(self):
        content = truth([*TWO[:2], {}, *TWO[2:]])
        found = rows(content)
        ghost = pick(found, slice(0, 1)) | {"image_id": [3], "index": [99], "scores": 1 + found["scores"][:1]}
        joined = {name: np.concatenate([values, ghost[name]]) for name, values in found.items()}
        assert evaluate(content, joined) == evaluate(content, found)

    def test_ignored_regions(self):
        """One person's surroundings are ignored: what is predicted there is neither right nor wrong."""
        content = truth(TWO)
        for image in content["images"]:
            image |= {"ignore_regions_x": [[250, 500, 500, 250]], "ignore_regions_y": [[-50, -50, 300, 300]]}
        found = rows(content)
        moved = found | {"keypoints": found["keypoints"] + np.where(found["track_id"] == 1, 40, 0)[:, None, None]}
        numbers = evaluate(content, moved)
        assert numbers["mAP"] == numbers["MOTA"] == pytest.approx(1)
        crowd = truth(TWO)
        for person in crowd["annotations"]:
            if person["track_id"] == 1:
                person |= {"iscrowd": 1, "bbox": [250, -50, 250, 350]}
        assert evaluate(crowd, moved) == numbers

    def test_hidden_joint_with_a_position_counts(self):
        content = truth(TWO)
        nose = forms.KEYPOINTS.index("nose")
        for person in content["annotations"]:
            person["keypoints"][3 * nose + 2] = 0
        found = rows(content)
        assert evaluate(content, found)["mAP/head"] == pytest.approx(1)
        for person in content["annotations"]:
            person["keypoints"][3 * nose : 3 * nose + 3] = 0, 0, 0
        numbers = evaluate(content, found)
        assert "mAP/head" not in numbers
        assert numbers["mAP"] == pytest.approx(1)

    def test_scores_are_multiplied_by_those_of_boxes(self):
        content = truth(TWO)
        found = rows(content, score=0.5)
        wrong = found["track_id"] == 1
        found["keypoints"][wrong] += 1000
        found["scores"][wrong] = 0.9
        assert evaluate(content, found)["mAP"] == pytest.approx(4 / 8 * 4 / 8)
        assert evaluate(content, found | {"box_score": np.where(wrong, 0.1, 1.0)})["mAP"] == pytest.approx(4 / 8)

    def test_other_skeletons_are_judged_by_their_joints(self):
        content = truth(TWO)
        found = rows(content)
        joints = tuple("neck" if joint == "head_bottom" else joint for joint in SKELETON.joints)
        named = dataclasses.replace(SKELETON, joints=joints, limbs=(), upper_body=())
        assert evaluate(content, found, named) == evaluate(content, found)
        assert posetrack.evaluated_joints(skeletons.COCO.joints) == forms.EVALUATED[:12] + ("nose",)
        assert set(posetrack.evaluated_joints(skeletons.MARIONETTE.joints)) == set(forms.EVALUATED)

    def test_some_images(self):
        content = truth(TWO)
        found = pick(rows(content), slice(0, 4))
        assert evaluate(content, found, image_ids=[1, 2])["mAP"] == pytest.approx(1)
        assert evaluate(content, found)["mAP"] == pytest.approx(0.5)


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 2**32 - 1), st.integers(0, 8))
def test_any_cut_and_order_give_the_same_numbers(seed, cut):
    rng = np.random.default_rng(seed)
    content = truth(TWO)
    found = rows(content)
    found["keypoints"] += rng.normal(0, 12, found["keypoints"].shape)
    found["scores"] = rng.uniform(0, 1, found["scores"].shape)
    found["track_id"] = rng.integers(0, 3, len(found["index"]))
    order = rng.permutation(len(found["index"]))
    here, there = (PoseTrackKeypoints(MetricContext(SKELETON, content)) for _ in range(2))
    there.update(pick(found, order[:cut]))
    here.update(pick(found, order[cut:]))
    here.merge(there)
    assert here.compute() == evaluate(content, found)


class TestForms:
    def test_the_form_of_2017_gives_the_same_numbers(self, tmp_path):
        contents = [truth(TWO, "000001_a"), truth([{3: (9, 9)}, {}, {3: (12, 9)}], "000001_b")]
        for k, content in enumerate(contents):
            for image in content["images"]:
                image["id"] += 10 * k
            for person in content["annotations"]:
                person["image_id"] += 10 * k
                person["id"] += 100 * k
        merged = {field: contents[0][field] + contents[1][field] for field in ("images", "annotations")}
        merged["categories"] = contents[0]["categories"]
        found = rows(merged, (3, 4))
        found["keypoints"][::3] += 20
        expected = evaluate(merged, found)
        for (_, folder), file in forms.to_annolists(merged).items():
            (tmp_path / f"{folder.split('/')[-1]}.json").write_text(json.dumps(file))
        numbered = {old["id"]: new["id"] for old, new in zip(merged["images"], forms.read(tmp_path)["images"])}
        found["image_id"] = np.array([numbered[i] for i in found["image_id"].tolist()])
        assert evaluate(tmp_path, found) == expected

    def test_results_are_what_poseval_reads(self, tmp_path):
        content = truth([*TWO[:2], {}], "000001_a")
        metric = PoseTrackKeypoints(MetricContext(SKELETON, content))
        metric.update(rows(content, (1, 2)))
        posetrack.write_results(metric.results(), tmp_path)
        frames = json.loads((tmp_path / "000001_a.json").read_text())["annolist"]
        assert [frame["image"][0]["name"] for frame in frames] == [i["file_name"] for i in content["images"]]
        assert [[p["track_id"] for p in frame["annorect"]] for frame in frames] == [[[0], [1]], [[0], [1]], [[0]]]
        assert frames[2]["annorect"] == [forms.empty_person()]
        found = {p["id"][0]: (p["x"][0], p["y"][0]) for p in frames[0]["annorect"][0]["annopoints"][0]["point"]}
        triples = np.reshape(content["annotations"][0]["keypoints"], (-1, 3))
        ankle = triples[forms.KEYPOINTS.index("right_ankle")]
        assert found[0] == (ankle[0] + 1, ankle[1] + 2)
        assert set(found) == set(range(15))

    def test_people_without_points(self):
        """Those of 2017 leave a frame empty, which tracking counts; those of 2018 stay."""
        content = truth([{0: (0, 0)}, {0: (0, 0)}, {0: (0, 0)}])
        found = rows(content)
        content["annotations"][1]["keypoints"] = [0] * 51
        old = next(iter(forms.to_annolists(content).values()))
        old["annolist"][1]["annorect"][0]["annopoints"] = []
        for truth_, objects in ((content, 1), (old, 2)):
            metric = PoseTrackKeypoints(MetricContext(SKELETON, truth_))
            metric.update(found)
            frames = metric.frames()
            tracking = poseval.joint_tracking(frames)
            np.testing.assert_array_equal(tracking.objects, objects)
            np.testing.assert_array_equal(tracking.false_positives, 1)
            np.testing.assert_array_equal(poseval.joint_precision(frames).annotated, 2)


class TestPoseval:
    def figures(self, rng, people):
        present = rng.random((people, JOINTS)) < 0.8
        points = 40 * rng.integers(0, 3, (people, 1, 2)) + rng.integers(0, 25, (people, JOINTS, 2))
        return Figures(points, present, rng.integers(0, 3, people), rng.random(present.shape), np.full(people, 20.0))

    @pytest.mark.parametrize("seed", range(4))
    def test_precision_equals_a_loop(self, seed):
        """Joint by joint and person by person, as the definition says it."""
        rng = np.random.default_rng(seed)
        frames = [Frame(0, self.figures(rng, 3), self.figures(rng, 4)) for _ in range(5)]
        frames = poseval.evaluated_frames(frames)
        found = poseval.joint_precision(frames)
        judged = [self.judge(frame) for frame in frames]
        for k in range(JOINTS):
            ranked = sorted((entry for frame in judged for entry in frame[k]), key=lambda entry: -entry[0])
            total = sum(int(frame.truth.present[:, k].sum()) for frame in frames)
            precision = [np.mean([right for _, right in ranked[: n + 1]]) for n in range(len(ranked))]
            area = sum(max(precision[n:]) for n, (_, right) in enumerate(ranked) if right) / total
            assert found.ap[k] == pytest.approx(area)
            assert found.precision[k] == pytest.approx(precision[-1])

    @staticmethod
    def judge(frame):
        """For each joint, (score, right) of the predictions."""
        truth_, found = frame.truth, frame.found
        near = {
            (p, g, k): np.hypot(*(found.points[p, k] - truth_.points[g, k])) <= 0.5 * truth_.head_size[g]
            for p in range(len(found))
            for g in range(len(truth_))
            for k in range(JOINTS)
            if found.present[p, k] and truth_.present[g, k]
        }
        hits = np.zeros((len(found), len(truth_)))
        for (p, g, _), right in near.items():
            hits[p, g] += right
        share = hits / truth_.present.sum(-1)
        wishes = {p: int(np.argmax(share[p])) for p in range(len(found)) if share[p].max() > 0}
        owner = {}
        for p, g in wishes.items():
            if g not in owner or share[p, g] > share[owner[g], g]:
                owner[g] = p
        person = {p: g for g, p in owner.items()}
        return [
            [
                (found.score[p, k], bool(near.get((p, person.get(p), k), False)))
                for p in range(len(found))
                if found.present[p, k]
            ]
            for k in range(JOINTS)
        ]

    def test_equal_scores_keep_their_order(self):
        score, right = np.zeros(4), np.array([True, False, False, True])
        assert poseval.average_precision(score, right, 2)[0] == pytest.approx((1 + 0.5) / 2)
        assert poseval.average_precision(score, right[[1, 0, 3, 2]], 2)[0] == pytest.approx(2 / 3)

    def test_joints_that_are_nowhere(self):
        assert poseval.average_precision(np.zeros(0), np.zeros(0, bool), 0) == (0, 0, 0)
        assert poseval.average_precision(np.zeros(0), np.zeros(0, bool), 3) == (0, 0, 0)
        np.testing.assert_array_equal(poseval.average_precision(np.ones(1), np.zeros(1, bool), 0), (np.nan, 0, np.nan))

    def test_who_had_a_track_keeps_it_though_another_is_nearer(self):
        distance = np.array([[0.4, 0.1], [0.1, np.inf]])
        ids = np.array([5, 6]), np.array([1, 2])
        assert poseval.match_tracks(*ids, distance, {5: 1}) == [(0, 0)]
        assert sorted(poseval.match_tracks(*ids, distance, {})) == [(0, 1), (1, 0)]
        assert poseval.match_tracks(*ids, np.full((2, 2), np.inf), {5: 1}) == []

    @pytest.mark.parametrize("seed", range(5))
    def test_inside_polygon_agrees_with_opencv(self, seed):
        """Any polygon, self-crossing ones too, and points on its border."""
        rng = np.random.default_rng(seed)
        polygon = rng.integers(0, 8, (int(rng.integers(3, 7)), 2))
        points = np.stack(np.meshgrid(np.arange(-1, 9, 0.5), np.arange(-1, 9, 0.5)), -1).reshape(-1, 2)
        expected = [cv2.pointPolygonTest(polygon.astype(np.float32), tuple(map(float, p)), False) > 0 for p in points]
        np.testing.assert_array_equal(poseval.inside_polygon(points, polygon), expected)

    def test_border_is_outside(self):
        square = np.array([[0, 0], [4, 0], [4, 4], [0, 4]])
        points = np.array([[2, 2], [0, 2], [4, 4], [2, 0], [5, 2], [1e-9, 2]])
        assert poseval.inside_polygon(points, square).tolist() == [True, False, False, False, False, True]

    def test_video_of_one_frame_has_no_tracking(self):
        rng = np.random.default_rng(0)
        tracking = poseval.joint_tracking([Frame(v, self.figures(rng, 2), self.figures(rng, 2)) for v in range(3)])
        assert tracking.objects.sum() == 0
        assert np.isnan(tracking.mota).all()
        assert np.isnan(poseval.mean(tracking.mota))


class TestErrors:
    def test_images_of_another_split(self):
        content = truth(TWO)
        found = rows(content)
        found["image_id"][0] = 77
        with pytest.raises(DataError, match=r"1 images that are not among the 4 evaluated ones: \[77\]"):
            evaluate(content, found)
        with pytest.raises(DataError, match=r"image_ids names 1 images that the ground truth lacks: \[9\]"):
            evaluate(content, pick(found, slice(2, 4)), image_ids=[2, 9])

    def test_rows(self):
        content = truth(TWO)
        found = rows(content)
        metric = PoseTrackKeypoints(MetricContext(SKELETON, content))
        with pytest.raises(DataError, match=r"poses lack the fields \['scores'\]"):
            metric.update({name: values for name, values in found.items() if name != "scores"})
        with pytest.raises(DataError, match=r"'keypoints' has shape \(8, 16, 2\), expected \(8, 17, 2\)"):
            metric.update(found | {"keypoints": found["keypoints"][:, :16]})
        with pytest.raises(DataError, match=r"image 1 \(example 0\): field 'scores' is not finite in 8 poses"):
            metric.update(found | {"scores": np.full((8, 17), np.nan)})
        metric.update(found)
        metric.update(pick(found, [2]))
        with pytest.raises(DataError, match=r"example 2 \(and 0 others\) was added more than once"):
            metric.compute()
        with pytest.raises(DataError, match=r"the poses have 17 joints, skeleton 'mpii' has 16"):
            evaluate(content, found, skeletons.MPII)

    def test_ground_truth(self, caplog):
        content = truth(TWO)
        found = rows(content)
        del content["annotations"][0]["bbox_head"]
        with caplog.at_level(logging.WARNING, "jaxpose"):
            assert evaluate(content, found)["mAP"] < 1
        assert "1 of 8 people have no head box" in caplog.text
        for person in content["annotations"]:
            person.pop("bbox_head", None)
        with pytest.raises(DataError, match="none of the 8 people has a head box"):
            evaluate(content, found)
        content["annotations"][3]["keypoints"].pop()
        with pytest.raises(DataError, match="annotation 4: field 'keypoints' has 50 numbers, expected 51"):
            evaluate(content, found)
        with pytest.raises(DataError, match="there is no frame with annotated people"):
            evaluate(truth([{}, {}]), pick(found, slice(0, 0)))

    def test_without_tracks_there_is_no_tracking(self):
        content = truth(TWO)
        found = rows(content)
        del found["track_id"]
        assert not [name for name in evaluate(content, found) if name.startswith("MOT")]


def test_tracks_that_several_poses_of_a_frame_have(caplog):
    content = truth(TWO)
    found = rows(content)
    evaluate(content, found)
    assert not caplog.text
    found["track_id"][:2] = 7
    evaluate(content, found)
    assert "in 1 of 4 frames several poses have one track (image 1 first)" in caplog.text


@pytest.mark.parametrize("field", ["points", "score", "head_size"])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_figures_are_finite(field, bad):
    values = {"points": np.zeros((2, 3, 2)), "score": np.zeros((2, 3)), "head_size": np.ones(2)}
    present = np.ones((2, 3), bool)
    present[1] = False
    Figures(present=present, track=np.arange(2), **values)
    values[field].flat[0] = bad
    with pytest.raises(DataError, match="must be finite numbers"):
        Figures(present=present, track=np.arange(2), **values)


class TestFiles:
    """Every video has a file of its own, in the folder that was asked for."""

    def results(self, videos):
        content = truth([{0: (0, 0)}] * len(videos))
        for image, (number, folder) in zip(content["images"], videos, strict=True):
            image |= {"file_name": f"{folder}/000000.jpg"} | ({} if number is None else {"vid_id": number})
        metric = PoseTrackKeypoints(MetricContext(SKELETON, content))
        metric.update(rows(content))
        return metric.results()

    @pytest.mark.parametrize(
        ("videos", "names"),
        [
            (
                [(None, "images/val/000342_mpii_test"), (None, "000522_mpii_test")],
                ["000342_mpii_test", "000522_mpii_test"],
            ),
            ([(None, "train/clip"), (None, "val/clip"), (None, "val/other")], ["train_clip", "val_clip", "other"]),
            ([(1, "clip"), (2, "clip")], ["clip_1", "clip_2"]),
            ([("../../etc/passwd", "."), ("..", ".")], ["_.._etc_passwd", "video"]),
            ([("/abs", "."), ("..\\win", ".")], ["_abs", "_win"]),
            ([(None, ".."), (None, "../..")], None),
            ([(1, "a/b_c"), (1, "a_b/c"), (2, "c/b_c"), (2, "d/c")], ["a_b_c_1", "a_b_c_1_2", "c_b_c", "d_c"]),
            ([(None, "A/Clip"), (None, "a/clip")], None),
            ([(None, "x" * 300), (None, "y" + "x" * 299)], None),
        ],
    )
    def test_names(self, videos, names, tmp_path):
        results = self.results(videos)
        assert len(results) == len(videos)
        assert len({name.lower() for name in results}) == len(videos)
        if names is not None:
            assert list(results) == names
        paths = posetrack.write_results(results, tmp_path / "out")
        assert [path.parent for path in paths] == [tmp_path / "out"] * len(videos)
        assert sorted(path.resolve() for path in tmp_path.rglob("*") if path.is_file()) == sorted(
            path.resolve() for path in paths
        )
        found = [json.loads(path.read_text())["annolist"][0]["image"][0]["name"] for path in paths]
        assert found == [f"{folder}/000000.jpg" for _, folder in videos]

    @pytest.mark.parametrize("name", ["../x", "/x", "a/b", "..", ".", "", ".x"])
    def test_names_that_lead_elsewhere(self, name, tmp_path):
        with pytest.raises(DataError, match="which is no name of a file in"):
            posetrack.write_results({name: {}}, tmp_path / "out")
        assert not list(tmp_path.iterdir())

    def test_folders_that_cannot_be_made(self, tmp_path):
        (tmp_path / "file").write_text("")
        with pytest.raises(StorageError, match="cannot be made"):
            posetrack.write_results({"a": {}}, tmp_path / "file" / "out")


def test_table():
    numbers = {"mAP": 0.5, "mAP/head": 0.25, "mAP/ankle": 1.0, "MOTA": -0.125, "MOTP": 0.8, "MOT_recall": 0.75}
    head, ap, mota, totals = posetrack.table(numbers).splitlines()
    assert head.split() == ["Head", "Shoulder", "Elbow", "Wrist", "Hip", "Knee", "Ankle", "Total"]
    assert ap.split() == ["mAP", "25.0", "-", "-", "-", "-", "-", "100.0", "50.0"]
    assert mota.split() == ["MOTA", *"-------", "-12.5"]
    assert totals == "MOTP 80.0  Prec -  Rec 75.0"
