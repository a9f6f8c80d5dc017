import json
import shutil

import pytest
import torch
from matplotlib.collections import PathCollection

from ibnvision import config, engine
from ibnvision.benchmark import manifest, record, report, severity, severity_pictures, severity_rows
from ibnvision.benchmark import severity_scores as words
from ibnvision.benchmark.severity_rows import Condition, Pictures
from ibnvision.benchmark.severity_tables import block
from ibnvision.engine import checkpoint
from ibnvision.engine.progress import Interrupted

WORDS = ["--corruptions", "brightness", "elastic_transform", "--severities", "5", "1"]
WORDS += ["--images", "3", "--scales", "0.5", "1"]
NAMES = ("brightness", "fog", "shot_noise")
# row -> scores of seed 0: clean; brightness, fog and shot noise at 1 and 3; scales 0.5, 1, 2
FAKE = {
    "BN": (60.0, (50.0, 40.0), (36.0, 20.0), (40.0, 30.0), (30.0, 60.0, 31.0)),
    "BN + jitter": (50.0, (50.0, 40.0), (40.0, 30.0), (36.0, 26.0), (30.0, 50.0, 25.0)),
    "IBN-b + jitter": (58.0, (56.0, 50.0), (50.0, 28.0), (44.0, 36.0), (40.0, 58.0, 50.0)),
}
COMMON = {"bench": "severity", "run": "1", "quick": False, "device": "a processor"}
COMMON |= {"device_type": "cpu", "torch": "2", "commit": "abc", "command": "ibnvision benchmark x"}
COMMON |= {"date": "2030-01-01T00:00:00"}


def made_up(seeds: int = 3) -> dict:
    """What `collect` gives; a seed is 1 point above the last one, everywhere."""
    conditions = severity.conditions_of(["day"], NAMES, [1, 3], [0.5, 1.0, 2.0])
    scores = {}
    for row, (clean, *curves, scales) in FAKE.items():
        first = [clean, *scales, *(value for curve in curves for value in curve)]
        scores[row] = {seed: [value + seed for value in first] for seed in range(seeds)}
    measured = {"pictures": {"day": 9}, "pictures_sha256": {"day": "abcdef0123456789"}}
    return {
        "study": "generalization, resnet18",
        "task": "segmentation",
        "key": "miou_pct",
        "roles": {"day": "source"},
        "source": ["day"],
        "selection": "The last checkpoint.",
        "manifest": {"study": "5" * 64, "severity": measured},
        "protocol": "0123456789abcdef0123",
        "not_converged": dict.fromkeys(FAKE, ""),
        "conditions": [c._asdict() for c in conditions],
        "scores": scores,
        "cpu_s": {row: {seed: 10.0 for seed in range(seeds)} for row in FAKE},
        "left_out": {"ISW": "no training finished"},
    }


def records(**changed) -> list[record.Record]:
    return severity.records_of(made_up() | changed, COMMON)


def one(found, **where):
    (match,) = (r for r in found if where.items() <= r.items())
    return match


def line(text: str, first: str, nth: int = 0) -> str:
    """The nth line of a table whose first cell reads so, without padding."""
    found = [" ".join(x.split()) for x in text.splitlines() if x.startswith("|")]
    return [x for x in found if x.split(" | ")[0] == f"| {first}"][nth]


