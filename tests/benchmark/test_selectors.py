import json
import math

import pytest

from ibnvision import config
from ibnvision.benchmark import plans, selector_table, selectors

ROLES = {"day": "source", "fog": "target", "night": "target", "dusk": "target", "ink": "stress"}
# step -> val, then the test scores in the order of ROLES
LOG = {
    10: (50.0, [51.0, 30.0, 10.0, 20.0, 9.0]),
    20: (60.0, [61.0, 20.0, 14.0, 22.0, 5.0]),
    30: (55.0, [56.0, 25.0, 12.0, 28.0, 7.0]),
}


def log(steps=LOG, domains=tuple(ROLES), score="miou_pct"):
    rows = [{"kind": "train", "step": 5, "loss": 1.0}]
    for step, (value, test) in steps.items():
        head = {"kind": "eval", "step": step, "selection": f"step {step}"}
        rows.append(head | {"split": "val", "domain": domains[0], score: value})
        rows += [
            head | {"split": "test", "domain": d, score: v}
            for d, v in zip(domains, test, strict=True)
        ]
    return rows


def test_every_selector_by_hand():
    found = selectors.steps(log(), ROLES, "miou_pct")
    assert list(found) == ["last", "source validation", "leave-one-domain-out", "oracle"]
    assert found["last"] == dict.fromkeys(ROLES, 30)
    assert found["source validation"] == dict.fromkeys(ROLES, 20)
    # without fog: 30, 36, 40; without night: 50, 42, 53; without dusk: 40, 34, 37; all: 60, 56, 65
    assert found["leave-one-domain-out"] == {"fog": 30, "night": 30, "dusk": 10, "ink": 30}
    assert found["oracle"] == {"fog": 10, "night": 20, "dusk": 30, "ink": 10}
    run = selectors.of_run(log(), ROLES, "miou_pct")
    last, value, out, oracle = (run[s] for s in found)
    assert (last["source"], last["worst target"], last["gap"]) == (56.0, 12.0, 56.0 - 65 / 3)
    assert (value["source"], value["target mean"], value["ink"]) == (61.0, 56 / 3, 5.0)
    assert (out["fog"], out["night"], out["dusk"]) == (25.0, 12.0, 20.0)
    assert out["source"] == pytest.approx((56 + 56 + 51) / 3)  # at the step of each target
    assert out["gap"] == pytest.approx((31 + 44 + 31) / 3)
    assert (oracle["target mean"], oracle["source"]) == (72 / 3, 56.0)  # 51, 61, 56


def test_ties_go_to_the_earlier_step_as_in_best_pt():
    even = {step: (50.0, [50.0, 20.0, 20.0, 20.0, 9.0]) for step in (10, 20, 30)}
    found = selectors.steps(log(even), ROLES, "miou_pct")
    assert {step for domain in found["oracle"].values() for step in [domain]} == {10}
    assert found["source validation"]["fog"] == found["leave-one-domain-out"]["fog"] == 10
    assert found["last"]["fog"] == 30


def test_an_undefined_score_is_never_picked_and_stays_undefined():
    holes = {s: (None if s == 20 else v, [*t[:4], None]) for s, (v, t) in LOG.items()}
    found = selectors.steps(log(holes), ROLES, "miou_pct")
    assert found["source validation"]["fog"] == 30 and found["oracle"]["ink"] is None
    run = selectors.of_run(log(holes), ROLES, "miou_pct")["oracle"]
    assert math.isnan(run["ink"]) and run["target mean"] == 24.0


def test_what_a_log_cannot_answer_is_left_out():
    roles = {"day": "source", "fog": "target"}
    rows = [r for r in log() if r.get("split") != "val"]
    assert list(selectors.steps(rows, roles, "miou_pct")) == ["last", "oracle"]
    alone = selectors.of_run(log(), {"day": "source"}, "miou_pct")
    assert alone == {"last": {"source": 56.0}, "source validation": {"source": 61.0}}
    cut = [r for r in log() if (r["step"], r.get("domain")) != (30, "ink")]  # by a crash
    assert selectors.steps(cut, ROLES, "miou_pct")["last"]["fog"] == 20
    with pytest.raises(ValueError, match="rows must hold an evaluation of day, fog, got none"):
        selectors.steps([], roles, "miou_pct")


DOMAINS = ("streets_day", "streets_fog", "streets_night", "streets_dusk", "streets_invert")


