"""Detection from the command line to the numbers, on miniature folders and drawn streets."""

import copy
import json
import re

import miniature_detection as mini
import numpy as np
import pytest
import torch
from miniature_segmentation import cityscapes, cityscapes_foggy, write_image
from published import commands, run_command, torchrun
from same_run import assert_same_run, interrupt_at, losses_of, rows_of

from ibnvision import cli, config, data, engine
from ibnvision.engine import checkpoint, sets
from ibnvision.engine.predict import detect_function, load_trained
from ibnvision.engine.state import parameter_groups
from ibnvision.tasks import detection

SMALL = (
    "model=resnet18_ibn_b",
    "model_args.backbone_args.channels=[8,8,16,16]",
    "model_args.pretrained=false",
    "model_args.fpn_channels=64",
    "model_args.min_size=48",
    "model_args.max_size=64",
    "batch_size=2",
    "grad_accum=1",
    "precision=fp32",
    "workers=0",
    "log_every=1",
    "device=cpu",
    "threads=1",
)
REAL = [name for name in config.names() if name.startswith("det_") and "streets" not in name]
FACTS = {"protocol", "input", "split", "images", "files_sha256", "empty_images", "box_convention"}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("sets")
    away = copy.deepcopy(mini.COCO)
    away["annotations"] = away["annotations"][:1]
    made = {
        "dwd": mini.dwd(root / "dwd"),
        "cityscapes": mini.cityscapes_instances(cityscapes_foggy(cityscapes(root / "cityscapes"))),
        "coco_json": mini.coco(root / "own"),
        "coco_json:away": mini.coco(root / "away", "flat", ("test",), content=away),
    }
    return {name: str(path) for name, path in made.items()}


@pytest.fixture(scope="module")
def trained(folders, tmp_path_factory):
    """A finished run on pictures of one's own."""
    out = tmp_path_factory.mktemp("runs")
    (words,) = [line.split() for line in commands("det_own")]
    return run_command(words, folders, out, *SMALL)


def test_every_published_setting_says_its_command():
    assert len(REAL) >= 3
    assert all(commands(name) for name in REAL)


def norms_outside_channels_last(model, images):
    """Names of the backbone's norms that got another layout, and how many norms ran."""
    seen = {}
    for name, module in model.backbone.named_modules():
        if hasattr(module, "running_mean"):
            module.register_forward_pre_hook(lambda _, args, name=name: seen.update({name: args}))
    with torch.no_grad():
        model(images)
    last = torch.channels_last
    return [n for n, args in seen.items() if not args[0].is_contiguous(memory_format=last)], seen


@pytest.mark.parametrize("name", REAL)
def test_a_published_setting_computes_in_channels_last(name):
    model = engine.build_model(config.load(name, SMALL), 3).eval()
    others, seen = norms_outside_channels_last(model, [torch.rand(3, 48, 64)])
    assert others == [] and len(seen) > 10


def test_a_trained_model_comes_back_in_the_layout_of_its_training(trained, folders, tmp_path):
    model = load_trained(trained / "last.pt").model
    others, seen = norms_outside_channels_last(model, [torch.rand(3, 48, 64)])
    assert others == [] and len(seen) > 10
    (words,) = [line.split() for line in commands("det_own")]
    path = run_command(words, folders, tmp_path, *SMALL, "channels_last=false") / "last.pt"
    others, seen = norms_outside_channels_last(load_trained(path).model, [torch.rand(3, 48, 64)])
    assert len(others) == len(seen) > 10


