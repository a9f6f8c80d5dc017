"""What timm and its users expect of a model, for every classifier; six names in a quick run."""

import copy
import functools
import json

import pytest
import timm
import torch
from timm.layers import get_spatial_dim
from timm.models import FeatureInfo, group_parameters, save_for_hf
from torch import Tensor, nn
from torchvision.models.feature_extraction import create_feature_extractor, get_graph_node_names

import ibnvision
from ibnvision.models import CLASSIFIERS
from ibnvision.models.resnet_ibn import FusedBlock
from ibnvision.ops import reference_ops
from ibnvision.testing import assert_close

QUICK = (
    "resnet18_ibn_a",
    "resnet18_ibn_b",
    "resnet50_ibn_a",
    "resnext50_ibn_a",
    "se_resnet50_ibn_a",
    "densenet121_ibn_a",
)
SIZE = 64
PARAMETERS = {
    "resnet18_ibn_a": 11_689_512,
    "resnet18_ibn_b": 11_689_896,
    "resnet34_ibn_a": 21_797_672,
    "resnet34_ibn_b": 21_798_056,
    "resnet50_ibn_a": 25_557_032,
    "resnet50_ibn_b": 25_558_568,
    "resnet101_ibn_a": 44_549_160,
    "resnet101_ibn_b": 44_550_696,
    "resnet152_ibn_a": 60_192_808,
    "resnet152_ibn_b": 60_194_344,
    "resnext50_ibn_a": 25_028_904,
    "resnext101_ibn_a": 44_177_704,
    "resnext152_ibn_a": 59_951_400,
    "se_resnet50_ibn_a": 28_071_976,
    "se_resnet101_ibn_a": 49_292_328,
    "se_resnet152_ibn_a": 66_770_984,
    "densenet121_ibn_a": 7_978_856,
    "densenet161_ibn_a": 28_681_000,
    "densenet169_ibn_a": 14_149_480,
    "densenet201_ibn_a": 20_013_928,
}
# IBN-b adds two affine norms of 256 and 512 channels to a network of bottlenecks
PARAMETERS |= {
    name.replace("_a", "_b"): count + 1536
    for name, count in PARAMETERS.items()
    if name.startswith(("resnext", "se_"))
}

every_name = pytest.mark.parametrize(
    "name", [pytest.param(n, marks=() if n in QUICK else pytest.mark.slow) for n in CLASSIFIERS]
)


@functools.lru_cache(maxsize=1)
def _built(name: str) -> nn.Module:
    """With scales other than 1 and the running statistics of one batch, so that no map explodes."""
    torch.manual_seed(0)
    model = ibnvision.create_model(name, num_classes=10)
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d | nn.InstanceNorm2d)]
    for norm in norms:
        nn.init.uniform_(norm.weight, 0.5, 1.5)
        nn.init.normal_(norm.bias, std=0.1)
        norm.momentum = 1.0
    for block in model.modules():  # short branches, so that 50 of them do not amplify rounding
        if isinstance(block, FusedBlock):
            block.get_submodule(f"bn{block.last}").weight.data.mul_(0.3)
    with torch.no_grad():
        model.train()(images(8))
    for norm in norms:
        norm.momentum = 0.1
    return model.eval()


@pytest.fixture
def model(name: str) -> nn.Module:
    return copy.deepcopy(_built(name)).eval()


def images(count: int = 2, channels: int = 3, size: int = SIZE) -> Tensor:
    return torch.randn(count, channels, size, size, generator=torch.Generator().manual_seed(1))


def relative_error(y: Tensor, truth: Tensor) -> float:
    return ((y.double() - truth.double()).norm() / truth.double().norm()).item()


def is_densenet(name: str) -> bool:
    return name.startswith("densenet")


def test_names_and_counts_are_the_published_ones():
    assert set(CLASSIFIERS) == set(PARAMETERS)
    for name in CLASSIFIERS:
        model = ibnvision.create_model(name, device="meta")
        assert model.pretrained_cfg["architecture"] == name
        assert sum(p.numel() for p in model.parameters()) == PARAMETERS[name], name


def test_no_name_hides_one_of_timm():
    files = {timm.models.model_entrypoint(name).__module__ for name in CLASSIFIERS}
    assert files == {"ibnvision.models.resnet_ibn", "ibnvision.models.densenet_ibn"}
    ours = set(timm.list_models(module="resnet_ibn")) | set(timm.list_models(module="densenet_ibn"))
    assert ours == set(CLASSIFIERS)
    timm_functions = {
        n for module in (timm.models.resnet, timm.models.densenet) for n in dir(module)
    }
    assert not ours & timm_functions
    assert not [n for n in CLASSIFIERS if hasattr(timm.models, n)]


