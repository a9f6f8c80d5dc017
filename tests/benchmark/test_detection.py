import json
import re
from functools import lru_cache

import pytest

from ibnvision import config
from ibnvision.benchmark import (
    beside,
    detection,
    detection_pictures,
    detection_restored,
    plans,
    record,
    report,
    run_results,
    runs,
    scores,
)
from ibnvision.benchmark import detection_scores as words

ROLES = {
    "streets_day_boxes": "source",
    "streets_fog_boxes": "target",
    "streets_night_boxes": "target",
}
# row -> seed -> AP50 in the order of ROLES
SCORES = {
    "Faster R-CNN BN": [(70.0, 20.0, 10.0), (72.0, 22.0, 12.0), (74.0, 24.0, 14.0)],
    "Faster R-CNN IBN-a": [(69.0, 40.0, 11.0), (70.9, 42.1, 10.0), (73.1, 43.9, 17.0)],
    "Faster R-CNN IBN-b": [(60.0, 3.0, 1.0), (62.0, 4.0, 2.0), (64.0, 5.0, 1.5)],
    "FCOS BN": [(59.0, 30.0, 20.0), (60.0, 31.0, 20.0), (60.4, 32.0, 20.0)],
    "FCOS IBN-a": [(75.0, 50.0, 30.0), (76.0, 52.0, 30.0), (77.0, 54.0, 30.0)],
    "FCOS IBN-b": [(75.0, 50.0, 30.0), (76.0, 52.0, 30.0), (77.0, 54.0, 30.0)],
}
COMMON = {"bench": "detection", "run": "1", "quick": False, "device": "a processor"}
COMMON |= {"device_type": "cpu", "torch": "2", "commit": "abc", "command": "ibnvision benchmark x"}
COMMON |= {"date": "2030-01-01T00:00:00"}
FACTS = {"images": 100, "images_without_objects": 7, "objects": {"car": 300, "person": 20}}
FACTS |= {"ignored_objects": 5, "files_sha256": "fedcba9876543210", "split": "test"}


def fields(ap50: float) -> dict:
    return {"ap50_pct": ap50, "ap_pct": ap50 / 2, "voc_ap50_pct": ap50 + 1, "facts": FACTS}


def results(seeds: int = 3, table: dict | None = None) -> dict:
    rows = []
    for name, values in (table or SCORES).items():
        found = [dict(zip(ROLES, map(fields, row), strict=True)) for row in values[:seeds]]
        mine = [
            {"seed": s, "found": f, "cpu_s": 60.0 * (3 + s), "wall_s": 9.0}
            for s, f in enumerate(found)
        ]
        rows.append({"name": name, "command": "ibnvision train x", "failed": {}, "runs": mine})
    found = run_results.found_by_row(rows)
    summary = {
        name: run_results.summary_of(found, field, ROLES)
        for field, name in detection.FIELDS.items()
    }
    return {
        "config": {"steps": 900, "batch_size": 4, "size": [64, 96], "preset": "quick"},
        "config_name": "streets_detect",
        "roles": ROLES,
        "beside": beside.NOTHING,
        "restorer": None,
        "steps": dict.fromkeys(table or SCORES, 900),
        "lr": dict.fromkeys(table or SCORES, 2e-3),
        "rows": rows,
        "rules": {"ap_rule": "COCO: its rule", "empty_image_rule": "counted"},
        "sets": dict.fromkeys(ROLES, FACTS),
        "protocol": "0123456789abcdef0123",
        "selection": detection.SELECTION,
        "summary": summary,
        "not_converged": {
            row: words.shortfall(cells, ROLES) for row, cells in summary[words.AP50].items()
        },
    }


@lru_cache
def records(seeds: int = 3) -> list[record.Record]:
    return detection.records_of(results(seeds), COMMON)


def found(metric: str, **where: str) -> dict:
    (one,) = (r for r in records() if r["metric"] == metric and where.items() <= r.items())
    return one


