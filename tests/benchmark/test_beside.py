import json

import pytest

from ibnvision.benchmark import beside, by_image, plans, row_costs

MEASURED = {
    "intervals": {"BN": {"target mean": {"image_low": 1.0, "image_high": 3.0}}},
    "differences": [["IBN-b", "BN", {"target mean": {"image_low": -1.0, "image_high": 2.0}}]],
}


def cell(metric, **fields):
    return {"metric": metric, "model": "BN", "column": "target mean", "value": 2.0, "n": 3} | fields


def test_image_intervals_go_to_the_cells_and_differences_they_belong_to():
    found = [
        cell("miou"),
        cell("miou", column="source"),
        cell("ap"),
        cell("difference", model="IBN-b", rival="BN"),
        {"metric": "difference", "row": "IBN-b", "rival": "BN", "column": "target mean"},
        cell("difference", model="IBN-a", rival="BN"),
        {"metric": "training images/s", "model": "BN"},
    ]
    got = beside.merged(found, ["miou"], "difference", MEASURED)
    assert [r.get("image_low") for r in got] == [1.0, None, None, -1.0, -1.0, None, None]
    assert got[0]["image_high"] == 3.0 and got[3]["image_high"] == 2.0 and got[2] == found[2]


def test_the_block_leaves_rows_out_that_did_not_converge():
    more = {"image_low": 1.0, "image_high": 3.0, "redraws": 2000, "images": 100}
    found = [cell("ap50", **more), cell("ap50", model="lost", not_converged="9", **more)]
    found += [
        cell("ECE", value=4.26),
        cell("ECE", value=3.0, column="source"),
        cell("ECE", model="lost"),
    ]
    text = beside.block(found, "ap50", "AP50")
    assert "| BN  |" in text and "lost" not in text and "1.0 to 3.0" in text
    table = next(part for part in text.split("\n\n") if "ECE" in part).splitlines()
    assert [word.strip() for word in table[0].strip("|").split("|")][1:] == [
        "source",
        "target mean",
    ]
    assert [word.strip() for word in table[2].strip("|").split("|")] == ["BN", "3.0", "4.3"]
    assert beside.after("words", [], "ap50", "AP50") == "words"


@pytest.fixture
def ended(tmp_path, monkeypatch):
    """Two trainings with a log of two checkpoints; what reads their weights is replaced."""
    rows = [plans.Row("BN", ()), plans.Row("IBN-b", ("lr=0.2",))]
    tests = ["streets_day", "streets_fog", "streets_night"]
    words = ("steps=2", "eval_every=1")
    jobs = plans.plan_rows(rows, tests, "seg_streets_tiny", [0], words, tmp_path)
    for at, job in enumerate(jobs):
        job.folder.mkdir(parents=True)
        (job.folder / "last.pt").write_text("")
        lines = [
            {"kind": "eval", "split": split, "step": step, "domain": d, "ece_pct": 5.0 + at}
            | {"miou_pct": 10.0 * step + at}
            for step in (1, 2)
            for split, d in [("val", "streets_day"), *(("test", d) for d in tests)]
        ]
        text = "\n".join(map(json.dumps, lines))
        (job.folder / "metrics.jsonl").write_text(text)
    monkeypatch.setattr(by_image, "of_run", lambda run, domains, say: None)
    monkeypatch.setattr(beside.redraws, "redraw", lambda stats, roles, field: stats)
    monkeypatch.setattr(beside.redraws, "intervals", lambda drawn: {"rows": sorted(drawn)})
    apart = {("IBN-b", "BN"): {"source": {}}}
    monkeypatch.setattr(beside.redraws, "difference_intervals", lambda drawn, pairs: apart)
    monkeypatch.setattr(
        row_costs, "records", lambda jobs, repeats, more: [{"metric": "cost"}] * repeats
    )
    return jobs


def test_a_study_is_measured_from_its_finished_trainings(ended):
    said = []
    got = beside.of_study(ended, "miou_pct", lambda names: [tuple(names)], 3, said.append)
    assert got["intervals"] == {"rows": ["BN", "IBN-b"]} and len(said) == 2
    assert got["differences"] == [["IBN-b", "BN", {"source": {}}]]
    metrics = [r["metric"] for r in got["records"]]
    assert metrics.count("ECE") == 2 * 3 and metrics.count("cost") == 3
    assert metrics.count("score by selector") == 4 * 2 * 3  # selectors, rows, kept columns
    assert {r["column"] for r in got["records"] if "column" in r} == set(beside.COLUMNS)
