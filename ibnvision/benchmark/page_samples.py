"""What the networks of the recorded studies see: the kept pictures, a grid a domain."""

import html
from collections.abc import Callable, Mapping, Sequence

from . import dehazing_scores, detection_scores, page, record, scores
from .kept_pictures import Sample

Records = Sequence[record.Record]
Kept = Sequence[tuple[Sample, bytes]]

# question -> metric of its records, as a caption names it, and its names of domains
SCORES: dict[str, tuple[str, str, Callable[[str], str]]] = {
    "generalization": ("miou", "mIoU %", scores.short),
    "detection": (detection_scores.AP50, "AP50 %", scores.short),
    "dehazing": (dehazing_scores.PSNR, "PSNR in dB", dehazing_scores.short),
}
TITLE = "What the networks see"


def samples(runs: Sequence[Records], kept: Kept) -> str:
    """The pictures of those runs of a question that count; nothing where none are kept."""
    parts = []
    for run in runs:
        mine = [(sample, content) for sample, content in kept if sample.run == run[0]["run"]]
        if mine:
            parts.append(_study(run, mine))
    return "".join(parts)


def _study(run: Records, kept: Kept) -> str:
    """A run's pictures: what they are, then domain by domain in the order they were kept."""
    first = kept[0][0]
    metric, unit, short = SCORES[first.question]
    rows = {(r["model"], r["column"]): r for r in run if r["metric"] == metric}
    title = ", ".join(filter(None, [TITLE, record.about(run[0])]))
    words = f"{first.words} Below: {unit} on the whole split, mean over seeds. "
    words += f"Networks of seed {first.seed} after {first.step} steps, commit {first.commit}, "
    words += f"protocol {first.protocol[:16]}."
    parts = [f"<h3>{html.escape(title)}</h3>", f'<p class="note">{html.escape(words)}</p>']
    parts += [page.legend(first.classes) if first.classes else ""]
    for domain in dict.fromkeys(sample.domain for sample, _ in kept):
        group = [(s, content) for s, content in kept if s.domain == domain and s.file]
        if group:
            role = page.ROLES[group[0][0].role]
            name = html.escape(short(domain))
            drawn = [_figure(s, content, rows, broad=len(group) == 1) for s, content in group]
            parts.append(f"<h4>{name} <span>{role}</span></h4>")
            strip = f'<div class="samples" role="region" tabindex="0" aria-label="{name}">'
            parts.append(f"{strip}{''.join(drawn)}</div>")
    absent = [short(s.domain) for s, _ in kept if not s.file]
    if absent:
        text = f"Not shown: {', '.join(absent)}. Their frames come from a folder of the user, and "
        text += "their owners' terms do not let them be passed on."
        parts.append(f'<p class="note">{html.escape(text)}</p>')
    return "".join(parts)


def _figure(
    sample: Sample, content: bytes, rows: Mapping[tuple[str, str], record.Record], *, broad: bool
) -> str:
    """A picture above its rows and their scores from the records."""
    column = scores.SOURCE if sample.role == "source" else sample.domain
    named = [_score(row, rows.get((row, column))) for row in sample.rows]
    alt = f"{sample.domain}, {', '.join(sample.rows)}: {sample.words}"
    image = page.picture(content, alt, "webp", (sample.width, sample.height))
    return page.figure(image, " · ".join(named), "broad" if broad else "")


def _score(row: str, cell: record.Record | None) -> str:
    """A row with its mean, marked where it counts for nothing."""
    if cell is None:
        return f"{row} -"
    lost = f" ({detection_scores.NOT_CONVERGED})" if cell.get("not_converged") else ""
    return f"{row} {cell['value']:.1f}{lost}"
