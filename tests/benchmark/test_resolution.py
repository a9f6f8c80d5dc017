import json

import numpy as np
import pytest
import torch

from ibnvision import engine
from ibnvision.benchmark import (
    by_image,
    findings,
    record,
    report,
    resolution,
    resolution_images,
    resolution_pictures,
    runs,
    scores,
)
from ibnvision.benchmark import resolution_scores as words
from ibnvision.benchmark.resolution_rows import Scores, View, form_of, network
from ibnvision.engine.predict import load_trained
from ibnvision.metrics import SegmentationMetric
from ibnvision.metrics import by_image as scoring
from ibnvision.tasks import segmentation

VIEWS = [view for view in resolution.VIEWS if "zoom" not in view.trained]
ROPE = {view.name: view for view in resolution.VIEWS if view.trained == resolution.ROPE}
# row -> (mIoU at 1x of seeds 0, 1, 2; points lost per step of scale)
FAKE = {
    "CNN": ((64.0, 65.0, 66.0), 5.0),
    "absolute, dense": ((60.0, 61.0, 62.0), 1.0),
    "absolute, Lambda": ((58.0, 59.0, 60.0), 12.0),
    "RoPE squeezed, dense": ((63.0, 64.0, 65.0), 10.0),
    "RoPE native, Lambda, limit": ((62.0, 63.1, 63.9), 1.0),
}
COMMON = {"bench": "resolution", "run": "1", "quick": False, "device": "a processor"}
COMMON |= {"device_type": "cpu", "torch": "2", "commit": "abc", "command": "ibnvision benchmark x"}
COMMON |= {"date": "2030-01-01T00:00:00"}


def results(seeds: int = 3) -> dict:
    scores = {
        row: {
            probe: {s: [first[s] - loss * step for step in range(4)] for s in range(seeds)}
            for probe in words.PROBES
        }
        for row, (first, loss) in FAKE.items()
    }
    spread = {"min": 0.001, "q1": 0.001, "q3": 0.002, "max": 0.002}
    costs = [
        {"view": row, "scale": scale, "n": 5, "spread": spread}
        | {"cpu_s": 0.001 * scale ** (2 if "Lambda" in row else 3), "peak_bytes": 2e6 * scale}
        for scale in words.SCALES
        for row in FAKE
    ]
    spent = [{"seed": s, "cpu_s": 60.0 + 6 * s, "reused": s > 1} for s in range(seeds)]
    return {
        "config": {"train_domains": ["streets_day"], "steps": 9, "batch_size": 4},
        "form": {"grid": [8, 12], "window": [9, 13]},
        "protocol": "0123456789abcdef0123",
        "selection": resolution.SELECTION,
        "trained_size": [64, 96],
        "pictures": 64,
        "scores": scores,
        "costs": costs,
        "rows": [{"name": "CNN", "runs": spent}],
        "parameters": {"CNN": 363_000},
        "steps": {"CNN": 9},
        "beside": {},
    }


def records(seeds: int = 3) -> list[record.Record]:
    return resolution.records_of(results(seeds), COMMON)


def line(text: str, start: str) -> str:
    return " ".join(next(x for x in text.splitlines() if x.startswith(f"| {start} ")).split())


def test_records_hold_means_intervals_and_pairs():
    where = {"model": "RoPE native, Lambda, limit", "probe": "sheet", "scale": 2}
    found = {r["metric"]: r for r in records() if where.items() <= r.items()}
    assert found[words.MIOU]["value"] == pytest.approx(62.0)
    assert found[words.MIOU]["values"] == {"0": 61.0, "1": pytest.approx(62.1), "2": 62.9}
    # 8, 8.1, 7.9: mean 8, half 4.30265 * 0.1 / sqrt(3)
    apart = found[words.DIFFERENCE]
    assert apart["rival"] == "RoPE squeezed, dense" and apart["value"] == pytest.approx(8.0)
    assert (apart["low"], apart["high"]) == pytest.approx((7.75159, 8.24841), abs=1e-4)
    assert json.loads(json.dumps(records(), allow_nan=False)) == records()


