"""Our networks against answers recorded from the published ones (golden/README.md)."""

import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import ibnvision

FILES = sorted((Path(__file__).parent / "golden").glob("*.json"))


def official_value(key: str, shape: list[int]) -> Tensor:
    """What the recorded network held under this key: drawn from a seed made of the key."""
    random, leaf = np.random.RandomState(zlib.crc32(key.encode())), key.rsplit(".", 1)[-1]
    if leaf == "num_batches_tracked":
        return torch.zeros(shape, dtype=torch.int64)
    if leaf == "running_var":
        value = 1 + 0.5 * random.rand(*shape)
    else:
        value = random.randn(*shape)
        if leaf in ("running_mean", "bias"):
            value = 0.1 * value
        else:
            value = value * np.sqrt(2 / np.prod(shape[1:])) if len(shape) > 1 else 1 + 0.1 * value
    return torch.from_numpy(np.asarray(value, np.float32))


def images(count: int, size: int) -> Tensor:
    return torch.from_numpy(np.random.RandomState(0).randn(count, 3, size, size).astype(np.float32))


@pytest.fixture(scope="module", params=FILES, ids=lambda f: f.stem)
def recorded(request) -> tuple[dict[str, Any], nn.Module]:
    golden = json.loads(request.param.read_text())
    model = ibnvision.create_model(golden["model"])
    filled = {key: official_value(key, shape) for key, shape in golden["state"]}
    model.load_state_dict(filled, strict=True)
    return golden, model.eval()


def test_six_networks_are_recorded():
    assert len(FILES) == 6


def test_keys_and_parameter_count(recorded):
    golden, model = recorded
    ours = [[key, list(value.shape)] for key, value in sorted(model.state_dict().items())]
    assert ours == sorted(golden["state"])
    assert sum(p.numel() for p in model.parameters()) == golden["params"]


@pytest.mark.parametrize("part", ["eval_64", "eval_224"])
@torch.inference_mode()
def test_logits_and_stages(recorded, part):
    golden, model = recorded
    want = golden[part]
    tolerance = max(1e-4, 10 * want["float32_vs_float64_rel"])  # of the rms
    maps: dict[str, Tensor] = {}
    hooks = [
        model.get_submodule(name).register_forward_hook(
            lambda _, __, y, name=name: maps.update({name: y.double()})
        )
        for name in want["stages"]
    ]
    size = int(part.removeprefix("eval_"))
    logits = model(images(2 if size == 64 else 1, size)).double()
    for hook in hooks:
        hook.remove()
    first = torch.tensor(want["logits_first16"], dtype=torch.float64).reshape(len(logits), 16)
    assert (logits[:, :16] - first).abs().max() <= tolerance * first.square().mean().sqrt()
    assert logits.norm().item() == pytest.approx(want["logits_norm"], rel=tolerance)
    for name, stage in want["stages"].items():
        assert list(maps[name].shape) == stage["shape"], name
        scale = tolerance * np.hypot(stage["mean"], stage["std"])
        assert maps[name].mean().item() == pytest.approx(stage["mean"], abs=scale), name
        assert maps[name].std(correction=0).item() == pytest.approx(stage["std"], abs=scale), name


@torch.inference_mode()
def test_logits_in_float64(recorded):
    golden, model = recorded
    logits = model.double()(images(2, 64).double())
    model.float()
    first = torch.tensor(golden["eval_64"]["logits_first16_float64"], dtype=torch.float64)
    error = (logits[:, :16] - first.reshape(2, 16)).abs().max() / first.square().mean().sqrt()
    assert error <= 1e-6


@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-6), ("float32", 3e-2)])
def test_training_step(recorded, dtype, tolerance):
    golden, model = recorded
    if "train_64" not in golden:
        pytest.skip(f"no training step was recorded for {golden['model']}")
    want, number = golden["train_64"][dtype], getattr(torch, dtype)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    model.to(number).train()
    loss = model(images(2, 64).to(number)).square().mean()
    loss.backward()
    gradients = {name: p.grad.double().norm().item() for name, p in model.named_parameters()}
    buffers = {name: b.double().norm().item() for name, b in model.named_buffers()}
    model.float().eval().zero_grad()
    model.load_state_dict(before)

    assert loss.item() == pytest.approx(want["loss"], rel=tolerance)
    total = np.sqrt(sum(value**2 for value in gradients.values()))
    assert total == pytest.approx(want["all_grads_norm"], rel=tolerance)
    for name, value in want["grad_norm"].items():
        assert gradients[name] == pytest.approx(value, rel=tolerance), name
    for name, value in want["buffer_norm"].items():
        assert buffers[name] == pytest.approx(value, rel=tolerance), name
