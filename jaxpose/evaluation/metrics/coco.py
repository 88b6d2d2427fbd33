"""COCO keypoint AP and AR: collect poses, suppress duplicates on device, match with the truth (hotcoco), ten numbers.

    metric = CocoKeypoints(MetricContext(skeleton.COCO, "person_keypoints_val2017.json"))
    for batch in batches:
        metric.update(rows)
    numbers = metric.compute()

Rows are put in order of image id and index, so that the numbers do not depend on batches or processes.
"""

import collections
import dataclasses
import functools
import json
import logging
import pathlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal

import numpy as np

from jaxpose.data.formats import coco as records
from jaxpose.errors import DataError
from jaxpose.evaluation.metrics import GroundTruth, Metric
from jaxpose.evaluation.rows import IMAGE_ID, INDEX, Collected, Column
from jaxpose.evaluation.suppression import Suppression, suppress
from jaxpose.files import fields
from jaxpose.files.fields import FieldError
from jaxpose.files.json_files import read_json
from jaxpose.files.whole import write_text
from jaxpose.skeleton import Skeleton

NUMBERS = ("AP", "AP50", "AP75", "AP_M", "AP_L", "AR", "AR50", "AR75", "AR_M", "AR_L")
ANY_SIZE = (0.0, 1e10)
"""COCO's range of areas, in pixels^2, that leaves nobody out."""

logger = logging.getLogger(__name__)

_OF_BOXES = {"box": Column(np.float64, (4,), optional=True), "box_score": Column(np.float64, optional=True)}


@dataclasses.dataclass
class CocoKeypoints(Collected, Metric):
    """AP and AR of COCO keypoints, for any skeleton.

    Its rows are poses: image_id [n]; index [n]; keypoints [n, K, 2] in pixels of the image; scores [n, K] of joints;
    person_score [n], by which people are ranked; area [n] of the (enlarged) box that was cropped, in pixels^2, for OKS
    in suppression; box [n, 4] (x, y, w, h) and box_score [n] of the detections, if suppression is "parametric".

    Duplicates are removed by `context.suppression`. `context.sizes` make the numbers "AP_S", "AP_M", "AP_L", "AR_S",
    "AR_M", "AR_L"; without, people are medium or large by COCO's 32^2 and 96^2 pixels.
    """

    columns = {
        "image_id": IMAGE_ID,
        "index": INDEX,
        "keypoints": Column(np.float64, ("K", 2)),
        "scores": Column(np.float64, ("K",)),
        "person_score": Column(np.float64),
        "area": Column(np.float64),
        **_OF_BOXES,
    }

    def results(self, category_id: int = 1, boxes: bool = False, suppression: Suppression | None = None) -> list[dict]:
        """The poses that remain after suppression, in the format of the COCO server.

        One dict a pose: image_id, category_id, keypoints (x, y, score of each joint), score. Images by id; within one,
        poses by falling rank, or in the order of `rows` where nothing is suppressed.

        Args:
          category_id: category of people.
          boxes: whether to add person_box (x, y, w, h) and box_score of the detection.
          suppression: suppression of duplicates; that of the context if None.

        Raises:
          DataError: the poses have another number of joints than the skeleton, or lack the boxes that are asked for.
        """
        skeleton = self.context.skeleton
        rows = self.rows()
        if not len(rows["index"]):
            return []
        if rows["scores"].shape[1] != skeleton.num_joints:
            found = rows["scores"].shape[1]
            raise DataError(
                f"the poses have {found} joints, skeleton {skeleton.name!r} has {skeleton.num_joints}; "
                "evaluate with the skeleton that the method was trained for"
            )
        if boxes and (missing := [name for name in _OF_BOXES if name not in rows]):
            raise DataError(f"poses are to be written with their boxes, but lack the fields {missing}")
        rows = suppress(rows, skeleton.sigmas, suppression or self.context.suppression)
        triples = np.concatenate([rows["keypoints"], rows["scores"][..., None]], axis=-1)
        columns = {
            "image_id": rows["image_id"],
            "category_id": np.full(len(triples), category_id),
            "keypoints": triples.reshape(len(triples), 3 * skeleton.num_joints),
            "score": rows["person_score"],
        }
        if boxes:
            columns |= {"person_box": rows["box"], "box_score": rows["box_score"]}
        records = zip(*(values.tolist() for values in columns.values()), strict=True)
        return [dict(zip(columns, record, strict=True)) for record in records]

    def compute(self) -> dict[str, float]:
        """Average precision and recall, in [0, 1]; -1 where the images hold no person of that size.

        People of an evaluated image without poses count as missed.

        Returns:
          {"AP", "AP50", "AP75", "AP_M", "AP_L", "AR", "AR50", "AR75", "AR_M", "AR_L"}; with `context.sizes`, also
          "AP_S" and "AR_S".

        Raises:
          DataError: poses of an image that is not evaluated, or unusable labels.
        """
        truth = load_truth(self._labels(), self.context.skeleton)
        ids = evaluated_images(truth, self.context.image_ids, [block["image_id"] for block in self._blocks])
        results = self.results(truth["categories"][0]["id"])
        found, people = sum(len(block["index"]) for block in self._blocks), len(truth["annotations"])
        kept = "all" if len(results) == found else str(len(results))
        logger.info("%d poses found; %s are kept after suppression; %d people are annotated", found, kept, people)
        return self._numbers(truth, results, ids)

    def _labels(self) -> GroundTruth:
        """The labels that poses are compared with."""
        return self.context.truth

    def _numbers(self, truth: dict, results: list[dict], ids: list[int]) -> dict[str, float]:
        evaluation = match(truth, results, self.context.skeleton.sigmas, ids, self.context.sizes)
        if self.context.sizes is None:
            return dict(zip(NUMBERS, map(float, evaluation.stats), strict=True))
        return _numbers_by_size(evaluation)