@pytest.mark.parametrize(
    "command",
    [
        pytest.param(line, marks=() if (name, number) == ("det_own", 0) else pytest.mark.slow)
        for name in REAL
        for number, line in enumerate(commands(name))
    ],
)
def test_the_command_of_a_published_setting_runs(command, folders, tmp_path, quick_pictures):
    words = command.split()
    shown = config.load(words[1])
    folder = run_command(words, folders, tmp_path, *SMALL)
    assert len(losses_of(folder)) == 2 and np.isfinite(losses_of(folder)).all()
    tested = [row for row in rows_of(folder, "eval") if row["split"] == "test"]
    assert tuple(row["domain"] for row in tested) == shown.test_domains
    for row in tested:
        facts = row["facts"]
        assert set(facts) >= FACTS and facts["images"] == row["images"] > 0
        assert facts["detector"] in detection.LOSSES and facts["empty_images"] == "kept"
        assert re.fullmatch("[0-9a-f]{64}", facts["files_sha256"])
        assert list(row["ap50_by_class_pct"]) == checkpoint.load(folder / "last.pt")["classes"]
        assert (folder / "overlays" / f"{row['domain'].replace(':', '_')}_0.png").is_file()
    if "fcos" in command:
        assert {row["facts"]["detector"] for row in tested} == {"fcos"}


def test_a_folder_with_a_label_is_a_domain_of_its_own(trained, folders):
    rows = {row["domain"]: row for row in rows_of(trained, "eval") if row["split"] == "test"}
    home, away = rows["coco_json"]["facts"], rows["coco_json:away"]["facts"]
    assert home["objects"] != away["objects"]
    assert home["annotations_sha256"] != away["annotations_sha256"]
    assert data.root_of("coco_json:else", {"coco_json": "/x"}) is None
    with pytest.raises(ValueError, match="a label after a colon, got 'streets_fog_boxes:x'"):
        data.domain_of("streets_fog_boxes:x")
    with pytest.raises(KeyError, match="unknown domain 'coco_jsn'"):
        data.domain_of("coco_jsn:x")
    with pytest.raises(ValueError, match=r"--data coco_json:else=DIR"):
        data.build_domain("coco_json:else", "test")
    for name in ("coco_json:a/b", "coco_json:a@b", "coco_json:a.b", "coco_json:a:b"):
        with pytest.raises(ValueError, match=f"letters, digits, '_' and '-', got '{name}'"):
            data.domain_of(name)
    cfg = config.Config(
        train_domains=("coco_json",), data={"coco_json": "/x", "coco_json:fog": "/y"}
    )
    with pytest.raises(ValueError, match=r"data key 'coco_json:fog' must be a domain of the run"):
        sets.available(cfg)


def test_a_set_of_other_classes_is_refused_though_the_run_had_that_name(
    trained, tmp_path, folders, capsys
):
    """Ids in another order would be other classes of the network."""
    content = copy.deepcopy(mini.COCO)
    names = [row["name"] for row in content["categories"]]
    for row, name in zip(content["categories"], reversed(names), strict=True):
        row["name"] = name
    other = mini.coco(tmp_path / "other", "flat", ("test",), content=content)
    words = ["eval", str(trained), "--domains", "coco_json"]
    assert cli.main([*words, "--data", f"coco_json={other}"]) == 2
    said = capsys.readouterr().err
    assert "must share one class list: the trained model has ['car', 'dog'" in said
    words = ["eval", str(trained), "--domains", "coco_json:away"]  # its source is not needed
    assert cli.main([*words, "--data", "coco_json=/nowhere"]) == 0


def test_a_backbone_without_its_pyramid_learns_at_its_own_rate():
    cfg = config.load("det_streets_tiny", [*SMALL, "backbone_lr=0.1"])
    model = engine.build_model(cfg, 4)
    slow, rest = parameter_groups(model, cfg)
    assert slow["factor"] == 0.1 and rest["factor"] == 1
    assert list(map(id, slow["params"])) == list(map(id, model.backbone.body.parameters()))
    assert {id(p) for p in model.backbone.fpn.parameters()} <= {id(p) for p in rest["params"]}


def test_features_of_a_detector_are_compared_between_domains(trained, folders, tmp_path):
    words = ["analyze", str(trained), "--images", "2", "--out", str(tmp_path / "found")]
    assert cli.main(words) == 0
    report = json.loads((tmp_path / "found" / "divergence.json").read_text())
    assert (report["source"], report["targets"]) == ("coco_json", ["coco_json:away"])
    (run,) = report["runs"].values()
    assert any("layer1" in name for name in run["layers"])