def test_tables_and_words_come_from_the_records():
    text = words.block(records())
    assert "at 64x96, batches of 4 images; window 9x13 of 8x12 patches." in text
    assert line(text, "CNN").startswith("| CNN | 3 | 65.0 ± 2.5 | 60.0 ± 2.5 | 55.0")
    assert "| absolute, dense (not converged) | 3 | 61.0 ± 2.5 |" in " ".join(text.split())
    assert "absolute -4.0 (not converged), RoPE -1.0 (converged)." in text
    shown = [x for x in text.splitlines() if x.startswith("- RoPE native, Lambda, limit against")]
    said = "ahead at 2x (+8.0), 3x (+17.0), 4x (+26.0)."
    assert [x.split("dense, ")[1] for x in shown] == [f"scene: {said}", f"sheet: {said}"]
    assert "absolute, Lambda against absolute, dense, scene: behind at 2x (-13.0), 3x" in text
    assert "the best row is RoPE native, Lambda, limit with 60.0 % mIoU, 95 % of its own" in text
    assert "less than two thirds kept: absolute, Lambda (23), RoPE squeezed, dense (34)." in text
    assert "| CNN | 9 | 0.363 | 1.1 |" in " ".join(text.split())
    assert "absolute, Lambda 4.00 times as fast, 1.00 of the live memory" in text
    assert f"({words.NAME})" in text
    critical = text[text.index("Critical scale") :]
    assert line(critical, "absolute, Lambda") == "| absolute, Lambda | 4x | 4x |"  # 59 to 23
    assert line(critical, "RoPE squeezed, dense") == "| RoPE squeezed, dense | never | never |"
    short = next(x for x in text.splitlines() if x.startswith("In short"))
    assert "scene: absolute, dense 61.0 to 58.0; absolute, Lambda 59.0 to 23.0; RoPE" in short


def test_pairs_that_show_nothing_share_a_line():
    plain = [r | {"low": -9.0, "high": 9.0} if "rival" in r else r for r in records()]
    (text,) = (x for x in words.block(plain).splitlines() if x.startswith("- "))
    assert text.startswith("- nothing is shown at any of these sizes: absolute, Lambda against")


def test_the_bar_is_judged_with_and_without_zoom():
    more = {"model": "RoPE zoom", "trained": "RoPE zoom", "control": "CNN zoom", "scale": 1}
    first = next(r for r in records() if r["metric"] == words.MIOU)
    both = [(more, 50.0), (more | {"model": "CNN zoom", "trained": "CNN zoom"}, 58.0)]
    found = [*records(), *(first | fields | {"value": value} for fields, value in both)]
    assert words.judged(found)[words.CONVERGED] == pytest.approx(8.0)
    assert words.plain_gap(found) == pytest.approx(4.0)


def test_below_three_seeds_nothing_is_shown():
    text = words.block(records(2))
    assert "Fewer than three seeds give no interval" in text and " ± 2" not in text


def test_the_bar_of_convergence_is_judged():
    for name in (words.CONVERGED, words.CONVERGED_PLAIN):
        (row,) = (x for x in findings.verdict(records()).splitlines() if name in x)
        assert [x.strip() for x in row.split("|")[2:5]] == ["<= 3 mIoU points", "4", "MISSED"]


def test_report_writes_the_part_and_its_picture(tmp_path):
    record.append(tmp_path / "resolution.jsonl", records())
    part = report.readme_tables(record.read_folder(tmp_path))["resolution"]
    assert part.endswith(words.block(records()))
    path = resolution_pictures.write(records(), tmp_path)
    assert path.name == words.NAME and path.read_bytes().startswith(b"\x89PNG")


def test_plan_differs_in_network_positions_and_augmentation(tmp_path):
    jobs = resolution.plan("vit_streets_tiny", [0, 1], (), tmp_path)
    assert [j.row.name for j in jobs[:5]] == list(resolution.CONTROLS) and len(jobs) == 10
    inner = [j.cfg.model_args["backbone_args"] for j in jobs[1:3]]
    differing = {key for key in inner[0] if inner[0][key] != inner[1][key]}
    assert differing == {"use_abs_pos_emb", "use_rot_pos_emb"}
    assert [j.cfg.augment for j in jobs[:5]] == ["flip"] * 3 + ["zoom"] * 2
    assert [j.cfg.steps for j in jobs[:5]] == [4, 4, 4, 7, 7]
    assert len({(j.cfg.batch_size, j.cfg.train_domains) for j in jobs}) == 1


