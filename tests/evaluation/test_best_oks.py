"""The best OKS of poses against plain loops."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from jaxpose.evaluation.best_oks import AREA_RANGES, best_oks, keypoint_oks
from jaxpose.skeleton import COCO

SIGMAS = np.array(COCO.sigmas)


def crowd(seed, images=3, people=4, poses=6):
    """Annotations and results: people of many sizes, some without labels or in crowds, poses near them."""
    rng = np.random.default_rng(seed)
    annotations, results = [], []
    for image in range(1, images + 1):
        for _ in range(rng.integers(0, people + 1)):
            size = rng.uniform(20, 200, 2)
            corner = rng.uniform(0, 300, 2)
            visibility = rng.integers(0, 3, 17) * (rng.random() < 0.8)
            joints = np.concatenate([corner + size * rng.random((17, 2)), visibility[:, None]], 1)
            joints[visibility == 0] = 0
            annotations.append(
                {
                    "image_id": image,
                    "keypoints": joints.ravel().tolist(),
                    "num_keypoints": int((visibility > 0).sum()),
                    "bbox": [*corner, *size],
                    "area": float(size.prod() / 2),
                    "iscrowd": int(rng.random() < 0.2),
                }
            )
        own = [a for a in annotations if a["image_id"] == image]
        for _ in range(rng.integers(0, poses + 1)):
            joints = rng.uniform(0, 400, (17, 3))
            if own and rng.random() < 0.8:
                joints[:, :2] = np.reshape(own[rng.integers(len(own))]["keypoints"], (17, 3))[:, :2]
                joints[:, :2] += rng.normal(0, 8, (17, 2))
            score = float(rng.choice([0.2, 0.5, rng.random()]))
            results.append({"image_id": image, "keypoints": joints.ravel().tolist(), "score": score})
    return annotations, results


def plain_oks(pose, person):
    joints, (x, y, w, h) = np.reshape(person["keypoints"], (-1, 3)), person["bbox"]
    labelled = [k for k in range(len(joints)) if joints[k, 2] > 0]
    values = []
    for k in labelled or range(len(joints)):
        dx, dy = pose[k, 0] - joints[k, 0], pose[k, 1] - joints[k, 1]
        if not labelled:
            dx = max(0, x - w - pose[k, 0]) + max(0, pose[k, 0] - (x + 2 * w))
            dy = max(0, y - h - pose[k, 1]) + max(0, pose[k, 1] - (y + 2 * h))
        values.append(np.exp(-(dx**2 + dy**2) / (2 * SIGMAS[k]) ** 2 / (person["area"] + np.spacing(1)) / 2))
    return sum(values) / len(values)


def plain_best(pose, people, low, high):
    """Walks through people, regular ones first, as the original evaluation does."""
    counts = lambda p: not p["iscrowd"] and p["num_keypoints"] > 0 and low <= p["area"] <= high
    best, matched = 0.0, None
    for person in sorted(people, key=lambda p: not counts(p)):
        if matched is not None and counts(matched) and not counts(person):
            break
        if (value := plain_oks(pose, person)) >= best:
            best, matched = value, person
    return best


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**31), limit=st.sampled_from([2, 20]))
def test_equals_a_plain_loop(seed, limit):
    annotations, results = crowd(seed)
    index, oks = best_oks({"annotations": annotations}, results, SIGMAS, max_detections=limit)
    expected = []
    for image in sorted({r["image_id"] for r in results}):
        own = [i for i, r in enumerate(results) if r["image_id"] == image]
        expected += sorted(own, key=lambda i: -results[i]["score"])[:limit]
    assert index.tolist() == expected
    assert oks.shape == (3, len(index))
    for row, (low, high) in zip(oks, AREA_RANGES):
        for value, i in zip(row, index):
            people = [a for a in annotations if a["image_id"] == results[i]["image_id"]]
            pose = np.reshape(results[i]["keypoints"], (17, 3))
            assert_allclose(value, plain_best(pose, people, low, high), rtol=1e-12)


def test_the_similarity_is_that_of_the_reference_tools():
    cocoeval = pytest.importorskip("pycocotools.cocoeval")
    coco = pytest.importorskip("pycocotools.coco").COCO()
    annotations, results = crowd(3, images=1, people=6, poses=12)
    ids = [{"id": i + 1, "category_id": 1} for i in range(100)]
    coco.dataset = {"images": [{"id": 1}], "categories": [{"id": 1}]}
    coco.dataset["annotations"] = [a | i for a, i in zip(annotations, ids)]
    coco.createIndex()
    found = coco.loadRes([r | {"category_id": 1} for r in results])
    evaluation = cocoeval.COCOeval(coco, found, "keypoints")
    evaluation._prepare()
    expected = evaluation.computeOks(1, 1)
    by_score = sorted(results, key=lambda r: -r["score"])[:20]
    poses = np.array([r["keypoints"] for r in by_score]).reshape(-1, 17, 3)[..., :2]
    assert expected.size > 10
    assert_allclose(keypoint_oks(poses, annotations, SIGMAS), expected, rtol=1e-12)


def test_a_perfect_pose_is_exactly_one():
    annotations, _ = crowd(4, images=1)
    person = next(a for a in annotations if a["num_keypoints"])
    pose = np.reshape(person["keypoints"], (1, 17, 3))[..., :2]
    assert keypoint_oks(pose, [person], SIGMAS)[0, 0] == 1


def test_nobody_to_compare_with():
    _, results = crowd(5)
    index, oks = best_oks({"annotations": []}, results, SIGMAS)
    assert len(index) == len(results)
    assert_array_equal(oks, np.zeros((3, len(results))))
    index, oks = best_oks({"annotations": []}, [], SIGMAS)
    assert index.shape == (0,)
    assert oks.shape == (3, 0)
