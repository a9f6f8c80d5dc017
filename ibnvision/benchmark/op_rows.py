"""The operators that `ibnvision benchmark ops` times, one row each, and the tensors they get."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from ibnvision.layers import IBNAct2d

Shape = tuple[int, ...]
Make = Callable[[Shape], nn.Module]  # a module of one tensor, for its shape
FORMATS = {"nchw": torch.contiguous_format, "channels_last": torch.channels_last}
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
PASSES = ("forward", "forward+backward", "eval")


class OfficialIBN(nn.Module):
    """The published layer and its ReLU, act(norm(x) + residual), in PyTorch's own operators.

    Source: ibnnet/modules.py of the official repository; the ReLU is not in place.
    """

    def __init__(self, channels: int, ratio: float = 0.5) -> None:
        super().__init__()
        self.instance_channels = int(channels * ratio)
        self.IN = nn.InstanceNorm2d(self.instance_channels, affine=True)
        self.BN = nn.BatchNorm2d(channels - self.instance_channels)
        self.act = nn.ReLU(inplace=False)

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        """x, residual: [N, C, H, W] with an even C."""
        first, second = torch.split(x, self.instance_channels, 1)
        y = torch.cat((self.IN(first.contiguous()), self.BN(second.contiguous())), 1)
        return self.act(y if residual is None else y + residual)


@dataclass(frozen=True)
class Op:
    """One row: our layer, the published one with the same state-dict keys, and shapes of models.

    `rivals` are other people's kernels for the same place in a network, by backend name; one that
    cannot run is skipped with its reason.
    """

    layer: Make
    official: Make
    cpu_shapes: tuple[Shape, ...]
    cuda_shapes: tuple[Shape, ...]
    quick_shapes: tuple[Shape, ...]
    traffic: Mapping[str, float]  # least reads + writes of the tensor a pass
    flops: Mapping[str, float]  # least operations per element a pass
    rate: str  # the matrix product's dtype whose unit does these operations
    rivals: Mapping[str, Make] = field(default_factory=dict)
    formats: tuple[str, ...] = tuple(FORMATS)


OPS = {
    "ibn_norm": Op(
        layer=lambda shape: IBNAct2d(shape[1], inplace=False),
        official=lambda shape: OfficialIBN(shape[1]),
        cpu_shapes=((8, 64, 56, 56), (8, 256, 56, 56), (8, 512, 14, 14), (2, 256, 128, 256)),
        cuda_shapes=((64, 64, 112, 112), (64, 256, 56, 56), (64, 512, 28, 28), (2, 256, 512, 1024)),
        quick_shapes=((2, 64, 28, 28),),
        # forward: IN 1 read + 1 write, BN 2 + 1; backward: IN 2 + 1, BN 4 + 1; half the channels
        # each; in eval all channels but the IN statistics come in one pass
        traffic={"forward": 2.5, "forward+backward": 6.5, "eval": 2.0},
        # mean 1, variance 3, affine 2, ReLU 1; backward: xhat 2, two sums 3, mask 1, dx 4
        flops={"forward": 7, "forward+backward": 17, "eval": 5},
        rate="fp32",
        # all channels by the batch: another function, at the price that BN has (cuDNN on a GPU)
        rivals={"batch norm": lambda shape: nn.Sequential(nn.BatchNorm2d(shape[1]), nn.ReLU())},
    )
}


@dataclass(frozen=True)
class Case:
    """One tensor that all backends get."""

    op: str
    shape: Shape
    dtype: str
    format: str
    device: str

    def tensor(self, seed: int) -> Tensor:
        generator = torch.Generator(self.device).manual_seed(seed)
        values = torch.randn(self.shape, generator=generator, device=self.device) * 2 + 1
        return values.to(DTYPES[self.dtype], memory_format=FORMATS[self.format])

    @property
    def size(self) -> int:
        """Elements."""
        return torch.Size(self.shape).numel()
