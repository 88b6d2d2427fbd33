"""What three frames gain over one where people are hidden or fast: trains DCPose and its ablations, and compares them.

    python -m experiments.dcpose_frames.run --output=runs/dcpose_frames [--steps=N] [--seeds=0,1] [--variants=...]

All variants of configs/dcpose.py get the same data, seeds, steps and batches. A variant that has been trained is
evaluated again only. Printed, in percent: PoseTrack's mAP, and the share of joints within half a head's size, of all
joints, of those that are hidden, and of those that move by more than that from the frame before; lowest to highest over
the seeds where there are several.
"""

import pathlib

import numpy as np
from absl import app, flags

from configs import dcpose
from jaxpose import main as command
from jaxpose import sharding
from jaxpose.evaluation.evaluator import Evaluator
from jaxpose.runs import startup
from jaxpose.runs.reader import load_for_inference

flags.DEFINE_string("output", None, "Folder of the runs.", required=True)
flags.DEFINE_list("variants", ["", "single_frame", "no_merger", "no_fusion", "no_correction"], "Of configs/dcpose.py.")
flags.DEFINE_list("seeds", ["0"], "Each trains all variants.")
flags.DEFINE_integer("steps", 0, "Of training; as in the config by default.")
flags.DEFINE_string("data", "", "Where marionettes are, if not in the cache.")

NEAR = 0.5
"""Share of the head's size within which a joint is found."""
COLUMNS = ("mAP", "all", "hidden", "fast")


def main(arguments: list[str]) -> None:
    del arguments
    command.log_to_stderr()
    startup.start()
    table: dict[str, list[dict[str, float]]] = {}
    for seed in map(int, flags.FLAGS.seeds):
        for variant in flags.FLAGS.variants:
            name = variant or "three frames"
            table.setdefault(name, []).append(one_run(variant, seed))
            print(f"{name}, seed {seed}: {table[name][-1]}", flush=True)
    print("".ljust(16) + "".join(column.rjust(16) for column in COLUMNS))
    for name, runs in table.items():
        cells = ([100 * run[column] for run in runs] for column in COLUMNS)
        texts = (f"{min(c):.1f}" if len(c) == 1 else f"{min(c):.1f} - {max(c):.1f}" for c in cells)
        print(name.ljust(16) + "".join(text.rjust(16) for text in texts))


def one_run(variant: str, seed: int) -> dict[str, float]:
    """Trains a variant, if that has not been done, and measures it; {column: share}."""
    config = dcpose.get_config(variant)
    config.seed, config.data.dir = seed, flags.FLAGS.data
    if flags.FLAGS.steps:
        config.train.update({"steps": flags.FLAGS.steps, "checkpoint_every": flags.FLAGS.steps})
    config.evaluate.update({"every": 0, "metrics": ("posetrack",)})
    workdir = pathlib.Path(flags.FLAGS.output) / f"{config.name}_{seed}"
    command.run(config, str(workdir), "train")
    _, method, variables = load_for_inference(workdir)
    evaluator = Evaluator(config, method, sharding.make_mesh(config.sharding))
    rows = evaluator.predict(method, variables)
    return {"mAP": evaluator.score(rows)["mAP"]} | found_joints(rows, evaluator.examples)


def found_joints(rows: dict[str, np.ndarray], examples) -> dict[str, float]:
    """The share of joints that are found, by what they do."""
    size = rows["head_size"][:, None]
    near = np.linalg.norm(rows["keypoints"] - rows["truth"], axis=-1) <= NEAR * size
    labelled = (rows["visibility"] > 0) & (size > 0)
    groups = {"all": labelled, "hidden": labelled & (rows["visibility"] == 1)}
    groups["fast"] = labelled & (moves(examples)[rows["index"]] > NEAR * size)
    return {name: float(near[joints].mean()) for name, joints in groups.items()}


def moves(examples) -> np.ndarray:
    """[N, K] pixels by which joints of the people of `examples` moved since the frame before; 0 where unknown."""
    annotations, videos, people = examples.source.annotations, examples.videos, examples.people
    image, track = annotations.person_image, annotations.track_id
    frames = zip(videos.video[image].tolist(), videos.frame[image].tolist(), track.tolist(), strict=True)
    row = {place: person for person, place in enumerate(frames)}
    shown = {
        (int(i), points.tobytes()): p for p, (i, points) in enumerate(zip(image, annotations.keypoints, strict=True))
    }
    moved = np.zeros(people.keypoints.shape[:2])
    for i in range(len(people)):
        person = shown[int(people.image[i]), people.keypoints[i].tobytes()]
        video, frame = (column[image[person]].item() for column in (videos.video, videos.frame))
        before = row.get((video, frame - 1, int(track[person])))
        if before is not None:
            steps = np.linalg.norm(people.keypoints[i] - annotations.keypoints[before], axis=-1)
            moved[i] = np.where(annotations.visibility[before] > 0, steps, 0)
    return moved


if __name__ == "__main__":
    app.run(main)