def evaluated_images(
    truth: Mapping[str, Any], image_ids: Iterable[int] | None, predicted: list[np.ndarray], what: str = "poses"
) -> list[int]:
    """Sorted ids of the images to evaluate: `image_ids`, or all of the ground truth.

    Args:
      truth: labels with "images".
      image_ids: ids of the evaluated images; all of the labels if None.
      predicted: arrays of the ids of images for which there are predictions.
      what: name of the predictions, for messages.

    Raises:
      DataError: there is no image, or one is not in the ground truth or not evaluated.
    """
    known = {image["id"] for image in truth["images"]}
    ids = sorted(known) if image_ids is None else sorted({int(i) for i in image_ids})
    if not ids:
        raise DataError("there is no image to evaluate")
    if strangers := [i for i in ids if i not in known]:
        raise DataError(f"image_ids names {len(strangers)} images that the ground truth lacks: {strangers[:5]}")
    found = np.unique(np.concatenate(predicted or [np.zeros(0, np.int64)]))
    if strangers := found[~np.isin(found, ids)].tolist():
        raise DataError(
            f"{what} were added for {len(strangers)} images that are not among the {len(ids)} evaluated ones: "
            f"{strangers[:5]}; do predictions and ground truth belong to the same split?"
        )
    return ids


def write_results(results: list[dict], path: str | pathlib.Path) -> None:
    """Writes results as the JSON file that the COCO server takes; equal results give equal bytes.

    Raises:
      StorageError: the file cannot be written.
    """
    write_text(path, json.dumps(results, separators=(",", ":"), allow_nan=False) + "\n")


def match(
    truth: Mapping[str, Any],
    results: list[dict],
    sigmas: Iterable[float],
    image_ids: list[int],
    sizes: tuple[float, float] | None = None,
) -> Any:
    """The evaluation of `results` on some images: a `hotcoco.COCOeval` with stats, eval["precision"], ...

    Args:
      truth: labels as `load_truth` gives them.
      results: poses in the format of the COCO server; among equal scores, earlier ones rank higher.
      sigmas: [K] OKS constants of the skeleton's joints.
      image_ids: ids of the images to evaluate.
      sizes: areas that divide small from medium and medium from large people; the four ranges of the evaluation are
        then all, small, medium, large, and stats are left empty.
    """
    evaluation = open_evaluation(truth, results, "keypoints", image_ids, sizes)
    evaluation.params.kpt_oks_sigmas = [float(s) for s in sigmas]
    evaluation.evaluate()
    evaluation.accumulate()
    if sizes is None:
        evaluation.summary_lines()  # fills stats, without printing
    return evaluation


