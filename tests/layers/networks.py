"""Networks with random statistics, and what two of them must have in common."""

import timm
import torch
import torchvision
from torch import Tensor, nn


def build(name: str) -> nn.Module:
    """A float64 model with random weights, affine parameters and running statistics."""
    torch.manual_seed(0)
    library, _, arch = name.partition("/")
    model = (timm.create_model if library == "timm" else torchvision.models.get_model)(arch)
    for m in model.modules():
        if isinstance(m, nn.BatchNorm2d):
            nn.init.uniform_(m.weight, 0.5, 1.5)
            nn.init.normal_(m.bias, std=0.1)
            m.running_mean.normal_(std=0.1)
            m.running_var.uniform_(0.5, 1.5)
    return model.double().eval()


def image(n: int = 2) -> Tensor:
    return torch.randn(
        n, 3, 64, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(1)
    )


def step(model: nn.Module, train: bool) -> tuple[Tensor, list[Tensor | None]]:
    """Output and gradients; the same random numbers for every caller."""
    model.train(train)
    model.zero_grad()
    torch.manual_seed(2)
    y = model(image())
    y.square().mean().backward()
    return y.detach(), [p.grad for p in model.parameters()]


def assert_same_step(a: nn.Module, b: nn.Module, train: bool) -> None:
    (ya, ga), (yb, gb) = step(a, train), step(b, train)
    torch.testing.assert_close(yb, ya, rtol=1e-8, atol=1e-8 * ya.abs().max().item())
    for p, q in zip(ga, gb, strict=True):
        if p is not None and q is not None:
            torch.testing.assert_close(q, p, rtol=1e-6, atol=1e-6 * p.abs().max().item() + 1e-12)
        assert (p is None) == (q is None)
    for (key, p), q in zip(a.state_dict().items(), b.state_dict().values(), strict=True):
        torch.testing.assert_close(q, p, msg=lambda m, key=key: f"{key}: {m}")


def assert_same_state(a: nn.Module, b: dict[str, Tensor]) -> None:
    assert list(a.state_dict()) == list(b)
    assert all(torch.equal(p, b[key]) for key, p in a.state_dict().items())
