import ast
import copy
import inspect
import sys

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from ibnvision.layers import BatchNormAct2d
from ibnvision.models import create_segmenter, seg_heads
from ibnvision.testing import assert_close

DECODERS = ("deeplabv3plus", "fpn", "upernet", "segformer")
SMALL = {"small_stem": True, "channels": (16, 32, 64, 64)}
THIN = {"channels": (16, 32, 64, 64)}
SWIN = {"img_size": 64, "embed_dim": 12, "depths": (1, 1, 1, 1), "num_heads": (1, 1, 2, 2)}
BACKBONES = {
    "resnet18_ibn_b": SMALL,
    "resnet10t": THIN,
    "mobilenetv3_small_050": {},
    "convnext_atto": {"dims": (8, 16, 24, 32), "depths": (1, 1, 1, 1)},
    "swin_tiny_patch4_window7_224": SWIN,
}


def build(head: str, backbone: str = "resnet10t", **kwargs):
    torch.manual_seed(0)
    arguments = {"backbone_args": BACKBONES.get(backbone, {}), "head_channels": 64, **kwargs}
    return create_segmenter(backbone, 3, head=head, **arguments)


@pytest.fixture(scope="module")
def images():
    return torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("head", ["light", *DECODERS])
@pytest.mark.parametrize("backbone", BACKBONES)
def test_every_head_on_every_backbone_trains(head, backbone, images):
    stride = 32 if backbone.startswith("swin") and head == "deeplabv3plus" else None
    if stride is None:
        model = build(head, backbone, auxiliary=True)
    else:  # Swin cannot dilate
        with pytest.raises(ValueError, match="16 is out of reach of 'swin.*give output_stride=32"):
            build(head, backbone)
        model = build(head, backbone, auxiliary=True, output_stride=stride)
    outputs = model(images)
    assert list(outputs) == ["out", "aux"]
    assert outputs["out"].shape == outputs["aux"].shape == (2, 3, 64, 64)
    # by hand: the third stage, its head, and the size of the images; dropout is off in eval
    model.eval()
    with torch.no_grad():
        third = model.backbone(images)[-2]
        third = third.permute(0, 3, 1, 2) if model.channels_last_maps else third
        extras = model._with_extras(images, model.backbone(images), images, images)
        assert_close(extras["aux"], resized(model.auxiliary(third), (64, 64)))
        assert isinstance(model(images), torch.Tensor)
    (outputs["out"].square().mean() + outputs["aux"].square().mean()).backward()
    for name, parameter in [*model.head.named_parameters(), *model.auxiliary.named_parameters()]:
        assert parameter.grad.isfinite().all() and parameter.grad.any(), name


def resized(x, size):
    return F.interpolate(x, size, mode="bilinear", align_corners=False)


@pytest.mark.parametrize("head", DECODERS)
@torch.no_grad()
def test_equals_the_model_of_the_package_with_the_same_weights(head, images):
    import segmentation_models_pytorch as smp

    name = {"deeplabv3plus": "DeepLabV3Plus", "fpn": "FPN", "upernet": "UPerNet"}.get(head)
    model = build(head, "resnet10t", backbone_args={}).eval()
    widths = {"decoder_channels": 64}
    if head == "fpn":
        widths = {"decoder_pyramid_channels": 64, "decoder_segmentation_channels": 32}
    if head == "deeplabv3plus":
        widths |= {"decoder_atrous_rates": (6, 12, 18)}
    if name is None:  # theirs also reads the map of reduction 2: compare on a list without it
        decoder = smp.decoders.segformer.decoder.SegformerDecoder([3, 0, 64, 128, 256, 512], 5, 64)
        decoder.load_state_dict(model.head.decoder.state_dict())
        _, *maps = model.backbone(images)
        theirs = decoder.eval()([images, images.new_empty(2, 0, 32, 32), *maps])
        logits = model.head.classifier(theirs)
    else:
        whole = getattr(smp, name)("tu-resnet10t", encoder_weights=None, classes=3, **widths)
        state = {f"encoder.model.{k}": v for k, v in model.backbone.state_dict().items()}
        state |= {f"decoder.{k}": v for k, v in model.head.decoder.state_dict().items()}
        classifier = model.head.classifier.state_dict()
        whole.load_state_dict(
            state | {f"segmentation_head.0.{k}": v for k, v in classifier.items()}
        )
        if head == "deeplabv3plus":
            whole.decoder.up.align_corners = False
        whole.segmentation_head[1] = nn.Identity()
        logits = whole.eval()(images)
    assert logits.shape == (2, 3, 16, 16)
    assert_close(model(images), resized(logits, (64, 64)))


@pytest.mark.parametrize(
    ("arguments", "stride", "rates", "factor"),
    [
        ({}, 16, (6, 12, 18), 4),
        ({"output_stride": 8}, 8, (12, 24, 36), 2),
        ({"output_stride": 32}, 32, (3, 6, 9), 8),
        ({"backbone": "resnet18_ibn_b", "backbone_args": SMALL}, 16, (6, 12, 18), 4),
        (
            {"backbone": "resnet18_ibn_b", "backbone_args": SMALL, "output_stride": 8},
            8,
            (12, 24, 36),
            2,
        ),
    ],
)
@torch.no_grad()
def test_output_strides_of_deeplab(arguments, stride, rates, factor, images):
    model = build("deeplabv3plus", **arguments).eval()
    low, high = (model.backbone(images)[i] for i in model.taps)
    assert low.shape[-1] == 16 and high.shape[-1] == 64 // stride
    atrous = model.head.decoder.aspp[0].convs
    assert tuple(atrous[i][0][0].dilation[0] for i in (1, 2, 3)) == rates
    assert_close(model.head.decoder.up(high), resized(high, low.shape[-2:]))
    assert model.head([low, high]).shape == (2, 3, 16, 16)


