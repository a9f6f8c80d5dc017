"""The page of one generalization run: report.html from its results.json and pictures."""

import html
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from . import comparisons, page, record, scores

Results = Mapping[str, Any]


def write_page(folder: Path) -> Path:
    """Make <folder>/report.html from its results.json and pictures; returns the page's path.

    Raises: FileNotFoundError where the folder holds no results.json.
    """
    source = folder / "results.json"
    if not source.is_file():
        raise FileNotFoundError(f"no {source}: run `ibnvision benchmark generalization` first")
    results = json.loads(source.read_text(encoding="utf-8"))
    target = folder / "report.html"
    record.replace_file(target, page_of(results, folder / "pictures"))
    return target


def page_of(results: Results, folder: Path) -> str:
    """The self-contained page; pictures are read from `folder` and carried inside."""
    parts = [
        _cards(results),
        "<h2>Scores</h2>",
        _score_table(results),
        f'<p class="note">{html.escape(scores.rules(results))}</p>',
        _dropped(results),
        _picture(folder / results["pictures"]["scores"], "mIoU per domain and row"),
        "<h2>What the networks see</h2>",
        _legend(results),
        _predictions(results, folder),
        "<h2>Reading the numbers</h2>",
        *(f"<p>{html.escape(text)}</p>" for text in scores.discussion(results)),
        f"<p>{html.escape(comparisons.ordering(results.get('differences', [])))}</p>",
        "<h2>Curves</h2>",
        _picture(folder / results["pictures"]["curves"], "loss and mIoU over the training steps"),
        "<h2>Classes</h2>",
        _picture(folder / results["pictures"]["classes"], "IoU per class"),
        "<h2>Throughput</h2>",
        _throughput(results),
        "<h2>Where these numbers come from</h2>",
        _provenance(results),
    ]
    head = f"<p>{html.escape(scores.headline(results))}</p>"
    foot = "Generated from results.json; no number on this page was typed."
    title = "generalization across domains"
    return page.document("ibnvision: generalization", title, head, parts, foot)


def _picture(path: Path, alt: str) -> str:
    return page.figure(page.picture(path.read_bytes(), alt), "")


def _cards(results: Results) -> str:
    summary, cards = results["summary"], []
    gain = scores.advantage(summary, "IBN-b", scores.BASE, scores.MEAN)
    home = scores.advantage(summary, "IBN-b", scores.BASE, scores.SOURCE)
    if gain and home:
        cards.append((f"{gain['mean']:+.1f}", "mIoU points on the target mean, IBN-b against BN"))
        cards.append((f"{home['mean']:+.1f}", "mIoU points on the source, IBN-b against BN"))
    for domain in (d for d, r in results["roles"].items() if r == "real"):
        real = scores.advantage(summary, "IBN-b", scores.BASE, domain)
        if real:
            cards.append(
                (f"{real['mean']:+.1f}", f"mIoU points on {scores.short(domain)}, IBN-b against BN")
            )
    rates = {(t["row"], t["ops"]): t["images_per_s"] for t in results["throughput"]}
    if {("IBN-b", "kernel"), ("IBN-b", "fallback")} <= set(rates):
        ratio = rates["IBN-b", "kernel"] / rates["IBN-b", "fallback"]
        cards.append((f"{ratio:.2f}×", "training speed of IBN-b with the kernels on"))
    return page.cards(cards)


def _score_table(results: Results) -> str:
    roles, summary = results["roles"], results["summary"]
    columns = scores.columns(roles)
    best = {}
    for column in columns:
        means = {row: cells[column]["mean"] for row, cells in summary.items() if column in cells}
        if means:
            best[column] = (min if column == scores.GAP else max)(means, key=means.__getitem__)
    names = ["row", "augmentation", *(scores.short(c) for c in columns), "target mean, 95 %"]
    head = "".join(f"<th>{html.escape(name)}</th>" for name in names)
    rows = []
    for row in results["rows"]:
        cells = summary.get(row["name"], {})
        line = f"<td><b>{html.escape(row['name'])}</b></td><td>{html.escape(row['augment'])}</td>"
        for column in columns:
            cell = cells.get(column)
            mark = ' class="best"' if best.get(column) == row["name"] else ""
            text = "-" if cell is None else f"{cell['mean']:.1f}"
            if cell and cell["n"] > 1:
                text += f" <small>± {cell['std']:.1f}</small>"
            line += f"<td{mark}>{text}</td>"
        line += f"<td>{scores.interval_text(cells.get(scores.MEAN))}</td>"
        rows.append(f"<tr>{line}</tr>")
        for name, words in row["failed"].items():
            text = html.escape(f"{name} failed: {words}")
            rows.append(f'<tr><td class="failed" colspan="{len(names)}">{text}</td></tr>')
    return f'<div class="wide"><table><tr>{head}</tr>{"".join(rows)}</table></div>'