def test_records_hold_hand_computed_means_and_intervals():
    found = records()
    # of seeds 0, 1, 2: half of the interval is 4.30265 / sqrt(3)
    mpc = one(found, metric=words.MPC, model="BN")
    assert mpc["value"] == pytest.approx((50 + 40 + 36 + 20 + 40 + 30) / 6 + 1)
    assert mpc["values"]["0"] == pytest.approx(36) and mpc["n"] == 3
    assert (mpc["low"], mpc["high"]) == pytest.approx((37 - 2.48414, 37 + 2.48414), abs=1e-4)
    share = one(found, metric=words.RPC, model="BN")
    assert share["value"] == pytest.approx(100 * (36 / 60 + 37 / 61 + 38 / 62) / 3)
    where = {"metric": words.SEVERITY, "model": "BN"}
    assert [one(found, severity=s, **where)["value"] for s in (0, 1, 3)] == pytest.approx(
        [61, 43, 31]
    )
    fog = one(found, metric=words.CORRUPTION, model="BN", corruption="fog")
    assert fog["value"] == pytest.approx(29) and fog["group"] == "weather"
    assert {r["protocol"] for r in found} == {"0123456789abcdef0123"}
    assert one(found, metric=words.COST, model="BN")["value"] == 10
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_critical_places_are_those_of_the_mean_over_seeds():
    found = records()
    where = {"metric": words.CRITICAL, "model": "BN"}
    # half of 61; the means are 31 at severity 3 (brightness 41, fog 21, shot noise 31)
    assert one(found, corruption="mean", **where)["value"] == words.NEVER
    assert one(found, corruption="fog", **where)["value"] == 3
    noise = one(found, corruption="shot_noise", **where)
    assert noise["value"] == words.NEVER  # 31 > 30.5
    assert noise["values"] == {"0": 3, "1": words.NEVER, "2": words.NEVER}  # 30 <= 30
    where = {"metric": words.CRITICAL_SCALE, "model": "BN"}
    assert one(found, direction="down", **where)["value"] == words.NEVER  # 31 > 30.5
    assert one(found, direction="up", **where)["value"] == words.NEVER
    where["model"] = "BN + jitter"  # 26 > 25.5 at 2x
    assert one(found, direction="up", **where)["value"] == words.NEVER
    scores = made_up()["scores"] | {"BN": {0: [60.0, 30.0, 60.0, 29.0, *[30.0] * 6]}}
    lost = records(scores=scores)
    assert one(lost, metric=words.CRITICAL, model="BN", corruption="mean")["value"] == 1
    places = [
        r["value"] for r in lost if r["metric"] == words.CRITICAL_SCALE and r["model"] == "BN"
    ]
    assert places == [0.5, 2.0]


def test_differences_are_paired_with_batch_norm_of_the_same_augmentation_too():
    found = [r for r in records() if r["metric"] == words.DIFFERENCE and r["column"] == words.MPC]
    assert [(r["model"], r["rival"], round(r["value"], 6)) for r in found] == [
        ("BN + jitter", "BN", 1.0),
        ("IBN-b + jitter", "BN", 8.0),
        ("IBN-b + jitter", "BN + jitter", 7.0),
    ]
    lost = records(not_converged=made_up()["not_converged"] | {"BN": "23 on the source"})
    left = {(r["model"], r["rival"]) for r in lost if r["metric"] == words.DIFFERENCE}
    assert left == {("IBN-b + jitter", "BN + jitter")}
    assert "Compared with nothing: BN (not converged)." in block(lost)
    assert words.rivals(["FCOS BN", "Faster R-CNN IBN-a", "FCOS IBN-a"]) == [
        ("FCOS IBN-a", "FCOS BN")
    ]
    assert words.rivals(["DEA-Net", "without CGA"]) == [("without CGA", "DEA-Net")]


def test_an_undefined_score_is_no_score():
    scores = made_up()["scores"]
    scores["BN"][1] = [None] * len(scores["BN"][1])
    mine = one(records(scores=scores), metric=words.MPC, model="BN")
    assert mine["n"] == 2 and list(mine["values"]) == ["0", "2"]
    where = {"metric": words.CRITICAL, "model": "BN", "corruption": "mean"}
    assert list(one(records(scores=scores), **where)["values"]) == ["0", "2"]
    scores["BN"] = {0: [None] * len(scores["BN"][1])}
    (cost,) = (r for r in records(scores=scores) if r.get("model") == "BN")
    assert cost["metric"] == words.COST


