"""Real segmentation from the command line to the numbers, on miniature folders of every layout."""

import json
import re

import miniature_segmentation as mini
import numpy as np
import pytest
import torch
from published import commands, run_command, torchrun
from same_run import assert_same_run, interrupt_at, losses_of, rows_of
from torch import nn

from ibnvision import cli, config, data, engine
from ibnvision.config import Config
from ibnvision.data.label_maps import LABEL_MAPS
from ibnvision.engine import checkpoint, sets
from ibnvision.engine.predict import load_trained
from ibnvision.metrics import SegmentationMetric
from ibnvision.tasks import segmentation

SMALL = (
    "model=resnet18",
    "model_args.backbone_args.channels=[4,4,8,8]",
    "model_args.head_channels=8",
    "model_args.pretrained=false",
    "size=[32,32]",
    "batch_size=2",
    "workers=0",
    "log_every=1",
    "device=cpu",
    "threads=1",
)
FACTS = {"protocol", "input", "label_map", "split", "images", "files_sha256", "windows"}
REAL = [name for name in config.names() if name.startswith("seg_") and "streets" not in name]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("sets")
    written = {
        "gtav": mini.gtav_folders,
        "cityscapes": lambda at: mini.cityscapes_foggy(mini.cityscapes(at)),
        "bdd100k": mini.bdd100k,
        "mapillary": mini.mapillary,
        "synthia": lambda at: mini.synthia(at, folders=True),
        "acdc": mini.acdc,
    }
    return {name: str(write(root / name)) for name, write in written.items()}


def run(words, folders, out, *changes):
    """A command with its DIRs filled in, on a network of a few channels; the run folder."""
    return run_command(words, folders, out, *SMALL, *changes)


@pytest.fixture(scope="module")
def trained(folders, tmp_path_factory):
    """A finished run of the published setting, with a target that is read quickly."""
    words = ["train", "seg_gtav_r50_ibn", "--data", "gtav=DIR", "--data", "bdd100k=DIR"]
    return run(words, folders, tmp_path_factory.mktemp("runs"))


def test_every_published_setting_says_its_command():
    assert len(REAL) >= 7
    assert all(commands(name) for name in REAL)


def test_a_run_leaves_what_it_promises(trained):
    files = {str(path.relative_to(trained)) for path in trained.rglob("*") if path.is_file()}
    assert files == {
        *("config.toml", "env.json", "metrics.jsonl", "log.txt", "last.pt", "best.pt"),
        *("results.png", "confusion_bdd100k.png", "overlays/bdd100k_0.png"),
        "overlays/bdd100k_1.png",
    }
    assert (trained / "confusion_bdd100k.png").read_bytes()[1:4] == b"PNG"
    log, env = (trained / "log.txt").read_text(), json.loads((trained / "env.json").read_text())
    facts = env["training"]["gtav"]
    assert (facts["images"], facts["label_map"]) == (2, "gtav_ids")
    assert facts["split"] == "train of the official split, folder train"
    assert "gtav (train): label map gtav_ids, split train of the official split, folder" in log
    for name in data.CITYSCAPES:  # a row for each class, its numbers whole
        assert re.search(rf"^│ {name} +│ +[\d.-]+ │ +[\d.-]+ │$", log, re.MULTILINE)


# by default a plain and a whitened one
KINDS = ("seg_gtav_r50", "seg_gtav_r50_isw")
COMMANDS = [
    pytest.param(line, marks=() if name in KINDS and number == 0 else pytest.mark.slow)
    for name in REAL
    for number, line in enumerate(commands(name))
]


