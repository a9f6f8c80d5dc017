"""Instance norm without weight and bias whose result stays readable: what IRW and ISW whiten."""

import copy

import torch
from torch import Tensor, nn

from ibnvision.ops import ibn_norm

from .ibn_norm import InstanceNormAct2d


class InstanceWhiteningAct2d(InstanceNormAct2d):
    """act(y) with y = norm(x + residual); in training, or with `keep`, `take` gives y back.

    The layer only standardizes each channel of each image; the loss on the covariance of y (see
    ibnvision.methods) does the rest.

    Args:
        num_features: C.
        eps: added to the variance.
        act: the activation, a module; it never works in place here.

    Source: Choi et al., CVPR 2021, https://arxiv.org/abs/2103.15597.
    """

    standardized: Tensor | None

    def __init__(self, num_features: int, eps: float = 1e-5, act: nn.Module | None = None) -> None:
        act = nn.Identity() if act is None else copy.deepcopy(act)
        if getattr(act, "inplace", False):
            act.inplace = False  # type: ignore[assignment]
        super().__init__(num_features, eps, affine=False, act_layer=lambda **_: act)
        self.keep = False
        self.standardized = None

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        """x, residual: [N, C, H, W]; the same shape, dtype and memory format."""
        keep = self.training or self.keep
        y = ibn_norm(
            x, None, None, None, None, None, None, None, residual, self.num_features, False, True,
            "none" if keep else self.act_name, self.slope, self.training, 0.1, self.eps,
        )  # fmt: skip
        if keep and not torch.jit.is_scripting():
            self.standardized = y
            # an activation behind this layer may work in place
            return y.clone() if type(self.act) is nn.Identity else self.act(y)
        return y if self.fused and not keep else self.act(y)

    @torch.jit.unused
    def take(self) -> Tensor:
        """y of the last call, [N, C, H, W], given away once.

        Raises:
            RuntimeError: no call in training mode or with `keep` since.
        """
        y, self.standardized = self.standardized, None
        if y is None:
            raise RuntimeError(
                "take needs a forward before it with this layer in training mode, or with keep; "
                "is the backbone in eval mode inside a model that trains?"
            )
        return y

    @torch.jit.unused
    def __getstate__(self) -> dict:
        """What copies and pickles get: all but y, which belongs to a graph."""
        return {**self.__dict__, "standardized": None}
