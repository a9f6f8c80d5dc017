"""The shift manifest of a study: everything that decides what its numbers mean, in one file.

    selection   how the checkpoint was chosen whose numbers count
    rules       of the metrics: average precision, absent classes, images without objects
    appearance  hash of the recipes that drawn domains are made by
    sets        domain -> role, hashes of what is trained on and tested, and what its test set says
                of itself: split, files, label map, convention of boxes, objects, ...
    training    the config that all rows share
    rows, seeds what the study is made of

Two numbers may stand in one table where `digest` is the same. Rows and seeds do not count there: a
study may grow by either, and a row is what is compared.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ibnvision import metrics
from ibnvision.data.shifts import APPEARANCE_HASH
from ibnvision.engine.sets import facts as of_set

from . import plans, record

Manifest = dict[str, Any]
FORMAT = 1
FILE, FOLDER = "manifest.json", "manifests"  # beside the results; beside recorded ones
_GROWING = ("rows", "seeds")
_ELSEWHERE = ("task", "train_domains", "test_domains")  # of a config, said by other keys


def of_study(
    jobs: Sequence[plans.Job],
    prints: Mapping[str, str],
    fields: Iterable[str],
    selection: str,
) -> Manifest:
    """That of a study.

    Args:
        jobs: its trainings, all of one plan.
        prints: of `plans.fingerprints`.
        fields: of the metric, as an evaluation leaves them.
        selection: the rule by which checkpoints are chosen, for people.
    """
    base = jobs[0].base
    sets: dict[str, dict[str, Any]] = {}
    for domain, role in plans.roles_of(base).items():
        hashes = {key.split()[1]: v for key, v in prints.items() if key.split()[0] == domain}
        facts = of_set(base, plans.dataset_of(base, domain, "test"), "test")
        sets[domain] = {"role": role, "fingerprints": hashes, "facts": facts}
    training = {k: v for k, v in plans.settings_of(base).items() if k not in _ELSEWHERE}
    return {
        "format": FORMAT,
        "task": base.task,
        "selection": selection,
        "rules": metrics.rules(fields),
        "appearance": APPEARANCE_HASH,
        "sets": sets,
        "training": training,
        "rows": {job.row.name: list(job.row.overrides) for job in jobs},
        "seeds": sorted({job.seed for job in jobs}),
    }


def digest(made: Manifest) -> str:
    """SHA-256 of all that decides what a number means."""
    return plans.digest({key: value for key, value in made.items() if key not in _GROWING})


def write(made: Manifest, path: Path) -> None:
    """Write the file, with its own `digest` first."""
    record.replace_file(path, json.dumps({"digest": digest(made), **made}, indent=1) + "\n")


def keep(made: Manifest, bench: str, records: Path) -> Path:
    """Write it into the folder manifests beside a file of records; returns the path."""
    path = records.parent / FOLDER / f"{bench}_{digest(made)[:16]}.json"
    write(made, path)
    return path


def find(bench: str, protocol: str, records: Path) -> Manifest | None:
    """The manifest of a hash that lies beside a file of records; None where there is none."""
    kept = records.parent / FOLDER / f"{bench}_{protocol[:16]}.json"
    for path in (kept, records.parent / FILE):
        if path.is_file():
            made = json.loads(path.read_text(encoding="utf-8"))
            if made.pop("digest", "") == protocol:
                return made
    return None


def differences(a: Manifest, b: Manifest) -> list[str]:
    """What decides about the numbers and is not the same: "key.key: this, that" for each."""
    plain = [dict(_leaves({k: v for k, v in m.items() if k not in _GROWING})) for m in (a, b)]
    keys = dict.fromkeys([*plain[0], *plain[1]])
    pairs = {key: [json.dumps(found.get(key, "absent")) for found in plain] for key in keys}
    return [f"{key}: {this}, {that}" for key, (this, that) in pairs.items() if this != that]


def _leaves(value: Mapping[str, Any], place: str = "") -> Iterator[tuple[str, Any]]:
    for key, part in value.items():
        if isinstance(part, Mapping) and part:
            yield from _leaves(part, f"{place}{key}.")
        else:
            yield f"{place}{key}", part
