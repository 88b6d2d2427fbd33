"""PoseTrack's tables: average precision of joints (mAP) and multi-object tracking accuracy (MOTA), as poseval has them.

    metric = PoseTrackKeypoints(MetricContext(skeleton, "annotations/val"))
    for batch in batches:
        metric.update(rows)
    numbers = metric.compute()                  # {"mAP": ..., "mAP/head": ..., "MOTA": ..., ...}
    print(metric.table(numbers))

Rows are put in order of image id and index, so that the numbers do not depend on batches or processes.
"""

import dataclasses
import json
import logging
import pathlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from jaxpose.data.formats import posetrack as forms
from jaxpose.errors import DataError, StorageError
from jaxpose.evaluation import poseval
from jaxpose.evaluation.metrics import GroundTruth, Metric, Numbers
from jaxpose.evaluation.poseval import Figures, Frame
from jaxpose.evaluation.rows import IMAGE_ID, INDEX, Collected, Column, Rows
from jaxpose.evaluation.suppression import suppress
from jaxpose.evaluation.tracking import assign_tracks
from jaxpose.files.whole import write_text
from jaxpose.skeleton import OTHER_NAMES, Skeleton

logger = logging.getLogger(__name__)

_TOTALS = ("MOTP", "MOT_precision", "MOT_recall")


