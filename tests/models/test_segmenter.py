import copy

import pytest
import torch

from ibnvision.models import create_segmenter
from ibnvision.models.seg_heads import LightHead, TokenHead
from ibnvision.testing import assert_close

SMALL = {"small_stem": True, "channels": (16, 32, 64, 64)}


@pytest.fixture(scope="module")
def small():
    torch.manual_seed(0)
    return create_segmenter("resnet18_ibn_b", 8, output_stride=8, backbone_args=SMALL)


def test_size_of_the_small_network(small):
    assert sum(p.numel() for p in small.parameters()) == 363_384
    assert small.backbone.feature_info.reduction()[small.taps[0]] == 4


@pytest.mark.parametrize("size", [(64, 96), (50, 37)])
@torch.no_grad()
def test_logits_have_the_size_of_the_images(small, size):
    y = small.eval()(torch.randn(2, 3, *size))
    assert y.shape == (2, 8, *size) and y.isfinite().all()


@pytest.mark.parametrize(
    ("backbone", "reductions"),
    [
        ("resnet18_ibn_a", (4, 32)),
        ("densenet121_ibn_a", (4, 32)),
        ("resnet10t", (4, 32)),
        ("mobilenetv3_small_050", (4, 32)),
        ("swin_tiny_patch4_window7_224", (4, 32)),
    ],
)
@torch.no_grad()
def test_any_backbone_of_timm(backbone, reductions):
    model = create_segmenter(backbone, 3).eval()
    found = model.backbone.feature_info.reduction()
    assert (found[model.taps[0]], found[-1]) == reductions
    size = 224 if backbone.startswith("swin") else 64
    assert model(torch.randn(1, 3, size, size)).shape == (1, 3, size, size)


def test_nearest_map_where_none_has_reduction_4():
    model = create_segmenter("resnet18_ibn_a", 3, backbone_args={"out_indices": (0, 3, 4)})
    assert model.backbone.feature_info.reduction()[model.taps[0]] == 2


@torch.no_grad()
def test_head_joins_at_the_finer_size_by_hand():
    torch.manual_seed(0)
    head = LightHead(6, 10, 3, 8).eval()
    low, high = torch.randn(1, 6, 8, 8), torch.randn(1, 10, 4, 4)
    up = torch.nn.functional.interpolate(head.reduce_high(high), scale_factor=2, mode="bilinear")
    joined = torch.cat((head.reduce_low(low), up), 1)
    scale = (1 + head.norm1.eps) ** -0.5  # fresh statistics: mean 0, variance 1
    x = torch.relu(head.conv(torch.relu(joined * scale)) * scale)
    assert_close(head([low, high]), head.classifier(x))


def test_learns_a_picture(small):
    torch.manual_seed(0)
    model = create_segmenter("resnet18_ibn_b", 2, output_stride=8, backbone_args=SMALL)
    x = torch.randn(2, 3, 32, 32)
    target = (torch.arange(32)[None, :, None] > 15).long().expand(2, 32, 32)
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    losses = []
    for _ in range(12):
        loss = torch.nn.functional.cross_entropy(model(x), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


def test_one_graph_and_export(small):
    x = torch.randn(2, 3, 30, 45)
    model = copy.deepcopy(small).eval()
    model.multiple = 8  # as for heads that need it: the images are extended
    with torch.no_grad():
        expected = model(x)
        torch._dynamo.reset()
        compiled = torch.compile(model, backend="eager", fullgraph=True)
        assert_close(compiled(x), expected)
        assert_close(torch.export.export(model, (x,)).module()(x), expected)
        assert_close(torch.jit.script(model)(x), expected)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"head": "fpm"}, KeyError, "head 'fpm' is unknown, nearest 'fpn'"),
        ({"backbone": "resnet18_ibn_x"}, KeyError, "backbone 'resnet18_ibn_x' is unknown, nearest"),
        ({"num_classes": 0}, ValueError, "num_classes must be at least 1, got 0"),
        ({"head_channels": 1}, ValueError, "head_channels must be at least 2, got 1"),
        ({"output_stride": 3}, ValueError, "output_stride must be one of"),
    ],
)
def test_bad_arguments(arguments, error, message):
    with pytest.raises(error, match=message):
        create_segmenter(**{"backbone": "resnet18_ibn_a", "num_classes": 2, **arguments})


@torch.no_grad()
def test_token_head_gives_each_token_its_own_cells():
    head = TokenHead(6, 3)
    low, high = torch.randn(2, 5, 2, 3), torch.randn(2, 6, 2, 3)
    logits = head([low, high])
    assert logits.shape == (2, 3, 8, 12)
    mean, var = high.mean(1, keepdim=True), high.var(1, keepdim=True, correction=0)
    normal = ((high - mean) / (var + 1e-5).sqrt())[1, :, 1, 2]
    by_hand = head.classifier.weight @ normal + head.classifier.bias  # K * 16, K first
    assert_close(logits[1, :, 4:8, 8:12].reshape(-1), by_hand)


@torch.no_grad()
def test_a_vit_labels_any_size():
    args = {"img_size": (32, 48), "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2}
    args |= {"dynamic_img_size": True, "out_indices": [1]}
    model = create_segmenter("vit_tiny_patch16_224", 4, head="tokens", backbone_args=args).eval()
    assert model(torch.randn(1, 3, 32, 48)).shape == (1, 4, 32, 48)
    assert model(torch.randn(1, 3, 64, 80)).shape == (1, 4, 64, 80)
