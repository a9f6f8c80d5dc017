"""The figures of the page over all records, question by question.

A figure takes the place of a picture of its name in the generated text, or stands above the text.
"""

import html
from collections.abc import Callable, Mapping, Sequence

from matplotlib.figure import Figure

from . import (
    ceilings,
    page,
    page_plots,
    record,
    resolution_pictures,
    resolution_scores,
    roofline,
    scaling_pictures,
    severity_pictures,
)

Records = Sequence[record.Record]
Drawn = Mapping[str, str]  # name -> HTML
Make = Callable[[Records], Figure]

_COPIES = (
    "Time by that of one copy of the tensor, which no pass can undercut by much: lower is better, "
    "dashed is one copy. Right of the dotted line a tensor is larger than the last-level cache. "
    "Forward in training mode; operators without a backward have fewer panels."
)
_ROOFS = (
    "Operations a second against operations a byte, both counted from the shapes as the least that "
    "a pass needs; the line is what a large copy and a large matrix product reached in the same "
    "run. Filled is the kernel, hollow are its rivals; a large mark is a tensor larger than the "
    "last-level cache, a small one may stand above the slope, as the cache is faster than memory. "
    "One above the level did more than the product that was timed. Rivals that compute another "
    "function have no mark."
)
_RATES = (
    "Operations of matrix products and convolutions a second, over a whole training step; the line "
    "is the rate of a large matrix product in the same run. Bare has no norms and activations."
)


def in_text(name: str, make: Make, caption: str) -> Callable[[Sequence[Records]], Drawn]:
    """Of the newest run, where the generated text shows the picture `name`."""

    def drawn(runs: Sequence[Records]) -> Drawn:
        return {name: _broad(make(runs[-1]), name.partition(".")[0], caption)}

    return drawn


def above(bench: str, make: Make, caption: str) -> Callable[[Sequence[Records]], Drawn]:
    """Of every run, above the text."""

    def drawn(runs: Sequence[Records]) -> Drawn:
        names = [f"{bench}{i}" for i in range(len(runs))]
        return {n: _broad(make(run), n, caption) for n, run in zip(names, runs, strict=True)}

    return drawn


def _broad(made: Figure, name: str, caption: str, title: str = "") -> str:
    """Inline SVG with its caption; title: what it shows, where that is not the caption."""
    return page.figure(page_plots.svg(made, name, title or caption), caption, "broad")


def _ops(runs: Sequence[Records]) -> Drawn:
    """Times in copies, then the rooflines, each group above the words that explain it."""
    copies, roofs = [], []
    for i, run in enumerate(runs):
        for j, (name, made) in enumerate(page_plots.copies(run).items()):
            title = f"{name}: time in copies against the size of the tensor"
            copies.append(f"<h4>{name}</h4>{_broad(made, f'ops{i}x{j}', '', title)}")
        best = ceilings.text([r for r in run if r["metric"] == "ceiling"])
        for j, (name, made) in enumerate(roofline.rooflines(run).items()):
            title = f"{name}: operations a second against operations a byte"
            drawing = _broad(made, f"roof{i}x{j}", "", title)
            roofs.append(f"<h4>{name} <span>{html.escape(best)}</span></h4>{drawing}")
    return {
        "copies": _group("Time in copies of the tensor", copies, _COPIES),
        "roofline": _group("Roofline", roofs, _ROOFS),
    }


def _group(title: str, drawn: Sequence[str], words: str) -> str:
    if not drawn:
        return ""
    return f'<h3>{title}</h3><p class="note">{html.escape(words)}</p>{"".join(drawn)}'


def _models(runs: Sequence[Records]) -> Drawn:
    """Rates of training steps, of the runs that counted their operations."""
    made = {f"models{i}": roofline.rates(run) for i, run in enumerate(runs)}
    return {
        name: page.figure(page_plots.svg(figure, name, _RATES), _RATES, "small")
        for name, figure in made.items()
        if figure
    }


def _scaling(runs: Sequence[Records]) -> Drawn:
    """A figure for each operator and network, with a panel per variable."""
    found = {}
    for i, run in enumerate(runs):
        for j, (name, made) in enumerate(scaling_pictures.figures(run).items()):
            caption = (
                f"{name}: time against batch, resolution, channels and threads; dashed: linear."
            )
            found[f"scaling{i}x{j}"] = _broad(made, f"scaling{i}x{j}", caption)
    return found


# question -> its figures of the runs that count, of which there is at least one
FIGURES: dict[str, Callable[[Sequence[Records]], Drawn]] = {
    "detection": above(
        "detection",
        page_plots.detection_bars,
        "AP50 per domain; thin lines are Student's 95 % interval over seeds.",
    ),
    "resolution": in_text(
        resolution_scores.NAME,
        resolution_pictures.figure,
        "mIoU, time and memory against the side length of the picture, a line a row.",
    ),
    "severity": above(
        "severity",
        severity_pictures.figure,
        "Score against severity, mean over corruptions, and against the scale of the pictures.",
    ),
    "ops": _ops,
    "models": _models,
    "scaling": _scaling,
}