def test_tables_and_words_come_from_the_records():
    text = block(records())
    assert "the first 9 test pictures of `day` (abcdef012345), under 3 corruptions" in text
    assert "Rows with jitter saw other brightness" in text
    assert text.split("\n\n")[0].endswith("Protocol 0123456789abcdef.")
    assert line(text, "BN").startswith("| BN | 3 | 61.0 ± 2.5 | 43.0 ± 2.5 | 31.0 ± 2.5 | 37.0")
    assert line(text, "BN").endswith("| never | - |")
    assert line(text, "IBN-b + jitter").endswith("| never | +8.0, p = 0 |")
    assert line(text, "mean over severities") == "| mean over severities | noise | weather |"
    assert line(text, "BN", 1) == "| BN | 36.0 ± 2.5 | 37.5 ± 2.5 |"
    assert line(text, "fog") == "| fog | 29.0 (3) | 36.0 (never) | 40.0 (3) |"
    assert line(text, "BN", 2) == "| BN | 31.0 ± 2.5 | 61.0 ± 2.5 | 32.0 ± 2.5 | never | never |"
    assert "corruptions: BN never, BN + jitter never, IBN-b + jitter never. Of 3" in text
    assert "IBN-b + jitter minus BN over 3 seed(s). Shown to help on: mPC (p = 0)" in text
    assert text.endswith("Left out: ISW (no training finished).")


def test_report_and_figure_are_made_from_records(tmp_path):
    record.append(tmp_path / "severity.jsonl", records())
    part = report.readme_tables(record.read_folder(tmp_path))["severity"]
    assert part.endswith(block(records()))
    scores = made_up()["scores"] | {"BN": {0: [60.0, 30.0, 60.0, 29.0, *[30.0] * 6]}}
    figure = severity_pictures.figure(records(scores=scores))
    left, right = figure.axes
    assert [t.get_text() for t in left.get_xticklabels()] == ["clean", "1", "3"]
    assert [t.get_text() for t in right.get_xticklabels()] == ["0.5x", "1x", "2x"]
    rings = [
        [
            float(y)
            for r in a.collections
            if isinstance(r, PathCollection)
            for _, y in r.get_offsets()
        ]
        for a in (left, right)
    ]
    assert rings[0][:1] == [30.0] and rings[1] == [30.0, 29.0]
    assert (
        severity_pictures.figure([r for r in records() if r["metric"] != words.SCALE]).axes[1:]
        == []
    )


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """The folder of a study of two rows and two seeds, whose networks were never trained."""
    folder = tmp_path_factory.mktemp("study")
    rows = []
    for row in ("BN", "IBN-b"):
        runs = []
        for seed in (0, 1):
            name = f"{row.lower()}_seed{seed}"
            cfg = config.load("seg_streets_tiny", [f"seed={seed}", f"name={name}", "threads=1"])
            torch.manual_seed(seed + 2 * len(row))
            path = folder / "runs" / "segmentation" / name / "last.pt"
            state = {"task": "segmentation", "config": config.to_dict(cfg), "step": 8, "ema": None}
            state |= {"classes": list(severity_rows.sets.class_names(cfg, ["streets_day"]))}
            state |= {"model": engine.build_model(cfg, 8).state_dict(), "size": [32, 48]}
            path.parent.mkdir(parents=True)
            checkpoint.save(path, state)
            runs.append({"seed": seed, "folder": f"elsewhere/{name}"})
        rows.append({"name": row, "command": f"train {row}", "runs": runs, "failed": {}})
    results = {"environment": {"quick": False}, "config": config.to_dict(cfg), "rows": rows}
    results |= {"selection": "The last one.", "protocol": "a" * 64, "backbone": "resnet18"}
    results |= {"roles": {"streets_day": "source", "streets_night": "target"}}
    (folder / "results.json").write_text(json.dumps(results))
    return folder


