import copy
import io
import pickle

import pytest
import timm
import torch
from torch import nn
from torchvision.models.detection import FCOS, FasterRCNN, RetinaNet
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool, LastLevelP6P7

from ibnvision.layers import fold_norm, fuse_norm_act
from ibnvision.models import DETECTORS, create_detector, detection_losses, detector_defaults
from ibnvision.ops import reference_ops
from ibnvision.testing import assert_close

THIN = {"channels": (16, 32, 64, 64)}
BACKBONES = {
    "resnet18": THIN,
    "resnet18_ibn_a": THIN,
    "resnet18_ibn_b": THIN,
    "mobilenetv3_small_050": {},
    "densenet121_ibn_a": {"growth_rate": 8, "block_config": (2, 2, 2, 2)},
    "swin_tiny_patch4_window7_224": {
        "embed_dim": 24,
        "depths": (1, 1, 1, 1),
        "num_heads": (1, 2, 3, 4),
        "window_size": 4,
        "img_size": 64,
    },
    "vit_small_lambda_patch16": {"img_size": 64, "embed_dim": 48, "depth": 3, "num_heads": 3},
    "vit_tiny_patch16_224": {"embed_dim": 48, "depth": 3, "num_heads": 3},
}


def build(backbone="resnet18", detector="fcos", **kwargs):
    torch.manual_seed(0)
    arguments = {"num_classes": 3, "fpn_channels": 64, "min_size": None, "score_thresh": 0.0}
    if detector == "faster_rcnn":
        arguments["rpn_post_nms_top_n_train"] = arguments["rpn_post_nms_top_n_test"] = 50
    arguments["backbone_args"] = BACKBONES[backbone]
    return create_detector(backbone, detector, **{**arguments, **kwargs})


def test_no_side_of_a_box_of_fcos_begins_shut(images):
    """A ReLU that is shut at all places stays so: the side it gives never learns."""
    model, seen = build(detector="fcos"), []
    last = model.head.regression_head.bbox_reg
    last.register_forward_hook(lambda module, given, found: seen.append(found))
    model.eval()(images)
    assert len(seen) == 5 and all((found > 0.5).all() for found in seen)
    own = FCOS(model.backbone, 4)  # with torchvision's head, half of the places are shut
    assert not own.head.regression_head.bbox_reg.bias.any()
    kept = build(detector="fcos", head=own.head).head
    assert kept is own.head and not kept.regression_head.bbox_reg.bias.any()


@pytest.mark.parametrize("detector", DETECTORS)
def test_defaults_are_those_of_a_new_model(detector):
    model = build(detector=detector, min_size=800, score_thresh=None)
    given = model.roi_heads if detector == "faster_rcnn" else model
    told = {name: getattr(given, name) for name in ("score_thresh", "nms_thresh")}
    told["detections_per_img"] = given.detections_per_img
    told |= {"min_size": model.transform.min_size[0], "max_size": model.transform.max_size}
    assert detector_defaults(detector) == told
    with pytest.raises(KeyError, match="detector 'yolo' is unknown"):
        detector_defaults("yolo")


@pytest.fixture
def images():
    generator = torch.Generator().manual_seed(1)
    return [torch.rand(3, 64, 96, generator=generator), torch.rand(3, 80, 60, generator=generator)]


@pytest.fixture
def targets():
    """The second image has no object; the keys that no detector reads stay unread."""
    boxes = torch.tensor([[4.0, 6.0, 30.0, 40.0], [40.0, 8.0, 90.0, 60.0]])
    some = {"boxes": boxes, "labels": torch.tensor([2, 3]), "ignore": torch.tensor([False, False])}
    return [some, {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}]


