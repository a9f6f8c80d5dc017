import dataclasses

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from ibnvision import config
from ibnvision.tasks import detection
from ibnvision.tasks.detection_augment import augment
from ibnvision.tasks.detection_network import Restored, restorer_in_front


def target(*boxes, labels=None, ignore=None):
    count = len(boxes)
    return {
        "boxes": torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        "labels": torch.tensor(labels or [1] * count, dtype=torch.int64),
        "ignore": torch.tensor(ignore or [False] * count, dtype=torch.bool),
        "area": torch.ones(count),
        "image_id": torch.tensor(3),
    }


def batch(seed=0):
    generator = torch.Generator().manual_seed(seed)
    images = [torch.rand(3, 20, side, generator=generator) for side in (30, 24, 30, 24)]
    targets = [target([2, 3, 10, 12], [5, 5, 9, 20], labels=[1, 2]), target()] * 2
    return {"image": images, "target": targets, "domain": ["made"] * 4}


class Counting(nn.Module):
    """Gives what it was called with in place of losses and predictions."""

    def __init__(self):
        super().__init__()
        self.calls = []
        self.weight = nn.Parameter(torch.ones(()))

    def forward(self, images, targets=None, views=None):
        self.calls.append((images, targets) if views is None else (images, targets, views))
        if self.training:
            return {"classification": 2 * self.weight, "bbox_regression": 3 * self.weight}
        found = {"boxes": torch.tensor([[1.0, 1, 4, 4]]), "labels": torch.tensor([1])}
        return [{**found, "scores": torch.tensor([0.9])} for _ in images]


def test_a_box_that_a_flip_leaves_without_area_is_not_trained_on():
    found = target([0, 2, 1e-6, 12], [4, 4, 9, 9], labels=[1, 2])
    image = torch.zeros(3, 16, 1000)
    seeds = range(8)  # one of which flips
    for seed in seeds:
        given = {"image": [image], "target": [found], "domain": ["made"]}
        changed = augment(given, "flip", torch.Generator().manual_seed(seed))["target"][0]
        kept = detection.trainable(changed)
        assert 2 in kept["labels"] and (kept["boxes"][:, 2:] > kept["boxes"][:, :2]).all()


def test_loss_is_the_weighted_sum_without_ignored_objects():
    model = Counting().train()
    cfg = config.Config(
        task="detection",
        model_args={"detector": "retinanet"},
        loss_args={"bbox_regression": 0.5},
    )
    detection.check(cfg)
    items = {
        "image": [torch.zeros(3, 8, 8)],
        "target": [target([0, 0, 4, 4], [1, 1, 5, 5], labels=[2, 1], ignore=[True, False])],
    }
    loss = detection.compute_loss(model, items, cfg)
    assert loss.item() == 2 + 0.5 * 3
    (_, (given,)) = model.calls[0]
    assert set(given) == {"boxes", "labels"}
    assert given["labels"].tolist() == [1] and given["boxes"].tolist() == [[1, 1, 5, 5]]


def test_evaluate_gives_every_image_its_prediction_and_whole_target():
    predictions, targets = detection.evaluate(Counting().eval(), batch(), config.Config())
    assert len(predictions) == len(targets) == 4
    assert targets[0]["boxes"].shape == (2, 4) and "ignore" in targets[0]


def test_a_table_of_a_detector_holds_for_it_alone():
    args = {"fpn_channels": 64, "fcos": {"score_thresh": 0.1}, "faster_rcnn": {"fpn_channels": 32}}
    assert detection.chosen(args) == {"fpn_channels": 32}
    fcos = args | {"detector": "fcos"}
    assert detection.chosen(fcos) == {"detector": "fcos", "fpn_channels": 64, "score_thresh": 0.1}
    cfg = config.Config(task="detection", model_args=fcos)
    detection.check(cfg)
    assert detection.facts(cfg) == {
        **{"detector": "fcos", "min_size": 800, "max_size": 1333},
        **{"score_thresh": 0.1, "nms_thresh": 0.6, "detections_per_img": 100},
    }
    whole = config.Config(task="detection", model_args={"min_size": 0})
    assert detection.facts(whole)["min_size"] == "that of the image"
    assert detection.facts(whole)["score_thresh"] == 0.05
    with pytest.raises(TypeError, match="model_args.fcos must be a table, got 3"):
        detection.check(config.Config(task="detection", model_args={"fcos": 3}))