def test_output_stride_8_for_pyramids_that_may_repeat_a_size(images):
    for head in ("upernet", "segformer"):
        model = build(head, output_stride=8).eval()
        assert [model.backbone.feature_info.reduction()[i] for i in model.taps] == [4, 8, 8, 8]
        assert model(images).shape == (2, 3, 64, 64)
    with pytest.raises(
        ValueError, match="twice the reduction.*Heads for them: light, tokens, deep"
    ):
        build("fpn", output_stride=8)


@pytest.mark.parametrize("head", DECODERS)
@torch.no_grad()
def test_odd_sizes_are_extended_and_cut(head, images):
    model = build(head).eval()
    odd = images[..., :50, :37]
    logits = model(odd)
    assert logits.shape == (2, 3, 50, 37)
    if model.multiple > 1:
        bottom, right = -50 % model.multiple, -37 % model.multiple
        rows, columns = (
            torch.arange(n + p).clamp(max=n - 1) for n, p in ((50, bottom), (37, right))
        )
        assert_close(logits, model(odd[..., rows, :][..., columns])[..., :50, :37])


@pytest.mark.parametrize("head", DECODERS)
def test_fused_equals_plain(head, images):
    fused, plain = (build(head, auxiliary=True, fused=f).double() for f in (True, False))
    assert list(fused.state_dict()) == list(plain.state_dict())
    plain.load_state_dict(fused.state_dict())
    assert not any(isinstance(m, BatchNormAct2d) for m in plain.head.modules())
    results = []
    for model in (fused, plain):
        for module in model.modules():
            if isinstance(module, nn.Dropout | nn.Dropout2d):
                module.p = 0.0
        outputs = model.train()(images.double())
        (outputs["out"].square().sum() + outputs["aux"].square().sum()).backward()
        found = {f"{name}.grad": p.grad for name, p in model.named_parameters()}
        found |= outputs | model.state_dict()
        with torch.no_grad():
            results.append(found | {"eval": model.eval()(images.double())})
    for name, value in results[0].items():
        assert_close(value.double(), results[1][name].double())


@pytest.mark.parametrize("head", ["deeplabv3plus", "upernet", "segformer"])
def test_every_batch_norm_of_a_decoder_runs_fused_with_its_activation(head):
    model = build(head, "resnet18_ibn_b", auxiliary=True)
    norms = [m for m in [*model.head.modules(), *model.auxiliary.modules()]]
    norms = [m for m in norms if isinstance(m, nn.BatchNorm2d)]
    assert {"deeplabv3plus": 10, "upernet": 13, "segformer": 2}[head] == len(norms)
    assert all(type(m) is BatchNormAct2d and m.act_name == "relu" for m in norms)


@pytest.mark.parametrize("head", DECODERS)
@pytest.mark.filterwarnings("ignore")
@torch.no_grad()
def test_export_of_a_head(head, images):
    """The rest of a segmenter is the same for all, see test_segmenter.py."""
    model = build(head).eval()
    maps = [model.backbone(images)[i] for i in model.taps]
    expected = model.head(maps)
    assert_close(torch.jit.script(model.head)(maps), expected)
    assert_close(torch.export.export(model.head, (maps,)).module()(maps), expected)


@pytest.mark.slow
@pytest.mark.parametrize("head", DECODERS)
@pytest.mark.filterwarnings("ignore")
@torch.no_grad()
def test_export(head, images):
    model = build(head, "resnet18_ibn_b", auxiliary=True).eval()
    odd = images[..., :50, :37].contiguous()
    expected = model(odd)
    assert_close(torch.jit.script(model)(odd), expected)
    assert_close(torch.export.export(model, (odd,)).module()(odd), expected)
    torch._dynamo.reset()
    assert_close(torch.compile(model, backend="eager", fullgraph=True)(odd), expected)
    assert_close(copy.deepcopy(model)(odd), expected)


@pytest.mark.parametrize("head", DECODERS)
def test_a_vit_is_refused_with_the_heads_that_take_it(head):
    args = {"img_size": 64, "embed_dim": 32, "depth": 3, "num_heads": 2}
    with pytest.raises(
        ValueError, match=r"reductions \[16, 16, 16\]. Heads for them: light, tokens"
    ):
        build(head, "vit_tiny_patch16_224", backbone_args=args)
    model = build("light", "vit_tiny_patch16_224", backbone_args=args, auxiliary=True)
    assert model(torch.randn(2, 3, 64, 64))["aux"].shape == (2, 3, 64, 64)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"head": "fpn", "head_channels": 96}, "head_channels must be a multiple of 64 for head"),
        ({"head": "light", "output_stride": 4}, "output_stride 4 is out of reach of 'resnet10t'"),
        ({"head": "light", "backbone_args": {"out_indices": [4]}, "auxiliary": True}, "two maps"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        build(**arguments)


def test_missing_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "segmentation_models_pytorch", None)
    for name in [n for n in sys.modules if n.startswith("segmentation_models_pytorch.")]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(ImportError, match="pip install segmentation-models-pytorch, or use head"):
        build("upernet")


def test_the_package_is_imported_late():
    tree = ast.parse(inspect.getsource(seg_heads))
    at_once = [
        ast.unparse(node) for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)
    ]
    assert not any("segmentation_models_pytorch" in line for line in at_once)