@pytest.mark.parametrize("command", COMMANDS)
def test_the_command_of_a_published_setting_runs(
    command, folders, tmp_path, capsys, quick_pictures
):
    words = command.split()
    shown = config.load(words[1])
    isw = "whitening" in shown.model_args and "model_args.whitening.kind=irw" not in words
    early = ["model_args.whitening.begin=1", "model_args.whitening.collect=1"] if isw else []
    folder = run(words, folders, tmp_path, *early)
    cfg = config.load(folder / "config.toml")
    given = {word.removesuffix("=DIR") for word in words if word.endswith("=DIR")}
    keys = {name: data.DOMAINS[name].data_key for name in shown.test_domains}
    assert cfg.test_domains == tuple(name for name in shown.test_domains if keys[name] in given)
    assert (cfg.protocol, cfg.scale, cfg.class_uniform, cfg.augment) == (
        shown.protocol,
        shown.scale,
        shown.class_uniform,
        shown.augment,
    )
    said = capsys.readouterr().out
    for name in shown.test_domains:
        left_out = f"{name} is left out: no --data {keys[name]}=DIR" in said
        assert left_out == (keys[name] not in given)

    assert len(losses_of(folder)) == 2 and np.isfinite(losses_of(folder)).all()
    rows = rows_of(folder, "eval")
    tested = [row for row in rows if row["split"] == "test"]
    assert tuple(row["domain"] for row in tested) == cfg.test_domains
    for row in rows:
        facts = row["facts"]
        assert set(facts) >= FACTS and row["selection"] == "last of the fixed steps"
        assert facts["protocol"] == cfg.protocol and facts["images"] == row["images"] > 0
        assert re.fullmatch("[0-9a-f]{64}", facts["files_sha256"])
        assert len(row["iou_pct"]) == 19 and 0 <= row["miou_pct"] <= 100
    for name in cfg.test_domains:
        assert (folder / f"confusion_{name}.png").is_file()
        assert (folder / "overlays" / f"{name}_0.png").is_file()
        assert f"{name} (test): protocol {cfg.protocol}, " in said
    state = checkpoint.load(folder / "last.pt")
    assert state["classes"] == list(data.CITYSCAPES) and state["step"] == 2
    assert any("whitening" in key for key in state["model"]) == ("whitening" in cfg.model_args)


def everything(folders, out, **changes):
    """A short run with every switch of the task on; the whitening collects in forwards 3 to 6."""
    values = config.to_dict(config.load("seg_gtav_r50_isw", [*SMALL, f"out={out}"]))
    values |= {"steps": 5, "grad_accum": 2, "eval_every": 2, "ema": 0.5, "name": "run"}
    values |= {"augment": "photometric+fourier", "test_domains": ["bdd100k"]}
    values |= {"data": {key: folders[key] for key in ("gtav", "bdd100k")}}
    values["model_args"] |= {"mixstyle": [1, 2], "mixstyle_args": {"p": 0.9}}
    values["model_args"]["whitening"] |= {"begin": 7, "collect": 4}
    return config.from_dict(values | changes)


@pytest.fixture(scope="module")
def uninterrupted(folders, tmp_path_factory):
    return engine.train(everything(folders, tmp_path_factory.mktemp("whole")))


@pytest.mark.parametrize(
    ("target", "call", "workers", "whitened"),
    [
        pytest.param("compute_loss", 1, 0, 2, marks=pytest.mark.slow),  # before it collects
        pytest.param("compute_loss", 4, 2, 4, marks=pytest.mark.slow),  # while it does
        pytest.param("evaluate", 5, 0, 4, marks=pytest.mark.slow),  # in the evaluation of step 2
        ("compute_loss", 7, 0, 8),  # with its loss
    ],
)
def test_interrupted_and_resumed_equals_uninterrupted(
    folders, uninterrupted, tmp_path, monkeypatch, quick_pictures, target, call, workers, whitened
):
    cfg = everything(folders, tmp_path, workers=workers)
    with monkeypatch.context() as patch:
        interrupt_at(patch, segmentation, call, target)
        with pytest.raises(KeyboardInterrupt):
            engine.train(cfg)
    folder = tmp_path / "segmentation" / "run"
    assert checkpoint.load(folder / "last.pt")["model"]["whitening.step"] == whitened
    assert cli.main(["train", str(folder / "config.toml"), "resume=true"]) == 0
    assert_same_run(folder, uninterrupted)


@pytest.mark.slow
def test_every_switch_of_the_resumed_run_was_on(folders, uninterrupted, tmp_path, quick_pictures):
    model = checkpoint.load(uninterrupted / "last.pt")["model"]
    assert model["whitening.step"] == 10 and model["whitening.count"] == 8
    assert any(model[f"whitening.mask_{i}"].any() for i in range(3))
    losses = losses_of(uninterrupted)
    base = everything(folders, tmp_path)
    args = base.model_args
    alone = {
        "mixstyle": {"model_args": args | {"mixstyle": []}},
        "auxiliary": {"loss_args": {"auxiliary": 0}},
        "whitening": {"loss_args": {"whitening": 0}},
        "scale": {"scale": []},
        "class_uniform": {"class_uniform": 0.0},
        "photometric": {"augment": "fourier"},
        "fourier": {"augment": "photometric"},
    }
    quick = {"eval_every": 0, "test_domains": [], "ema": 0}  # none of them moves a loss
    for name, change in alone.items():
        cfg = everything(folders, tmp_path, name=name, **quick, **change)
        other = losses_of(engine.train(cfg))
        same = [a == b for a, b in zip(losses, other, strict=True)]
        assert not all(same), name
        if name == "whitening":  # its loss begins in the second half of step 4
            assert same[:3] == [True, True, True]