def line(text: str, start: str) -> str:
    return " ".join(next(x for x in text.splitlines() if x.startswith(f"| {start}")).split())


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ((60.0, 6.0, 0.0), ""),
        ((60.0, 54.0, 0.0), ""),
        ((59.9, 30.0, 30.0), "59.9 on the source, below 60"),
        ((60.0, 5.9, 0.0), "60.0 on the source, but no target between 6.0 and 54.0"),
        ((60.0, 54.1, 60.0), "60.0 on the source, but no target between 6.0 and 54.0"),
    ],
)
def test_a_row_counts_by_its_source_and_one_graded_target(values, said):
    runs_ = {"row": {0: dict(zip(ROLES, values, strict=True))}}
    assert words.shortfall(scores.summarize(runs_, ROLES)["row"], ROLES) == said


def test_a_row_without_a_source_score_does_not_count():
    assert words.shortfall({"streets_fog_boxes": {"mean": 30.0}}, ROLES)


def test_records_hold_means_intervals_and_seeds():
    cell = found(words.AP50, model="Faster R-CNN BN", column="source")
    # 72 plus and minus 4.30265 * 2 / sqrt(3)
    assert (cell["value"], cell["low"], cell["high"]) == pytest.approx((72, 67.03172, 76.96828))
    assert cell["values"] == {"0": 70.0, "1": 72.0, "2": 74.0} and cell["not_converged"] == ""
    worst = found(words.AP50, model="Faster R-CNN BN", column="worst target")
    assert worst["value"] == 12.0 and worst["role"] == "derived"
    gap = found(words.AP, model="Faster R-CNN BN", column="gap")
    assert gap["value"] == pytest.approx((72 - (22 + 12) / 2) / 2)
    spent = found(words.TRAINING, model="FCOS BN")
    assert (spent["value"], spent["most"], spent["n"]) == (4.0, 5.0, 3)
    assert found(words.SET, column="streets_fog_boxes")["objects"] == {"car": 300, "person": 20}
    assert json.loads(json.dumps(records(), allow_nan=False)) == records()


def test_rows_that_did_not_converge_are_compared_with_nothing():
    lost = {r["model"] for r in records() if r["metric"] == words.AP50 and r["not_converged"]}
    assert lost == {"Faster R-CNN IBN-b", "FCOS BN"}
    compared = {(r["model"], r["rival"]) for r in records() if r["metric"] == words.DIFFERENCE}
    assert compared == {("Faster R-CNN IBN-a", "Faster R-CNN BN")}
    text = words.block(records())
    told = line(text, "FCOS IBN-a - FCOS BN")
    assert told.count(words.NOT_CONVERGED) == len(words.compared(ROLES))
    assert line(text, "Faster R-CNN IBN-b ").endswith("| not converged |")
    assert line(text, "FCOS IBN-a ").endswith("| yes |")
    said = [x for x in text.splitlines() if x and not x.startswith("|")][1:]
    assert sum("IBN-b" in x or "FCOS" in x for x in said) == 1
    assert said[-1].startswith("Not converged, so nothing is said about: Faster R-CNN IBN-b (62.0")
    assert "FCOS BN (59.8 on the source, below 60)" in said[-1]


def test_sentences_follow_the_intervals():
    text = words.block(records())
    fog = found(words.DIFFERENCE, column="streets_fog_boxes")
    assert fog["value"] == pytest.approx(20) and fog["low"] > 0 and fog["ahead"] == 3
    told = next(x for x in text.splitlines() if x.startswith("Faster R-CNN IBN-a minus"))
    plain = re.sub(r" \(p = [0-9.e-]+\)", "", told)
    assert "Shown to help on: fog, target mean. Shown to harm on: source." in plain
    assert f"fog (p = {fog['p']:.2g}), target mean (p = " in told and 0 < fog["p"] < 1e-4
    assert "Nothing is shown on night, worst target:" in told
    assert "stands +10.3 AP50 points from batch norm on the target mean (shown, ahead in 3" in text
    assert "-1.0 at home (shown, a loss)" in text


