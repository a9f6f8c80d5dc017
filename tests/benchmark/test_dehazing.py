import json
import re
from functools import lru_cache

import pytest
import torch

from ibnvision import config
from ibnvision.benchmark import (
    beside,
    dehazing,
    dehazing_pictures,
    dehazing_rows,
    findings,
    plans,
    record,
    report,
    run_results,
    runs,
)
from ibnvision.benchmark import dehazing_scores as words
from ibnvision.methods.gate import Gate

ROLES = {
    "haze": "source",
    "haze_dense": "target",
    "haze_tinted": "target",
    "motorcycle_thin": "real",
    "motorcycle_medium": "real",
    "motorcycle_dense": "real",
    "haze_none": "stress",
}
# row -> seed -> PSNR in the order of ROLES
SCORES = {
    words.IDENTITY: [(14.0, 10.0, 15.0, 15.0, 10.0, 8.0, 100.0)],
    words.PRIOR: [(19.0, 15.0, 17.0, 24.0, 17.0, 13.0, 30.0)],
    words.TUNED_PRIOR: [(20.0, 14.0, 16.0, 20.0, 14.0, 13.5, 29.0)],
    words.FULL: [
        (25.0, 16.0, 17.0, 23.0, 18.0, 15.0, 33.0),
        (26.0, 17.0, 18.0, 25.0, 19.0, 13.0, 33.0),
        (27.0, 18.0, 19.0, 23.0, 18.0, 14.0, 33.0),
    ],
    words.NO_DETAIL: [
        (23.0, 17.0, 17.0, 23.0, 18.0, 15.0, 33.0),
        (23.9, 16.0, 18.0, 25.0, 19.0, 13.0, 33.0),
        (25.1, 18.0, 19.0, 23.0, 18.0, 14.0, 33.0),
    ],
    words.NO_ATTENTION: [
        (26.0, 16.0, 17.0, 23.0, 18.0, 15.0, 33.0),
        (27.1, 17.0, 18.0, 25.0, 19.0, 13.0, 33.0),
        (27.9, 18.0, 19.0, 23.0, 18.0, 14.0, 33.0),
    ],
}
TRAINED = (words.FULL, words.NO_DETAIL, words.NO_ATTENTION)
COMMON = {"bench": "dehazing", "run": "1", "quick": False, "device": "a processor"}
COMMON |= {"device_type": "cpu", "torch": "2", "commit": "abc", "command": "ibnvision benchmark x"}
COMMON |= {"date": "2030-01-01T00:00:00"}


def fields(psnr: float) -> dict:
    return {"psnr_rgb_db": psnr, "ssim_zero_padded": psnr / 100}


def results(seeds: int = 3) -> dict:
    found = {
        name: {s: dict(zip(ROLES, map(fields, row), strict=True)) for s, row in enumerate(rows)}
        for name, rows in SCORES.items()
    }
    for name in TRAINED:
        found[name] = dict(list(found[name].items())[:seeds])
    extra = {"weight": 1.0, "untouched_pct": 0.0, "worst_db": 9.0}
    gated = {s: {d: r | extra for d, r in f.items()} for s, f in found[words.FULL].items()}
    for run in gated.values():
        run["haze"] = run["haze"] | fields(run["haze"]["psnr_rgb_db"] - 0.25)
        kept = {"weight": 0.05, "untouched_pct": 95.0, "worst_db": 27.5}
        run["haze_none"] = fields(98.0) | kept
    rows = [
        {"name": name, "command": "ibnvision train x", "failed": {}}
        | {"runs": [{"seed": s, "found": f, "wall_s": 60.0} for s, f in found[name].items()]}
        for name in TRAINED
    ]
    every = found | {words.GATED: gated}
    return {
        "config": {"steps": 900, "batch_size": 8, "size": [64, 64], "preset": "quick"},
        "roles": ROLES,
        "beside": beside.NOTHING,
        "rows": rows,
        "gated": gated,
        "parameters": dict.fromkeys(TRAINED, 65_000),
        "prior_patch": 5,
        "protocol": "0123456789abcdef0123",
        "selection": dehazing.SELECTION,
        "summary": {
            name: run_results.summary_of(every, field, ROLES)
            for field, name in dehazing.FIELDS.items()
        },
    }


@lru_cache
def records(seeds: int = 3) -> list[record.Record]:
    return dehazing.records_of(results(seeds), COMMON)


def found(metric: str, **where: str) -> dict:
    (one,) = (r for r in records() if r["metric"] == metric and where.items() <= r.items())
    return one


