"""What other rules of choosing a checkpoint would have made of a study, all from its logs.

The metrics.jsonl of a run holds, at every evaluation, the score on the sources' validation split
and on the test split of every domain. For each domain a selector picks one of these steps:

    last                  the last one: nothing is selected
    source validation     best mean over the sources' validation splits, as best.pt
    leave-one-domain-out  best mean of the test scores over the other targets
    oracle                best test score on the domain itself: a bound and no selection, which
                          stands apart and is neither averaged with nor ranked beside the others

Where two steps score the same the earlier counts, as for best.pt. An undefined score is not chosen.

Leave-one-domain-out: Gulrajani and Lopez-Paz (In Search of Lost Domain Generalization, ICLR 2021)
train anew without each source in turn and choose by the mean on those left out. One source cannot
be left out; what the rule comes to is that unseen domains other than the one in question are the
validation sets. It so reads no data of that domain, but labels of other unseen domains, which
source validation does without. It needs two targets. For a domain that is no target, such as real
frames, it goes by all targets.

As a selector may pick another step for each target, its score on a source is the mean over the
targets of the source's test score at the step picked for each.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from ibnvision import engine, metrics

from . import record, scores
from .plans import Job, final_scores, roles_of
from .run_results import cell_records

Rows = Sequence[Mapping[str, Any]]  # of one metrics.jsonl
Logs = Mapping[str, Mapping[int, Rows]]  # row -> seed -> log
Tested = dict[int, dict[str, float]]  # step -> domain -> score

LAST, VALIDATION, LEAVE_OUT = "last", "source validation", "leave-one-domain-out"
ORACLE = "oracle"
SELECTORS = (LAST, VALIDATION, LEAVE_OUT)  # those that a study may go by
METRIC = "score by selector"


def steps(rows: Rows, roles: scores.Roles, score: str) -> dict[str, dict[str, int | None]]:
    """Selector -> domain -> the step that it picks, None where no step has a score.

    Left out: source validation without validation scores, leave-one-domain-out below two targets,
    the oracle without targets.

    Args:
        rows: of a metrics.jsonl.
        roles: domain -> role, as of `plans.roles_of`; a step counts where all have been tested.
        score: the key of the metric's result that is compared; larger is better.

    Raises: ValueError where no step has been tested on all domains.
    """
    test = _tested(rows, "test", score, list(roles))
    if not test:
        raise ValueError(f"rows must hold an evaluation of {', '.join(roles)}, got none")
    sources, targets = ([d for d, r in roles.items() if r == kind] for kind in ("source", "target"))
    value = _tested(rows, "val", score, sources)
    away = [d for d in roles if d not in sources]
    found: dict[str, dict[str, int | None]] = {LAST: dict.fromkeys(roles, max(test))}
    if value:
        found[VALIDATION] = dict.fromkeys(roles, _best({s: value[s] for s in test if s in value}))
    if len(targets) > 1:
        found[LEAVE_OUT] = {
            d: _best({s: {t: row[t] for t in targets if t != d} for s, row in test.items()})
            for d in away
        }
    if targets:
        found[ORACLE] = {d: _best({s: {d: row[d]} for s, row in test.items()}) for d in away}
    return found


def _tested(rows: Rows, split: str, score: str, domains: Sequence[str]) -> Tested:
    """The steps at which all domains were evaluated on a split; NaN is an undefined score."""
    found: Tested = {}
    for row in rows:
        if row["kind"] == "eval" and row["split"] == split and row["domain"] in domains:
            number = row[score]
            value = math.nan if number is None else float(number)
            found.setdefault(row["step"], {})[row["domain"]] = value
    return {step: row for step, row in sorted(found.items()) if len(row) == len(domains)}


def _best(rows: Tested) -> int | None:
    """The earliest step with the best mean."""
    means = {step: sum(row.values()) / len(row) for step, row in rows.items()}
    defined = {step: mean for step, mean in means.items() if not math.isnan(mean)}
    return max(defined, key=lambda step: (defined[step], -step), default=None)


def picked(rows: Rows, roles: scores.Roles, score: str) -> dict[str, dict[str, float]]:
    """Selector -> domain -> its test score at the step picked for it, a source's as told above.

    NaN where no step was picked. Args and raises: as of `steps`.
    """
    test = _tested(rows, "test", score, list(roles))
    targets = [d for d, r in roles.items() if r == "target"]
    found = {}
    for selector, chosen in steps(rows, roles, score).items():
        places = targets or list(chosen)  # those whose steps a source is read at
        found[selector] = {
            d: _read(test, [chosen[at] for at in (places if role == "source" else [d])], d)
            for d, role in roles.items()
        }
    return found


def _read(test: Tested, at: Sequence[int | None], domain: str) -> float:
    """The mean over steps of a domain's test score, NaN where one is missing."""
    return sum(math.nan if step is None else test[step][domain] for step in at) / len(at)


