"""What do all recorded runs say?   ibnvision report

Rewrites the generated tables of benchmarks/README.md and the picture beside it from
benchmarks/results/*.jsonl, and the page of the newest generalization run from its results.json.
"""

import argparse
import base64
import html
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ibnvision import data

from . import (
    attention,
    comparisons,
    corruptions,
    dehazing_scores,
    detection_scores,
    lambda_converter,
    models,
    network_cost,
    op_tables,
    record,
    resolution_pictures,
    resolution_scores,
    restoration,
    scores,
    targets,
)

Results = Mapping[str, Any]

STYLE = """
:root { --ink: #20242c; --soft: #667085; --line: #e4e7ec; --blue: #2f55d4; --wash: #f6f7fb; }
* { box-sizing: border-box; }
body { margin: 0; color: var(--ink); background: #fff;
  font: 16px/1.6 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif; }
main { max-width: 1240px; margin: 0 auto; padding: 0 24px 64px; }
header { padding: 56px 24px 48px; color: #fff;
  background: linear-gradient(120deg, #16204a, #2f55d4 70%, #2a9d8f); }
header div { max-width: 1192px; margin: 0 auto; }
header p { font-size: 25px; line-height: 1.35; margin: 8px 0 0; max-width: 940px;
  font-weight: 600; }
header small { opacity: .8; letter-spacing: .08em; text-transform: uppercase; font-size: 12px; }
h2 { font-size: 21px; margin: 48px 0 12px; }
h3 { font-size: 15px; margin: 22px 0 4px; }
h3 span { color: var(--soft); font-weight: 400; }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(190px, 1fr));
  gap: 16px; margin: -28px 0 8px; }
.card { background: #fff; border: 1px solid var(--line); border-radius: 12px;
  padding: 16px 20px; box-shadow: 0 6px 18px rgba(22, 32, 74, .08); }
.card b { display: block; font-size: 30px; line-height: 1.15; }
.card span { color: var(--soft); font-size: 13px; line-height: 1.4; display: block; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: 13.5px;
  font-variant-numeric: tabular-nums; }
th, td { padding: 8px; border-bottom: 1px solid var(--line); text-align: right;
  white-space: nowrap; }
th { color: var(--soft); font-weight: 600; vertical-align: bottom; white-space: normal; }
th:first-child, td:first-child, table.plain td { text-align: left; }
table.plain td { white-space: normal; overflow-wrap: anywhere; vertical-align: top; }
table.plain td:first-child { width: 130px; color: var(--soft); overflow-wrap: normal; }
table.narrow { width: auto; min-width: 460px; }
td small { color: var(--soft); }
td.best { font-weight: 700; color: var(--blue); background: #eef2ff; }
td.failed { color: #b42318; white-space: normal; overflow-wrap: anywhere; }
img { width: 100%; height: auto; display: block; }
figure { margin: 0 0 8px; }
.note { color: var(--soft); font-size: 14px; max-width: 900px; }
.legend span { display: inline-block; margin: 0 14px 6px 0; font-size: 13px; }
.legend i { display: inline-block; width: 12px; height: 12px; border-radius: 3px;
  margin-right: 6px; vertical-align: -1px; }
p { max-width: 900px; }
code { background: var(--wash); padding: 1px 5px; border-radius: 4px; font-size: 12.5px;
  overflow-wrap: anywhere; }
footer { border-top: 1px solid var(--line); margin-top: 56px; padding-top: 16px;
  color: var(--soft); font-size: 13px; }
"""


