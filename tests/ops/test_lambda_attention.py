"""lambda_attention against the dense mask, its mathematics, and its messages."""

import pytest
import torch

from ibnvision.ops import lambda_attention, reference_ops
from ibnvision.testing import assert_close

from .lambda_cases import CASES, dense_attention, make_case, result_and_gradients


@pytest.mark.parametrize("name", CASES)
def test_halo_form_equals_the_dense_mask(name):
    tensors, options = make_case(name)
    d_out = torch.randn(tensors[0].shape, dtype=torch.float64)
    expected = result_and_gradients(dense_attention, tensors, options, d_out)
    with reference_ops():
        actual = result_and_gradients(lambda_attention, tensors, options, d_out)
    for key, value in expected.items():
        assert_close(actual[key], value)