@dataclasses.dataclass
class PoseTrackKeypoints(Collected, Metric):
    """Mean average precision over PoseTrack's joints, and MOTA, MOTP, precision and recall where poses have tracks.

    Its rows are poses: image_id [n]; index [n]; keypoints [n, K, 2] in pixels of the image; scores [n, K] of joints;
    box_score [n] of the detections, by which the scores are multiplied, as in DCPose, 1 if missing; track_id [n], the
    same person over the frames of a video, if people were tracked.

    Where `context.frames` says which images are the frames of a video, duplicates are removed by `context.suppression`
    and people are tracked; then rows also have person_score [n], area [n] and box [n, 4] as those of
    `coco.CocoKeypoints`. Labels are a COCO dictionary, a PoseTrack file of either form, a folder of such files, or the
    content of one; in the form of 2017, images are numbered from 1.

    A skeleton without all of the 15 joints (COCO's, say) is evaluated on those that it has.

    Attributes:
      threshold: share of the head's size within which a joint is found.
    """

    columns = {
        "image_id": IMAGE_ID,
        "index": INDEX,
        "keypoints": Column(np.float64, ("K", 2)),
        "scores": Column(np.float64, ("K",)),
        "box_score": Column(np.float64, optional=True),
        "track_id": Column(np.int64, optional=True),
        "person_score": Column(np.float64, optional=True),
        "area": Column(np.float64, optional=True),
        "box": Column(np.float64, (4,), optional=True),
    }

    threshold: float = poseval.THRESHOLD

    def compute(self) -> dict[str, float]:
        """The numbers of PoseTrack's tables, as shares of 1.

        Returns:
          {"mAP", "mAP/head", ..., "mAP/ankle"} and, if all poses and people have tracks, {"MOTA", "MOTA/head", ...,
          "MOTP", "MOT_precision", "MOT_recall"}. What has no value, such as a part that is never annotated, is left
          out.

        Raises:
          DataError: unusable labels, poses of unknown images, nobody to evaluate, or two images that are the same frame
            of a video.
        """
        joints = evaluated_joints(self.context.skeleton.joints)
        frames = self.frames()
        numbers = _summary("mAP", poseval.joint_precision(frames, self.threshold).ap, joints)
        if _are_tracked(frames):
            numbers |= _tracking_numbers(poseval.joint_tracking(frames, self.threshold), joints)
        return {name: value for name, value in numbers.items() if not np.isnan(value)}

    def frames(self) -> list[Frame]:
        """The frames that count, with the joints of `evaluated_joints`, for `poseval`'s functions; see `compute`."""
        truth, skeleton = _load(self.context.truth), self.context.skeleton
        joints = evaluated_joints(skeleton.joints)
        found = _found_people(self.people(), skeleton, joints)
        nobody = Figures.empty(len(joints))
        annotated = _posetrack_names(forms.joints_of(truth, "ground truth"))
        frames: dict[int, Frame] = {}
        for video, image, people in _listed_frames(truth, self.context.image_ids):
            people, ignored = _without_crowds(image, people)
            true = _true_people(people, annotated, joints)
            frames[image["id"]] = Frame(video, true, found.get(image["id"], nobody), ignored)
        if strangers := sorted(set(found) - set(frames)):
            raise DataError(
                f"poses were added for {len(strangers)} images that are not among the {len(frames)} evaluated ones: "
                f"{strangers[:5]}; do predictions and ground truth belong to the same split?"
            )
        _tell_repeated_tracks(frames)
        evaluated = poseval.evaluated_frames(frames.values(), keep_empty=truth.get("form") != 2017)
        _check_heads(evaluated)
        return evaluated

    def people(self) -> Rows:
        """The poses so far, without duplicates and with tracks; as they came where `context.frames` is missing."""
        rows, frames, sigmas = self.rows(), self.context.frames, self.context.skeleton.sigmas
        if frames is None:
            return rows
        rows = suppress(rows, sigmas, self.context.suppression)
        single = {name: v.astype(np.float32) if v.dtype == np.float64 else v for name, v in rows.items()}
        return rows | {"track_id": assign_tracks(single, frames(), np.asarray(sigmas))}

    def table(self, numbers: Numbers) -> str:
        """The numbers as aligned lines; see `table`."""
        return table(numbers)

    def write(self, folder: pathlib.Path) -> list[pathlib.Path]:
        """Writes FOLDER/posetrack/VIDEO.json, as PoseTrack's server takes them, if the skeleton has all its joints."""
        if not is_complete(self.context.skeleton.joints):
            return []
        return write_results(self.results(), folder / "posetrack")

    def results(self) -> dict[str, dict]:
        """The poses in the form of 2017, one content a video of the labels, as poseval and the server take them.

        A frame without people holds what the original code writes then: one joint that ranks below all others.
        Without tracks, people have their position in the frame as such.

        Returns:
          {video: content}, named as by `formats.posetrack.file_names`, mostly by the folder of its frames.

        Raises:
          DataError: the skeleton lacks one of the 15 joints, or labels are unusable.
        """
        rows = self.people()
        image_id, scores = rows["image_id"], _joint_scores(rows)
        position = np.arange(len(image_id)) - np.searchsorted(image_id, image_id)
        triples = np.concatenate([rows["keypoints"], np.ones((*scores.shape, 1))], axis=-1)
        columns = {
            "image_id": image_id,
            "track_id": rows.get("track_id", position),
            "keypoints": triples.reshape(len(triples), 3 * scores.shape[1]),
            "scores": scores,
        }
        records = zip(*(values.tolist() for values in columns.values()), strict=True)
        people = [dict(zip(columns, record, strict=True)) for record in records]
        category = {"keypoints": list(_posetrack_names(self.context.skeleton.joints))}
        content = {"images": _load(self.context.truth)["images"], "annotations": people, "categories": [category]}
        files = forms.to_annolists(content, "predictions", predictions=True)
        return dict(zip(forms.file_names(files), files.values(), strict=True))


def write_results(results: Mapping[str, dict], folder: str | pathlib.Path) -> list[pathlib.Path]:
    """Writes `PoseTrackKeypoints.results` as FOLDER/VIDEO.json; equal results give equal bytes. Gives the paths.

    Raises:
      DataError: the name of a video leads out of the folder, or hides its file.
      StorageError: the files cannot be written.
    """
    folder = pathlib.Path(folder)
    for video in results:
        if not video or pathlib.PurePath(video).name != video or video.startswith("."):
            raise DataError(f"a video is named {video!r}, which is no name of a file in {folder}")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"{folder}: cannot be made ({error.strerror})") from error
    paths = [folder / f"{video}.json" for video in results]
    for path, content in zip(paths, results.values(), strict=True):
        write_text(path, json.dumps(content, separators=(",", ":"), allow_nan=False) + "\n")
    return paths


