"""Redrawn scenes and calibration of the resolution benchmark, from what each scene adds.

Each probe is a study of its own: its source is the trained size, its targets are the larger ones.
The scenes of a sheet are redrawn one by one, each with the score that it has among its neighbours.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from ibnvision.metrics import by_image
from ibnvision.metrics.by_image import Statistics

from . import beside, calibration, record, redraws, scores
from . import resolution_scores as words
from .resolution_rows import FIELD
from .run_results import cell_records

Views = Mapping[str, Mapping[int, Mapping[str, Statistics]]]  # view -> seed -> size, as "2x"

ROLES = {words.size(scale): words.place(scale)["role"] for scale in words.SCALES}


def of_probe(stats: Views, pairs: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """As of `beside.of_study`, of one probe: `records` of the columns over sizes and of
    calibration, and the `intervals` over scenes, of scores and of `differences`.
    """
    plain = {
        view: {
            seed: {at: by_image.whole(one, FIELD) for at, one in sizes.items()}
            for seed, sizes in by_seed.items()
        }
        for view, by_seed in stats.items()
    }
    errors = {
        view: {
            seed: {at: {"ece_pct": by_image.whole(one, "ece_pct")} for at, one in sizes.items()}
            for seed, sizes in by_seed.items()
        }
        for view, by_seed in stats.items()
    }
    drawn = redraws.redraw(stats, ROLES, FIELD)
    apart = redraws.difference_intervals(drawn, [p for p in pairs if set(p) <= set(stats)])
    head = {"metric": words.OVER_SIZES, "unit": "% mIoU"}
    columns = (scores.WORST, scores.MEAN, scores.GAP)
    found = cell_records(scores.summarize(plain, ROLES), ROLES, columns, head)
    return {
        "records": [*found, *calibration.calibration_cells(errors, ROLES)],
        "intervals": redraws.intervals(drawn),
        "differences": [[row, rival, cells] for (row, rival), cells in apart.items()],
    }


def merged(
    found: Sequence[record.Record], by_probe: Mapping[str, Mapping[str, Any]]
) -> list[record.Record]:
    """The records of a study, and those of `of_probe` by probe, each with its image interval."""
    made = []
    for probe in words.PROBES:
        measured = by_probe.get(probe, beside.NOTHING)
        mine = [*found, *(r | {"probe": probe} for r in measured["records"])]
        mine = [r for r in mine if r["probe"] == probe]
        made += beside.merged(mine, [words.MIOU, words.OVER_SIZES], words.DIFFERENCE, measured)
    return made


def after(found: Sequence[record.Record]) -> str:
    """The Markdown of one run, with what redrawn scenes and calibration say below it."""
    return "\n\n".join(filter(None, [words.block(found), block(found)]))


def block(found: Sequence[record.Record]) -> str:
    """The Markdown of one run: per probe the mean over the larger sizes with both intervals, and
    the calibration."""
    parts = []
    for probe in words.PROBES:
        mine = [r for r in found if r.get("probe") == probe]
        if text := beside.block(mine, words.OVER_SIZES, "mIoU %"):
            about = f"**{probe}**, over sizes: the source is {words.size(1)}, the targets are "
            parts += [f"{about}{', '.join(map(words.size, words.SCALES[1:]))}.", text]
    return "\n\n".join(parts)