def stir(model):
    """Statistics and weights of norms that are no identity."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d | nn.InstanceNorm2d) and module.affine:
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.2)
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.2)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return model


def assert_same_boxes(found, wanted):
    for a, b in zip(found, wanted, strict=True):
        assert len(a["boxes"]) > 0
        assert torch.equal(a["labels"], b["labels"])
        assert_close(a["boxes"], b["boxes"])
        assert_close(a["scores"], b["scores"])


class ByHand(nn.Module):
    out_channels = 64

    def __init__(self, count, extra):
        super().__init__()
        self.body = timm.create_model("resnet18", features_only=True, **THIN)
        channels = self.body.feature_info.channels()
        self.fpn = FeaturePyramidNetwork(channels[-count:], 64, extra)
        self.count = count

    def forward(self, x):
        maps = self.body(x)[-self.count :]
        return self.fpn({str(i): y for i, y in enumerate(maps)})


@pytest.mark.parametrize("name", DETECTORS)
def test_equals_torchvision_built_by_hand(name, images, targets):
    """Defaults too: anchors, levels, normalization, resizing and the options by name."""
    sizes = {"min_size": 96, "max_size": 128}
    if name == "faster_rcnn":
        options = {"box_score_thresh": 0.01, "box_nms_thresh": 0.4, "box_detections_per_img": 7}
        other = FasterRCNN(ByHand(4, LastLevelMaxPool()), 4, **sizes, **options)
    else:
        options = {"score_thresh": 0.01, "nms_thresh": 0.4, "detections_per_img": 7}
        kind = {"retinanet": RetinaNet, "fcos": FCOS}[name]
        other = kind(ByHand(3, LastLevelP6P7(64, 64)), 4, **sizes, **options)
    model = create_detector(
        "resnet18",
        name,
        num_classes=3,
        fpn_channels=64,
        fused=False,
        score_thresh=0.01,
        nms_thresh=0.4,
        detections_per_img=7,
        backbone_args=THIN,
        **sizes,
    )
    assert list(model.state_dict()) == list(other.state_dict())
    other.load_state_dict(stir(model).state_dict())
    losses = []
    for network in (model, other):
        torch.manual_seed(1)
        losses.append(network.train()(images, targets))
    assert list(losses[0]) == list(losses[1])
    for key, value in losses[0].items():
        assert_close(value, losses[1][key])
    with torch.no_grad():
        found, wanted = model.eval()(images), other.eval()(images)
    assert max(len(p["boxes"]) for p in found) <= 7
    assert_same_boxes(found, wanted)


@torch.no_grad()
def test_takes_the_weights_of_torchvision(images):
    backbone = resnet_fpn_backbone(backbone_name="resnet18", weights=None, trainable_layers=5)
    other = stir(FasterRCNN(backbone, 4, min_size=64, box_score_thresh=0.0)).eval()
    model = create_detector("resnet18", num_classes=3, min_size=64, score_thresh=0.0).eval()
    missing, unexpected = model.load_state_dict(other.state_dict(), strict=False)
    assert not unexpected and all(key.endswith("num_batches_tracked") for key in missing)
    assert_same_boxes(model(images), other(images))


@pytest.mark.parametrize("detector", DETECTORS)
@pytest.mark.parametrize("backbone", BACKBONES)
def test_backbones_train_and_detect(backbone, detector, images, targets):
    model = build(backbone, detector)
    losses = model.train()(images, targets)
    assert all(loss.shape == () and loss.isfinite() for loss in losses.values())
    sum(losses.values()).backward()
    body = [p for p in model.backbone.parameters() if p.grad is not None]
    assert all(p.grad.isfinite().all() for p in body)
    assert body[0] is next(model.backbone.parameters()) and body[0].grad.abs().max() > 0
    with torch.no_grad():
        results = model.eval()(images)
    for image, result in zip(images, results, strict=True):
        boxes, h, w = result["boxes"], *image.shape[1:]
        assert len(boxes) == len(result["labels"]) == len(result["scores"]) > 0
        assert result["labels"].dtype == torch.int64 and set(result["labels"].tolist()) <= {1, 2, 3}
        assert boxes.min() >= 0 and boxes[:, 2].max() <= w and boxes[:, 3].max() <= h
        assert (result["scores"].diff() <= 0).all()


@pytest.mark.parametrize("detector", DETECTORS)
def test_images_without_objects(detector, images, targets):
    model = build(detector=detector)
    losses = model(images, [targets[1], targets[1]])
    sum(losses.values()).backward()
    boxes = [value for key, value in losses.items() if "box" in key]
    assert len(boxes) >= 1 and all(value == 0 for value in boxes)
    bad = {"boxes": torch.tensor([[5.0, 5.0, 5.0, 9.0]]), "labels": torch.tensor([1])}
    with pytest.raises(AssertionError, match="positive height and width"):
        model(images, [bad, targets[1]])


@pytest.mark.parametrize("detector", DETECTORS)
def test_learns_two_images(detector):
    images = torch.full((2, 3, 64, 64), 0.1)
    images[0, :, 8:40, 8:40] = 0.9
    images[1, 0, 20:60, 24:56] = 0.9
    boxes = torch.tensor([[8.0, 8.0, 40.0, 40.0], [24.0, 20.0, 56.0, 60.0]])
    targets = [{"boxes": boxes[i : i + 1], "labels": torch.tensor([i + 1])} for i in (0, 1)]
    model = build("resnet18_ibn_a", detector, score_thresh=None, anchor_sizes=(8, 16, 32, 64, 128))
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    totals = []
    for _ in range(16):
        loss = sum(model.train()(list(images), targets).values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        totals.append(loss.item())
    assert sum(totals[-3:]) < 0.5 * sum(totals[:3])


def test_num_classes_counts_objects_only():
    for detector in ("retinanet", "fcos"):
        head = build(detector=detector).head.classification_head
        anchors = head.cls_logits.out_channels // 4
        logits = head([torch.randn(2, 64, 4, 4)])
        assert logits.shape == (2, 16 * anchors, 4)
        assert (logits[..., 0].sigmoid() == 0).all() and (logits[..., 1:].sigmoid() > 0).all()
    model = build(detector="faster_rcnn")
    assert model.roi_heads.box_predictor.cls_score.out_features == 4 and model.num_classes == 3


def test_sizes(images):
    model = build(min_size=(32, 48), max_size=64).eval()
    resized, _ = model.transform(images)
    assert resized.image_sizes == [(42, 64), (64, 48)] and resized.tensors.shape[2:] == (64, 64)
    model = build().eval()
    for mode in (True, False):
        kept, _ = model.transform.train(mode)(images)
        assert kept.image_sizes == [(64, 96), (80, 60)] and kept.tensors.shape[2:] == (96, 96)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    assert_close(kept.tensors[0, :, :64], (images[0] - mean[:, None, None]) / std[:, None, None])
    assert build(mean=(0.1, 0.2, 0.3)).transform.image_mean == [0.1, 0.2, 0.3]
    assert build("vit_tiny_patch16_224").transform.image_std == [0.5, 0.5, 0.5]
    model = build(in_chans=1, mean=[0.5], std=[0.25]).eval()
    assert model([torch.rand(1, 64, 64)])[0]["boxes"].shape[1] == 4


def test_anchors():
    def cells(model):
        generator = model.rpn.anchor_generator if hasattr(model, "rpn") else model.anchor_generator
        return generator.sizes, generator.num_anchors_per_location()

    assert cells(build()) == (((8,), (16,), (32,), (64,), (128,)), [1] * 5)
    octave = ((32, 40, 50), (64, 80, 101), (128, 161, 203), (256, 322, 406), (512, 645, 812))
    assert cells(build(detector="retinanet")) == (octave, [9] * 5)
    small = (8, 16, 32, 64, 128)
    model = build(detector="faster_rcnn", anchor_sizes=small, aspect_ratios=(0.5, 1.0))
    assert cells(model) == (tuple((size,) for size in small), [2] * 5)
    stem = {"backbone_args": {"small_stem": True, **THIN}}
    sizes, _ = cells(build("resnet18_ibn_a", **stem))
    assert sizes == ((4,), (8,), (16,), (32,), (64,))  # the strides of its levels
    sizes, _ = cells(build("resnet18_ibn_a", "faster_rcnn", **stem))
    assert sizes == ((16,), (32,), (64,), (128,), (256,))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"detector": "fasterrcnn"}, KeyError, "detector 'fasterrcnn' is unknown, nearest 'faster"),
        ({"backbone": "resnet18_ibn_x"}, KeyError, "backbone 'resnet18_ibn_x' is unknown"),
        ({"norm": "ibn"}, KeyError, "norm 'ibn' is unknown, nearest 'ibn_"),
        ({"fpn_norm": "bach"}, KeyError, "fpn_norm 'bach' is unknown, nearest 'batch'"),
        ({"num_classes": 0}, ValueError, "num_classes must be at least 1, without background"),
        ({"fpn_channels": 0}, ValueError, "fpn_channels must be at least 1, got 0"),
        ({"detector": "fcos", "fpn_channels": 32}, ValueError, "must be 64, 96, ... for 'fcos'"),
        ({"trainable_stages": 6}, ValueError, r"trainable_stages must lie in \[0, 5\], got 6"),
        ({"min_size": 0}, ValueError, "min_size must be at least 1 pixel, or None, got 0"),
        ({"in_chans": 1}, ValueError, "mean must have a value for each of in_chans=1"),
        ({"std": (1.0,)}, ValueError, r"std must have a value for each of in_chans=3, got \[1.0\]"),
        ({"anchor_sizes": (8, 16)}, ValueError, "for each of the 5 levels, of strides 4, 8, 16, 3"),
        ({"anchor_sizes": (8, 9, (1, 2), 4, 5)}, ValueError, "as many sizes at each level"),
        (
            {"detector": "fcos", "aspect_ratios": (1.0, 2.0)},
            ValueError,
            "one size and one ratio at each level",
        ),
        (
            {"rpn_nms_tresh": 0.5},
            TypeError,
            "no argument 'rpn_nms_tresh' for 'faster_rcnn', neares",
        ),
        ({"detector": "fcos", "rpn_nms_thresh": 0.5}, TypeError, "nearest 'nms_thresh'"),
        ({"anchor_size": 3}, TypeError, "nearest 'anchor_sizes'"),
        (
            {"backbone_args": {"out_indices": (2, 3, 4)}},
            ValueError,
            r"needs 4 last maps.* reductions \[8, 16, 32\]. Detectors for them: retinanet, fcos",
        ),
        (
            {"backbone_args": {"output_stride": 8}},
            ValueError,
            r"have reductions \[2, 4, 8, 8, 8\]. Detectors for them: none; backbones that fit all",
        ),
        (
            {"backbone": "vit_tiny_patch16_224", "backbone_args": {"patch_size": 14}},
            ValueError,
            "or maps of one reduction out of 4, 8, 16 and 32",
        ),
        ({"backbone_args": {"chanels": (8,)}}, TypeError, "chanels"),
    ],
)
def test_bad_arguments(arguments, error, message):
    with pytest.raises(error, match=message):
        create_detector(**{"backbone": "resnet18", "num_classes": 2, **arguments})


@pytest.mark.parametrize(("backbone", "norm"), [("resnet18_ibn_a", None), ("resnet18", "sw")])
@pytest.mark.parametrize("fused", [True, False])
def test_frozen_norms_stay(backbone, norm, fused, images, targets):
    model = build(backbone, norm=norm, fused=fused, frozen_norm=True)
    model.eval().train()
    before = copy.deepcopy(dict(model.named_buffers()))
    sum(model(images, targets).values()).backward()
    assert before and all(torch.equal(before[k], b) for k, b in model.named_buffers())
    norms = [m for m in model.backbone.body.modules() if isinstance(m, nn.BatchNorm2d)]
    assert norms and all(not m.training and m.weight.grad is None for m in norms)
    assert model.backbone.body.conv1.weight.grad is not None
    moving = build(backbone, norm=norm, fused=fused)
    moving(images, targets)
    assert any(not torch.equal(before[k], b) for k, b in moving.named_buffers())


def test_pretrained_freezes_norms_and_the_first_stages(tmp_path):
    file = tmp_path / "weights.pth"
    torch.manual_seed(3)
    weights = timm.create_model("resnet18", **THIN).state_dict()
    torch.save(weights, file)
    local = {"pretrained_cfg_overlay": {"file": str(file), "hf_hub_id": None, "url": ""}, **THIN}
    model = build(pretrained=True, backbone_args=local)
    assert_close(model.backbone.body.conv1.weight, weights["conv1.weight"])
    trained = {n for n, p in model.backbone.body.named_parameters() if p.requires_grad}
    convs = {n for n in weights if n.startswith(("layer2", "layer3", "layer4")) and "conv" in n}
    shortcuts = {f"layer{i}.0.downsample.0.weight" for i in (2, 3, 4)}
    assert trained == convs | shortcuts
    assert not model.train().backbone.body.bn1.training
    args = {"pretrained": True, "backbone_args": local, "frozen_norm": False, "trainable_stages": 5}
    free = build(**args).train()
    assert all(p.requires_grad for p in free.parameters()) and free.backbone.body.bn1.training


@pytest.mark.parametrize("detector", DETECTORS)
def test_losses_in_evaluation(detector, images, targets):
    model = stir(build(detector=detector, min_size=(48, 64, 80), max_size=96))
    before = copy.deepcopy(model.state_dict())
    modes = [m.training for m in model.eval().train().modules()]
    torch.manual_seed(5)
    losses = detection_losses(model, images, targets)
    assert [m.training for m in model.modules()] == modes
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    frozen = stir(build(detector=detector, min_size=80, max_size=96, frozen_norm=True))
    frozen.load_state_dict(before)
    torch.manual_seed(5)
    frozen.transform.torch_choice = lambda sizes: sizes[-1]  # takes no draw
    for key, loss in frozen.train()(images, targets).items():
        assert_close(losses[key], loss)
    if detector != "faster_rcnn":
        state = torch.get_rng_state()
        detection_losses(model, images, targets)
        assert torch.equal(state, torch.get_rng_state())
    bad = {"boxes": torch.zeros(1, 4), "labels": torch.tensor([1])}
    with pytest.raises(AssertionError):
        detection_losses(model.eval(), images, [bad, bad])
    assert not any(m.training for m in model.modules())


@pytest.mark.parametrize(
    "backbone", ["resnet18", pytest.param("mobilenetv3_small_050", marks=pytest.mark.slow)]
)
@torch.no_grad()
def test_fused_is_unfused(backbone, images, targets):
    plain, fused = (build(backbone, fused=fused, fpn_norm="batch") for fused in (False, True))
    assert list(plain.state_dict()) == list(fused.state_dict())
    assert all(torch.equal(v, plain.state_dict()[k]) for k, v in fused.state_dict().items())
    fused.load_state_dict(stir(plain).state_dict())
    wanted = detection_losses(plain, images, targets)
    boxes = plain.eval()(images)
    assert_same_boxes(fused.eval()(images), boxes)
    with reference_ops():
        assert_same_boxes(fused(images), boxes)
    for key, loss in detection_losses(fused, images, targets).items():
        assert_close(loss, wanted[key])
    assert len(fuse_norm_act(plain.backbone).rows) > 10
    assert_same_boxes(plain(images), boxes)


@pytest.mark.parametrize("backbone", ["resnet18", "resnet18_ibn_a"])
@torch.no_grad()
def test_norms_fold(backbone, images, targets):
    model = stir(build(backbone)).eval()
    wanted = detection_losses(model, images, targets)
    rows = fold_norm(model.backbone).rows
    assert len(rows) == (21 if backbone == "resnet18" else 15)  # six norms are mixed
    for key, loss in detection_losses(model, images, targets).items():
        assert_close(loss, wanted[key])


def test_same_seed_same_weights():
    a, b = build("resnet18_ibn_b", "faster_rcnn"), build("resnet18_ibn_b", "faster_rcnn")
    assert all(torch.equal(v, b.state_dict()[k]) for k, v in a.state_dict().items())


@pytest.mark.parametrize("detector", DETECTORS)
def test_autocast_ends_at_the_heads(detector, images, targets):
    model = build(detector=detector, frozen_norm=True)
    exact = detection_losses(model, images, targets)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = detection_losses(model, images, targets)
        assert model.backbone(torch.rand(1, 3, 64, 64))["0"].dtype == torch.bfloat16
        with torch.no_grad():
            results = model.eval()(images)
    sum(losses.values()).backward()
    for key, loss in losses.items():
        assert loss.dtype == torch.float32 and (loss - exact[key]).abs() < 0.1 * exact[key] + 0.02
    for result in results:
        assert result["boxes"].dtype == result["scores"].dtype == torch.float32
        fine = result["boxes"].bfloat16().float() != result["boxes"]
        assert fine.any()  # pixels finer than bfloat16 has them


@torch.no_grad()
def test_channels_last(images, targets):
    model = stir(build("resnet18_ibn_a")).eval()
    wanted = detection_losses(model, images, targets)
    model.to(memory_format=torch.channels_last)
    for key, loss in detection_losses(model, images, targets).items():
        assert_close(loss, wanted[key])


def test_whitened_maps_and_mixstyle(images, targets):
    model = build("resnet18_ibn_b", norm="whiten", mixstyle=(1, 2), mixstyle_args={"p": 1.0})
    maps = model.train()(images, targets) and model.backbone.standardized_maps()
    assert [y.shape[1] for y in maps] == model.backbone.whitened_channels == [64, 16, 32]
    assert maps[0].mean((2, 3)).abs().max() < 1e-5
    x = torch.rand(2, 3, 64, 64)
    torch.manual_seed(0)
    mixed = model.backbone(x)["0"]
    torch.manual_seed(1)
    assert not torch.equal(mixed, model.backbone(x)["0"])
    model.eval()
    assert torch.equal(model.backbone(x)["0"], model.backbone(x)["0"])


@pytest.mark.parametrize(
    ("backbone", "detector"),
    [
        ("resnet18_ibn_a", "fcos"),
        pytest.param("resnet18", "faster_rcnn", marks=pytest.mark.slow),
        pytest.param("swin_tiny_patch4_window7_224", "retinanet", marks=pytest.mark.slow),
    ],
)
@torch.no_grad()
def test_scripts_and_copies(backbone, detector, images):
    model = build(backbone, detector).eval()
    wanted = model(images)
    scripted, file = torch.jit.script(model), io.BytesIO()
    torch.jit.save(scripted, file)
    file.seek(0)
    for other in (scripted, torch.jit.load(file)):
        losses, found = other(images)
        assert not losses
        assert_same_boxes(found, wanted)
    assert_same_boxes(pickle.loads(pickle.dumps(model))(images), wanted)
    assert_same_boxes(copy.deepcopy(model)(images), wanted)


@pytest.mark.slow
@pytest.mark.parametrize("backbone", ["resnet18_ibn_a", "vit_small_lambda_patch16"])
@torch.no_grad()
def test_backbones_export_and_compile(backbone):
    model, x = build(backbone).backbone.eval(), torch.rand(2, 3, 64, 64)
    wanted = model(x)
    torch._dynamo.reset()
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    for other in (torch.export.export(model, (x,)).module(), compiled):
        for key, y in other(x).items():
            assert_close(y, wanted[key])
