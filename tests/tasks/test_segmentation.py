from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from noise_batch import batch
from torch import nn
from torchvision.transforms.v2.functional import resize

from ibnvision.tasks import TASKS, segmentation

CLASSES = ("road", "sky", "car")
PALETTE = torch.tensor([[128, 64, 128], [70, 130, 180], [0, 0, 142]], dtype=torch.uint8)


def test_the_task_is_listed():
    assert TASKS["segmentation"] is segmentation


def test_loss_is_the_mean_over_labelled_pixels():
    given = batch(2)
    given["target"][0, 0] = 255
    model = nn.Conv2d(3, 3, 1)
    loss = segmentation.compute_loss(model, given, SimpleNamespace())
    expected = F.cross_entropy(model(given["image"]), given["target"], ignore_index=255)
    torch.testing.assert_close(loss, expected)
    given["target"][:] = 255
    assert segmentation.compute_loss(model, given, SimpleNamespace()).item() == 0


def test_the_model_normalizes_its_input():
    model = segmentation.Normalized(nn.Identity(), (0.1, 0.2, 0.3), (0.5, 1.0, 2.0))
    image = torch.rand(2, 3, 4, 4)
    expected = torch.stack(
        [(image[:, 0] - 0.1) / 0.5, image[:, 1] - 0.2, (image[:, 2] - 0.3) / 2], 1
    )
    torch.testing.assert_close(model(image), expected)
    assert torch.equal(segmentation.predict(model, image), expected.argmax(1))


class Parts(nn.Module):
    """Gives what a segmenter with an auxiliary head and whitening gives in training."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1)

    def forward(self, x):
        out = {"out": self.conv(x), "aux": 2 * self.conv(x), "whitening": x.mean()}
        return out if self.training else out["out"]


def test_loss_adds_the_auxiliary_head_and_the_whitening():
    given, model = batch(2), Parts()
    main, other = (F.cross_entropy(k * model.conv(given["image"]), given["target"]) for k in (1, 2))
    mean = given["image"].mean()
    loss = segmentation.compute_loss(model, given, SimpleNamespace(loss_args={}))
    torch.testing.assert_close(loss, main + 0.4 * other + 0.6 * mean)
    args = SimpleNamespace(loss_args={"auxiliary": 0, "whitening": 2.5})
    loss = segmentation.compute_loss(model, given, args)
    torch.testing.assert_close(loss, main + 2.5 * mean)


def settings(**changes):
    return SimpleNamespace(
        **({"protocol": "native", "eval_scales": (1.0,), "eval_flip": False} | changes)
    )


def test_scores_are_brought_to_the_size_of_the_target():
    model, given = nn.Conv2d(3, 3, 3, padding=1), batch(2, 6, 10)
    given["image"] = F.interpolate(given["image"], (3, 5), mode="area")
    ids, target, confidence = segmentation.evaluate(model, given, settings())
    logits = F.interpolate(model(given["image"]), (6, 10), mode="bilinear", align_corners=False)
    assert torch.equal(ids, logits.argmax(1)) and target is given["target"]
    torch.testing.assert_close(confidence, logits.softmax(1).amax(1))


def test_probabilities_are_averaged_over_sizes_and_mirrors():
    model, given = nn.Conv2d(3, 3, 3, padding=1), batch(2, 8, 12)
    image = given["image"]
    total = 0
    for size in ((8, 12), (4, 6)):
        smooth = image if size == (8, 12) else resize(image, list(size), antialias=True)
        for turn in (lambda z: z, lambda z: z.flip(-1)):
            logits = F.interpolate(turn(model(turn(smooth))), (8, 12), mode="bilinear")
            total = total + logits.softmax(1) / 4
    cfg = settings(eval_scales=(1.0, 0.5), eval_flip=True)
    ids, _, confidence = segmentation.evaluate(model, given, cfg)
    torch.testing.assert_close(confidence, total.amax(1))
    assert (ids == total.argmax(1)).float().mean() > 0.99  # ties by rounding


def test_the_half_protocol_slides_windows(monkeypatch):
    seen = []

    class Watched(nn.Conv2d):
        def forward(self, x):
            seen.append(tuple(x.shape[2:]))
            return super().forward(x)

    monkeypatch.setitem(segmentation.WINDOWS, "half", (8, 5))
    model, given = Watched(3, 3, 1), batch(1, 8, 18)
    slid = segmentation.evaluate(model, given, settings(protocol="half"))
    assert seen == 3 * [(8, 8)]
    whole = segmentation.evaluate(model, given, settings())
    assert torch.equal(slid[0], whole[0])  # a 1x1 convolution sees no window
    told = segmentation.facts(settings(protocol="half"))
    assert told["windows"] == "8 px, stride 5" and told["protocol"] == "half"


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"augment": "flip+photometri"}, KeyError, "did you mean 'photometric'"),
        ({"augment": "none+flip"}, ValueError, "augment must name none alone, got 'none.flip'"),
        ({"loss_args": {"auxilary": 1}}, KeyError, "did you mean 'auxiliary'"),
        ({"loss_args": {"auxiliary": -1}}, ValueError, "must be at least 0, got -1"),
        ({"loss_args": {"whitening": "1"}}, TypeError, "must be a number, got '1'"),
    ],
)
def test_what_cannot_be_trained_is_named(changes, error, message):
    cfg = SimpleNamespace(**({"augment": "flip", "loss_args": {}} | changes))
    with pytest.raises(error, match=message):
        segmentation.check(cfg)


@pytest.mark.parametrize("known", [True, False])
def test_picture_shows_panels_in_the_palette(known):
    ids = torch.zeros(12, 16, dtype=torch.int64)
    ids[:6] = 1
    target = torch.full_like(ids, 2) if known else None
    picture = segmentation.draw(
        torch.zeros(3, 12, 16), target, ids, classes=CLASSES, palette=PALETTE
    )
    factor, panels = 20, 3 if known else 2  # 12 rows become 240
    assert picture.dtype == torch.uint8
    assert picture.shape[2] == panels * 16 * factor + (panels - 1) * 4
    middle = picture[:, 20 + 6 * factor - 5, :]  # in the upper half, just above its end
    assert middle[:, 5].tolist() == [0, 0, 0]
    shown = (0.7 * PALETTE[1].float()).tolist()
    assert middle[:, -5].tolist() == pytest.approx(shown, abs=1)
    if known:
        shown = (0.7 * PALETTE[2].float()).tolist()
        assert middle[:, 16 * factor + 9].tolist() == pytest.approx(shown, abs=1)


def test_ignored_pixels_stay_unpainted():
    ids = torch.full((12, 16), 255)
    picture = segmentation.draw(torch.ones(3, 12, 16), None, ids, classes=CLASSES, palette=PALETTE)
    assert picture[:, 60, -5].tolist() == [255, 255, 255]