def write_page(folder: Path) -> Path:
    """Make <folder>/report.html from its results.json and pictures; returns the page's path.

    Raises: FileNotFoundError where the folder holds no results.json.
    """
    source = folder / "results.json"
    if not source.is_file():
        raise FileNotFoundError(f"no {source}: run `ibnvision benchmark generalization` first")
    results = json.loads(source.read_text(encoding="utf-8"))
    page = folder / "report.html"
    record.replace_file(page, page_of(results, folder / "pictures"))
    return page


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
    body = "\n".join(part for part in parts if part)
    head = html.escape(scores.headline(results))
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>ibnvision: generalization</title><style>{STYLE}</style></head>
<body><header><div>
<small>ibnvision · generalization across domains</small><p>{head}</p>
</div></header>
<main>
{body}
<footer>Generated from results.json; no number on this page was typed.</footer>
</main></body></html>
"""


def _picture(path: Path, alt: str) -> str:
    coded = base64.b64encode(path.read_bytes()).decode("ascii")
    return f'<figure><img alt="{html.escape(alt)}" src="data:image/png;base64,{coded}"></figure>'


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
    cells = "".join(
        f'<div class="card"><b>{value}</b><span>{html.escape(text)}</span></div>'
        for value, text in cards
    )
    return f'<div class="cards">{cells}</div>'


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
    names = results["classes"]
    cells = "".join(
        f'<span><i style="background: rgb({r}, {g}, {b})"></i>{html.escape(name)}</span>'
        for name, (r, g, b) in zip(names, data.palette(names).tolist(), strict=True)
    )
    note = (
        "The first two scenes of every test split, first seed. The number is the row's mIoU on the "
    )
    note += "whole split. Black pixels of a target are not counted."
    return f'<p class="note">{note}</p><p class="legend">{cells}</p>'


def _predictions(results: Results, folder: Path) -> str:
    words = {
        "source": "source",
        "target": "unseen",
        "stress": "stress test",
        "real": "real frames, unseen",
    }
    parts = []
    for domain, name in results["pictures"]["predictions"].items():
        role = words[results["roles"][domain]]
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
    cfg = results["config"]
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
        "protocol": f"{results['protocol']} (data, appearance recipe, configs without seed)",
        "appearance recipe": results["recipe"],
        "reused runs": str(sum(run["reused"] for row in results["rows"] for run in row["runs"])),
        "time": f"{results['wall_s']:.0f} s; {results['scene_cpu_s']:.3f} CPU-s a drawn scene",
    }
    lines = "".join(
        f"<tr><td>{html.escape(key)}</td><td>{html.escape(value)}</td></tr>"
        for key, value in rows.items()
    )
    return f'<table class="plain">{lines}</table>'


def readme_tables(records: Sequence[record.Record]) -> dict[str, str]:
    """The generated parts of benchmarks/README.md by marker name, from the newest full runs.

    An operator's and a network's newest run counts, whatever else is timed later.
    """
    full = [r for r in records if not r["quick"]]
    parts = {"targets": targets.full_table(records)}
    for bench, subject, make in (
        ("ops", "op", op_tables.tables),
        ("models", "model", models.tables),
        ("restoration", "", restoration.tables),
        ("segmentation", "", network_cost.tables),
        ("detector", "", network_cost.tables),
        ("attention", "", attention.tables),
        ("lambda_converter", "", lambda_converter.tables),
        ("generalization", "study", _cells),
        ("dehazing", "", dehazing_scores.block),
        ("detection", "", detection_scores.block),
        ("corruptions", "", corruptions.tables),
        ("resolution", "", resolution_scores.block),
    ):
        kinds = sorted(
            {(r["device_type"], r.get("threads") or 0) for r in full if r["bench"] == bench}
        )
        texts = []
        for kind in kinds:
            mine = [
                r
                for r in full
                if r["bench"] == bench and (r["device_type"], r.get("threads") or 0) == kind
            ]
            for run in _newest(mine, subject):
                texts.append(f"{_origin(run[0])}\n\n{make(run)}")
        parts[bench] = "\n\n".join(texts) or "Nothing is recorded yet."
    return parts


def _newest(records: Sequence[record.Record], subject: str) -> list[list[record.Record]]:
    """The newest run of every value of the field `subject`; of all records where none has it."""
    newest = {r[subject]: r["run"] for r in records if subject in r} or {"": records[-1]["run"]}
    return [
        [r for r in records if r["run"] == run and newest.get(r.get(subject), run) == run]
        for run in sorted(set(newest.values()))
    ]


def _origin(r: record.Record) -> str:
    text = f"`{r['command']}` on {r['device']}, torch {r['torch']}, {r['date'][:10]}"
    return f"{text}, commit {r['commit']}." if r["commit"] else f"{text}."


def _cells(run: Sequence[record.Record]) -> str:
    """The generalization table from its records."""
    cells = [r for r in run if r["metric"] == "miou"]
    columns = list(dict.fromkeys(r["column"] for r in cells))
    names = dict.fromkeys((r["model"], r["augment"]) for r in cells)
    found = {(r["model"], r["column"]): {**r, "mean": r["value"]} for r in cells}
    rows = [
        [name, augment, *(scores.cell_text(found.get((name, c))) for c in columns)]
        + [scores.interval_text(found.get((name, scores.MEAN)))]
        for name, augment in names
    ]
    header = ["row", "augmentation", *map(scores.short, columns), "target mean, 95 %"]
    speeds = [
        [f"{r['model']}: {r['backend']}", f"{r['value']:.1f}"]
        for r in run
        if r["metric"] == "training images/s"
    ]
    text = record.table(header, rows)
    apart = [{**r, "mean": r["value"]} for r in run if r["metric"] == "difference"]
    parts = [f"Backbone {run[0]['backbone']}." if "backbone" in run[0] else "", text]
    parts += [comparisons.table(apart)]
    parts += [record.table(["training", "images/CPU-s"], speeds) if speeds else ""]
    return "\n\n".join(filter(None, parts))


def rewrite(text: str, parts: Mapping[str, str]) -> str:
    """`text` with each part between its markers, <!-- generated: NAME --> and <!-- end: NAME -->.

    Raises: ValueError where a marker is missing.
    """
    for name, part in parts.items():
        start, end = f"<!-- generated: {name} -->", f"<!-- end: {name} -->"
        if text.count(start) != 1 or text.count(end) != 1:
            raise ValueError(f"the file must hold {start} and {end} once each")
        before, rest = text.split(start)
        after = rest.split(end)[1]
        text = f"{before}{start}\n{part}\n{end}{after}"
    return text


def _has_page(path: Path) -> bool:
    """Whether a results.json is of the generalization benchmark, the one with a page."""
    results = json.loads(path.read_text(encoding="utf-8"))
    return results["environment"].get("bench", "generalization") == "generalization"


def main(argv: Sequence[str]) -> int:
    """Rewrite what there is to rewrite; 0, or 1 where there is nothing."""
    parser = argparse.ArgumentParser(
        prog="ibnvision report",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--results", default="benchmarks/results", help="folder of the JSON-lines files"
    )
    parser.add_argument("--readme", default="benchmarks/README.md")
    parser.add_argument(
        "--runs", default="runs", help="where the newest results.json is looked for"
    )
    args = parser.parse_args(argv)
    readme, folder, written = Path(args.readme), Path(args.results), []
    if readme.is_file() and folder.is_dir():
        records = record.read_folder(folder)
        parts = readme_tables(records)
        record.replace_file(readme, rewrite(readme.read_text(encoding="utf-8"), parts))
        written.append(f"tables      {readme}")
        resolution = [r for r in records if r["bench"] == "resolution" and not r["quick"]]
        if resolution:
            newest = _newest(resolution, "")[-1]
            written.append(f"picture     {resolution_pictures.write(newest, readme.parent)}")
    pages = sorted(
        filter(_has_page, Path(args.runs).glob("*/results.json")),
        key=lambda path: path.stat().st_mtime,
    )
    if pages:
        written.append(f"report      {write_page(pages[-1].parent)}")
    if not written:
        print(
            f"nothing to report: neither {readme} with {folder} "
            f"nor a results.json below {args.runs}"
        )
        return 1
    print("\n".join(written))
    return 0