def test_collate_keeps_sizes():
    items = [
        {"image": torch.zeros(3, 4, side), "target": target(), "domain": "made"} for side in (5, 6)
    ]
    found = detection.collate(items)
    assert [tuple(image.shape) for image in found["image"]] == [(3, 4, 5), (3, 4, 6)]
    assert found["domain"] == ["made", "made"]


@pytest.mark.parametrize(
    "values, error, words",
    [
        ({"augment": "flip+zoom"}, KeyError, "augment"),
        ({"augment": "none+flip"}, ValueError, "none alone"),
        ({"model_args": {"detector": "yolo"}}, KeyError, "model_args.detector"),
        ({"loss_args": {"bbox_ctrness": 1.0}}, KeyError, "loss_args key of faster_rcnn"),
        ({"loss_args": {"loss_classifier": -1.0}}, ValueError, "at least 0"),
        ({"loss_args": {"loss_classifier": "1"}}, TypeError, "a number"),
        ({"protocol": "half"}, ValueError, "protocol"),
        ({"eval_flip": True}, ValueError, "eval_flip"),
        ({"eval_scales": (0.5, 1.0)}, ValueError, "eval_scales"),
        ({"class_uniform": 0.5}, ValueError, "class_uniform"),
    ],
)
def test_what_cannot_be_trained_is_refused(values, error, words):
    with pytest.raises(error, match=words):
        detection.check(config.Config(task="detection", **values))


def test_flip_mirrors_image_and_boxes_and_nothing_else():
    before = batch()
    after = augment(before, "flip", torch.Generator().manual_seed(1))
    flipped = [not torch.equal(a, b) for a, b in zip(before["image"], after["image"], strict=True)]
    assert any(flipped) and not all(flipped)
    for i, moved in enumerate(flipped):
        width = before["image"][i].shape[2]
        x0, y0, x1, y1 = before["target"][i]["boxes"].unbind(1)
        expected = torch.stack([width - x1, y0, width - x0, y1], 1)
        image = before["image"][i].flip(-1)
        assert_close(
            after["target"][i]["boxes"], expected if moved else before["target"][i]["boxes"]
        )
        assert_close(after["image"][i], image if moved else before["image"][i])
        assert after["target"][i]["labels"].tolist() == before["target"][i]["labels"].tolist()


def test_all_kinds_of_augmentation_see_the_same_flips_and_colours_stay_in_range():
    plain = augment(batch(), "flip", torch.Generator().manual_seed(4))
    for kind in ("flip+jitter", "flip+photometric", "flip+oa_mix", "flip+jitter+photometric"):
        found = augment(batch(), kind, torch.Generator().manual_seed(4))
        for a, b in zip(plain["target"], found["target"], strict=True):
            assert torch.equal(a["boxes"], b["boxes"])
        values = torch.cat([image.flatten() for image in found["image"]])
        assert 0 <= values.min() and values.max() <= 1
        assert not torch.equal(found["image"][0], plain["image"][0])
    again = augment(batch(), "flip+jitter", torch.Generator().manual_seed(4))
    assert_close(
        again["image"], augment(batch(), "flip+jitter", torch.Generator().manual_seed(4))["image"]
    )
    assert augment(batch(), "none", torch.Generator())["image"][0].equal(batch()["image"][0])


def test_the_picture_shows_confident_boxes_in_their_colours():
    palette = torch.tensor([[255, 0, 0], [0, 255, 0]], dtype=torch.uint8)
    prediction = {
        "boxes": torch.tensor([[2.0, 2, 12, 12], [14, 3, 25, 15]]),
        "labels": torch.tensor([1, 2]),
        "scores": torch.tensor([0.9, 0.1]),
    }
    picture = detection.draw(
        torch.zeros(3, 240, 300),
        None,
        prediction,
        classes=("car", "truck"),
        palette=palette,
    )
    panel = picture[:, 20:260]
    assert panel[:, 2, 2:12].float().mean(1).tolist() == [255, 0, 0]
    assert not panel[1].any(), "a box below the score is drawn"


class Darker(nn.Module):
    def __init__(self):
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(0.5))

    def restore(self, images):
        return images * self.factor