@pytest.mark.parametrize(("seeds", "said"), [(1, "1 seed gives"), (2, "2 seeds give")])
def test_below_three_seeds_nothing_is_shown(seeds, said):
    text = words.block(records(seeds))
    assert f"{said} no interval, so nothing is shown about it." in text
    assert "Shown to help" not in text and "no interval" in text


def test_table_says_rules_sets_and_costs():
    text = words.block(records())
    assert (
        "alone, in steps of 4 pictures of 64x96." in text and "Protocol 0123456789abcdef." in text
    )
    assert "Images without objects: counted." in text and "AP by COCO: its rule." in text
    head = line(text, "AP50").split(" | ")
    assert head[1:] == [
        "seeds", "steps", "lr", "CPU min a run", "source", "fog", "night", "worst target",
        "target mean", "gap", "counts |",
    ]  # fmt: skip
    assert "| 3 | 900 | 0.002 | 4.0 | 72.0 ± 5.0 | 22.0 ± 5.0 |" in line(text, "Faster R-CNN BN ")
    assert "| 100 | 7 | 300 | 20 | 5 | fedcba987654 |" in line(text, "streets_night_boxes")
    other = line(text, "row")
    assert "AP, source | AP, worst target | AP, target mean | VOC AP50, source" in other


def test_report_makes_the_readme_part_from_the_records(tmp_path):
    record.append(tmp_path / "detection.jsonl", records())
    parts = report.readme_tables(record.read_folder(tmp_path))
    assert parts["detection"].endswith(words.block(records()))


def test_weights_of_a_row_that_counts_are_preferred():
    assert detection.preferred(results())[0] == "FCOS IBN-b"
    poor = results(table={name: [(1.0, 0.0, 0.0)] for name in SCORES})
    assert detection.preferred(poor)[0] == "Faster R-CNN IBN-b"


@pytest.fixture(scope="module")
def jobs(tmp_path_factory):
    return detection.plan(
        "det_streets_tiny", [0, 1], ("steps=4", "lr=0.01"), tmp_path_factory.mktemp("x")
    )


def test_plan_differs_only_in_detector_and_norm(jobs):
    names = list(SCORES)
    assert [j.row.name for j in jobs] == 2 * [*names[:3], "Faster R-CNN BN + jitter", *names[3:]]
    plain = [config.to_dict(j.cfg) for j in jobs]
    differing = {k for k in plain[0] if len({json.dumps(p[k]) for p in plain}) > 1}
    assert differing == {"model_args", "augment", "seed", "name", "lr"}
    rates = {(j.cfg.model_args["detector"], j.cfg.steps, j.cfg.lr) for j in jobs}
    assert rates == {("faster_rcnn", 4, 0.01), ("fcos", 4, 0.02)}
    kinds = [
        (j.cfg.model_args["detector"], j.cfg.model_args["backbone_args"]["ibn"]) for j in jobs[:7]
    ]
    norms = [(d, ibn) for d in ("faster_rcnn", "fcos") for ibn in ("none", "a", "b")]
    assert kinds == [*norms[:3], ("faster_rcnn", "none"), *norms[3:]]
    assert [j.row.name for j in jobs[:7] if j.cfg.augment == "jitter"] == [
        "Faster R-CNN BN + jitter"
    ]
    assert jobs[0].cfg.test_domains == ("streets_day_boxes", "streets_fog_boxes")
    assert jobs[0].protocol == jobs[7].protocol != jobs[1].protocol


def test_your_own_second_set_is_a_target():
    cfg = config.Config(
        task="detection",
        train_domains=("coco_json",),
        test_domains=("coco_json", "coco_json:away"),
    )
    assert plans.roles_of(cfg) == {"coco_json": "source", "coco_json:away": "target"}


FAKE = """
import json, pathlib, sys
folder, text, steps, domains, fields = json.loads(sys.argv[1])
folder = pathlib.Path(folder)
folder.mkdir(parents=True, exist_ok=True)
(folder / "config.toml").write_text(text)
(folder / "last.pt").write_text("weights of " + folder.name)
head = {"kind": "eval", "split": "test", "step": steps} | fields
lines = [json.dumps(head | {"domain": d}) for d in domains]
(folder / "metrics.jsonl").write_text("\\n".join(lines))
"""