def in_process(jobs, config_name, state, **_):
    """run_jobs without child processes."""
    for job in jobs:
        if not state.same(job):
            engine.train(job.cfg)
            state.put(job, protocol=job.protocol, wall_s=2.0, cpu_s=1.0)
    return runs.Outcome(done=list(jobs))


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run of the benchmark with the tiny preset, of the trainings without zoom, and a restart."""
    out = tmp_path_factory.mktemp("resolution")
    argv = ["--preset", "tiny", "--out", str(out), "--record", str(out / "kept.jsonl"), "steps=2"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runs, "run_jobs", in_process)
        patch.setattr(resolution, "REPEATS", 1)
        patch.setattr(resolution, "ROWS", resolution.ROWS[:3])
        patch.setattr(resolution, "VIEWS", VIEWS)
        assert resolution.main(argv) == 0
        patch.setattr(Scores, "_measured", None)  # the restart reuses every score
        assert resolution.main(argv) == 0
    return out


def test_the_verb_leaves_its_files(finished):
    kept = record.read(finished / "kept.jsonl")
    assert all(r["quick"] for r in kept) and len({r["run"] for r in kept}) <= 2
    mine = record.read(finished / "records.jsonl")
    cells = [r for r in mine if r["metric"] == words.MIOU]
    assert len(cells) == len(VIEWS) * 2 * 4 and {r["n"] for r in cells} == {1}
    assert (finished / "table.md").read_text().strip() == resolution_images.after(mine)
    assert (finished / words.NAME).read_bytes().startswith(b"\x89PNG")
    values = {(r["model"], r["probe"], r["scale"]): r["value"] for r in cells}
    at_home = [value for (_, _, scale), value in values.items() if scale == 1]
    assert len(at_home) == 2 * len(VIEWS)
    assert all(values[v, "scene", 1] == values[v, "sheet", 1] for v, _, _ in values)


def test_scores_of_scenes_come_to_those_of_the_set(finished):
    folder = finished / "runs" / "segmentation" / "rope_seed0"
    trained = load_trained(folder / "last.pt")
    drawn = Scores(trained.cfg, print)
    for probe, scale in (("scene", 2), ("sheet", 2), ("sheet", 3)):
        metric = SegmentationMetric(trained.classes)
        for image, target in drawn.pictures(probe, scale):
            batch = {"image": image[None], "target": target[None]}
            with torch.no_grad():
                metric.update(*segmentation.evaluate(trained.model, batch, trained.cfg))
        path = folder / by_image.FOLDER / f"rope_squeezed_dense_{probe}_{scale}x.npz"
        with np.load(path) as found:
            whole = [scoring.whole(found, key) for key in ("miou_pct", "ece_pct")]
            assert int(found["images"]) == (9 if scale == 3 else 16)
        expected = metric.compute()
        assert whole == pytest.approx([expected["miou_pct"], expected["ece_pct"]], abs=1e-4)


def test_records_hold_sizes_together_calibration_and_image_intervals(finished):
    mine = record.read(finished / "records.jsonl")
    where = {"model": "RoPE squeezed, dense", "probe": "scene"}
    found = [r for r in mine if where.items() <= r.items()]
    sizes = {r["scale"]: r for r in found if r["metric"] == words.MIOU}
    (mean,) = (r for r in found if r["metric"] == words.OVER_SIZES and r["column"] == scores.MEAN)
    assert mean["value"] == pytest.approx(sum(sizes[s]["value"] for s in (2, 3, 4)) / 3)
    assert mean["images"] == 16  # the same scenes at every size
    for r in (mean, *sizes.values()):
        assert r["image_low"] - 1 < r["value"] < r["image_high"] + 1
        assert r["image_low"] < r["image_high"]
    errors = {r["column"]: r["value"] for r in found if r["metric"] == "ECE"}
    assert {scores.SOURCE, "2x", "3x", "4x", scores.MEAN} <= set(errors)
    text = (finished / "table.md").read_text()
    assert "**scene**, over sizes: the source is 1x, the targets are 2x, 3x, 4x." in text
    sheets = [r for r in mine if r["metric"] == words.MIOU and r["probe"] == "sheet"]
    assert all(("image_low" in r) == (r["scale"] != 3) for r in sheets)  # 9 scenes there: too few


def test_sheets_show_the_first_of_the_same_scenes_at_every_size(finished):
    folder = finished / "runs" / "segmentation" / "rope_seed0"
    cfg = load_trained(folder / "last.pt").cfg
    job = next(
        j
        for j in resolution.plan("vit_streets_tiny", [0], ["steps=2"], finished)
        if j.folder == folder
    )
    found = Scores(cfg, str).of(job, ROPE["RoPE squeezed, dense"])
    every = [one for row in found.values() for one in row]
    assert len({str(one["scenes"]) for one in every}) == 1
    assert [int(one["images"]) for one in found["sheet"]] == [16, 16, 9, 16]


@torch.no_grad()
def test_views_differ_from_the_trained_network_where_they_should(finished):
    weights = finished / "runs" / "segmentation" / "rope_seed0" / "last.pt"
    nets = {name: network(view, weights) for name, view in ROPE.items()}
    assert form_of(nets) == {"grid": [4, 6], "window": [5, 7]}
    for name, net in nets.items():
        tokens = [n for n, _ in net.named_parameters() if "reg_token" in n or "cls_token" in n]
        assert len(tokens) == (0 if "window" in name else 2)
    torch.manual_seed(0)
    home, large = torch.rand(1, 3, 32, 48), torch.rand(1, 3, 64, 96)
    at_home, enlarged = ({n: net(x) for n, net in nets.items()} for x in (home, large))
    dense = ["RoPE squeezed, dense", "RoPE native, dense"]
    shaped = ["RoPE native, Lambda", "RoPE native, Lambda, limit"]
    for one, other in (dense, shaped):
        torch.testing.assert_close(at_home[one], at_home[other])
        assert (enlarged[one] - enlarged[other]).abs().max() > 1e-6
    assert (at_home[dense[0]] - at_home[shaped[0]]).abs().max() > 1e-6


@torch.no_grad()
def test_a_window_that_covers_the_picture_changes_nothing(finished):
    weights = finished / "runs" / "segmentation" / "rope_seed0" / "last.pt"
    wide = torch.rand(1, 3, 16, 24, generator=torch.Generator().manual_seed(0))
    given = [network(View("", "", sees, native=True), weights) for sees in ("as trained", "lambda")]
    torch.testing.assert_close(given[0](wide), given[1](wide))


def test_sheets_are_scenes_side_by_side(finished, tmp_path):
    (job, *_) = resolution.plan("vit_streets_tiny", [0], (), tmp_path)
    drawn = Scores(job.cfg, print)
    scenes, sheets = drawn.pictures("scene", 1), drawn.pictures("sheet", 3)
    assert drawn.size == (32, 48) and len(scenes) == 16 and len(sheets) == 1
    for place in (0, 5):
        top, left = 32 * (place // 3), 48 * (place % 3)
        for whole, part in zip(sheets[0], scenes[place], strict=True):
            assert torch.equal(whole[..., top : top + 32, left : left + 48], part)
    assert drawn.pictures("scene", 2)[0][0].shape == (3, 64, 96)


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--seeds", "0,x"], "--seeds must be integers"),
        (["--preset", "large"], "invalid choice: 'large'"),
        (["--workers", "0"], "--workers must be at least 1"),
    ],
)
def test_bad_arguments_are_named(argv, said, capsys):
    with pytest.raises(SystemExit):
        resolution.main(argv)
    assert said in capsys.readouterr().err


@pytest.mark.slow
def test_tiny_end_to_end(tmp_path, capsys):
    argv = ["--preset", "tiny", "--out", str(tmp_path), "--workers", "1", "steps=2"]
    assert resolution.main(argv) == 0
    mine = record.read(tmp_path / "records.jsonl")
    spent = [r["value"] for r in mine if r["metric"] == words.TRAINING]
    assert len(spent) == 5 and 0 < min(spent) <= max(spent) < 5
