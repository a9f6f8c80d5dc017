import pytest
import timm
import torch
from torch import nn

from ibnvision.benchmark import attention_rows, products
from ibnvision.ops import why_no_kernel


def test_work_of_a_convolution_by_hand():
    conv, x = nn.Conv2d(3, 5, 3, padding=1), torch.randn(2, 3, 8, 6, requires_grad=True)
    with torch.no_grad():
        work = products.count(lambda: conv(x).relu())
    cells = 2 * 8 * 6
    assert work.flops == 2 * 9 * 3 * 5 * cells and work.activations == 5 * cells
    assert work.bytes == 4 * ((3 + 5) * cells + 9 * 3 * 5 + 5)  # ReLU is free
    both = products.count(lambda: conv(x).sum().backward())
    assert both.flops == 3 * work.flops


def test_a_network_agrees_with_the_tables_of_timm():
    """resnet18 at 224 px there: 1.82 GMACs, norms included, and 2.48 million activations."""
    model = timm.create_model("resnet18").eval()
    with torch.no_grad():
        work = products.count(lambda: model(torch.randn(1, 3, 224, 224)))
    assert work.flops / 2e9 == pytest.approx(1.82, abs=0.01)
    assert work.activations / 1e6 == pytest.approx(2.48, abs=0.005)


def test_visible_pairs_are_those_of_the_mask():
    shape = (2, 3, 5 + 17**2, 8)
    mask = attention_rows.MaskedHeads(shape).mask
    assert mask.sum() == attention_rows.visible_pairs(5, (17, 17), (7, 7))
    assert attention_rows.pairs_of(shape) * shape[2] == mask.sum()
    assert torch.equal(mask, mask.T) and not mask.all()


@pytest.mark.skipif(
    bool(why_no_kernel("lambda_attention_forward", torch.empty(0))), reason="kernel"
)
def test_attention_counts_visible_pairs_alone():
    shape = (2, 3, 5 + 17**2, 8)
    heads, x = attention_rows.LambdaHeads(shape), torch.randn(shape, requires_grad=True)
    pairs = 2 * 3 * 8 * int(attention_rows.MaskedHeads(shape).mask.sum())
    with torch.no_grad():
        assert products.count(lambda: heads(x)).flops == 4 * pairs
    assert products.count(lambda: heads(x).sum().backward()).flops == 14 * pairs