@pytest.mark.parametrize("name", ["resnet18_ibn_b", "resnext101_ibn_a", "densenet169_ibn_a"])
def test_published_weights_are_found_by_name(name):
    cfg = timm.get_pretrained_cfg(name)
    release = "https://github.com/XingangPan/IBN-Net/releases/download/v1.0/"
    assert cfg.tag == "in1k" and cfg.url.startswith(f"{release}{name}-")
    assert cfg.mean == (0.485, 0.456, 0.406) and cfg.crop_pct == 0.875


def test_twelve_networks_have_weights():
    assert len([name for name in CLASSIFIERS if timm.get_pretrained_cfg(name).has_weights]) == 12
    with pytest.raises(RuntimeError, match="No pretrained weights exist"):
        ibnvision.create_model("resnet152_ibn_a", pretrained=True)


@every_name
def test_unknown_argument_raises(name):
    with pytest.raises(TypeError, match="not_an_argument"):
        ibnvision.create_model(name, device="meta", not_an_argument=1)


@every_name
def test_every_parameter_gets_a_gradient(name, model):
    model.train()(images()).square().mean().backward()
    for parameter, value in model.named_parameters():
        assert value.grad is not None and value.grad.isfinite().all(), parameter
        assert value.grad.abs().max() > 0, parameter


@every_name
@torch.no_grad()
def test_kernels_and_reference_agree(name, model):
    x = images()
    y = model.double()(x.double())
    with reference_ops():
        assert_close(y, model(x.double()))


