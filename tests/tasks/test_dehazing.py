from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from ibnvision.tasks import TASKS, dehazing


def settings(augment="none", **loss_args):
    return SimpleNamespace(augment=augment, loss_args=loss_args)


def batch(count=40, height=3, width=5):
    chance = torch.Generator().manual_seed(1)
    image, target = torch.rand(2, count, 3, height, width, generator=chance)
    return {"image": image, "target": target, "domain": ["d"] * count}


def seeded():
    return torch.Generator().manual_seed(7)


def test_the_task_is_listed_and_measures_image_by_image():
    assert TASKS["dehazing"] is dehazing
    assert (dehazing.score, dehazing.EVALUATION_BATCH) == ("psnr_rgb_db", 1)
    assert dehazing.score in dehazing.new_metric(()).compute()


def test_the_model_comes_from_timm_with_its_arguments():
    model = dehazing.build_model("dea_net", num_classes=0, width=8, depths=[1, 0, 1, 0, 1])
    assert (model.width, model.depths) == (8, (1, 0, 1, 0, 1))
    neutral = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}
    dehazing.build_model("dea_net", width=4, reductions=[2, 2], depths=[0] * 5, **neutral)
    with pytest.raises(ValueError, match=r"mean and std must be left out .* mean=\[0.5, 0.5, 0.5"):
        dehazing.build_model("dea_net", mean=(0.5, 0.5, 0.5))
    with pytest.raises(ValueError, match="restoration network such as dea_net, got 'resnet18'"):
        dehazing.build_model("resnet18")


def test_flip_turns_about_half_of_the_pairs_and_none_turns_nothing():
    old = batch()
    assert dehazing.augment(old, "none", seeded()) is old
    new = dehazing.augment(old, "flip", seeded())
    turned = [torch.equal(a, b.flip(-1)) for a, b in zip(new["image"], old["image"], strict=True)]
    assert 10 < sum(turned) < 30
    for key in ("image", "target"):
        for i, flip in enumerate(turned):
            assert torch.equal(new[key][i], old[key][i].flip(-1) if flip else old[key][i])
    assert torch.equal(old["image"], batch()["image"])  # the given batch is untouched
    assert torch.equal(dehazing.augment(old, "flip", seeded())["target"], new["target"])


def test_loss_is_l1_plus_the_contrast_that_was_asked_for(monkeypatch):
    given, model, seen = batch(2), nn.Conv2d(3, 3, 1), []

    def regularization(vgg, device):
        seen.append((vgg, device.type))
        return lambda restored, clear, hazy: (
            (restored - clear).square().mean() / (restored - hazy).square().mean()
        )

    monkeypatch.setattr(dehazing, "_regularization", regularization)
    restored = model(given["image"])
    l1 = F.l1_loss(restored, given["target"])
    torch.testing.assert_close(dehazing.compute_loss(model, given, settings()), l1)
    assert seen == []
    ratio = F.mse_loss(restored, given["target"]) / F.mse_loss(restored, given["image"])
    cfg = settings(contrast=0.3, vgg="file.pth")
    torch.testing.assert_close(dehazing.compute_loss(model, given, cfg), l1 + 0.3 * ratio)
    assert seen == [("file.pth", "cpu")]


def test_the_loss_is_float32_under_autocast():
    with torch.autocast("cpu", torch.bfloat16):
        loss = dehazing.compute_loss(nn.Conv2d(3, 3, 1), batch(2), settings())
    assert loss.dtype == torch.float32


@pytest.mark.parametrize(
    ("cfg", "error", "message"),
    [
        (
            settings(contrst=0.1),
            KeyError,
            "unknown loss_args key 'contrst'; did you mean 'contrast'",
        ),
        (settings(contrast=0.1), ValueError, "FILE .* or 'imagenet' .* loss_args.contrast=0"),
        (settings(contrast=-1), ValueError, "contrast must be at least 0, got -1"),
        (settings(contrast="much"), TypeError, "contrast must be a number .* got 'much'"),
        (settings(contrast=True), TypeError, "contrast must be a number .* got True"),
        (settings(contrast=0.1, vgg=19), TypeError, "loss_args.vgg a string, got 0.1 and 19"),
        (settings(contrast=0.1, vgg="gone"), FileNotFoundError, "found no gone"),
        (settings("jitter"), ValueError, "augment must be one of none, flip .* got 'jitter'"),
    ],
)
def test_what_it_cannot_train_is_refused_and_named(cfg, error, message):
    with pytest.raises(error, match=message):
        dehazing.check(cfg)


def test_zero_contrast_needs_no_weights():
    dehazing.check(settings())
    dehazing.check(settings("flip", contrast=0))
    dehazing.check(settings(contrast=0.0, vgg="gone"))


def test_prediction_is_the_restored_image_of_any_size():
    class Double(nn.Module):
        def restore(self, x):
            return 2 * x

    image = torch.rand(1, 3, 13, 17)
    assert torch.equal(dehazing.predict(Double(), image), (2 * image).clamp(0, 1))
    model = dehazing.build_model("dea_net", width=8, depths=[1] * 5).eval()
    restored = dehazing.predict(model, image)
    assert restored.shape == image.shape and not restored.requires_grad
    torch.testing.assert_close(restored, model.restore(image).clamp(0, 1))


@pytest.mark.parametrize("known", [True, False])
def test_picture_shows_hazy_restored_and_clear(known):
    shades = (0.8, 0.4, 0.2)  # hazy, clear, restored
    hazy, clear, restored = (torch.full((3, 12, 16), shade) for shade in shades)
    picture = dehazing.draw(hazy, clear if known else None, restored)
    panels = 3 if known else 2
    assert picture.dtype == torch.uint8
    assert picture.shape == (3, 20 + 12 * 20, panels * 16 * 20 + (panels - 1) * 4)
    row = picture[0, 140]
    expected = [204, 51, 102] if known else [204, 51]
    assert [int(row[324 * i + 160]) for i in range(panels)] == expected
    assert picture[:, :20].float().std() > 10  # captions
