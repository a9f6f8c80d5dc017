"""The generated Markdown of every benchmark question, from recorded lines alone.

Of a question the newest full run counts, for each device and number of threads apart.
"""

from collections.abc import Callable, Sequence

from . import (
    all_tasks,
    attention,
    beside,
    comparisons,
    corruptions,
    dehazing_scores,
    detection_scores,
    findings,
    lambda_converter,
    models,
    network_cost,
    op_tables,
    over_tasks,
    record,
    resolution_images,
    restoration,
    scaling_tables,
    scores,
    severity_tables,
)

Records = Sequence[record.Record]
NOTHING = "Nothing is recorded yet."
SETTING = "setting"  # of records: the config of a study where it is no preset's


def readme_tables(records: Records) -> dict[str, str]:
    """The generated parts of benchmarks/README.md by marker name."""
    parts = {"targets": findings.full_table(records), "tasks": over_tasks_of(records)}
    return parts | {bench: of_runs(bench, newest_runs(records, bench)) for bench in MAKERS}


def over_tasks_of(records: Records) -> str:
    """All tasks in one table."""
    runs = {bench: newest_runs(records, bench) for bench in over_tasks.QUESTIONS}
    return over_tasks.of_runs(runs) or NOTHING


def of_runs(bench: str, runs: Sequence[Records]) -> str:
    """The part of one question, from the runs that `newest_runs` gives."""
    make = MAKERS[bench][1]
    return "\n\n".join(f"{_origin(run[0])}\n\n{make(run)}" for run in runs) or NOTHING


def newest_runs(records: Records, bench: str) -> list[list[record.Record]]:
    """The full runs of a question that count, for each device, number of threads and what it asks.

    An operator's and a network's newest run counts, whatever else is timed later.
    """
    subject = MAKERS[bench][0]
    kinds: dict[tuple[str, int, str], list[record.Record]] = {}
    for r in records:
        if r["bench"] == bench and not r["quick"]:
            kind = r["device_type"], r.get("threads") or 0, r.get("what", "step")
            kinds.setdefault(kind, []).append(r)
    return [run for kind in sorted(kinds) for run in newest(kinds[kind], subject)]


def newest(records: Records, subject: str) -> list[list[record.Record]]:
    """The newest run of every value of the field `subject`; of all records where none has it.

    A run that tells no setting is of the presets' own and stands beside those that tell one.
    """
    told = [r for r in records if subject == SETTING or subject in r] or records[-1:]
    last = {r.get(subject, ""): r["run"] for r in told}
    return [
        [r for r in records if r["run"] == run and last.get(r.get(subject), run) == run]
        for run in sorted(set(last.values()))
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
    studied = [key for key in ("setting", "backbone") if run[0].get(key)]
    parts = [" ".join(f"{key.capitalize()} {run[0][key]}." for key in studied), text]
    parts += [comparisons.table(apart)]
    parts += [beside.block(run, "miou", "mIoU %")]
    parts += [record.table(["training", "images/CPU-s"], speeds) if speeds else ""]
    return "\n\n".join(filter(None, parts))


def _dehazing(run: Records) -> str:
    return beside.after(dehazing_scores.block(run), run, dehazing_scores.PSNR, "dB", 2)


def _detection(run: Records) -> str:
    return beside.after(detection_scores.block(run), run, detection_scores.AP50, "AP50")


# question -> the field whose values have a newest run each, and what makes Markdown of a run
MAKERS: dict[str, tuple[str, Callable[[Records], str]]] = {
    "ops": ("op", op_tables.tables),
    "models": ("model", models.tables),
    "restoration": ("", restoration.tables),
    "segmentation": ("", network_cost.tables),
    "detector": ("", network_cost.tables),
    "attention": ("", attention.tables),
    "scaling": ("op", scaling_tables.tables),
    "lambda_converter": ("", lambda_converter.tables),
    "generalization": ("study", _cells),
    "all_tasks": ("preset", all_tasks.tables),
    "dehazing": (SETTING, _dehazing),
    "detection": (SETTING, _detection),
    "corruptions": ("", corruptions.tables),
    "resolution": (SETTING, resolution_images.after),
    "severity": ("study", severity_tables.block),
}
