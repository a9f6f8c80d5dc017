"""Class ids of images: the size a model sees, its windows, and how much memory they take."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ibnvision.benchmark.live_bytes import LiveBytes
from ibnvision.tasks.labels import labeller


class Brightest(nn.Module):
    """The class of a pixel is its brightest channel; remembers the sizes of what it saw."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))
        self.seen: list[tuple[int, ...]] = []

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(tuple(x.shape[2:]))
        return x * self.weight


SIZE = (32, 48)


def sizes(image, **how):
    model = Brightest()
    ids = labeller(model, SIZE, **how)(image)
    assert ids.shape == image.shape[1:] and ids.dtype == torch.uint8 and ids.max() < 3
    return model.seen


@pytest.mark.parametrize(
    ("how", "first", "count"),
    [
        ({}, (32, 48), 1),  # the height of training; 100 of 64 rows becomes 50 of 32, then 48
        ({"crops": True}, (32, 48), 9),  # native: 64 - 32 pixels by strides of 21, 100 - 48 by 32
        ({"crops": True, "whole": True}, (64, 100), 1),
        ({"crops": True, "scale": 0.5}, (32, 48), 2),  # 32 x 50
        ({"crops": True, "height": 32}, (32, 48), 1),
        ({"scale": 1.0}, (32, 48), 9),
        ({"scale": 1.0, "whole": True}, (64, 100), 1),
        ({"height": 16}, (16, 24), 1),
        ({"window": (32, 24)}, (32, 24), 3),
        ({"window": (32, 24), "overlap": 0.0}, (32, 24), 2),
    ],
)
def test_sizes_that_the_model_sees(how, first, count):
    image = torch.rand(3, 64, 100)
    seen = sizes(image, **how)
    assert seen[0] == first and len(seen) == count


def test_ids_are_those_of_the_scores_at_the_size_of_the_image():
    image = torch.rand(3, 50, 75)
    assert torch.equal(labeller(Brightest(), SIZE, scale=1.0)(image), image.argmax(0))
    found = labeller(Brightest(), SIZE, scale=0.5)(image)
    small = F.interpolate(image[None], (25, 38), mode="bilinear", antialias=True)
    expected = F.interpolate(small, (50, 75), mode="bilinear").argmax(1)[0]
    assert (found == expected).float().mean() > 0.999


def test_half_runs_the_model_in_bfloat16_and_gives_the_same_ids():
    class Conv(nn.Conv2d):
        def forward(self, x: Tensor) -> Tensor:
            scores = super().forward(x)
            self.dtype = scores.dtype
            return scores

    model, image = Conv(3, 3, 1), torch.rand(3, 40, 60)
    found = labeller(model, SIZE, crops=True, half=True)(image)
    assert model.dtype == torch.bfloat16
    whole = labeller(model, SIZE, crops=True)(image)
    assert model.dtype == torch.float32
    assert (found == whole).float().mean() > 0.97


def test_live_rows_do_not_grow_with_the_image():
    class Many(Brightest):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x).repeat(1, 10, 1, 1)

    def peak(rows):  # but for the ids, the result
        image = torch.rand(3, rows, 300)
        with LiveBytes() as live:
            labeller(Many(), SIZE, crops=True)(image)
        return live.peak - rows * 300

    assert peak(1000) < 1.02 * peak(200)
    window_and_band, weights_and_ids = 30 * (32 + 21) * 300 * 4, 2 * 32 * 300 * 8
    assert peak(200) < window_and_band + weights_and_ids + 12 * 30 * 32 * 48


def test_advice_where_memory_is_short():
    def short(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory")

    label = labeller(Brightest(), SIZE, crops=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Brightest, "forward", short)
        with pytest.raises(RuntimeError, match="picture of 99x64, seen at 99x64 in windows of 48x"):
            label(torch.rand(3, 64, 99))


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"window": (0, 4)}, r"window must be height and width, each at least 1, got \(0, 4\)"),
        ({"window": (4,)}, "window must be height and width"),
        ({"overlap": 1.0}, "overlap must be at least 0 and below 1, got 1.0"),
        ({"overlap": -0.1}, "overlap must be"),
        ({"overlap": float("nan")}, "overlap must be"),
        ({"scale": 0.0}, "scale must be greater than 0, got 0.0"),
        ({"scale": float("nan")}, "scale must be"),
        ({"height": 0}, "height must be at least 1, got 0"),
        ({"scale": 1.0, "height": 4}, "scale and height must not both be given"),
        ({"whole": True, "window": (4, 4)}, "whole and window must not both be given"),
    ],
)
def test_says_what_is_wrong(how, message):
    with pytest.raises(ValueError, match=message):
        labeller(Brightest(), SIZE, **how)
