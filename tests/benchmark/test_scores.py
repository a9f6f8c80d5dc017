import math

import pytest

from ibnvision.benchmark import scores

ROLES = {
    "streets_day": "source",
    "streets_fog": "target",
    "streets_night": "target",
    "streets_invert": "stress",
    "camvid_dusk": "real",
}
SCORES = {
    "BN": [(60.0, 30.0, 10.0, 1.0, 15.0), (58.0, 34.0, 14.0, 1.0, 17.0)],
    "BN + jitter": [(54.0, 40.0, 36.0, 2.0, 26.0)],
    "IBN-b": [(57.0, 44.0, 28.0, 3.0, 25.0), (57.0, 46.0, 30.0, 3.0, 16.0)],
}
RUNS = {
    name: {seed: dict(zip(ROLES, values, strict=True)) for seed, values in enumerate(runs)}
    for name, runs in SCORES.items()
}


def results():
    iou = {"streets_day": {"road": 90.0, "pole": 10.0, "person": None}}
    rows = [
        {
            "name": name,
            "augment": "jitter" if "jitter" in name else "flip",
            "command": "ibnvision train streets_quick",
            "failed": {},
            "runs": [
                {"seed": s, "scores": v, "iou": iou, "reused": False, "folder": "-", "wall_s": 1.0}
                for s, v in runs.items()
            ],
        }
        for name, runs in RUNS.items()
    ]
    return {
        "roles": ROLES,
        "rows": rows,
        "summary": scores.summarize(RUNS, ROLES),
        "selection": "The last checkpoint.",
        "absent_rule": "absent classes are left out",
        "protocol": "0123456789abcdef0123",
        "dropped_seeds": [2],
    }


def test_columns_average_targets_only():
    row = scores.of_run(RUNS["BN"][0], ROLES)
    assert list(row) == [
        "source", "streets_fog", "streets_night", "worst target", "target mean", "gap",
        "streets_invert", "camvid_dusk",
    ]  # fmt: skip
    assert (row["target mean"], row["worst target"], row["gap"]) == (20.0, 10.0, 40.0)


def test_a_missing_score_is_not_a_zero():
    row = scores.of_run(RUNS["BN"][0] | {"streets_fog": None}, ROLES)
    assert all(math.isnan(row[c]) for c in ("streets_fog", "target mean", "worst target", "gap"))
    summary = scores.summarize({"BN": {0: RUNS["BN"][0] | {"streets_fog": None}}}, ROLES)
    assert "target mean" not in summary["BN"] and summary["BN"]["source"]["mean"] == 60.0


def test_summary_over_seeds():
    cell = scores.summarize(RUNS, ROLES)["BN"]["target mean"]
    assert cell == {"mean": 22.0, "std": 2.0, "n": 2, "values": {"0": 20.0, "1": 24.0}}


def test_three_seeds_give_an_interval():
    runs = {"BN": {s: {"streets_day": v} for s, v in enumerate((1.0, 2.0, 3.0))}}
    cell = scores.summarize(runs, {"streets_day": "source"})["BN"]["source"]
    assert (cell["low"], cell["high"]) == pytest.approx((-0.484138, 4.484138), rel=1e-3)


def test_advantage_compares_seed_by_seed():
    summary = scores.summarize(RUNS, ROLES)
    gain = scores.advantage(summary, "IBN-b", "BN", "target mean")
    assert gain == {"mean": 15.0, "least": 14.0, "ahead": 2, "n": 2}
    dusk = scores.advantage(summary, "IBN-b", "BN", "camvid_dusk")
    assert dusk["least"] == -1.0 and dusk["ahead"] == 1
    assert scores.advantage(summary, "IBN-b", "none", "source") is None


def test_table_shows_mean_spread_augmentation_and_rules():
    text = scores.table(results())
    bn = next(x for x in text.splitlines() if x.startswith("| BN  "))
    assert "22.0 ± 2.0" in bn and "flip" in bn and "59.0 ± 1.0" in bn
    assert "20.0" in text and "Target mean: fog, night" in text and "invert are stress" in text
    assert "0123456789abcdef" in text and "The last checkpoint." in text


def test_headline_and_discussion_are_computed():
    text = scores.headline(results())
    assert "IBN-b" in text and "37.0" in text and "22.0" in text and "+15.0" in text
    words = " ".join(scores.discussion(results()))
    assert "ahead on fog, behind on night" in words  # IBN-b against jitter, the shared seed
    assert "IBN-b above BN in 1 of 2 seeds (least -1.0)" in words
    assert "pole (10 %)" in words and "person" not in words.split("Hardly learned")[1]