def _dropped(results: Results) -> str:
    if not results["dropped_seeds"]:
        return ""
    seeds = ", ".join(map(str, results["dropped_seeds"]))
    return (
        f'<p class="note">Seeds {seeds} were left out to keep the time budget of this machine; '
        "<code>--minutes 0</code> removes it.</p>"
    )


def _legend(results: Results) -> str:
    note = (
        "The first two scenes of every test split, first seed. The number is the row's mIoU on the "
    )
    note += "whole split. Black pixels of a target are not counted."
    return f'<p class="note">{note}</p>{page.legend(results["classes"])}'


def _predictions(results: Results, folder: Path) -> str:
    parts = []
    for domain, name in results["pictures"]["predictions"].items():
        role = page.ROLES[results["roles"][domain]]
        parts.append(f"<h3>{html.escape(scores.short(domain))} <span>{role}</span></h3>")
        parts.append(_picture(folder / name, f"predictions on {domain}"))
    return "\n".join(parts)


def _throughput(results: Results) -> str:
    rows = "".join(
        f"<tr><td>{html.escape(t['row'])}</td><td>{html.escape(t['ops'])}</td><td>{t['images_per_s']:.1f}</td>"
        f"<td>{t['spread']['q1']:.1f} to {t['spread']['q3']:.1f}</td></tr>"
        for t in results["throughput"]
    )
    note = "Whole training steps on one thread, images per CPU second, interleaved medians of "
    note += f"{results['throughput'][0]['n']} repetitions with quartiles. "
    note += "; ".join(f"{name}: {path}" for name, path in results["ops"].items())
    head = "<tr><th>network</th><th>ops</th><th>images/s</th><th>quartiles</th></tr>"
    return f'<table class="narrow">{head}{rows}</table><p class="note">{html.escape(note)}.</p>'


def _provenance(results: Results) -> str:
    env, roles = results["environment"], results["roles"]
    sets = "; ".join(f"{d} ({roles[d]}, {n} images)" for d, n in results["images"].items())
    cfg, scene_s = results["config"], results["scene_cpu_s"]
    drawing = "" if scene_s is None else f"; {scene_s:.3f} CPU-s a drawn scene"
    training = f"{cfg['steps']} steps of {cfg['batch_size']} images, "
    training += f"{cfg['optimizer']}, lr {cfg['lr']}"
    rows = {
        "command": env["command"],
        "rows": "; ".join(f"{row['name']}: {row['command']}" for row in results["rows"]),
        "network": f"{cfg['model']} {json.dumps(cfg['model_args'])}",
        "training": training,
        "test sets": sets,
        "selection": results["selection"],
        "absent classes": results["absent_rule"],
        "device": env["device"],
        "operators": "; ".join(f"{name}: {path}" for name, path in results["ops"].items()),
        "versions": f"ibnvision {env['ibnvision']}, torch {env['torch']}, Python {env['python']}",
        "commit": env["commit"] or "outside a checkout",
        "date": env["date"],
        "protocol": f"{results['protocol']} (of manifest.json without rows and seeds)",
        "appearance recipe": results["recipe"],
        "reused runs": str(sum(run["reused"] for row in results["rows"] for run in row["runs"])),
        "time": f"{results['wall_s']:.0f} s{drawing}",
    }
    lines = "".join(
        f"<tr><td>{html.escape(key)}</td><td>{html.escape(value)}</td></tr>"
        for key, value in rows.items()
    )
    return f'<table class="plain">{lines}</table>'
