"""How bad must a picture get to cost half of the score?   ibnvision benchmark severity

Takes the folder of a finished study (generalization, detection or dehazing), trains nothing, and
measures the last checkpoint of its rows and seeds on the first pictures of the source's test split:
under corruptions at five severities, and in segmentation at scales from half to twice the size. The
critical severity is the lowest at which half of the clean score is lost. A restart goes on with
what is missing. Leaves results.json, table.md, records.jsonl, scores.jsonl and severity.png.
"""

import argparse
import dataclasses
import json
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from ibnvision import config
from ibnvision.config import Config
from ibnvision.data.corruptions import SEVERITIES, VERSION
from ibnvision.engine import find_task, sets
from ibnvision.engine.progress import StopRequest
from ibnvision.engine.robustness import check_severities, corruptions_of

from . import manifest, record, run_results, severity_pictures, severity_rows, severity_tables
from . import severity_scores as words
from .children import lock_folder
from .measure import cell
from .runs import UNITS, speaker
from .severity_rows import Condition, Network, Pictures, Scores

STUDIES = ("generalization", "detection", "dehazing")
NO_SCALES = (
    "only segmentation is measured against scale: in detection the size at which a picture is seen "
    "is the network's own, in dehazing the clear picture would change with the hazy one"
)


def study_of(folder: Path) -> dict[str, Any]:
    """The results.json of a finished study.

    Raises: FileNotFoundError where there is none, ValueError for another question's.
    """
    path = folder / "results.json"
    if not path.is_file():
        raise FileNotFoundError(f"--study must be the folder of a finished study, got no {path}")
    results = json.loads(path.read_text(encoding="utf-8"))
    bench = results["environment"].get("bench", STUDIES[0])  # younger than the first study
    if bench not in STUDIES:
        raise ValueError(f"--study must be one of {', '.join(STUDIES)}, got {bench} in {folder}")
    return results


def conditions_of(
    domains: Sequence[str],
    corruptions: Sequence[str],
    severities: Sequence[int],
    scales: Sequence[float],
) -> list[Condition]:
    """All that the networks of a study are measured under, the clean pictures of a domain first."""
    found = []
    for domain in domains:
        found.append(Condition(domain))
        found += [Condition(domain, scale=s) for s in scales]
        found += [Condition(domain, name, s) for name in corruptions for s in severities]
    return found


def manifest_of(
    study: Mapping[str, Any],
    found: Sequence[Network],
    conditions: Sequence[Condition],
    pictures: Pictures,
    key: str,
) -> manifest.Manifest:
    """The study's, with its hash and all that this measurement adds to the meaning of a number."""
    measured = {
        "score": key,
        "split": severity_rows.SPLIT,
        "pictures": {domain: len(held) for domain, held in pictures.clean.items()},
        "pictures_sha256": pictures.hashes,
        "corruptions": list(dict.fromkeys(c.corruption for c in conditions if c.corruption)),
        "corruption_version": VERSION,
        "corruption_seed": severity_rows.SEED,
        "severities": sorted({c.severity for c in conditions if c.corruption}),
        "scales": sorted({c.scale for c in conditions if c.scale}),
    }
    kept = {row["name"]: row["command"] for row in study["rows"]}
    made = {"format": manifest.FORMAT} | study.get("manifest", {})
    rows = {n.row: made.get("rows", {}).get(n.row, kept[n.row]) for n in found}
    made |= {"rows": rows, "seeds": sorted({n.seed for n in found})}
    return made | {"study": study["protocol"], "severity": measured}


def study_name(study: Mapping[str, Any], rows: Sequence[str], left: Mapping[str, str]) -> str:
    """The question, setting and backbone of a study, and how many rows where not all were asked."""
    names = [row["name"] for row in study["rows"]]
    parts = [study["environment"].get("bench", STUDIES[0])]
    parts += [about] if (about := record.about(study["environment"] | study)) else []
    unasked = [name for name in names if name not in rows and name not in left]
    return ", ".join([*parts, *([f"{len(rows)} of {len(names)} rows"] if unasked else [])])


def collect(
    study: Mapping[str, Any],
    found: Sequence[Network],
    conditions: Sequence[Condition],
    scores: Scores,
    common: record.Record,
    left: Mapping[str, str],
) -> dict[str, Any]:
    """results.json: everything that tables, picture and records are made from."""
    cfg = config.from_dict(study["config"])
    key = find_task(cfg).score
    made = manifest_of(study, found, conditions, scores.pictures, key)
    by_row: dict[str, dict[int, list[float | None]]] = {}
    spent: dict[str, dict[int, float]] = {}
    for n in found:
        by_row.setdefault(n.row, {})[n.seed] = [scores.of(n, c) for c in conditions]
        spent.setdefault(n.row, {})[n.seed] = scores.cpu_s(n, conditions)
    return {
        "environment": common,
        "study": study_name(study, list(by_row), left),
        "task": cfg.task,
        "key": key,
        "roles": {c.domain: study["roles"].get(c.domain, "target") for c in conditions},
        "source": list(cfg.train_domains),
        "selection": study["selection"],
        "manifest": made,
        "protocol": manifest.digest(made),
        "not_converged": {row: study.get("not_converged", {}).get(row, "") for row in by_row},
        "conditions": [c._asdict() for c in conditions],
        "scores": by_row,
        "cpu_s": spent,
        "left_out": left,
    }