def test_main_leaves_its_files(tmp_path, monkeypatch, capsys):
    """With trainings and detections replaced by stand-ins; the rest is real."""

    def command(job, config_name, *flags):
        cfg, value = job.cfg, 70.0 + job.seed
        facts = [str(job.folder), config.dump(cfg), cfg.steps, cfg.test_domains, fields(value)]
        return [runs.sys.executable, "-I", "-c", FAKE, json.dumps(facts)]

    monkeypatch.setattr(plans.Job, "command", command)
    monkeypatch.setattr(beside, "of_study", lambda *args: beside.NOTHING)
    monkeypatch.setattr(run_results, "keep_pictures", lambda *args: [])
    monkeypatch.setattr(detection_restored, "load_trained", lambda weights: None)
    monkeypatch.setattr(detection_pictures, "save_png", lambda picture, path: None)
    monkeypatch.setattr(detection_pictures, "detections", lambda trained, domain: None)
    out, kept = tmp_path / "bench", tmp_path / "kept.jsonl"
    argv = ["--preset", "tiny", "--seeds", "0,1", "--out", str(out), "--record", str(kept)]
    assert detection.main(argv) == 0
    found = json.loads((out / "results.json").read_text())
    assert [[run["seed"] for run in row["runs"]] for row in found["rows"]] == 7 * [[0, 1]]
    assert (out / "detector.pt").read_text() == "weights of faster_r_cnn_ibn_b_seed0"
    assert (out / "pictures" / "scores.png").read_bytes().startswith(b"\x89PNG")
    assert found["summary"][words.AP50]["FCOS BN"]["source"]["mean"] == 70.5
    assert set(found["not_converged"].values()) == {
        "70.5 on the source, but no target between 7.1 and 63.5"
    }
    assert record.read(kept) == record.read(out / "records.jsonl")
    text = (out / "table.md").read_text().strip()
    assert text == words.block(record.read(kept)) and text in capsys.readouterr().out


def test_what_a_restorer_changes_stands_beside_the_same_rows():
    name = "Faster R-CNN BN, restored"
    base = SCORES["Faster R-CNN BN"]
    more = [(home - 1 - 0.1 * s, fog + 9 + s, night) for s, (home, fog, night) in enumerate(base)]
    facts = {"model": "dea_net", "args": {}, "gate": [0.125, 0.25], "trained_on": ["haze"]}
    facts |= {"steps": 2200, "seed": 1, "sha256": "ab" * 32}
    text = words.block(
        detection.records_of(results(table=SCORES | {name: more}) | {"restorer": facts}, COMMON)
    )
    assert (
        "behind dea_net, trained on haze for 2200 steps, seed 1 (sha256 abababababab); its gate "
        "opens over a haziness of 0.125 to 0.250." in text
    )
    apart = line(text, f"{name} - Faster R-CNN BN").split(" | ")
    assert apart[1].startswith("-1.1 (") and apart[2].startswith("+10.0 (")
    assert apart[3].startswith("+0.0 (")
    assert f"{name} stands +5.0 AP50 points from the same without the restorer" in text
    assert f"{name} minus Faster R-CNN BN over 3 seed(s). Shown to help on: fog" in text
    assert "Restored" not in words.block(records())


@pytest.mark.slow
def test_tiny_end_to_end(tmp_path, capsys):
    out = tmp_path / "bench"
    argv = ["--preset", "tiny", "--out", str(out), "--workers", "1", "steps=2"]
    assert detection.main(argv) == 0
    found = json.loads((out / "results.json").read_text())
    assert [len(row["runs"]) for row in found["rows"]] == [1] * 7
    for by_row in found["pictures"]["detections"].values():
        for name in by_row.values():
            assert (out / "pictures" / name).read_bytes().startswith(b"\x89PNG")
    again = detection.main(argv)
    assert again == 0 and capsys.readouterr().out.count("finished before, reused") == 7