def line(text: str, start: str) -> str:
    return " ".join(next(x for x in text.splitlines() if x.startswith(f"| {start}")).split())


def test_records_hold_means_intervals_and_seeds():
    cell = found(words.PSNR, model=words.FULL, column="source")
    # 26 plus and minus 4.30265 / sqrt(3)
    assert (cell["value"], cell["low"], cell["high"]) == pytest.approx((26, 23.51586, 28.48414))
    assert cell["values"] == {"0": 25.0, "1": 26.0, "2": 27.0} and cell["unit"] == "dB"
    mean = found(words.PSNR, model=words.FULL, column="target mean")
    assert mean["value"] == pytest.approx(17.5) and mean["role"] == "derived"
    ssim = found(words.SSIM, model=words.PRIOR, column="motorcycle_thin")
    assert ssim["value"] == pytest.approx(0.24) and "low" not in ssim and "unit" not in ssim
    assert json.loads(json.dumps(records(), allow_nan=False)) == records()


def test_differences_are_paired_by_seed():
    apart = found(words.DIFFERENCE, rival=words.NO_DETAIL, column="source")
    # 2, 2.1, 1.9: std 0.1, so the half is 4.30265 * 0.1 / sqrt(3)
    assert (apart["value"], apart["n"], apart["ahead"]) == (pytest.approx(2.0), 3, 3)
    assert (apart["low"], apart["high"]) == pytest.approx((1.75159, 2.24841), abs=1e-4)
    unpaired = found(words.PSNR, model=words.FULL, column="source")
    assert unpaired["high"] - unpaired["low"] > 9 * (apart["high"] - apart["low"])


def test_table_has_every_row_and_column():
    text = words.block(records())
    head = line(text, "row")
    assert head.split(" | ")[3:] == [
        "haze", "dense", "tinted", "worst target", "target mean", "gap",
        "motorcycle thin", "motorcycle medium", "motorcycle dense", "clear in |",
    ]  # fmt: skip
    hazy = "14.00 | 10.00 | 15.00 | 10.00 | 12.50 | 1.50 | 15.00 | 10.00 | 8.00 | exact |"
    assert hazy in line(text, "hazy in")
    full = line(text, "DEA-Net ")
    assert "| 0.065 | 3 | 26.00 ± 2.48 |" in full and full.endswith("| 33.00 ± 0.00 |")
    assert "| 25.75 ± 2.48 |" in line(text, "DEA-Net, gated")
    assert "900 steps of 8 crops of 64x64" in text and "Protocol 0123456789abcdef." in text
    assert "+2.00 (+1.75 to +2.25)" in line(text, "DEA-Net minus without DEConv")


def test_words_say_what_is_and_what_is_not_shown():
    text = words.block(records())
    detail, attention = (
        next(x for x in text.splitlines() if x.startswith(f"{part}, "))
        for part in ("DEConv", "CGA")
    )
    assert re.search(r"Shown to help on: haze \(p = 0\.\d+\)\. Shown to harm on: none\.", detail)
    assert "Nothing is shown on dense, tinted, worst target, target mean, motorcycle thin" in detail
    assert "On haze a difference had to exceed 0.25 dB" in detail
    assert "4.3 standard errors" in detail and "9 columns" in detail
    assert "Shown to help on: none. Shown to harm on: haze (p = " in attention
    gate = next(x for x in text.splitlines() if x.startswith("Identity gate"))
    assert "33.00 ± 0.00 dB without the gate, 98.00 ± 0.00 dB with it" in gate
    assert "95 % of the clear pictures" in gate and "worst scores 27.5 dB" in gate
    assert "haze -0.25, dense +0.00" in gate and "clear in" not in gate.split("On hazy")[1]
    assert (
        "stands +12.00 dB from its hazy input and +6.00 dB from the better of the two priors"
        in text
    )
    assert "reaches the better one at 2 of 3 densities" in text


@pytest.mark.parametrize(("seeds", "said"), [(1, "1 seed gives"), (2, "2 seeds give")])
def test_below_three_seeds_nothing_is_shown(seeds, said):
    text = words.block(records(seeds))
    assert f"DEConv: {said} no interval, so nothing is shown about it." in text
    assert "Shown to help" not in text and " ± " not in text.split("Every network")[1]