def streets(detector, out, **changes):
    """A short run with what the task can switch on."""
    values = config.to_dict(config.load("det_streets_tiny", [*SMALL, f"out={out}"]))
    values |= {"steps": 4, "grad_accum": 2, "eval_every": 2, "ema": 0.5, "name": "run"}
    values |= {"augment": "flip+jitter+photometric", "test_domains": ["streets_fog_boxes"]}
    values["model_args"] |= {"detector": detector, "min_size": 0, "mixstyle": [1]}
    if detector == "faster_rcnn":
        values["model_args"] |= {"rpn_post_nms_top_n_test": 10, "rpn_post_nms_top_n_train": 50}
    return config.from_dict(values | changes)


@pytest.mark.parametrize(
    "detector",  # the second draws its proposals from the generator that a checkpoint holds
    ["fcos", *(pytest.param(n, marks=pytest.mark.slow) for n in ("faster_rcnn", "retinanet"))],
)
def test_interrupted_and_resumed_equals_uninterrupted(
    tmp_path, monkeypatch, quick_pictures, detector
):
    whole = engine.train(streets(detector, tmp_path / "whole"))
    with monkeypatch.context() as patch:
        interrupt_at(patch, detection, 5)
        with pytest.raises(KeyboardInterrupt):
            engine.train(streets(detector, tmp_path, workers=1))
    folder = tmp_path / "detection" / "run"
    assert checkpoint.load(folder / "last.pt")["step"] in (2, 3)
    assert cli.main(["train", str(folder / "config.toml"), "resume=true"]) == 0
    assert_same_run(folder, whole)


def test_what_a_pretrained_detector_freezes_is_frozen_without_its_weights_too(monkeypatch):
    fetched = []
    monkeypatch.setattr("timm.models._builder.load_pretrained", lambda *a, **k: fetched.append(1))
    cfg = config.load("det_own", [word for word in SMALL if "pretrained" not in word])
    models = [engine.build_model(cfg, 3, fetch=fetch) for fetch in (True, False)]
    assert fetched == [1]
    first, second = ([(n, p.requires_grad) for n, p in m.named_parameters()] for m in models)
    assert first == second and not all(trains for _, trains in second)
    assert models[0].backbone.frozen == models[1].backbone.frozen != []


def test_training_reads_whole_pictures_or_crops(tmp_path, folders):
    write_image(tmp_path / "own/train/a.jpg", 1, (40, 64))
    write_image(tmp_path / "own/train/b.jpg", 2, (32, 48))
    content = {
        "images": [{"id": i, "file_name": f"{name}.jpg"} for i, name in enumerate("ab")],
        "annotations": [{"id": 1, "image_id": 0, "category_id": 1, "bbox": [4, 4, 20, 20]}],
        "categories": [{"id": 1, "name": "thing"}],
    }
    path = tmp_path / "own/train/_annotations.coco.json"
    path.write_text(json.dumps(content))
    roots = {"coco_json": str(tmp_path / "own")}
    values = {"task": "detection", "train_domains": ("coco_json",), "data": roots}
    whole = sets.training_set(config.Config(**values))
    assert {tuple(whole[i]["image"].shape[1:]) for i in range(2)} == {(40, 64), (32, 48)}
    cut = config.Config(**values, size=(24, 24), scale=(0.5, 2.0))
    crops = sets.training_set(cut)
    drawn = [crops[index] for batch in sets.order(cut, crops, 0, 4) for index in batch]
    assert {tuple(item["image"].shape) for item in drawn} == {(3, 24, 24)}
    with pytest.raises(ValueError, match="scale must come with size in detection"):
        sets.training_set(config.Config(**values, scale=(0.5, 2.0)))
    dropped = sets.build(config.Config(**values, empty_images="drop"), "coco_json", "train")
    assert len(dropped) == 1 and dropped.facts()["empty_images"] == "dropped"


