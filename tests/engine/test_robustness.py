"""Scores under corruptions: what is asked for, what is evaluated, what is kept."""

import json

import pytest
import torch
from miniature_segmentation import image_mask_folder
from torch import nn

from ibnvision import cli, config, engine
from ibnvision.data.corruptions import CORRUPTIONS, IMAGENET_C
from ibnvision.engine import sets
from ibnvision.engine.robustness import (
    check_severities,
    corruptions_of,
    critical_scales,
    lost_half_at,
    robustness,
    robustness_table,
)


def rows(**scores):
    return {name.replace("__", "@"): {"miou_pct": value} for name, value in scores.items()}


def test_words_name_corruptions_once():
    assert corruptions_of(["all"]) == CORRUPTIONS and len(IMAGENET_C) == 15
    assert corruptions_of(["snow", "noise", "snow"]) == (
        *("snow", "gaussian_noise", "shot_noise", "impulse_noise"),
    )
    assert corruptions_of([]) == ()
    with pytest.raises(KeyError, match="unknown corruption 'snwo'.*snow"):
        corruptions_of(["snwo"])


@pytest.mark.parametrize("severities", [[], [0], [1, 6], [2, 2]])
def test_severities_are_checked(severities):
    with pytest.raises(ValueError, match="severities must be different numbers from 1 to 5"):
        check_severities(severities)


def test_hand_computed_means():
    found = robustness(
        rows(day=80.0, day__fog_1=60.0, day__fog_3=40.0, day__shot_noise_1=20.0, night=10.0)
        | rows(day__shot_noise_3=0.0, night__fog_1=5.0),
        "miou_pct",
    )
    assert list(found) == ["day", "night"]
    assert found["day"]["p"] == 80 and found["day"]["mpc"] == 30
    assert found["day"]["rpc_pct"] == pytest.approx(37.5)
    assert found["day"]["by_corruption"] == {"fog": 50, "shot_noise": 10}
    assert found["day"]["by_severity"] == {"1": 40, "3": 20}
    assert found["night"]["by_corruption"] == {"fog": 5}
    assert found["day"]["critical_severity"] == {"mean": 1, "fog": 3, "shot_noise": 1}
    kept = robustness(rows(day=80.0, day__fog_2=40.1, day__fog_4=41.0), "miou_pct")
    assert kept["day"]["critical_severity"] == {"mean": None, "fog": None}
    shown = robustness_table(kept, "miou_pct")
    assert list(shown.columns[0].cells)[-1] == "half lost at, fog"
    assert list(shown.columns[1].cells)[-1] == "never"


def test_critical_places_are_the_first_on_the_way_out():
    assert lost_half_at([(1, 41.0), (2, 40.0), (3, 10.0)], 80.0) == 2  # half lost counts
    assert lost_half_at([(1, 41.0), (2, 40.5)], 80.0) is None
    curve = {0.25: 5.0, 0.5: 30.0, 1: 60.0, 2: 31.0, 3: 29.0, 4: 40.0}
    assert critical_scales(curve) == {"down": 0.5, "up": 3}
    assert critical_scales({1: 60.0, 2: 31.0}) == {"up": None}


class Brightness(nn.Module):
    """Class 1 where a pixel is bright; noise and colours lead it astray."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))

    def forward(self, images):
        grey = images.mean(1, keepdim=True)
        return torch.cat([self.weight * (0.5 - grey), grey - 0.5, *6 * [grey - 9]], 1)


def test_every_domain_is_evaluated_under_every_corruption():
    cfg = config.Config(preset="tiny", threads=1, device="cpu")
    found = engine.evaluate(
        cfg,
        Brightness(),
        domains=["streets_day", "streets_fog"],
        corruptions=["brightness", "fog_depth"],
        severities=[1, 5],
    )
    assert len(found) == 2 + 2 * 2 * 2
    facts = found["streets_fog@fog_depth_5"]["facts"]
    assert facts["corruption"] == "fog_depth" and facts["severity"] == 5
    assert facts["images"] == 16 and facts["split"] == "test"
    scores = [found[f"streets_day{end}"]["miou_pct"] for end in ("", "@brightness_5")]
    assert scores[0] != scores[1]
    table = robustness_table(robustness(found, "miou_pct"), "miou_pct")
    assert [c.header for c in table.columns] == ["", "streets_day", "streets_fog"]
    assert table.row_count == 3 + 2 + 2 + 3


def test_eval_prints_and_stores_what_is_kept(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = ["train", "seg_streets_tiny", "steps=1", "eval_every=0", "threads=1"]
    assert cli.main([*words, "test_domains=[streets_day]"]) == 0
    run = "runs/segmentation/seg_streets_tiny"
    asked = ["--corruptions", "contrast", "--severities", "2", "4", "--out", "measured"]
    assert cli.main(["eval", run, *asked]) == 0
    stored = json.loads((tmp_path / "measured" / "eval.json").read_text())
    assert set(stored["domains"]) == {
        *("streets_day", "streets_day@contrast_2", "streets_day@contrast_4"),
    }
    kept = stored["robustness"]["streets_day"]
    scores = [stored["domains"][f"streets_day@contrast_{n}"]["miou_pct"] for n in (2, 4)]
    assert kept["mpc"] == pytest.approx(sum(scores) / 2)
    assert "kept, % (rPC)" in capsys.readouterr().out
    assert cli.main(["eval", run, "--severities", "2"]) == 2
    assert "--severities needs --corruptions" in capsys.readouterr().err


def test_what_has_no_labels_of_its_images_is_refused_at_once(tmp_path):
    model, asked = Brightness(), {"corruptions": ["snow"], "severities": [1]}
    cfg = config.Config(task="dehazing", preset="tiny", train_domains=("haze",), threads=1)
    with pytest.raises(ValueError, match="corruptions must be left out in dehazing"):
        engine.evaluate(cfg, model, domains=["haze"], **asked)
    image_mask_folder(tmp_path)
    data = {"image_mask_folder": str(tmp_path)}
    cfg = config.Config(train_domains=("image_mask_folder",), data=data, protocol="half", threads=1)
    with pytest.raises(ValueError, match="must come with protocol native, got 'half' for image_m"):
        engine.evaluate(cfg, model, domains=["image_mask_folder"], **asked)


def test_fog_by_depth_on_streets_with_boxes():
    dataset = sets.build(config.Config(preset="tiny"), "streets_day_boxes", "test")
    cfg = config.Config(task="detection", preset="tiny")
    (foggy,) = sets.corrupted(cfg, "streets_day_boxes", dataset, ["fog_depth"], [5]).values()
    clear, seen = dataset[1], foggy[1]
    assert (dataset.scene(1).depth.shape) == clear["image"].shape[1:]
    assert seen["image"].std() < clear["image"].std()
    assert torch.equal(seen["target"]["boxes"], clear["target"]["boxes"])
