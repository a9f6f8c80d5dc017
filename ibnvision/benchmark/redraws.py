"""How far scores would move on other test images: a bootstrap over images, beside t over seeds.

The test images are redrawn with replacement, the same pictures for all rows and seeds, and the very
same trained networks are scored on each redrawn set; the interval holds 95 % of these scores.

What it holds: that the test set is finite, so another draw of as many images of the same kind would
have given another score. What it does not hold: the luck of training, which Student's interval over
seeds shows; other domains; and whether the images stand for the world. The two intervals answer two
questions and neither contains the other. A redrawn set has doubles and misses a third of its
images, so a worst target leans to the low side, and AP to the high one (AP50 by 0.2 to 0.7 points
on 100 images, mIoU by 0.0): the score itself stands at the middle of its interval only roughly.

Domains that show the same scenes in another appearance (`scenes` of `by_image.measured`) are
redrawn together: a hard scene is hard in all of them, and a mean over domains that were redrawn
each for itself would look surer than it is. One of them may show only the first of these scenes.
Other domains are redrawn independently.

Source: Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13 (percentiles).
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ibnvision.metrics import by_image
from ibnvision.metrics.by_image import Array, Statistics

from . import record, scores

DRAWS = 2000
LEAST = 10  # images of a set below which redraws say nothing of its size
LEVEL = 0.95
Stats = Mapping[str, Mapping[int, Mapping[str, Statistics]]]  # row -> seed -> domain
Fields = dict[str, float | int]  # image_low, image_high, images, redraws


class Redraws(NamedTuple):
    """values: row -> seed -> column -> float64 [draws]; images: column -> images redrawn for it,
    those of domains with the same scenes once.
    """

    values: dict[str, dict[int, dict[str, Array]]]
    images: dict[str, int]


def redraw(
    stats: Stats, roles: scores.Roles, field: str, draws: int = DRAWS, seed: int = 0
) -> Redraws:
    """The score of every run in every column of `scores.columns` on redrawn test sets.

    field: of the metric, one of `metrics.by_image.SCORES`. A domain of fewer than LEAST images has
    no values, nor has a column that it is part of.

    Raises: ValueError where two runs were not measured on the same pictures of a domain.
    """
    sets = {domain: found for domain, found in _sets(stats).items() if found[1] >= LEAST}
    weights = {
        scenes: _weights(scenes, images, draws, seed)
        for scenes, images in _largest(sets.values()).items()
    }
    values: dict[str, dict[int, dict[str, Array]]] = {}
    for row, by_seed in stats.items():
        values[row] = {}
        for number, found in by_seed.items():
            redrawn = {
                d: by_image.scores(one, field, weights[sets[d][0]][:, : sets[d][1]]).tolist()
                for d, one in found.items()
                if d in roles and d in sets
            }
            table = [
                scores.of_run({domain: column[r] for domain, column in redrawn.items()}, roles)
                for r in range(draws)
            ]
            values[row][number] = {c: np.array([line[c] for line in table]) for c in table[0]}
    return Redraws(values, _images(sets, roles))


def intervals(redraws: Redraws) -> dict[str, dict[str, Fields]]:
    """Row -> column -> the interval of its mean over seeds, as fields of a record."""
    return {row: _fields(list(runs.values()), redraws) for row, runs in redraws.values.items()}


def difference_intervals(
    redraws: Redraws, pairs: Sequence[tuple[str, str]]
) -> dict[tuple[str, str], dict[str, Fields]]:
    """(row, rival) -> column -> that of row minus rival, over the seeds that both have.

    Both are scored on the same redrawn images. A pair that shares no seed is left out.
    """
    found = {}
    for row, rival in pairs:
        ours, theirs = (redraws.values.get(name, {}) for name in (row, rival))
        apart = [
            {c: ours[s][c] - theirs[s][c] for c in ours[s] if c in theirs[s]}
            for s in ours
            if s in theirs
        ]
        if apart:
            found[row, rival] = _fields(apart, redraws)
    return found


def table(cells: Sequence[Mapping[str, Any]], unit: str, digits: int = 1) -> str:
    """Markdown: the target mean of each row with both intervals, and which of them is wider.

    cells: records of one metric, with the fields of `intervals`; unit: of the scores.
    """
    found = [r for r in cells if r["column"] == scores.MEAN and "image_low" in r]
    if not found:
        return ""
    lines = [
        [r["model"], str(r["n"]), f"{r['value']:.{digits}f}"]
        + [_text(r, "low", "high", digits), _text(r, "image_low", "image_high", digits)]
        for r in found
    ]
    head = ["row", "seeds", f"{scores.MEAN}, {unit}", "95 % over seeds (t)"]
    made = record.table([*head, "95 % over images (bootstrap)"], lines)
    return f"{made}\n\n{wider(found, unit, digits)}"


def wider(found: Sequence[Mapping[str, Any]], unit: str, digits: int = 1) -> str:
    """Which of the two intervals is wider, and what each holds, in plain sentences."""
    first = found[0]
    text = (
        f"Over images: {first['redraws']} redraws of {first['images']} test images, under the "
        "trained networks as they are, so it holds the finite test set and not the luck of "
        "training; over seeds: the luck of training on this very test set. "
    )
    both = [r for r in found if "low" in r]
    if not both:
        return f"{text}There is no interval over seeds, which takes three."
    seeds, images = ([r[f"{name}high"] - r[f"{name}low"] for r in both] for name in ("", "image_"))
    count = sum(s > i for s, i in zip(seeds, images, strict=True))
    middle = [f"{float(np.median(widths)):.{digits}f}" for widths in (seeds, images)]
    widths = f"median width {middle[0]} {unit} over seeds, {middle[1]} over images"
    if count == len(both):
        return f"{text}The interval over seeds is the wider one in every row ({widths})."
    if count == 0:
        return f"{text}The interval over images is the wider one in every row ({widths})."
    return (
        f"{text}The interval over seeds is the wider one in {count} of {len(both)} rows, that over "
        f"images in {len(both) - count} ({widths})."
    )


def _sets(stats: Stats) -> dict[str, tuple[str, int]]:
    """Domain -> its scenes and number of images, the same in all runs."""
    sets: dict[str, tuple[str, int]] = {}
    for row, by_seed in stats.items():
        for number, found in by_seed.items():
            for domain, one in found.items():
                mine = (str(one["scenes"]), int(one["images"]))
                if sets.setdefault(domain, mine) != mine:
                    raise ValueError(
                        f"stats must be of the same pictures in all runs, but {row}, seed {number} "
                        f"saw {mine[1]} others on {domain}"
                    )
    return sets


def _largest(sets: Iterable[tuple[str, int]]) -> dict[str, int]:
    """Scenes -> the most images that a set shows of them; another set shows the first of these."""
    found: dict[str, int] = {}
    for scenes, images in sets:
        found[scenes] = max(images, found.get(scenes, 0))
    return found


def _images(sets: Mapping[str, tuple[str, int]], roles: scores.Roles) -> dict[str, int]:
    """Column -> how many images were redrawn for it."""

    def count(*asked: str) -> int:
        return sum(_largest(sets[d] for d in asked if d in sets).values())

    source, target = ([d for d, r in roles.items() if r == role] for role in ("source", "target"))
    derived = {scores.SOURCE: source, scores.MEAN: target, scores.WORST: target}
    derived[scores.GAP] = [*source, *target]
    return {d: count(d) for d in sets} | {c: count(*asked) for c, asked in derived.items()}


def _weights(scenes: str, images: int, draws: int, seed: int) -> Array:
    """How often each image is in each redrawn set: int64 [draws, images]; of (seed, scenes) alone.

    scenes: hexadecimal.
    """
    rng = np.random.default_rng([seed, int(scenes, 16)])
    return rng.multinomial(images, np.full(images, 1 / images), draws)


def _fields(runs: Sequence[Mapping[str, Array]], redraws: Redraws) -> dict[str, Fields]:
    """Column -> the interval of the mean over runs; redraws that leave it undefined do not count.

    A column that is undefined in a run is averaged over the others, as in `scores.summarize`.
    """
    made: dict[str, Fields] = {}
    for column in runs[0]:
        defined = [run[column] for run in runs if not np.isnan(run[column]).all()]
        if not defined:
            continue
        values = np.mean(defined, 0)
        values = values[~np.isnan(values)]
        if not len(values):
            continue
        low, high = np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2]).tolist()
        made[column] = {"image_low": low, "image_high": high}
        made[column] |= {"images": redraws.images[column], "redraws": len(values)}
    return made


def _text(r: Mapping[str, Any], low: str, high: str, digits: int) -> str:
    return f"{r[low]:.{digits}f} to {r[high]:.{digits}f}" if low in r else "-"