def table(numbers: Mapping[str, float]) -> str:
    """The numbers of `PoseTrackKeypoints.compute` as aligned lines in percent, "-" where there is none.

    Columns: Head, Shoulder, Elbow, Wrist, Hip, Knee, Ankle, Total, and beside MOTA the totals MOTP, Prec and Rec.
    """
    head = [part.capitalize() for part in poseval.PARTS] + ["Total"]
    lines = ["       " + "".join(name.rjust(10) for name in head)]
    for name in ("mAP", "MOTA"):
        if any(key.partition("/")[0] == name for key in numbers):
            keys = [f"{name}/{part}" for part in poseval.PARTS] + [name]
            lines.append(name.ljust(7) + "".join(_cell(numbers, key).rjust(10) for key in keys))
    if any(name in numbers for name in _TOTALS):
        labels = zip(("MOTP", "Prec", "Rec"), _TOTALS, strict=True)
        lines.append("  ".join(f"{label} {_cell(numbers, key)}" for label, key in labels))
    return "\n".join(lines)


def _cell(numbers: Mapping[str, float], key: str) -> str:
    return f"{100 * numbers[key]:.1f}" if key in numbers else "-"


def evaluated_joints(joints: Sequence[str]) -> tuple[str, ...]:
    """The joints of PoseTrack among those of a skeleton, whose "neck" is PoseTrack's "head_bottom".

    Raises:
      DataError: it has none of them.
    """
    named = _posetrack_names(joints)
    if not (found := tuple(joint for joint in forms.EVALUATED if joint in named)):
        raise DataError(f"PoseTrack evaluates {', '.join(forms.EVALUATED)}; the skeleton has none of them: {joints}")
    return found


def is_complete(joints: Sequence[str]) -> bool:
    """Whether a skeleton has all joints that PoseTrack evaluates, which its files of results have to hold."""
    return set(forms.EVALUATED) <= set(_posetrack_names(joints))


def _posetrack_names(joints: Sequence[str]) -> tuple[str, ...]:
    names = {other: joint for joint, other in OTHER_NAMES.items() if joint not in joints}
    return tuple(names.get(joint, joint) for joint in joints)


def _summary(name: str, values: np.ndarray, joints: Sequence[str]) -> dict[str, float]:
    by_part = {f"{name}/{part}": value for part, value in poseval.parts(values, joints).items()}
    return {name: poseval.mean(values)} | by_part


def _tracking_numbers(tracking: poseval.Tracking, joints: Sequence[str]) -> dict[str, float]:
    """None where nothing is to be followed: of each video the last frame does not count."""
    if not tracking.objects.any():
        return {}
    totals = zip(_TOTALS, (tracking.motp, tracking.precision, tracking.recall), strict=True)
    return _summary("MOTA", tracking.mota, joints) | {name: poseval.mean(values) for name, values in totals}


# --- predictions ---


def _joint_scores(rows: Rows) -> np.ndarray:
    return rows["scores"] * rows["box_score"][:, None] if "box_score" in rows else rows["scores"]


def _found_people(rows: Rows, skeleton: Skeleton, joints: Sequence[str]) -> dict[int, Figures]:
    """{image id: its predictions}."""
    if not len(rows["index"]):
        return {}
    if rows["scores"].shape[1] != skeleton.num_joints:
        raise DataError(
            f"the poses have {rows['scores'].shape[1]} joints, skeleton {skeleton.name!r} has {skeleton.num_joints}; "
            "evaluate with the skeleton that the method was trained for"
        )
    names = _posetrack_names(skeleton.joints)
    pick = [names.index(joint) for joint in joints]
    scores = _joint_scores(rows)[:, pick]
    tracks = rows.get("track_id", np.full(len(scores), -1))
    everybody = Figures(rows["keypoints"][:, pick], np.ones(scores.shape, bool), tracks, scores)
    ids, first = np.unique(rows["image_id"], return_index=True)
    slots = np.split(np.arange(len(scores)), first[1:])
    return {int(image_id): everybody.pick(chosen) for image_id, chosen in zip(ids, slots, strict=True)}


# --- ground truth ---


def _load(ground_truth: GroundTruth) -> forms.Content:
    if isinstance(ground_truth, Mapping):
        return forms.unified(ground_truth, "ground truth")
    return forms.read(ground_truth)


