import dataclasses
import json

import pytest

from ibnvision.benchmark import manifest, plans

FIELDS = ("miou_pct", "ap_pct")
WORDS = ("steps=2", "eval_every=1", "test_domains=[streets_day,streets_night]")


@pytest.fixture(scope="module")
def jobs(tmp_path_factory):
    rows = [plans.Row("BN", ("lr=0.1",)), plans.Row("IBN-b", ("lr=0.2", "model=resnet18_ibn_b"))]
    out, tests = tmp_path_factory.mktemp("plan"), ["streets_day", "streets_night"]
    return plans.plan_rows(rows, tests, "seg_streets_tiny", [1, 0], WORDS, out)


def made(jobs, prints=None, fields=FIELDS, selection="the last"):
    prints = {"streets_day train": "a", "streets_night test": "b"} if prints is None else prints
    return manifest.of_study(jobs, prints, fields, selection)


def test_it_says_what_the_numbers_mean(jobs, tmp_path):
    found = made(jobs)
    assert (found["task"], found["selection"], found["seeds"]) == (
        "segmentation",
        "the last",
        [0, 1],
    )
    assert found["rows"] == {"BN": ["lr=0.1"], "IBN-b": ["lr=0.2", "model=resnet18_ibn_b"]}
    night = found["sets"]["streets_night"]
    assert night["role"] == "target" and night["fingerprints"] == {"test": "b"}
    assert night["facts"]["images"] == 16 and night["facts"]["split"] == "test"
    assert found["sets"]["streets_day"]["fingerprints"] == {"train": "a"}
    assert "COCO" in found["rules"]["ap_rule"] and found["training"]["steps"] == 2
    assert found["training"]["threads"] == 1
    hidden = {"seed", "name", "out", "train_domains", "test_domains", "data"}
    assert not hidden & set(found["training"])
    path = tmp_path / manifest.FILE
    manifest.write(found, path)
    stored = json.loads(path.read_text())
    assert stored.pop("digest") == manifest.digest(found) and stored == found


def test_rows_and_seeds_leave_the_hash_and_everything_else_moves_it(jobs):
    first = manifest.digest(made(jobs))
    assert manifest.digest(made(jobs[:1])) == first
    assert manifest.digest(made(jobs[2:])) == first
    longer = [dataclasses.replace(j, base=dataclasses.replace(j.base, steps=3)) for j in jobs]
    renamed = [dataclasses.replace(j, base=dataclasses.replace(j.base, name="x")) for j in jobs]
    assert manifest.digest(made(renamed)) == first
    fewer = [
        dataclasses.replace(j, base=dataclasses.replace(j.base, test_domains=("streets_day",)))
        for j in jobs
    ]
    changed = [
        made(longer),
        made(jobs, prints={"streets_day train": "a", "streets_night test": "c"}),
        made(fewer),
        made(jobs, fields=("miou_pct",)),
        made(jobs, selection="the best"),
    ]
    assert len({first, *map(manifest.digest, changed)}) == 6


def test_it_is_kept_beside_the_records(jobs, tmp_path):
    found = made(jobs)
    path = manifest.keep(found, "generalization", tmp_path / "results" / "x.jsonl")
    name = f"generalization_{manifest.digest(found)[:16]}.json"
    assert path == tmp_path / "results" / "manifests" / name
    assert json.loads(path.read_text())["digest"] == manifest.digest(found)