def test_words_name_the_trainings_that_came_to_nothing(monkeypatch):
    assert "Not learned" not in words.block(records())
    lost = [(14.9, *row[1:]) for row in SCORES[words.NO_DETAIL][:2]]
    monkeypatch.setitem(SCORES, words.NO_DETAIL, [*lost, SCORES[words.NO_DETAIL][2]])
    monkeypatch.setitem(SCORES, words.FULL, [(15.1, *r[1:]) for r in SCORES[words.FULL]])
    text = words.block(dehazing.records_of(results(), COMMON))
    said = next(x for x in text.splitlines() if x.startswith("Not learned"))
    assert f"within 1 dB of the hazy input on haze: {words.NO_DETAIL} in 2 of 3 seeds. The" in said


def test_missing_rows_leave_their_cells_empty():
    part = [r for r in records() if r.get("model") != words.NO_DETAIL and "rival" not in r]
    part = [r for r in part if r.get("model") != words.GATED]
    text = words.block(part)
    assert "without DEConv" not in text and "Identity gate" not in text and "DEConv," not in text


def test_targets_are_judged_from_records():
    text = findings.verdict(records())
    rows = [x for x in text.splitlines() if "DEA-Net" in x]
    assert [" ".join(x.split()).split(" | ")[2:] for x in rows] == [
        ["12", "met |"], ["6", "met |"], ["2", "met |"],
    ]  # fmt: skip
    low = [r | ({"value": 3.9} if r["metric"] == words.ABOVE_INPUT else {}) for r in records()]
    assert "MISSED" in findings.verdict(low)
    assert findings.verdict([r | {"quick": True} for r in records()]).startswith("No target")


def test_report_makes_the_readme_part_from_the_records(tmp_path):
    record.append(tmp_path / "dehazing.jsonl", records())
    parts = report.readme_tables(record.read_folder(tmp_path))
    assert parts["dehazing"].endswith(words.block(records()))
    assert parts["dehazing"].startswith("`ibnvision benchmark x` on a processor")
    assert "| met |" in " ".join(line(parts["targets"], words.ABOVE_PRIOR).split())


def test_report_makes_no_page_of_a_dehazing_folder(tmp_path, capsys):
    folder = tmp_path / "dehazing_quick"
    folder.mkdir()
    (folder / "results.json").write_text(json.dumps({"environment": COMMON}))
    argv = ["--results", str(tmp_path), "--readme", str(tmp_path / "no.md"), "--runs"]
    assert report.main([*argv, str(tmp_path)]) == 1
    assert "nothing to report" in capsys.readouterr().out


@pytest.fixture(scope="module")
def jobs(tmp_path_factory):
    return dehazing.plan("dehaze_streets_tiny", [0, 1], ("steps=2",), tmp_path_factory.mktemp("x"))


def test_plan_differs_only_in_the_part_left_out(jobs):
    assert [j.row.name for j in jobs] == 2 * list(TRAINED)
    assert [j.cfg.name for j in jobs[:2]] == ["dea_net_seed0", "without_deconv_seed0"]
    plain = [config.to_dict(j.cfg) for j in jobs]
    differing = {k for k in plain[0] if len({json.dumps(p[k]) for p in plain}) > 1}
    assert differing == {"model_args", "seed", "name"}
    base = jobs[0].cfg.model_args
    assert jobs[1].cfg.model_args == base | {"detail": False}
    assert jobs[2].cfg.model_args == base | {"attention": False}
    assert jobs[0].cfg.test_domains == dehazing.TESTS and jobs[0].cfg.threads == 1
    assert jobs[0].protocol == jobs[3].protocol != jobs[1].protocol


def test_roles_of_the_domains(jobs):
    roles = plans.roles_of(jobs[0].cfg)
    by_role = {role: [d for d, r in roles.items() if r == role] for role in roles.values()}
    assert by_role["source"] == ["haze"] and by_role["stress"] == ["haze_none"]
    assert by_role["target"] == ["haze_dense", "haze_tinted", "haze_patchy", "haze_camera"]
    assert by_role["real"] == [f"motorcycle_{d}" for d in ("thin", "medium", "dense")]


FAKE = """
import json, pathlib, sys
folder, text, steps, domains, psnr = json.loads(sys.argv[1])
folder = pathlib.Path(folder)
folder.mkdir(parents=True, exist_ok=True)
(folder / "config.toml").write_text(text)
(folder / "last.pt").write_text("weights of " + folder.name)
head = {"kind": "eval", "split": "test", "step": steps, "psnr_rgb_db": psnr}
lines = [json.dumps(head | {"ssim_zero_padded": 0.5, "domain": d}) for d in domains]
(folder / "metrics.jsonl").write_text("\\n".join(lines))
"""