@pytest.mark.slow
def test_no_weights_are_fetched_to_resume_or_evaluate(
    folders, tmp_path, monkeypatch, quick_pictures
):
    fetched = []
    monkeypatch.setattr("timm.models._builder.load_pretrained", lambda *a, **k: fetched.append(1))
    cfg = everything(folders, tmp_path, eval_every=0)
    cfg = config.from_dict(
        config.to_dict(cfg) | {"model_args": cfg.model_args | {"pretrained": True}}
    )
    with monkeypatch.context() as patch:
        interrupt_at(patch, segmentation, 3)
        with pytest.raises(KeyboardInterrupt):
            engine.train(cfg)
    assert fetched == [1]
    folder = engine.train(cfg, resume=True)
    assert cli.main(["eval", str(folder)]) == 0
    assert load_trained(folder / "last.pt").cfg == cfg
    assert fetched == [1]


@pytest.fixture
def ragged(folders, tmp_path):
    """Three pictures of three sizes, as targets."""
    for number, size in enumerate(((24, 48), (40, 64), (32, 56))):
        mini.write_image(tmp_path / f"bdd/images/10k/val/{number}.jpg", number, size)
        label = tmp_path / f"bdd/labels/sem_seg/masks/val/{number}.png"
        mini.write_grey(label, mini.train_ids(number, size))
    return {**folders, "bdd100k": str(tmp_path / "bdd")}


@pytest.mark.slow
def test_two_processes_train_and_evaluate_as_one_would(ragged, tmp_path):
    words = ["train", "seg_gtav_r50_isw", *SMALL, "steps=3", "eval_every=0", f"out={tmp_path}"]
    words += ["model_args.whitening.begin=2", "model_args.whitening.collect=1"]
    words += [f"data.{key}={ragged[key]}" for key in ("gtav", "bdd100k")]
    refused = torchrun(*words)
    assert refused.returncode != 0 and not (tmp_path / "segmentation").exists()
    assert "sync_norm must be false under several processes, got true with 2" in refused.stderr
    done = torchrun(*words, "sync_norm=false")
    assert done.returncode == 0, done.stderr[-2000:]
    folder = tmp_path / "segmentation" / "seg_gtav_r50_isw"
    assert json.loads((folder / "env.json").read_text())["processes"] == 2
    assert len(losses_of(folder)) == 3
    state = checkpoint.load(folder / "last.pt")
    assert state["sampler"]["position"] == 3 * 2 * 2
    assert state["model"]["whitening.count"] == 4  # images of both processes
    trained = load_trained(folder / "last.pt")
    alone = engine.evaluate(trained.cfg, trained.model)["bdd100k"]
    (row,) = [r for r in rows_of(folder, "eval") if r["split"] == "test"]
    assert row["images"] == 3 and row["facts"] == alone["facts"]
    for key in ("miou_pct", "pixel_accuracy_pct", "ece_pct"):
        assert row[key] == pytest.approx(alone[key], rel=1e-12)


@pytest.mark.slow
def test_evaluation_by_another_protocol_scale_and_domain(trained, folders, tmp_path, capsys):
    out, roots = tmp_path / "eval", [f"cityscapes={folders['cityscapes']}", "acdc=/nowhere"]
    words = ["eval", str(trained), "--protocol", "half", "--scales", "0.5", "1", "--flip"]
    words += ["--domains", "bdd100k", "gtav_val", "--out", str(out), "--data", roots[0]]
    assert cli.main(words) == 0
    report = json.loads((out / "eval.json").read_text())
    assert report["split"] == "test" and report["weights"].endswith("last.pt")
    assert list(report["domains"]) == ["bdd100k", "gtav_val"]
    native = {row["domain"]: row["facts"] for row in rows_of(trained, "eval")}
    facts = {name: row["facts"] for name, row in report["domains"].items()}
    assert facts["bdd100k"]["files_sha256"] == native["bdd100k"]["files_sha256"]
    for name, label_map in (("bdd100k", "train_ids"), ("gtav_val", "gtav_ids")):
        assert facts[name]["protocol"] == "half" and facts[name]["label_map"] == label_map
        assert facts[name]["windows"] == "512 px, stride 341"
        assert (facts[name]["eval_scales"], facts[name]["eval_flip"]) == ([0.5, 1.0], True)
        assert f"{name}: protocol half, input " in capsys.readouterr().out or name != "bdd100k"
        assert (out / f"confusion_{name}.png").is_file()
    assert facts["gtav_val"]["split"].startswith("val of the official split")
    assert native["bdd100k"]["protocol"] == "native"