def test_a_restorer_acts_on_hazy_images_only_and_does_not_train():
    network = Counting().eval()
    model = Restored(network, Darker(), (0.3, 0.4))
    clear, hazy = torch.zeros(3, 32, 32), torch.full((3, 32, 32), 0.8)
    clear[:, ::2] = 0.9
    model([clear, hazy])
    seen = network.calls[0][0]
    assert seen[0].equal(clear)
    assert_close(seen[1], hazy * 0.5)
    assert [p.requires_grad for p in model.restorer.parameters()] == [False]
    always = Restored(network, Darker())
    always([clear])
    assert_close(network.calls[1][0][0], clear * 0.5)
    always.load_state_dict(model.state_dict())
    assert always.gate.tolist() == [0.3, 0.4], "the gate is no part of a checkpoint"


def test_a_restorer_is_built_from_a_config():
    args = {"width": 4, "depths": [1, 1, 1, 1, 1]}
    made = restorer_in_front(Counting(), {"model": "dea_net", "args": args})
    state = {k: torch.zeros_like(v) for k, v in made.restorer.state_dict().items()}
    filled = restorer_in_front(Counting(), {"args": args, "state": state, "gate": [0.2, 0.3]})
    assert not any(p.any() for p in filled.restorer.parameters())
    with pytest.raises(KeyError, match="model_args.restorer key"):
        restorer_in_front(Counting(), {"modle": "dea_net"})
    with pytest.raises(ValueError, match="restoration network"):
        restorer_in_front(Counting(), {"model": "resnet18"})
    with pytest.raises(ValueError, match="does not fit"):
        restorer_in_front(Counting(), {"args": {**args, "width": 8}, "state": state})


def test_consistency_compares_an_image_with_its_mix():
    cfg = config.Config(
        task="detection",
        model_args={"detector": "retinanet", "consistency": "jensen_shannon"},
        loss_args={"class_consistency": 0.0, "bbox_regression": 0.0},
    )
    detection.check(cfg)
    model, given = Counting().train(), batch()
    given["image"] = [torch.rand(3, 40, 40) for _ in range(4)]
    losses = []
    for _ in range(2):
        torch.manual_seed(3)
        losses.append(detection.compute_loss(model, given, cfg).item())
    assert losses == [2.0, 2.0]
    (images, _, views), (_, _, again) = model.calls
    assert all(view.shape == image.shape for view, image in zip(views, images, strict=True))
    assert not any(torch.equal(view, image) for view, image in zip(views, images, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(views, again, strict=True))
    with pytest.raises(KeyError, match="loss_args key of retinanet 'class_consistency'"):
        detection.check(dataclasses.replace(cfg, model_args={"detector": "retinanet"}))


def test_two_views_add_two_losses_and_train(monkeypatch):
    model = detection.build_model(
        "resnet18",
        num_classes=2,
        detector="fcos",
        min_size=0,
        fpn_channels=64,
        consistency="kullback_leibler",
        backbone_args={"channels": (8, 8, 16, 16)},
    )
    images = [torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(i)) for i in (0, 1)]
    targets = [{"boxes": torch.tensor([[4.0, 4, 40, 40]]), "labels": torch.tensor([1])}] * 2
    same = model.train()(images, targets, images)
    assert same["class_consistency"] == 0 and same["box_consistency"] == 0
    apart = model(images, targets, [image.flip(0) for image in images])
    assert apart["class_consistency"] > 0 and set(apart) == {
        *("classification", "bbox_regression", "bbox_ctrness"),
        *detection.CONSISTENCY_LOSSES,
    }
    (apart["class_consistency"] + apart["box_consistency"]).backward()
    assert any(p.grad is not None and p.grad.any() for p in model.network.backbone.parameters())
    assert set(model.eval()(images)[0]) == {"boxes", "labels", "scores"}
    with pytest.raises(KeyError, match="model_args.consistency"):
        detection.build_model("resnet18", num_classes=2, consistency="cosine", min_size=0)


def test_a_restorer_clears_second_views_too():
    network = Counting().train()
    model = Restored(network, Darker()).train()
    model([torch.ones(3, 8, 8)], [], [torch.full((3, 8, 8), 0.5)])
    images, targets, views = network.calls[0]
    assert (images[0] == 0.5).all() and (views[0] == 0.25).all() and targets == []