def test_main_leaves_its_files(tmp_path, monkeypatch, capsys):
    """With trainings, gate and pictures replaced by stand-ins; the rest is real."""

    def command(job, config_name, *flags):
        cfg = job.cfg
        facts = [str(job.folder), config.dump(cfg), cfg.steps, cfg.test_domains, 20.0 + job.seed]
        return [runs.sys.executable, "-I", "-c", FAKE, json.dumps(facts)]

    def gated(weights, cfg, domains):
        extra = {"weight": 0.5, "untouched_pct": 50.0, "worst_db": 20.0}
        return {d: fields(22.0) | extra for d in domains}

    monkeypatch.setattr(plans.Job, "command", command)
    monkeypatch.setattr(beside, "of_study", lambda *args: beside.NOTHING)
    monkeypatch.setattr(dehazing.dehazing_rows, "gated", gated)
    monkeypatch.setattr(dehazing_pictures, "write", lambda weights, folder: {})
    out, kept = tmp_path / "bench", tmp_path / "kept.jsonl"
    argv = ["--preset", "tiny", "--seeds", "0,1,2", "--out", str(out), "--record", str(kept)]
    assert dehazing.main(argv) == 0
    found = json.loads((out / "results.json").read_text())
    assert [[run["seed"] for run in row["runs"]] for row in found["rows"]] == 3 * [[0, 1, 2]]
    assert (out / "dehazer.pt").read_text() == "weights of dea_net_seed0"
    cells = found["summary"][words.PSNR]
    assert cells[words.FULL]["haze_dense"]["mean"] == 21.0
    assert cells[words.IDENTITY]["haze_none"]["mean"] == 100.0
    assert cells[words.PRIOR]["source"]["mean"] > cells[words.IDENTITY]["source"]["mean"]
    assert record.read(kept) == record.read(out / "records.jsonl")
    assert all(r["quick"] for r in record.read(kept))
    text = (out / "table.md").read_text()
    assert (
        text.strip() == words.block(record.read(kept)) and text.strip() in capsys.readouterr().out
    )


def test_picture_needs_a_finished_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match="dehazer.pt: run `ibnvision benchmark dehazing`"):
        dehazing.main(["--out", str(tmp_path), "--picture", str(tmp_path / "x.jpg")])


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--seeds", "0,x"], "--seeds must be integers"),
        (["--seeds", "1,1"], "--seeds must be different"),
        (["--workers", "0"], "--workers must be at least 1"),
    ],
)
def test_bad_arguments_are_named(argv, said, capsys):
    with pytest.raises(SystemExit):
        dehazing.main(argv)
    assert said in capsys.readouterr().err


@pytest.mark.slow
def test_tiny_end_to_end(tmp_path, capsys):
    out = tmp_path / "bench"
    argv = ["--preset", "tiny", "--out", str(out), "--workers", "1", "steps=2"]
    assert dehazing.main(argv) == 0
    found = json.loads((out / "results.json").read_text())
    assert [len(row["runs"]) for row in found["rows"]] == [1, 1, 1]
    assert found["prior_patch"] in dehazing.dehazing_rows.PATCHES
    assert found["gated"]["0"]["haze_none"]["untouched_pct"] > 50
    for name in found["pictures"].values():
        assert (out / "pictures" / name).read_bytes().startswith(b"\x89PNG")
    picture = tmp_path / "docs" / "before.jpg"
    assert dehazing.main(["--out", str(out), "--picture", str(picture)]) == 0
    assert picture.read_bytes().startswith(b"\xff\xd8")
    assert 5_000 < picture.stat().st_size <= 300_000
    again = dehazing.main(argv)
    assert again == 0 and capsys.readouterr().out.count("finished before, reused") == 3
    assert json.loads((out / "results.json").read_text())["summary"] == found["summary"]


def test_a_gated_network_restores_each_image_as_far_as_it_is_hazy():
    seen = []

    class Dark(torch.nn.Module):
        def restore(self, images):
            seen.append(len(images))
            return images / 2

    images = torch.stack([torch.full((3, 40, 40), level) for level in (0.0, 0.9, 0.55, 0.7)])
    images[0, :, :20] = 0.4  # no haze: half of it is black
    gated = dehazing_rows.Gated(Dark(), Gate(0.5, 0.6))
    restored = gated.restore(images)
    assert torch.equal(restored[0], images[0]) and torch.equal(restored[1], images[1] / 2)
    torch.testing.assert_close(restored[2], 0.75 * images[2])  # half open
    assert torch.equal(restored[3], images[3] / 2) and seen == [3]  # the hazy ones at once
    assert torch.equal(gated.restore(images[:1]), images[:1]) and seen == [3]