def test_detect_writes_boxes_of_pictures(trained, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_image(tmp_path / "street.png", 3, (50, 70))
    words = ["detect", "street.png", "--weights", str(trained), "--out", "found"]
    assert cli.main([*words, "--threshold", "0.01"]) == 0
    rows = json.loads((tmp_path / "found" / "detections.json").read_text())
    plain, folded = load_trained(trained / "last.pt"), load_trained(trained / "last.pt")
    image = torch.rand(3, 50, 70, generator=torch.Generator().manual_seed(0))
    found = detect_function(folded, threshold=0.01)(image)
    assert any(type(m).__name__ == "FoldedConv2d" for m in folded.model.modules())
    with torch.no_grad():
        expected = plain.model([image])[0]
    kept = expected["scores"] >= 0.01
    for key in ("boxes", "scores"):
        torch.testing.assert_close(found[key], expected[key][kept], rtol=1e-3, atol=1e-3)
    assert len(rows) == 1 and (rows[0]["height"], rows[0]["width"]) == (50, 70)
    names = {found["class"] for found in rows[0]["objects"]}
    assert names <= {"car", "dog", "toothbrush"}
    assert f"objects   {len(rows[0]['objects'])}" in capsys.readouterr().out
    assert cli.main([*words, "--overwrite", "--whole"]) == 2
    assert "--whole needs weights of segmentation" in capsys.readouterr().err
    assert cli.main([*words, "--threshold", "2", "--overwrite"]) == 2
    assert "threshold must be in [0, 1], got 2.0" in capsys.readouterr().err
    assert cli.main(["segment", "street.png", "--weights", str(trained)]) == 2
    assert "segment needs weights of segmentation" in capsys.readouterr().err


def test_a_restorer_from_a_run_stands_in_front(tmp_path, monkeypatch, quick_pictures, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["train", "dehaze_streets_tiny", "steps=1", "threads=1", "eval_every=0"]) == 0
    restored = "runs/dehazing/dehaze_streets_tiny/last.pt"
    saved = checkpoint.load(restored)
    words = ["train", "streets_dehaze_detect", "preset=tiny", "size=[48,64]", *SMALL[:2], "steps=1"]
    words += ["model_args.detector=fcos", "batch_size=2", "threads=1", "warmup=0", "eval_every=0"]
    assert cli.main(words) == 2
    said = capsys.readouterr().err
    assert "no checkpoint runs/dehazing/streets_dehaze/last.pt: model_args.restorer" in said
    assert "train one first (ibnvision train streets_dehaze)" in said
    words += [f"model_args.restorer.weights={restored}", "model_args.restorer.gate=[0.2,0.3]"]
    assert cli.main(words) == 0
    trained = load_trained("runs/detection/streets_dehaze_detect/last.pt")
    weights = checkpoint.weights(saved)
    held = trained.model.restorer.state_dict()
    assert weights.keys() == held.keys()
    assert all(torch.equal(weights[key], held[key]) for key in weights)
    assert trained.model.gate.tolist() == [0.2, 0.3]
    assert trained.cfg.model_args["restorer"]["args"] == saved["config"]["model_args"]
    wrong = "model_args.restorer.weights=runs/detection/streets_dehaze_detect/last.pt"
    assert cli.main([*words, wrong, "name=other"]) == 2
    assert "must be of the task dehazing" in capsys.readouterr().err


@pytest.mark.slow
def test_two_processes_train_and_evaluate_as_one_would(folders, tmp_path):
    words = ["train", "det_own", *SMALL, "steps=2", "eval_every=0", f"out={tmp_path}"]
    words += ["model_args.detector=fcos", f"data.coco_json={folders['coco_json']}"]
    done = torchrun(*words)
    assert done.returncode == 0, done.stderr[-2000:]
    folder = tmp_path / "detection" / "det_own"
    assert json.loads((folder / "env.json").read_text())["processes"] == 2
    trained = load_trained(folder / "last.pt")
    alone = engine.evaluate(trained.cfg, trained.model, domains=["coco_json"])["coco_json"]
    (row,) = [r for r in rows_of(folder, "eval") if r["split"] == "test"]
    assert row["images"] == 3 and row["facts"] == alone["facts"]
    for key in ("ap_pct", "voc_ap50_pct", "ar100_pct"):
        assert row[key] == pytest.approx(alone[key], rel=1e-9)