def open_evaluation(
    truth: Mapping[str, Any],
    results: list[dict],
    kind: Literal["keypoints", "bbox"],
    image_ids: list[int],
    sizes: tuple[float, float] | None,
) -> Any:
    """A `hotcoco.COCOeval` of a kind that is ready to run; other arguments as for `match`."""
    import hotcoco

    truth_index = hotcoco.COCO(dict(truth))
    evaluation = hotcoco.COCOeval(truth_index, truth_index.loadRes(results), kind)
    evaluation.params.imgIds = image_ids
    if sizes is not None:
        small, large = (float(area) for area in sizes)
        evaluation.params.areaRng = [list(ANY_SIZE), [0.0, small], [small, large], [large, ANY_SIZE[1]]]
        evaluation.params.areaRngLbl = ["all", "small", "medium", "large"]
    return evaluation


def _numbers_by_size(evaluation: Any) -> dict[str, float]:
    """AP and AR over all thresholds for everybody and each size, and for everybody at thresholds .5 and .75."""
    numbers = {}
    for name, values in (("AP", evaluation.eval["precision"][:, :, 0]), ("AR", evaluation.eval["recall"][:, None, 0])):
        values = values[..., 0]  # [threshold, recall, size], -1 where there is nobody
        everybody = {name: values[..., 0], f"{name}50": values[0, :, 0], f"{name}75": values[5, :, 0]}
        by_size = {f"{name}_{size}": values[..., s] for s, size in enumerate("SML", start=1)}
        numbers |= {key: mean_of_known(found) for key, found in (everybody | by_size).items()}
    return numbers


def mean_of_known(values: np.ndarray) -> float:
    """The mean of precisions or recalls, of which -1 means that there was nobody; -1 where there is no other."""
    known = values[values > -1]
    return float(known.mean()) if known.size else -1.0


def load_truth(ground_truth: GroundTruth, skeleton: Skeleton) -> dict:
    """The part of a COCO keypoint file that an evaluation needs: images, and people of the keypoint category.

    Fields are read as `data.sources.coco` reads them, but an unusable one is an error here: whom to leave out of an
    evaluation is nobody's guess. People of images that the file does not list are counted in the log.

    Raises:
      DataError: a file, list or field is missing or does not fit `skeleton`; the message says which.
    """
    content, name = read_truth(ground_truth), name_of(ground_truth)
    category = _keypoint_category(content["categories"], skeleton, name)
    needed = ("image_id", "keypoints", "bbox", "area")
    people = truth_people(content, category["id"], name, needed, functools.partial(_person, skeleton=skeleton))
    thirds = np.array([person["keypoints"][2::3] for person in people]).reshape(-1, skeleton.num_joints)
    for person, values in zip(people, records.visibility(thirds, name).tolist(), strict=True):
        person["keypoints"][2::3] = values
        person["category_id"] = category["id"]
        if person["num_keypoints"] is None:
            person["num_keypoints"] = sum(value > 0 for value in values)
    return {"images": truth_images(content, name), "categories": [category], "annotations": people}


def read_truth(ground_truth: GroundTruth) -> Mapping[str, Any]:
    """The content of a COCO annotation file, or a dictionary like it.

    Raises:
      DataError: no readable JSON, or a list is missing.
    """
    content = ground_truth if isinstance(ground_truth, Mapping) else read_json(ground_truth)
    records.require_lists(content, name_of(ground_truth))
    return content


def name_of(ground_truth: GroundTruth) -> str:
    """Name of labels in messages."""
    return "ground truth" if isinstance(ground_truth, Mapping) else str(ground_truth)


def truth_images(content: Mapping[str, Any], name: str) -> list[dict]:
    """The images of labels, each with its number.

    Raises:
      DataError: an image without a number, or two with one.
    """
    numbered = enumerate(content["images"])
    images = [with_id(image, f"{name}: image {i} of 'images' (counted from 0)") for i, image in numbered]
    counts = collections.Counter(image["id"] for image in images)
    if repeated := [number for number, count in counts.items() if count > 1]:
        raise DataError(f"{name}: several images have the same id {repeated[0]}; number the images through")
    return images