@pytest.fixture
def study(tmp_path):
    """study(row -> seed -> log) -> its jobs, complete in their folders."""

    def make(rows, steps=30):
        words = (f"steps={steps}", f"test_domains=[{','.join(DOMAINS)}]", f"out={tmp_path}")
        jobs = []
        for name, logs in rows.items():
            for seed, mine in enumerate(logs):
                row = plans.Row(name, ())
                own = (*words, f"seed={seed}", f"name={row.key}_{seed}")
                cfg = config.load("seg_streets_tiny", own)
                job = plans.Job(row, seed, cfg, own, "", cfg)
                job.folder.mkdir(parents=True)
                text = "".join(json.dumps(r) + "\n" for r in log(mine, DOMAINS))
                (job.folder / "metrics.jsonl").write_text(text)
                (job.folder / "last.pt").touch()
                jobs.append(job)
        return jobs

    return make


def raised(by, at=(10, 20, 30)):
    """LOG with `by` more at some steps, everywhere."""
    return {
        s: (v + by, [t + by for t in test]) if s in at else (v, test)
        for s, (v, test) in LOG.items()
    }


def test_records_over_seeds_say_where_they_come_from(study):
    jobs = study({"BN": [LOG, raised(1), raised(2)], "IBN-b": [raised(9)]})
    (jobs[-1].folder / "last.pt").unlink()  # still training
    found = selectors.records(jobs)
    cells = {(r["selector"], r["model"], r["column"]): r for r in found}
    mean = cells["source validation", "BN", "target mean"]
    assert (mean["metric"], mean["unit"], mean["n"]) == ("score by selector", "%", 3)
    assert mean["value"] == pytest.approx(56 / 3 + 1) and mean["checkpoints"] == 3
    assert mean["values"]["2"] == pytest.approx(56 / 3 + 2)
    assert mean["low"] < mean["value"] < mean["high"] and set(mean["steps"]) == {"0", "1", "2"}
    dusk = cells["leave-one-domain-out", "BN", "streets_dusk"]
    assert (dusk["role"], dusk["value"]) == ("target", 21.0)
    assert dusk["steps"] == {"0": 10, "1": 10, "2": 10}
    assert {r["selector"] for r in found if r["bound"]} == {"oracle"}
    assert {r["model"] for r in found} == {"BN"} and selectors.records([]) == []


def test_the_table_keeps_the_oracle_apart_and_says_what_moves(study):
    # by the last step B leads A by 1 in all seeds, by source validation A leads
    ours = [raised(by, at=(30,)) for by in (1.0, 1.1, 0.9)]
    text = selector_table.table(selectors.records(study({"A": [LOG] * 3, "B": ours})))
    head, rule, *lines = text.split("\n\n")[0].splitlines()
    names = [cell.strip() for cell in head.strip("|").split("|")]
    assert names[:2] == ["target mean, mIoU %", "last"]
    assert names[-1] == "bound, no result: oracle" and names.count("source by it") == 3
    assert [cell.strip() for cell in lines[0].strip("|").split("|")] == [
        *("A", "21.7 ± 0.0", "56.0 ± 0.0", "18.7 ± 0.0", "61.0 ± 0.0"),
        *("19.0 ± 0.0", "54.3 ± 0.0", "24.0 ± 0.0"),
    ]
    words = text.split("\n\n")[1]
    assert "Each run has 3 checkpoints to choose from." in words
    assert "source validation -3.5 (-4.0 to -3.0), by another checkpoint for 100 %" in words
    assert "33 % of runs and targets" in words  # dusk alone
    assert "Two rows are 1.0 points apart on average." in words
    assert "a bound on what any selector could add, +2.0 (+1.7 to +2.3)." in words
    assert "The order of rows stays as it is by source validation and leave-one-domain" in words


def test_rows_that_change_places_are_named_and_judged(study):
    # B leads A by 1 by the last step, A leads B by 1 at step 20, which source validation picks
    def other(by):
        return {s: raised({10: 0, 20: -1, 30: by}[s])[s] for s in LOG}

    jobs = study({"A": [LOG] * 3, "B": [other(by) for by in (1.0, 1.1, 0.9)]})
    words = selector_table.shown(selectors.records(jobs))
    assert (
        "By source validation 1 of 1 pairs of rows change places (A and B); the paired 95 % "
        "interval tells 1 of these apart by last. The order of rows stays as it is by "
        "leave-one-domain-out." in words
    )
    noisy = study({"C": [other(by) for by in (3.0, -2.0, 1.0)]})
    words = selector_table.shown(selectors.records([*jobs[:3], *noisy]))
    assert "(A and C); the paired 95 % interval tells 0 of these apart by last." in words


def test_one_checkpoint_selects_nothing(study):
    jobs = study({"A": [{30: LOG[30]}], "B": [{30: raised(1)[30]}]})
    text = selector_table.table(selectors.records(jobs))
    assert text.endswith(
        "Every log holds one checkpoint, so all selectors and the oracle agree by construction "
        "and nothing can be selected."
    )
    assert selector_table.table([{"metric": "miou", "column": "source", "model": "A"}]) == ""
