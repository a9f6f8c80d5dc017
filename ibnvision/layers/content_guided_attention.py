"""Content-guided attention: CGA, and the mixup fusion of two feature maps by it, CGAFusion.

A channel and a spatial map add up to a coarse map, which with the features themselves yields one
weight for every pixel and channel (PixelAttention). Submodules keep the published names.

Source: Chen et al., IEEE TIP 2024, https://arxiv.org/abs/2301.04805. Differs: the pixel attention
and what follows it are the fused op content_guided_attention; `pooled` lets a part of an image be
attended to as in the whole image.
"""

from typing import Any

import torch
from torch import Tensor, fx, nn

from ibnvision.ops import content_guided_attention


@fx.wrap
def _reflectable(x: Tensor) -> Tensor:
    if x.dim() != 4 or x.shape[2] < 4 or x.shape[3] < 4:
        raise ValueError(
            "x must be [N, C, H, W] with H and W at least 4, since 3 pixels are reflected at each "
            f"border; got {list(x.shape)}"
        )
    return x


class ChannelAttention(nn.Module):
    """One number for every channel from the channels' means; no sigmoid.

    Args:
        dim: C.
        reduction: the hidden width is C // reduction, at least 1.
    """

    def __init__(self, dim: int, reduction: int = 8, device: Any = None, dtype: Any = None) -> None:
        super().__init__()
        if reduction < 1:
            raise ValueError(f"reduction must be at least 1, got {reduction}")
        dd = {"device": device, "dtype": dtype}
        hidden = max(1, dim // reduction)
        self.ca = nn.Sequential(
            nn.Conv2d(dim, hidden, 1, **dd), nn.ReLU(inplace=True), nn.Conv2d(hidden, dim, 1, **dd)
        )

    def forward(self, x: Tensor, pooled: Tensor | None = None) -> Tensor:
        """x: [N, C, H, W]; [N, C, 1, 1]. pooled, [N, C, 1, 1], stands for the means of x."""
        return self.ca(x.mean((2, 3), keepdim=True) if pooled is None else pooled)


class SpatialAttention(nn.Module):
    """One number for every pixel from the mean and maximum over channels; no sigmoid."""

    def __init__(self, device: Any = None, dtype: Any = None) -> None:
        super().__init__()
        dd = {"device": device, "dtype": dtype}
        self.sa = nn.Conv2d(2, 1, 7, padding=3, padding_mode="reflect", **dd)

    def forward(self, x: Tensor) -> Tensor:
        """x: [N, C, H, W], sides at least 4; [N, 1, H, W]."""
        x = _reflectable(x)
        return self.sa(torch.cat((x.mean(1, keepdim=True), x.amax(1, keepdim=True)), 1))


class PixelAttention(nn.Module):
    """The weight in (0, 1) of every pixel and channel, from the features and a coarse map.

    CGA and CGAFusion hand the parameters to the fused op; forward is the definition, for coarse
    maps of any kind.
    """

    def __init__(self, dim: int, device: Any = None, dtype: Any = None) -> None:
        super().__init__()
        dd = {"device": device, "dtype": dtype}
        self.pa2 = nn.Conv2d(2 * dim, dim, 7, padding=3, padding_mode="reflect", groups=dim, **dd)

    def forward(self, x: Tensor, coarse: Tensor) -> Tensor:
        """x, coarse: [N, C, H, W], sides at least 4; the same shape."""
        return torch.sigmoid(self.pa2(torch.stack((x, coarse), 2).flatten(1, 2)))


class CGA(nn.Module):
    """x times its pixel weights, plus a residual.

    Args:
        dim: C.
        reduction: see ChannelAttention.
    """

    def __init__(self, dim: int, reduction: int = 8, device: Any = None, dtype: Any = None) -> None:
        super().__init__()
        self.sa = SpatialAttention(device, dtype)
        self.ca = ChannelAttention(dim, reduction, device, dtype)
        self.pa = PixelAttention(dim, device, dtype)

    def attend(
        self, x: Tensor, residual: Tensor | None = None, pooled: Tensor | None = None
    ) -> Tensor:
        """As forward; pooled: the channel means [N, C, 1, 1] of the image that x is a part of."""
        conv = self.pa.pa2
        ca, sa = self.ca(x, pooled), self.sa(x)
        return content_guided_attention(
            x,
            ca,
            sa,
            conv.weight,
            conv.bias,  # type: ignore[arg-type]
            residual=residual,
        )

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        """x, residual: [N, C, H, W], sides at least 4; the same shape."""
        return self.attend(x, residual)


class CGAFusion(nn.Module):
    """Mixes two feature maps by the pixel weights of their sum, then a 1x1 convolution.

    The weight passes two sigmoids, as in the published networks, and so lies in (0.5, 0.731).

    Args:
        dim: C of both maps.
        reduction: see ChannelAttention.
    """

    def __init__(self, dim: int, reduction: int = 8, device: Any = None, dtype: Any = None) -> None:
        super().__init__()
        self.sa = SpatialAttention(device, dtype)
        self.ca = ChannelAttention(dim, reduction, device, dtype)
        self.pa = PixelAttention(dim, device, dtype)
        self.conv = nn.Conv2d(dim, dim, 1, device=device, dtype=dtype)

    def forward(self, low: Tensor, high: Tensor, pooled: Tensor | None = None) -> Tensor:
        """low (of the encoder), high (deep): [N, C, H, W], sides at least 4; the same shape.

        pooled: the channel means [N, C, 1, 1] of low + high over the whole image where the two
        are a part of it.
        """
        total, conv = low + high, self.pa.pa2
        ca, sa = self.ca(total, pooled), self.sa(total)
        del total
        mixed = content_guided_attention(
            low,
            ca,
            sa,
            conv.weight,
            conv.bias,  # type: ignore[arg-type]
            high=high,
        )
        return self.conv(mixed)
