"""DEA-Net against its definition (dea_reference.py), its forms and its weights files."""

import json
import zlib
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from dea_reference import dea_net as definition
from timm.models import save_for_hf
from torch import Tensor, nn
from torch.fx import symbolic_trace

import ibnvision
from ibnvision.benchmark.live_bytes import LiveBytes
from ibnvision.models import RESTORERS, DEANet, from_weights, load_weights
from ibnvision.ops import why_no_kernel
from ibnvision.testing import assert_close

KEYS = json.loads((Path(__file__).parent / "golden" / "dea" / "keys.json").read_text())
SMALL = {"width": 8, "depths": (1, 1, 2, 1, 1)}


def filled(model: DEANet, gain: float = 0.6) -> DEANet:
    """With weights drawn from their names, small enough for the attention not to saturate."""
    for key, value in model.state_dict().items():
        random = np.random.RandomState(zlib.crc32(key.encode()))
        drawn = random.randn(*value.shape)
        scale = gain * np.prod(value.shape[1:]) ** -0.5 if value.dim() > 1 else 0.1
        value.copy_(torch.from_numpy(drawn * scale))
    return model.eval()


def network(name: str = "dea_net", **arguments) -> DEANet:
    return filled(ibnvision.create_model(name, **arguments))


def images(*size: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.rand(size, dtype=dtype, generator=torch.Generator().manual_seed(1))


def test_keys_and_shapes_are_the_published_ones():
    model = ibnvision.create_model("dea_net", device="meta")
    for form, count, parameters in (("train", 388, 7_789_313), ("deploy", 196, 3_653_377)):
        published = dict(KEYS[form])
        assert len(published) == count
        assert {key: list(v.shape) for key, v in model.state_dict().items()} == published
        assert sum(p.numel() for p in model.parameters()) == parameters
        assert model.fused == (form == "deploy")
        model = ibnvision.create_model("dea_net").fuse()
    small = ibnvision.create_model("dea_net_s").fuse()
    assert round(sum(p.numel() for p in small.parameters()) / 1e6, 3) == 2.844  # of the paper


@pytest.mark.parametrize("name", RESTORERS)
@torch.no_grad()
def test_equals_its_definition(name):
    model, x = network(name).double(), images(1, 3, 32, 20)
    expected = definition(model.state_dict(), x)
    assert expected.std() > 0.02
    assert_close(model(x), expected)
    assert_close(model.fuse()(x), expected)
    assert_close(definition(model.state_dict(), x), expected)
    single = model.float()(x.float())
    assert_close(single, expected)


@torch.no_grad()
def test_memory_format_of_the_image_is_kept():
    model, x = network(**SMALL).double(), images(2, 3, 16, 24)
    y = model(x)
    last = model(x.contiguous(memory_format=torch.channels_last))
    assert y.is_contiguous() and last.is_contiguous(memory_format=torch.channels_last)
    assert_close(last, y)


def test_gradients_of_both_modes_and_of_the_image():
    model, x = network(**SMALL).double(), images(1, 3, 16, 16).requires_grad_()
    state = {k: v.detach().clone().requires_grad_() for k, v in model.state_dict().items()}
    expected = torch.autograd.grad(definition(state, x).square().sum(), [x, *state.values()])
    found = torch.autograd.grad(model(x).square().sum(), [x, *model.parameters()])
    named = dict(zip(("x", *state), expected, strict=True))
    for key, value in zip(("x", *(n for n, _ in model.named_parameters())), found, strict=True):
        assert_close(value, named[key])
        assert value.abs().max() > 0, key


def test_checkpointing_changes_no_gradient():
    model, x = network(**SMALL).double().train(), images(1, 3, 16, 16)
    plain = torch.autograd.grad(model(x).square().sum(), list(model.parameters()))
    model.set_grad_checkpointing()
    again = torch.autograd.grad(model(x).square().sum(), list(model.parameters()))
    for a, b in zip(plain, again, strict=True):
        assert_close(a, b)


@pytest.mark.parametrize("size", [(61, 83), (64, 64), (66, 17)])
@torch.no_grad()
def test_restore_pads_by_reflection_and_crops(size):
    model, x = network(**SMALL).double(), images(2, 3, *size)
    height, width = size
    padded = F.pad(x, (0, -width % 4, 0, -height % 4), "reflect")
    expected = definition(model.state_dict(), padded).clamp(0, 1)[..., :height, :width]
    assert_close(model.restore(x), expected)
    assert not model.restore(x.requires_grad_()).requires_grad


@pytest.mark.parametrize("size", [(1, 1), (3, 40), (9, 15), (16, 2)])
@torch.no_grad()
def test_restore_takes_small_images(size):
    model, x = network(**SMALL).double(), images(1, 3, *size)
    rows = [min(i, 2 * size[0] - 2 - i) if i < 2 * size[0] - 1 else 0 for i in range(16)]
    columns = [min(i, 2 * size[1] - 2 - i) if i < 2 * size[1] - 1 else 0 for i in range(40)]
    high, wide = (max(16, -(-side // 4) * 4) for side in size)
    padded = x[:, :, rows[:high]][..., columns[:wide]]
    expected = definition(model.state_dict(), padded).clamp(0, 1)
    assert_close(model.restore(x), expected[..., : size[0], : size[1]])


@torch.no_grad()
def test_restore_keeps_the_type_of_the_image():
    model, x = network(**SMALL), images(1, 3, 20, 21)
    y = model.restore(x)
    assert y.dtype == torch.float64 and y.min() >= 0 and y.max() <= 1
    half = model.bfloat16().restore(x.float())
    assert half.dtype == torch.float32
    assert (half - y).abs().mean() < 0.02


@pytest.mark.parametrize(
    "arguments", [{"in_chans": 1}, {"in_chans": 4, "attention": False}, {"detail": False}]
)
@torch.no_grad()
def test_other_networks(arguments):
    model = network(**SMALL, **arguments).double()
    x = images(1, arguments.get("in_chans", 3), 17, 30)
    assert model.restore(x).shape == x.shape
    assert model.restore(x).std() > 0
    assert model.fused == ("detail" in arguments)
    if "detail" in arguments:
        assert_close(
            model(images(1, 3, 16, 16)), definition(model.state_dict(), images(1, 3, 16, 16))
        )


def test_bad_arguments_raise():
    model = ibnvision.create_model("dea_net", **SMALL)
    with pytest.raises(ValueError, match=r"multiples of 4 and at least 16, got H=18, W=16"):
        model(torch.rand(1, 3, 18, 16))
    with pytest.raises(ValueError, match="got H=12, W=64"):
        model(torch.rand(1, 3, 12, 64))
    with pytest.raises(ValueError, match=r"\[N, 3, H, W\], got \[1, 4, 16, 16\]"):
        model(torch.rand(1, 4, 16, 16))
    with pytest.raises(TypeError, match="uint8"):
        model.restore(torch.zeros(1, 3, 16, 16, dtype=torch.uint8))
    with pytest.raises(ValueError, match="H and W at least 1"):
        model.restore(torch.rand(1, 3, 0, 16))
    for arguments, text in (
        ({"depths": (1, 2)}, "5 counts"),
        ({"width": 0}, "width must be at least 1"),
        ({"in_chans": 0}, "in_chans must be at least 1"),
        ({"reductions": (8,)}, "reductions must be 2"),
    ):
        with pytest.raises(ValueError, match=text):
            ibnvision.create_model("dea_net", **arguments)


def official_forms(state: dict[str, Tensor]) -> dict[str, dict]:
    return {
        "plain": state,
        "parallel": {f"module.{key}": value for key, value in state.items()},
        "wrapped": {
            "model": {f"module.{k}": v for k, v in state.items()},
            "optimizer": {
                "state": {0: {"exp_avg": torch.zeros(1)}},
                "param_groups": [{"lr": 1e-4}],
            },
            "max_psnr": np.float64(36.5),
            "losses": [np.float32(0.5), 0.25],
        },
    }


@pytest.mark.parametrize("form", ["plain", "parallel", "wrapped"])
@pytest.mark.parametrize("folded_file", [False, True])
@pytest.mark.parametrize("folded_network", [False, True])
@torch.no_grad()
def test_every_form_of_weights_loads(form, folded_file, folded_network, tmp_path):
    source, x = network(**SMALL), images(1, 3, 16, 16, dtype=torch.float32)
    expected = source(x)
    if folded_file:
        source.fuse()
    torch.save(official_forms(source.state_dict())[form], tmp_path / "weights.pk")
    model = ibnvision.create_model("dea_net", **SMALL)
    if folded_network:
        model.fuse()
    load_weights(model, tmp_path / "weights.pk")
    assert model.fused == (folded_file or folded_network)
    assert_close(model(x), expected)
    assert_close(from_weights(tmp_path / "weights.pk")(x), expected)


@pytest.mark.parametrize("folded_file", [False, True])
@pytest.mark.parametrize("folded_network", [False, True])
def test_missing_keys_are_named_and_nothing_is_folded(folded_file, folded_network, tmp_path):
    source, model = network(**SMALL), ibnvision.create_model("dea_net", **SMALL)
    if folded_network:
        model.fuse()
    state = (source.fuse() if folded_file else source).state_dict()
    lost = "level3_block2.conv1.bias" if folded_file else "level3_block2.conv1.conv1_3.conv.bias"
    del state[lost]
    torch.save(state, tmp_path / "half.pth")
    with pytest.raises(ValueError, match=f"half.pth' does not fit.*{lost}"):
        load_weights(model, tmp_path / "half.pth")
    assert model.fused == folded_network


@pytest.mark.parametrize(
    "arguments",
    [
        {"in_chans": 1},
        {"attention": False},
        {"width": 16, "reductions": (4, 2)},
        {"depths": (0, 1, 3, 2, 0)},
    ],
)
@pytest.mark.parametrize("folded", [False, True])
@torch.no_grad()
def test_a_file_says_which_network_it_is(folded, arguments, tmp_path):
    source = network(**(SMALL | arguments))
    x = images(1, source.in_chans, 16, 16, dtype=torch.float32)
    expected = source(x)
    torch.save((source.fuse() if folded else source).state_dict(), tmp_path / "some.pth")
    model = from_weights(tmp_path / "some.pth")
    assert model.depths == source.depths and model.fused == folded
    assert_close(model(x), expected)


def test_a_file_of_another_network_raises(tmp_path):
    torch.save({"conv1.weight": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(
        ValueError, match=r"other.pth' holds no DEA-Net: down1.0.weight .* is missing"
    ):
        from_weights(tmp_path / "other.pth")


def test_weights_of_another_width_raise(tmp_path):
    torch.save(network(**SMALL).state_dict(), tmp_path / "narrow.pth")
    model = ibnvision.create_model("dea_net", **(SMALL | {"width": 16}))
    with pytest.raises(ValueError, match=r"narrow.pth' does not fit.*size mismatch"):
        load_weights(model, tmp_path / "narrow.pth")


@pytest.mark.parametrize("name", RESTORERS)
def test_registered_as_a_restorer(name):
    cfg = timm.get_pretrained_cfg(name)
    assert (cfg.num_classes, cfg.classifier, cfg.mean, cfg.url) == (0, None, (0, 0, 0), "")
    model = ibnvision.create_model(name, device="meta")
    assert model.num_classes == 0 and not hasattr(model, "get_classifier")
    with pytest.warns(UserWarning, match="num_classes=10 is ignored"):
        assert ibnvision.create_model(name, num_classes=10, device="meta").num_classes == 0
    assert model.get_submodule(cfg.first_conv).in_channels == 3
    with pytest.raises(RuntimeError, match="No pretrained weights exist"):
        ibnvision.create_model(name, pretrained=True)
    with pytest.raises(TypeError, match="not_an_argument"):
        ibnvision.create_model(name, not_an_argument=1)


@torch.no_grad()
def test_features():
    model, x = network(**SMALL), images(2, 3, 16, 32, dtype=torch.float32)
    last, maps = model.forward_intermediates(x)
    assert torch.equal(last, model.forward_features(x))
    assert [list(m.shape[1:]) for m in maps] == [[8, 16, 32], [16, 8, 16], [32, 4, 8]]
    skips = [model.down2(maps[0]), model.down3(maps[1])]
    assert_close(model.forward_head(last, skips), model(x))
    with pytest.raises(ValueError, match="outputs of down2 and down3"):
        model.forward_head(last)
    for i, expected in enumerate(maps):
        assert torch.equal(
            model.forward_intermediates(x, [i], True, True, "NCHW", True)[0], expected
        )
        pruned = network(**SMALL)
        pruned.prune_intermediate_layers([i])
        assert_close(pruned(x), expected)
        assert sum(p.numel() for p in pruned.parameters()) < sum(
            p.numel() for p in model.parameters()
        )


@torch.no_grad()
def test_features_only_in_three_ways():
    def seeded(**arguments) -> nn.Module:
        torch.manual_seed(2)
        return ibnvision.create_model("dea_net", **SMALL, **arguments).eval()

    x = images(2, 3, 16, 32, dtype=torch.float32)
    maps = seeded().forward_intermediates(x, intermediates_only=True)
    for way in ("getter", "hook", "list"):
        taps = seeded(features_only=True, feature_cls=way)
        assert taps.feature_info.channels() == [8, 16, 32]
        assert taps.feature_info.reduction() == [1, 2, 4]
        for tap, expected in zip(taps(x), maps, strict=True):
            assert_close(tap, expected)


@pytest.mark.parametrize("folded", [False, True])
@torch.no_grad()
def test_folder_round_trip(folded, tmp_path):
    model, x = network(**SMALL), images(1, 3, 16, 16, dtype=torch.float32)
    expected = model(x)
    save_for_hf(model.fuse() if folded else model, tmp_path, model_args=SMALL)
    other = ibnvision.create_model(f"local-dir:{tmp_path}", pretrained=True)
    assert other.fused == folded
    assert_close(other(x), expected)


@pytest.mark.parametrize("folded", [False, True])
@torch.no_grad()
def test_traced_scripted_exported_compiled(folded):
    model, x = network(**SMALL), images(1, 3, 16, 20, dtype=torch.float32)
    y = model(x)
    if folded:
        model.fuse()
    assert_close(symbolic_trace(model)(x), y)
    assert_close(torch.jit.script(model)(x), y)
    height, width = torch.export.Dim("h", min=4, max=64), torch.export.Dim("w", min=4, max=64)
    program = torch.export.export(
        model,
        (images(1, 3, 32, 24, dtype=torch.float32),),
        dynamic_shapes=({2: 4 * height, 3: 4 * width},),
    )
    assert_close(program.module()(x), y)
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    assert_close(compiled(x), y)


def test_layer_groups_cover_every_parameter():
    model = ibnvision.create_model("dea_net", device="meta")
    names = [n for n, _ in model.named_parameters()]
    for coarse in (False, True):
        groups = timm.models.group_parameters(model, model.group_matcher(coarse), reverse=True)
        assert sorted(groups) == sorted(names)
    assert groups["down1.0.weight"] == 0


@pytest.mark.parametrize("channels_last", [False, True])
@torch.no_grad()
def test_live_tensors_of_inference(channels_last):
    model, x = network("dea_net").fuse(), images(1, 3, 64, 128, dtype=torch.float32)
    if why_no_kernel("content_guided_attention_forward", x):
        pytest.skip(why_no_kernel("content_guided_attention_forward", x))
    x = x.contiguous(memory_format=torch.channels_last) if channels_last else x
    with LiveBytes(x) as live:
        model(x)
    assert live.peak <= 420 * 64 * 128
    assert live.peak >= 3 * 128 * 64 * 128  # three maps of 32 channels are the least here