@pytest.fixture(scope="module")
def finished(study):
    """What a stopped measurement and the same command after it left; how often it was corrupted."""
    made: list[str] = []
    shown, put = Pictures.shown, severity_rows.Scores._put

    def counted(self, condition):
        made.append(condition.name)
        return shown(self, condition)

    def stopping(self, network, condition, measured):
        put(self, network, condition, measured)
        if len(self.known) == 5:
            raise Interrupted

    argv = ["--study", str(study), *WORDS, "--record", str(study / "kept" / "severity.jsonl")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(severity_rows.Scores, "_put", stopping)
        with pytest.raises(KeyboardInterrupt):
            severity.main(argv)
        patch.setattr(severity_rows.Scores, "_put", put)
        scores = study / "severity" / "scores.jsonl"
        first = scores.read_bytes()
        assert first.count(b"\n") == 5
        patch.setattr(Pictures, "shown", counted)
        assert severity.main(argv) == 0
        whole = scores.read_bytes()
        assert whole.startswith(first) and whole.count(b"\n") == 4 * 7
        assert len(made) == len(set(made)) + 2  # the clean ones as they are, and at two scales
        made_then = len(made)
        assert severity.main(argv) == 0
        assert scores.read_bytes() == whole and len(made) == made_then
    return study / "severity"


def test_scores_are_those_of_an_evaluation(finished, study, monkeypatch):
    """Of the whole split, every number is the one that `ibnvision eval --corruptions` gives."""
    mine = json.loads((finished / "results.json").read_text())
    conditions = [Condition(**c) for c in mine["conditions"]]
    got = dict(zip(conditions, mine["scores"]["IBN-b"]["1"], strict=True))
    found = severity_rows.load_trained(study / "runs" / "segmentation" / "ibn-b_seed1" / "last.pt")
    whole = severity_rows.sets.build

    def first_three(cfg, domain, split):
        return torch.utils.data.Subset(whole(cfg, domain, split), range(3))

    monkeypatch.setattr(engine.evaluation.sets, "build", first_three)
    monkeypatch.setattr(engine.evaluation.sets, "facts", lambda *_: {"images": 3})
    names = ("brightness", "elastic_transform")
    asked = {"domains": ["streets_day"], "corruptions": names, "severities": (1, 5)}
    rows = engine.evaluate(found.cfg, found.model, **asked)
    for c, value in got.items():
        if not c.scale:
            assert value == rows[c.name]["miou_pct"], c
    assert got[Condition("streets_day", scale=1.0)] == got[Condition("streets_day")]
    half = engine.evaluate(
        config.from_dict(config.to_dict(found.cfg) | {"eval_scales": [0.5]}),
        found.model,
        domains=["streets_day"],
    )
    assert got[Condition("streets_day", scale=0.5)] == half["streets_day"]["miou_pct"]
    assert len(set(got.values())) > 3


def test_the_verb_leaves_its_files(finished):
    mine = record.read(finished / "records.jsonl")
    assert all(r["quick"] and r["bench"] == "severity" for r in mine)  # three pictures
    assert {r["study"] for r in mine} == {"generalization, resnet18"}
    assert (finished / "table.md").read_text().strip() == block(mine)
    assert (finished / severity_pictures.NAME).read_bytes().startswith(b"\x89PNG")
    stored = json.loads((finished / manifest.FILE).read_text())
    assert stored.pop("digest") == mine[0]["protocol"] == manifest.digest(stored)
    assert stored["study"] == "a" * 64 and stored["rows"] == {
        "BN": "train BN",
        "IBN-b": "train IBN-b",
    }
    assert stored["severity"]["pictures"] == {"streets_day": 3}
    kept = finished.parent / "kept"
    assert record.read(kept / "severity.jsonl")[-len(mine) :] == mine
    assert len(list((kept / "manifests").glob("severity_*.json"))) == 1


def test_pictures_and_corruptions_move_the_hash_and_rows_do_not(study):
    results = json.loads((study / "results.json").read_text())
    found, _ = severity_rows.networks(study, results)
    cfg = config.from_dict(results["config"])
    conditions = severity.conditions_of(["streets_day"], ["fog"], [1, 2], [1.0])

    def digest(networks, conditions, count=2):
        pictures = Pictures(cfg, ["streets_day"], count)
        made = severity.manifest_of(results, networks, conditions, pictures, "miou_pct")
        return manifest.digest(made)

    first = digest(found, conditions)
    assert digest(found[:1], conditions) == first
    other = severity.conditions_of(["streets_day"], ["fog"], [1, 3], [1.0])
    assert len({first, digest(found, conditions, 3), digest(found, other)}) == 3


def test_rows_and_seeds_are_chosen_and_what_is_gone_is_named(study, tmp_path):
    results = json.loads((study / "results.json").read_text())
    found, left = severity_rows.networks(study, results, ["IBN-b"], [1])
    assert [(n.row, n.seed, n.weights.parent.name) for n in found] == [("IBN-b", 1, "ibn-b_seed1")]
    assert left == {}
    with pytest.raises(KeyError, match="unknown row 'IBN-c'; did you mean 'IBN-b'"):
        severity_rows.networks(study, results, ["IBN-c"])
    with pytest.raises(ValueError, match=r"seeds must be among \[0, 1\] of the study, got \[7\]"):
        severity_rows.networks(study, results, None, [7])
    results["rows"][0]["runs"] = [run | {"restored": True} for run in results["rows"][0]["runs"]]
    found, left = severity_rows.networks(study, results)
    assert {n.row for n in found} == {"IBN-b"} and "restorer" in left["BN"]
    with pytest.raises(ValueError, match="rows must leave a network to measure"):
        severity_rows.networks(study, results, ["BN"])
    shutil.copy(study / "results.json", tmp_path)
    with pytest.raises(FileNotFoundError, match="last.pt is gone: train that row again"):
        severity.main(["--study", str(tmp_path)])


def test_a_part_of_a_study_has_a_name_of_its_own():
    rows = [{"name": name} for name in ("a", "b", "c")]
    study = {"environment": {"bench": "detection"}, "rows": rows}
    assert severity.study_name(study, ["a", "b"], {"c": "gone", "scale": "x"}) == "detection"
    part = severity.study_name(study, ["a", "b"], {"scale": "x"})
    assert part == "detection, 2 of 3 rows"


def test_dehazing_corrupts_the_hazy_picture_alone():
    names, left = severity_rows.fitting("dehazing", ["fog", "elastic_transform"])
    assert names == ["fog"] and list(left) == ["elastic_transform"]
    assert severity_rows.fitting("detection", ["elastic_transform"]) == (["elastic_transform"], {})
    pictures = Pictures(config.load("dehaze_streets_tiny"), ["haze"], 2)
    clean, foggy = (pictures.shown(Condition("haze", *how)) for how in ((), ("fog", 2)))
    assert len(clean) == len(foggy) == 2
    for before, after in zip(clean.items, foggy.items, strict=True):
        assert torch.equal(before["target"], after["target"])
        assert not torch.equal(before["image"], after["image"])


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        ([], "required: --study"),
        (["--study", "x", "--corruptions", "snwo"], "unknown corruption 'snwo'"),
        (["--study", "x", "--severities", "6"], "severities must be different numbers"),
        (["--study", "x", "--images", "0"], "--images must be at least 1"),
        (["--study", "x", "--scales", "2"], "--scales must be above 0 and hold 1"),
        (["--study", "x", "--data", "camvid"], "--data must read NAME=DIR"),
    ],
)
def test_bad_arguments_are_named(argv, said, capsys):
    with pytest.raises(SystemExit):
        severity.main(argv)
    assert said in capsys.readouterr().err


def test_a_folder_that_is_no_study_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="--study must be the folder of a finished study"):
        severity.main(["--study", str(tmp_path)])
    (tmp_path / "results.json").write_text('{"environment": {"bench": "resolution"}}')
    with pytest.raises(ValueError, match="must be one of generalization, .*, got resolution"):
        severity.main(["--study", str(tmp_path)])
