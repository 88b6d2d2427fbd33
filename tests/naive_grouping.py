"""Grouping by tags as its description has it, for one image, in plain loops: what tests compare with."""

import numpy as np


def munkres(cost: np.ndarray) -> list[int]:
    """The column of each row of a float64 matrix; see `higherhrnet.munkres.munkres` for the order of the scan."""
    size = max(cost.shape)
    matrix = np.zeros((size, size))
    matrix[: cost.shape[0], : cost.shape[1]] = cost
    matrix -= matrix.min(1, keepdims=True)
    star = [-1] * size
    for row in range(size):
        star[row] = next((c for c in range(size) if matrix[row, c] == 0 and c not in star), -1)
    while -1 in star:
        rows, columns = [False] * size, [c in star for c in range(size)]
        prime, origin = {}, (0, 0)
        while True:
            uncovered = np.outer(~np.array(rows), ~np.array(columns))
            zeros = (matrix == 0) & uncovered
            if not zeros.any():
                least = matrix[uncovered].min()
                matrix[rows] += least
                matrix[:, ~np.array(columns)] -= least
                origin = (0, 0)
                continue
            row = next(r for r in _turn(origin[0], size) if zeros[r].any())
            column = [c for c in _turn(origin[1], size) if zeros[row, c]][-1]
            prime[row] = column
            if star[row] < 0:
                break
            rows[row], columns[star[row]], origin = True, False, (row, star[row])
        while row >= 0:
            column = prime[row]
            owner = star.index(column) if column in star else -1
            star[row] = column
            row = owner
    return star


def _turn(start: int, size: int) -> list[int]:
    return [(start + i) % size for i in range(size)]


def peaks(heatmap: np.ndarray, count: int, window: int) -> list[tuple[int, int, float]]:
    """(x, y, value), highest first; of equal ones the first in row-major order."""
    margin, found = window // 2, []
    for (y, x), value in np.ndenumerate(heatmap):
        around = heatmap[max(y - margin, 0) : y + margin + 1, max(x - margin, 0) : x + margin + 1]
        if value > 0 and value == around.max():
            found.append((x, y, value))
    return sorted(found, key=lambda peak: (-peak[2], peak[1], peak[0]))[:count]


def match(candidates: list[list[tuple]], settings) -> list[dict[int, tuple]]:
    """People as {joint: candidate}; a candidate is (x, y, value, tags), and each joint has a list of them."""
    people: dict[float, dict] = {}
    collected: dict[float, list] = {}
    for joint in settings.joint_order:
        named = [c for c in candidates[joint] if float(c[2]) > settings.threshold]
        known = list(people)[: settings.max_people]
        if not named or (settings.ignore_too_much and len(people) >= settings.max_people):
            continue
        mean = np.array([np.float32(sum(collected[k])) / np.float32(len(collected[k])) for k in known], np.float32)
        distance = np.full((len(named), 0), 0.0)
        if known:
            tags = np.array([c[3] for c in named], np.float64)
            distance = np.sqrt(((tags[:, None] - mean[None]) ** 2).sum(-1))
        cost = distance
        if settings.use_detection_val:
            cost = np.round(distance) * 100 - np.array([float(c[2]) for c in named])[:, None]
        if len(named) > len(known):
            cost = np.concatenate([cost, np.full((len(named), len(named) - len(known)), 1e10)], 1)
        for candidate, column in zip(named, munkres(cost)):
            row = named.index(candidate)
            key = float(candidate[3][0])
            if column < len(known) and distance[row, column] < settings.tag_threshold:
                people[known[column]][joint] = candidate
                collected[known[column]].append(candidate[3])
            else:
                people.setdefault(key, {})[joint] = candidate
                collected[key] = [candidate[3]]
    return list(people.values())


def shift(heatmap: np.ndarray, x: int, y: int) -> tuple[float, float]:
    """To the quarter of the pixel that is nearer to the larger neighbours."""
    height, width = heatmap.shape
    right = heatmap[y, min(x + 1, width - 1)] > heatmap[y, max(x - 1, 0)]
    below = heatmap[min(y + 1, height - 1), x] > heatmap[max(y - 1, 0), x]
    return x + (0.75 if right else 0.25), y + (0.75 if below else 0.25)


def refine(heatmaps: np.ndarray, tags: np.ndarray, keypoints: np.ndarray, values: np.ndarray) -> None:
    """Fills in one person's missing joints, in place."""
    there = np.flatnonzero(values > 0)
    if not len(there):
        return
    pixel = keypoints[there].astype(int)
    shared = tags.shape[2] == 1
    mean = np.mean([tags[y, x, 0 if shared else j] for j, (x, y) in zip(there, pixel)], axis=0, dtype=np.float32)
    for joint in np.flatnonzero(values <= 0):
        distance = np.sqrt(((tags[:, :, 0 if shared else joint] - mean) ** 2).sum(-1))
        score = heatmaps[:, :, joint] - np.round(distance)
        y, x = np.unravel_index(np.argmax(score), score.shape)
        if heatmaps[y, x, joint] > 0:
            keypoints[joint], values[joint] = shift(heatmaps[:, :, joint], x, y), heatmaps[y, x, joint]


def group(heatmaps: np.ndarray, tags: np.ndarray, settings) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Keypoints [P, J, 2], values [P, J] and scores [P] of one image: [H, W, J] and [H, W, J or 1, T]."""
    joints = heatmaps.shape[2]
    candidates = []
    for joint in range(joints):
        best = peaks(heatmaps[:, :, joint], settings.max_people, settings.window)
        candidates.append([(x, y, value, tags[y, x, joint % tags.shape[2]]) for x, y, value in best])
    people = match(candidates, settings)
    keypoints, values = np.zeros((len(people), joints, 2), np.float32), np.zeros((len(people), joints), np.float32)
    for person, found in enumerate(people):
        for joint, (x, y, value, _) in found.items():
            keypoints[person, joint], values[person, joint] = (x, y), value
            if settings.adjust:
                keypoints[person, joint] = shift(heatmaps[:, :, joint], x, y)
    scores = values.mean(1)
    if settings.refine:
        for person in range(len(people)):
            refine(heatmaps, tags, keypoints[person], values[person])
    return keypoints, values, scores