def of_run(rows: Rows, roles: scores.Roles, score: str) -> dict[str, dict[str, float]]:
    """Selector -> column -> value, in the columns of `scores.of_run`.

    Args and raises: as of `steps`.
    """
    return {s: scores.of_run(found, roles) for s, found in picked(rows, roles, score).items()}


def logs_of(jobs: Sequence[Job]) -> dict[str, dict[int, list[dict[str, Any]]]]:
    """Row -> seed -> the metrics.jsonl of its run; of the jobs that are complete."""
    found: dict[str, dict[int, list[dict[str, Any]]]] = {}
    for job in jobs:
        if final_scores(job):
            found.setdefault(job.row.name, {})[job.seed] = engine.read_records(job.folder)
    return found


def summaries(logs: Logs, roles: scores.Roles, score: str) -> dict[str, scores.Summary]:
    """Selector -> `scores.summarize` of what it picks; rows in which it has no run are left out."""
    runs: dict[str, dict[str, dict[int, dict[str, float]]]] = {}
    for name, by_seed in logs.items():
        for seed, rows in by_seed.items():
            for selector, values in picked(rows, roles, score).items():
                runs.setdefault(selector, {}).setdefault(name, {})[seed] = values
    order = [s for s in (*SELECTORS, ORACLE) if s in runs]
    return {s: scores.summarize(runs[s], roles) for s in order}


def records(jobs: Sequence[Job]) -> list[record.Record]:
    """One record per selector, row and column, without what all records of a study share.

    `checkpoints`: from how many the runs of a row could choose, the fewest of any. `steps`, in the
    columns of tested domains: seed -> the step that was picked, in that of the target mean those of
    all targets. `bound`: only the oracle's.

    Args:
        jobs: of one plan; those that are not complete are left out.
    """
    if not jobs:
        return []
    cfg = jobs[0].cfg
    roles, score, logs = roles_of(cfg), engine.find_task(cfg).score, logs_of(jobs)
    fewest, chosen = {}, {}
    for name, by_seed in logs.items():
        tests = [_tested(rows, "test", score, list(roles)) for rows in by_seed.values()]
        fewest[name] = min(map(len, tests))
        chosen[name] = {seed: steps(rows, roles, score) for seed, rows in by_seed.items()}
    found = []
    for selector, summary in summaries(logs, roles, score).items():
        head = {"metric": METRIC, "selector": selector, "bound": selector == ORACLE}
        head |= {"score": score, "unit": metrics.unit(score)}
        for cell in cell_records(summary, roles, scores.columns(roles), head):
            mine, column = chosen[cell["model"]], cell["column"]
            if roles.get(column, "source") != "source":
                cell["steps"] = {seed: mine[int(seed)][selector][column] for seed in cell["values"]}
            if column == scores.MEAN:
                cell["steps"] = {
                    seed: [mine[int(seed)][selector][d] for d, r in roles.items() if r == "target"]
                    for seed in cell["values"]
                }
            found.append(cell | {"checkpoints": fewest[cell["model"]]})
    return found