def records_of(results: Mapping[str, Any], common: record.Record) -> list[record.Record]:
    """One record per cell of the tables."""
    key, why, measured = (results[k] for k in ("key", "not_converged", "manifest"))
    common = common | {k: results[k] for k in ("study", "task", "protocol", "selection", "source")}
    common |= {"threads": 1, "dtype": "fp32", "score": UNITS[key], "left_out": results["left_out"]}
    common |= {"study_protocol": measured["study"]}
    conditions = [Condition(**c) for c in results["conditions"]]
    found: list[record.Record] = []
    for domain, role in results["roles"].items():
        told = {k: measured["severity"][k][domain] for k in ("pictures", "pictures_sha256")}
        summary = {}
        mine: list[record.Record] = []
        for row, by_seed in results["scores"].items():
            values = {s: dict(zip(conditions, v, strict=True)) for s, v in by_seed.items()}
            summary[row] = words.summary_of(values, domain)
            head = {"model": row, "not_converged": why[row]}
            mine += [head | r for r in words.records_of(values, summary[row], domain, key)]
        mine += words.differences(summary, [row for row, lost in why.items() if not lost], key)
        found += [{"domain": domain, "role": role} | told | r for r in mine]
    for row, spent in results["cpu_s"].items():
        found.append({"metric": words.COST, "model": row, "unit": "s"} | cell(spent))
    return [common | fields for fields in found]


def _parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="ibnvision benchmark severity",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("--study", required=True, metavar="FOLDER", help="what a study left")
    made.add_argument("--rows", nargs="+", metavar="NAME", help='some of its rows, such as "IBN-b"')
    made.add_argument("--seeds", nargs="+", type=int, metavar="N", help="some of its seeds")
    made.add_argument("--domains", nargs="+", metavar="NAME", help="default: the study's source")
    made.add_argument("--data", action="append", default=[], metavar="NAME=DIR", help="of domains")
    made.add_argument(
        "--corruptions",
        nargs="+",
        default=["imagenet_c"],
        metavar="NAME",
        help="all, imagenet_c (its 15, the default), noise, blur, weather, digital or names",
    )
    made.add_argument(
        "--severities", nargs="+", type=int, default=list(SEVERITIES), metavar="N", help="1 to 5"
    )
    made.add_argument(
        "--scales", nargs="+", type=float, default=list(words.SCALES), metavar="S", help="with 1"
    )
    defaults = ", ".join(f"{task} {n}" for task, n in severity_rows.PICTURES.items())
    made.add_argument("--images", type=int, help=f"the first N of the test split ({defaults})")
    made.add_argument("--out", help="folder (severity in that of the study)")
    made.add_argument("--record", help="also append the records to this JSON-lines file")
    return made


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    """The arguments, with corruptions by name; else the parser's error."""
    made = _parser()
    args = made.parse_args(argv)
    try:
        args.corruptions = corruptions_of(args.corruptions)
        check_severities(args.severities)
    except (KeyError, ValueError) as error:
        made.error(error.args[0])
    if 1 not in args.scales or min(args.scales) <= 0:
        made.error(f"--scales must be above 0 and hold 1, got {args.scales}")
    if args.images is not None and args.images < 1:
        made.error(f"--images must be at least 1, got {args.images}")
    if strange := [pair for pair in args.data if "=" not in pair]:
        made.error(f"--data must read NAME=DIR, got {strange[0]!r}")
    return args


def _config(study: Mapping[str, Any], args: argparse.Namespace) -> Config:
    """That of the study, with the folders of its data that are given anew."""
    cfg = config.from_dict(study["config"])
    roots = dict(pair.split("=", 1) for pair in args.data)
    return dataclasses.replace(cfg, data=cfg.data | roots)


def main(argv: Sequence[str]) -> int:
    """Run the benchmark; returns 0."""
    args, begin = _parse(argv), time.perf_counter()
    folder, say = Path(args.study), speaker(begin)
    study = study_of(folder)
    cfg, out = _config(study, args), Path(args.out or folder / "severity")
    found, left = severity_rows.networks(folder, study, args.rows, args.seeds)
    corruptions, unfit = severity_rows.fitting(cfg.task, args.corruptions)
    domains = list(dict.fromkeys(args.domains or cfg.train_domains))
    count = args.images or severity_rows.PICTURES[cfg.task]
    sets.class_names(cfg, [*cfg.train_domains, *domains])  # that all of them share
    scales = sorted(set(args.scales)) if cfg.task == "segmentation" else []
    left |= unfit | ({} if scales else {words.SCALE: NO_SCALES})
    torch.set_num_threads(1)
    quick = study["environment"]["quick"] or count < severity_rows.PICTURES[cfg.task]
    common = record.environment("severity", argv, "cpu", quick=quick)
    conditions = conditions_of(domains, corruptions, sorted(args.severities), scales)
    with lock_folder(out), StopRequest() as stop:
        scores = Scores(out / "scores.jsonl", Pictures(cfg, domains, count), say)
        try:
            scores.measure(found, conditions, stop)
        except KeyboardInterrupt:
            say(f"stopped: what is measured is kept in {scores.path}; the same command goes on")
            raise
    results = collect(study, found, conditions, scores, common, left)
    results["wall_s"] = time.perf_counter() - begin
    records = records_of(results, common)
    text = severity_tables.block(records)
    run_results.write(results, records, text, out)
    picture = severity_pictures.write(records, out)
    run_results.keep(results, records, out, args.record)
    print(f"\n{text}\n\ndone in {results['wall_s']:.0f} s", file=sys.stdout)
    print(f"table       {out / 'table.md'}\npicture     {picture}")
    return 0