def _listed_frames(truth: forms.Content, image_ids: Iterable[int] | None) -> Iterator[tuple[Any, dict, list]]:
    """(video, image, its people) of the evaluated images: videos in order of the file, frames in order of time."""
    videos: dict[forms.VideoKey, list[dict]] = {}
    chosen = None if image_ids is None else {int(i) for i in image_ids}
    for image in truth["images"]:
        if chosen is None or image["id"] in chosen:
            videos.setdefault(forms.video_of(image), []).append(image)
    found = {image["id"] for images in videos.values() for image in images}
    if chosen is not None and (strangers := sorted(chosen - found)):
        raise DataError(f"image_ids names {len(strangers)} images that the ground truth lacks: {strangers[:5]}")
    people = forms.people_of_images(truth)
    for video, images in videos.items():
        for image in forms.in_time(images, "ground truth"):
            yield video, image, people.get(image["id"], [])


def _without_crowds(
    image: Mapping[str, Any], people: Sequence[Mapping]
) -> tuple[list[Mapping], tuple[np.ndarray, ...]]:
    """The single people of an image, and polygons [V, 2] of what is ignored: its regions and the boxes of crowds."""
    regions = [np.stack([np.asarray(axis, np.float64) for axis in region], -1) for region in forms.polygons(image)]
    for person in people:
        if person.get("iscrowd") and person.get("bbox"):
            x, y, w, h = person["bbox"]
            regions.append(np.array([(x, y), (x + w, y), (x + w, y + h), (x, y + h)], np.float64))
    return [person for person in people if not person.get("iscrowd")], tuple(regions)


def _true_people(people: Sequence[Mapping[str, Any]], names: Sequence[str], joints: Sequence[str]) -> Figures:
    for person in people:
        if (count := len(person.get("keypoints", ()))) != 3 * len(names):
            raise DataError(
                f"ground truth: annotation {person.get('id')}: field 'keypoints' has {count} numbers, expected "
                f"{3 * len(names)} (x, y, v for each joint of its category)"
            )
    triples = np.array([person["keypoints"] for person in people], np.float64).reshape(len(people), len(names), 3)
    triples = np.concatenate([triples, np.zeros((len(people), 1, 3))], axis=1)  # a joint that the truth lacks
    triples = triples[:, [names.index(joint) if joint in names else -1 for joint in joints]]
    return Figures(
        points=triples[..., :2],
        present=np.any(triples, axis=-1),
        track=np.array([person.get("track_id", -1) for person in people], np.int64),
        head_size=np.array([forms.head_size(person) for person in people]),
    )


def _tell_repeated_tracks(frames: Mapping[int, Frame]) -> None:
    """Says in the log in how many frames, by their image ids, several poses or true people have the same track."""
    for side, what in (("found", "poses"), ("truth", "people of the ground truth")):
        tracks = {image_id: getattr(frame, side).track for image_id, frame in frames.items()}
        tracks = {image_id: ids[ids >= 0] for image_id, ids in tracks.items()}
        if repeated := [image_id for image_id, ids in tracks.items() if len(np.unique(ids)) < len(ids)]:
            text = "in %d of %d frames several %s have one track (image %s first), which is one person: MOTA is off"
            logger.warning(text, len(repeated), len(frames), what, repeated[0])


def _check_heads(frames: Sequence[Frame]) -> None:
    """Raises DataError if no true person has a head size; the log counts those without, none of whom can be found."""
    sizes = np.concatenate([frame.truth.head_size for frame in frames] or [np.zeros(0)])
    if len(sizes) and not (sizes > 0).any():
        raise DataError(
            f"ground truth: none of the {len(sizes)} people has a head box, by which PoseTrack judges distances; "
            "expected the field 'bbox_head' (x, y, w, h), or 'head_size' in pixels"
        )
    if without := int((sizes <= 0).sum()):
        logger.warning(
            "ground truth: %d of %d people have no head box, so none of their joints is found", without, len(sizes)
        )


def _are_tracked(frames: Sequence[Frame]) -> bool:
    sides = [side.track for frame in frames for side in (frame.truth, frame.found)]
    return bool(np.concatenate(sides).min(initial=0) >= 0) if sides else False