def truth_people(
    content: Mapping[str, Any],
    category: int,
    name: str,
    needed: Sequence[str],
    read: Callable[[Mapping[str, Any]], dict],
) -> list[dict]:
    """The people of a category of labels, each with a number of its own.

    Args:
      content: labels.
      category: id of the category.
      name: name of the labels, for messages.
      needed: fields that must be there.
      read: function from an annotation to the fields of a person; it raises `FieldError`.

    Raises:
      DataError: a field of a person cannot be used.
    """
    images = {image["id"] for image in truth_images(content, name)}
    people, numbers, strangers = [], [], []
    for position, annotation in enumerate(content["annotations"]):
        where = records.named(annotation, position)
        if not isinstance(annotation, Mapping):
            raise DataError(f"{name}: {where} of 'annotations' is {fields.shown(annotation)}, expected an object")
        try:
            if fields.whole(annotation, "category_id") != category:
                continue
            if missing := [field for field in needed if annotation.get(field) is None]:
                raise DataError(f"{name}: {where}: lacks the fields {missing}, which COCO's evaluation needs")
            person = read(annotation)
        except FieldError as error:
            raise DataError(f"{name}: {where}: {error}") from error
        if person["image_id"] not in images:
            strangers.append(where)
            continue
        people.append(person)
        numbers.append(records.number_of(annotation))
    if strangers:
        text = "%s: %d people are of images that are not listed, and not evaluated (%s first)"
        logger.warning(text, name, len(strangers), strangers[0])
    return [person | {"id": number} for person, number in zip(people, records.numbered(numbers, name).tolist())]


def _keypoint_category(categories: list[Any], skeleton: Skeleton, name: str) -> dict:
    listed = [dict(category) for category in categories if isinstance(category, Mapping)]
    joints = [category.get("keypoints") or [] for category in listed]
    lengths = [len(names) if isinstance(names, list | tuple) else 0 for names in joints]
    fitting = [category for category, length in zip(listed, lengths, strict=True) if length == skeleton.num_joints]
    chosen = fitting if len(listed) > 1 else listed
    if len(chosen) != 1:
        found = {fields.shown(c.get("name")): length for c, length in zip(listed, lengths, strict=True)}
        raise DataError(
            f"{name}: field 'categories': expected one with {skeleton.num_joints} keypoints, found {found}; "
            f"the poses have the joints of {skeleton.name!r}"
        )
    return with_id(chosen[0], f"{name}: field 'categories'") | {"name": "person", "keypoints": list(skeleton.joints)}


def with_id(record: Any, where: str) -> dict[str, Any]:
    """The id, as a number, of a category of labels; or id and crowd index of an image.

    Raises:
      DataError: the id is missing or no whole number from 0, or the crowd index is no number.
    """
    if not isinstance(record, Mapping):
        raise DataError(f"{where} is {fields.shown(record)}, expected an object")
    try:
        kept: dict[str, Any] = {"id": fields.whole(record, "id", least=0)}
        crowd_index = fields.number(record, "crowdIndex", missing=None)
    except FieldError as error:
        raise DataError(f"{where}: {error}") from error
    return kept if crowd_index is None else kept | {"crowdIndex": crowd_index}


def _person(annotation: Mapping[str, Any], skeleton: Skeleton) -> dict:
    joints, listed = 3 * skeleton.num_joints, annotation["keypoints"]
    if isinstance(listed, list | tuple) and len(listed) != joints:
        expected = f"{joints} (x, y, v for each joint of {skeleton.name!r})"
        raise FieldError("keypoints", f"has {len(listed)} numbers", expected)
    return box_of_truth(annotation) | {
        "keypoints": fields.numbers(annotation, "keypoints").tolist(),
        "num_keypoints": fields.whole(annotation, "num_keypoints", missing=None, least=0, most=2**31 - 1),
    }


def box_of_truth(annotation: Mapping[str, Any]) -> dict:
    """The fields of a person that any evaluation needs.

    Raises:
      FieldError: one of them cannot be used.
    """
    return {
        "image_id": fields.whole(annotation, "image_id"),
        "bbox": fields.numbers(annotation, "bbox", 4).tolist(),
        "area": fields.number(annotation, "area", least=0),
        "iscrowd": int(fields.flag(annotation, "iscrowd", missing=False)),
    }
