"""MixStyle: images of a batch lend each other the mean and deviation of their channels.

    y = (x - mean) / std * std_mix + mean_mix
    mean_mix = l mean + (1 - l) mean[partner],   l ~ Beta(alpha, alpha) for each image

and std_mix alike; the partners are a random permutation of the batch.

Source: Zhou et al., "Domain Generalization with MixStyle", ICLR 2021,
https://arxiv.org/abs/2104.02008 (random shuffle, its form without domain labels).
"""

import torch
from torch import Tensor, nn


class MixStyle(nn.Module):
    """In training, mixes styles in a share of the batches; the identity in evaluation.

    The paper puts it after the first stages of a network, never after the last. One draw decides
    for the whole batch. Chance comes from torch's global generator of the input's device, and each
    call in training takes the same number of draws, whether it mixes or not.

    Args:
        p: share of the batches that are mixed, in [0, 1].
        alpha: of Beta(alpha, alpha), above 0; small values choose one of the two styles.
        eps: added to the variance, above 0.

    Raises:
        ValueError: an argument outside of its range.
    """

    def __init__(self, p: float = 0.5, alpha: float = 0.1, eps: float = 1e-6) -> None:
        super().__init__()
        if not 0 <= p <= 1:
            raise ValueError(f"p must lie in [0, 1], got {p}")
        if not alpha > 0:
            raise ValueError(f"alpha must be above 0, got {alpha}")
        if not eps > 0:
            raise ValueError(f"eps must be above 0, got {eps}")
        self.p, self.alpha, self.eps = p, alpha, eps

    def forward(self, x: Tensor) -> Tensor:
        """x: [N, C, H, W]; the same shape, dtype and memory format. Statistics are constants to
        the gradient and at least float32."""
        if not self.training or self.p == 0:
            return x
        return mix_style(x, self.p, self.alpha, self.eps)

    def extra_repr(self) -> str:
        return f"p={self.p}, alpha={self.alpha}"


@torch.fx.wrap  # one node, whatever the shape
def mix_style(x: Tensor, p: float, alpha: float, eps: float) -> Tensor:
    """What MixStyle does in training."""
    z = x.to(torch.promote_types(x.dtype, torch.float32))
    var, mean = torch.var_mean(z.detach(), (2, 3), correction=0, keepdim=True)
    std = (var + eps).sqrt()
    # a choice by torch.where instead of an `if`: compilers see one graph, GPUs are not awaited
    mixed = torch.rand((), device=x.device) < p
    shape = torch.full((len(x), 1, 1, 1), alpha, dtype=z.dtype, device=x.device)
    share = torch.distributions.Beta(shape, shape, validate_args=False).sample()
    partner = torch.randperm(len(x), device=x.device)
    mean_mix = share * mean + (1 - share) * mean[partner]
    scale = (share * std + (1 - share) * std[partner]) / std
    return torch.where(mixed, ((z - mean) * scale + mean_mix).to(x.dtype), x)