class Knowing(nn.Module):
    """Reads the number of a miniature picture from its red and knows the stripes of its label."""

    def __init__(self):
        super().__init__()
        self.unused = nn.Parameter(torch.zeros(()))

    def forward(self, images):
        number = (images[:, 0].mean((1, 2)) * 25.5).round().long()
        stripe = torch.arange(images.shape[3]) * 8 // images.shape[3]
        ids = (number[:, None] + stripe) % 19
        scores = 50 * nn.functional.one_hot(ids, 19).permute(0, 2, 1).float()
        return scores[:, :, None].expand(-1, -1, images.shape[2], -1)


@pytest.mark.parametrize("changes", [{}, {"protocol": "half"}, {"eval_scales": (0.5, 1)}])
def test_a_model_that_is_right_scores_100(folders, monkeypatch, changes):
    seen = []
    compute = SegmentationMetric.compute
    monkeypatch.setattr(
        SegmentationMetric, "compute", lambda self: seen.append(self.confusion) or compute(self)
    )
    domains = ["gtav", "gtav_val", "bdd100k", "synthia", "acdc", "acdc_night"]
    domains += [] if "protocol" in changes else ["cityscapes", "cityscapes_foggy_005"]
    cfg = Config(train_domains=("gtav",), data=folders, device="cpu", threads=1, **changes)
    results = engine.evaluate(cfg, Knowing(), domains=domains)
    for (name, row), counts in zip(results.items(), seen, strict=True):
        assert (row["miou_pct"], row["pixel_accuracy_pct"]) == (100, 100), name
        assert counts.sum() == counts.diag().sum() == row["images"] * 24 * 42, name
    assert results["acdc"]["images"] == 4 and results["acdc_night"]["images"] == 1


ELEVEN = (41, 7, 8, 10, 14, 23, 9, 11, 44, 46, 49)


class Road(nn.Module):
    def forward(self, images):
        scores = torch.zeros(len(images), 19, *images.shape[2:])
        scores[:, 0] = 1
        return scores


def test_mapillarys_two_maps_differ_by_eleven_ids(folders, tmp_path):
    one, two = (LABEL_MAPS[f"mapillary_{name}"].table for name in ("robustnet", "rein"))
    assert np.flatnonzero(one != two).tolist() == sorted(ELEVEN)
    root = mini.mapillary(tmp_path / "vistas")
    stripes = np.repeat(np.array([*ELEVEN, 65], np.uint8), 4)[None].repeat(24, 0)
    for path in (root / "validation" / "labels").glob("*.png"):
        mini.write_palette(path, stripes, {})
    domains = ["mapillary_robustnet", "mapillary_rein"]
    values = {"train_domains": domains, "data": {"mapillary": str(root)}, "protocol": "half"}
    cfg = Config(**values, device="cpu", threads=1)
    robustnet, rein = engine.evaluate(cfg, Road(), domains=domains).values()
    assert robustnet["pixel_accuracy_pct"] == 100  # a manhole is road, nothing else is scored
    assert rein["pixel_accuracy_pct"] == pytest.approx(50)  # five of the other ten are road
    labelled = {name for name, value in rein["iou_pct"].items() if value == value}
    assert labelled == {"road", "sidewalk", "pole", "traffic sign"}
    hashes = [row["facts"]["files_sha256"] for row in (robustnet, rein)]
    maps = [row["facts"]["label_map"] for row in (robustnet, rein)]
    assert hashes[0] == hashes[1] and maps == domains