@every_name
@torch.no_grad()
def test_features_in_four_ways(name):
    def seeded(**kwargs) -> nn.Module:
        torch.manual_seed(2)
        return ibnvision.create_model(name, **kwargs).eval()

    x, model = images(), seeded()
    info = FeatureInfo(model.feature_info, tuple(range(5)))
    assert info.reduction() == [2, 4, 8, 16, 32]
    last, maps = model.forward_intermediates(x)
    assert torch.equal(last, model.forward_features(x))
    assert [list(m.shape[1:]) for m in maps] == [
        [c, SIZE // r, SIZE // r] for c, r in zip(info.channels(), info.reduction(), strict=True)
    ]
    assert maps[0].min() == 0  # the stem's map is activated
    for way in ("list", "hook", "getter"):
        cut = seeded(features_only=True, feature_cls=way, out_indices=(0, 2, -1))
        for tap, expected in zip(cut(x), (maps[0], maps[2], maps[-1]), strict=True):
            assert relative_error(tap, expected) < 1e-5, way


@every_name
@torch.no_grad()
def test_pruned_to_each_tap(name, model):
    x = images()
    taps = model.forward_intermediates(x, intermediates_only=True)
    for i, tap in enumerate(taps):
        early = model.forward_intermediates(x, [i], stop_early=True, intermediates_only=True)
        assert_close(early[0], tap)
        pruned = copy.deepcopy(model)
        pruned.prune_intermediate_layers([i])
        assert_close(pruned.forward_features(x), tap)


@every_name
@torch.no_grad()
def test_head(name, model):
    x = images()
    width = model.head_hidden_size
    assert model.num_features == width and model.num_classes == 10 and model.in_chans == 3
    classifier = model.get_classifier(name_only=True)
    assert model.get_classifier() is model.get_submodule(classifier)
    maps = model.forward_features(x)
    pooled = model.forward_head(maps, pre_logits=True)
    assert_close(pooled, maps.mean((2, 3)))
    assert_close(model.get_classifier()(pooled), model(x))
    model.reset_classifier(3)
    assert model(x).shape == (2, 3) and not model.get_classifier().training
    model.reset_classifier(0)
    assert_close(model(x), pooled)
    model.reset_classifier(0, "")
    assert_close(model(x), maps)
    assert ibnvision.create_model(name, num_classes=0, device="meta")(x.to("meta")).shape == (
        2,
        width,
    )


@every_name
@pytest.mark.parametrize("channels", [1, 5])
@torch.no_grad()
def test_other_input_channels(name, channels):
    model = ibnvision.create_model(name, in_chans=channels, num_classes=4, device="meta")
    first = model.get_submodule(model.pretrained_cfg["first_conv"])
    assert model.in_chans == first.in_channels == channels
    assert model(images(channels=channels).to("meta")).shape == (2, 4)


@every_name
def test_checkpointing_changes_no_gradient(name, model):
    x = images()
    model = model.double().train()
    gradients = []
    for enable in (False, True):
        other = copy.deepcopy(model)
        other.set_grad_checkpointing(enable)
        other(x.double()).square().mean().backward()
        gradients.append([p.grad for p in other.parameters()])
    for plain, checkpointed in zip(*gradients, strict=True):
        assert_close(checkpointed, plain)


@every_name
@torch.no_grad()
def test_folder_round_trip(name, model, tmp_path):
    save_for_hf(model, tmp_path, model_args={"num_classes": 10})
    assert json.loads((tmp_path / "config.json").read_text())["architecture"] == name
    other = ibnvision.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    x = images()
    assert torch.equal(other(x), model(x))


@every_name
@torch.no_grad()
def test_scripted_traced_and_cut_by_fx(name, model):
    x = images()
    y = model(x)
    graph = torch.fx.symbolic_trace(model)
    assert_close(graph(x), y)
    _, nodes = get_graph_node_names(model)
    tap = model.feature_info[1]["module"]
    node = next(n for n in reversed(nodes) if n == tap or n.startswith(f"{tap}."))
    cut = create_feature_extractor(model, {node: "tap"}).eval()
    assert_close(cut(x)["tap"], model.forward_intermediates(x, [1], intermediates_only=True)[0])
    if not is_densenet(name):  # timm's own DenseNets cannot be scripted
        assert_close(torch.jit.script(model)(x), y)


@every_name
@torch.no_grad()
def test_memory_formats_and_half_precision(name, model):
    """At most twice the error of plain PyTorch in the same format and dtype."""
    x = images()
    truth = copy.deepcopy(model).double()(x.double())
    for memory_format in (torch.contiguous_format, torch.channels_last):
        for dtype in (torch.float32, torch.bfloat16):
            network = copy.deepcopy(model).to(dtype, memory_format=memory_format)
            given = x.to(dtype, memory_format=memory_format)
            maps = network.forward_features(given)
            assert maps.dtype == dtype and maps.is_contiguous(memory_format=memory_format)
            with reference_ops():
                allowed = 2 * relative_error(network(given), truth) + 1e-6
            error = relative_error(network(given), truth)
            assert error <= allowed < (1e-3 if dtype == torch.float32 else 1), dtype
    with torch.autocast("cpu", torch.bfloat16):
        error = relative_error(model(x), truth)
        with reference_ops():
            assert error <= 2 * relative_error(model(x), truth) + 1e-6


@every_name
@pytest.mark.parametrize("stride", [8, 16])
@torch.no_grad()
def test_output_stride(name, stride):
    if is_densenet(name):
        pytest.skip("timm's DenseNet has no output_stride")
    cut = ibnvision.create_model(name, features_only=True, output_stride=stride, device="meta")
    maps = cut(images().to("meta"))
    reductions = cut.feature_info.reduction()
    assert max(reductions) == stride
    spatial = get_spatial_dim("NCHW")
    assert [m.shape[spatial[0]] for m in maps] == [SIZE // r for r in reductions]


@every_name
@torch.no_grad()
def test_everything_is_made_on_the_asked_device_and_dtype(name):
    model = ibnvision.create_model(name, device="meta", dtype=torch.float64)
    tensors = [*model.named_parameters(), *model.named_buffers()]
    assert [n for n, t in tensors if t.device.type != "meta"] == []
    assert [n for n, t in tensors if t.is_floating_point() and t.dtype != torch.float64] == []


@every_name
def test_layer_groups_cover_every_parameter(name):
    model = ibnvision.create_model(name, device="meta")
    names = [n for n, _ in model.named_parameters()]
    for coarse in (False, True):
        matcher = model.group_matcher(coarse=coarse)
        groups = group_parameters(model, matcher, reverse=True)
        assert sorted(groups) == sorted(names)
        head = {n for n in names if groups[n] == max(groups.values())}
        assert head <= {n for n in names if n.startswith(("fc.", "classifier.", "features.norm5."))}
        assert len(set(groups.values())) >= 6


@pytest.mark.parametrize("name", ["resnet18_ibn_a", "resnet18_ibn_b"])
@torch.no_grad()
def test_exported(name):
    model = _built(name).eval()
    x = images()
    assert_close(torch.export.export(model, (x,)).module()(x), model(x))


@pytest.mark.parametrize(
    "name", ["resnet18_ibn_b", pytest.param("densenet121_ibn_a", marks=pytest.mark.slow)]
)
def test_graph_without_a_break(name):
    model = copy.deepcopy(_built(name)).train()
    compiled = torch.compile(copy.deepcopy(model), backend="eager", fullgraph=True)
    x = images()
    assert_close(compiled(x), model(x))