def test_class_uniform_crops_hold_a_rare_class_more_often(tmp_path):
    for number in range(10):
        mini.write_image(tmp_path / f"bdd/images/10k/train/{number}.jpg", number, (48, 96))
        ids = np.zeros((48, 96), np.uint8)
        ids[:2, :2] = 16 if number == 7 else 0
        mini.write_grey(tmp_path / f"bdd/labels/sem_seg/masks/train/{number}.png", ids)

    def share(class_uniform):
        cfg = Config(
            train_domains=("bdd100k",),
            data={"bdd100k": str(tmp_path / "bdd")},
            size=(16, 16),
            class_uniform=class_uniform,
            out=str(tmp_path / "runs"),
        )
        training = sets.training_set(cfg)
        drawn = [i for batch in sets.order(cfg, training, 0, 25) for i in batch]
        return np.mean([bool((training[i]["target"] == 16).any()) for i in drawn])

    assert share(0.0) < 0.02  # one picture of ten, one crop of 33 x 81
    assert 0.19 < share(0.5) < 0.31  # half of the crops, one class of two


def test_prediction_on_a_run_of_crops_slides_crops_over_the_native_size(
    trained, tmp_path, monkeypatch
):
    from ibnvision.tasks import labels

    seen, slide_rows = [], labels.slide_rows

    def noted(model, image, **how):
        seen.append((tuple(image.shape[1:]), tuple(how["window"])))
        return slide_rows(model, image, **how)

    monkeypatch.setattr(labels, "slide_rows", noted)
    mini.write_image(tmp_path / "street.png", 3, (50, 70))
    out = tmp_path / "labels"
    words = ["predict", str(tmp_path / "street.png"), "--weights", str(trained), "--out", str(out)]
    assert cli.main(words) == 0
    assert seen == [((50, 70), (32, 32))]
    from ibnvision.data.opencv import cv2

    assert cv2.imread(str(out / "street_label.png"), cv2.IMREAD_UNCHANGED).shape == (50, 70)
    assert {"shares.csv", "legend.png"} < {path.name for path in out.iterdir()}


def test_features_of_pictures_of_any_size_are_analyzed(trained, ragged, tmp_path):
    words = ["analyze", str(trained), "--domains", "gtav_val", "bdd100k", "--split", "test"]
    mini.gtav_folders(tmp_path / "gtav")
    for number in (5, 6):
        place = ("valid", "02", f"{number:05}.png")
        mini.write_image((tmp_path / "gtav").joinpath("images", *place), number, (32, 56))
        label = (tmp_path / "gtav").joinpath("labels", *place)
        mini.write_grey(label, mini.raw_ids(number, size=(32, 56)))
    roots = ["--data", f"bdd100k={ragged['bdd100k']}", "--data", f"gtav={tmp_path / 'gtav'}"]
    assert cli.main([*words, *roots, "--out", str(tmp_path / "out")]) == 0
    report = json.loads((tmp_path / "out" / "divergence.json").read_text())
    assert report["images"] == {"gtav_val": 3, "bdd100k": 3}


def test_data_check_reads_every_real_set(folders, capsys):
    assert cli.main(["data", "check", *(f"{key}={root}" for key, root in folders.items())]) == 0
    rows = re.findall(r"^(\w+) (\w+) +(\d+) items, 0 problems$", capsys.readouterr().out, re.M)
    counts = {(domain, split): int(items) for domain, split, items in rows}
    assert counts["gtav", "train"] == 2  # the third is one of the bad ids
    assert counts["mapillary_robustnet", "test"] == counts["mapillary_rein", "test"] == 2
    assert counts["cityscapes", "test"] == counts["bdd100k", "test"] == 2
    assert counts["acdc", "train"] == 4 and counts["synthia", "val"] == 1


def test_the_list_of_domains_names_the_real_ones(capsys):
    assert cli.main(["list", "domains"]) == 0
    said = capsys.readouterr().out
    assert all(f"  {name} " in said for name in ("gtav_val", "mapillary_rein", "acdc_night"))


@pytest.mark.slow
def test_ones_own_classes_from_a_folder_of_masks(tmp_path, quick_pictures):
    root = mini.image_mask_folder(tmp_path / "own", ("train", "val", "test"), masks="palette")
    words = ["train", "seg_gtav_r50_ibn", "train_domains=[image_mask_folder]"]
    words += ["test_domains=[image_mask_folder]", f"data.image_mask_folder={root}"]
    folder = run(words, {}, tmp_path / "runs")
    (row,) = [row for row in rows_of(folder, "eval") if row["split"] == "test"]
    assert list(row["iou_pct"]) == list(mini.OWN) and row["images"] == 2
    assert load_trained(folder / "last.pt").classes == tuple(mini.OWN)
    assert cli.main(["eval", str(folder), "--protocol", "half"]) == 0
