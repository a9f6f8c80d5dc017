"""The operators that `ibnvision benchmark ops` times, one row each, and the tensors they get."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ibnvision.layers import IBNAct2d
from ibnvision.ops import content_guided_attention, conv3x3

from .attention_rows import DenseHeads, FlexHeads, LambdaHeads, MaskedHeads, pairs_of
from .conv_rows import DetailConv, FiveConvolutions, IndexDetailConv, folded
from .fold_rows import Fold, IndexFold

Shape = tuple[int, ...]
Make = Callable[[Shape], nn.Module]  # a module of one tensor, for its shape
FORMATS = {"nchw": torch.contiguous_format, "channels_last": torch.channels_last}
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
TIMED = {
    "cpu": ("fp32",),
    "cuda": ("fp32", "bf16"),
}  # dtypes by device, unless others are asked for
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


class PixelAttention(nn.Module):
    """The gate of content-guided attention with its two attentions as parameters."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        images, channels, *space = shape
        self.ca = nn.Parameter(torch.randn(images, channels, 1, 1) / 2)
        self.sa = nn.Parameter(torch.randn(images, 1, *space) / 2)
        self.weight = nn.Parameter(torch.randn(channels, 2, 7, 7) / 20)
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        """x, residual: of the shape."""
        return content_guided_attention(x, self.ca, self.sa, self.weight, self.bias, residual)


class OfficialPixelAttention(PixelAttention):
    """The published form in PyTorch's own operators, in the dtype of x.

    Source: sections 3.2 and 3.3 of https://arxiv.org/abs/2301.04805.
    """

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        """x, residual: of the shape."""
        ca, sa, weight, bias = (p.to(x.dtype) for p in (self.ca, self.sa, self.weight, self.bias))
        pairs = torch.stack((x, ca + sa), 2).flatten(1, 2)
        padded = F.pad(pairs, (3, 3, 3, 3), mode="reflect")
        y = x * torch.sigmoid(F.conv2d(padded, weight, bias, groups=x.shape[1]))
        return y if residual is None else y + residual


class Convolution(nn.Module):
    """A 3x3 convolution, its ReLU and the sum with its input, as in a block of DEA-Net."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.conv = nn.Conv2d(shape[1], shape[1], 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """x: of the shape."""
        return conv3x3(x, self.conv.weight, self.conv.bias, x, True)


class OfficialConvolution(Convolution):
    """The same by the framework's convolution."""

    def forward(self, x: Tensor) -> Tensor:
        """x: of the shape."""
        return self.conv(x).relu_() + x


@dataclass(frozen=True)
class Op:
    """One row: our layer, the published one with the same state-dict keys, and shapes of models.

    `rivals` are other people's kernels for the same place in a network, by backend name; one that
    cannot run is skipped with its reason. Those in `same` compute the row's function.
    """

    layer: Make
    official: Make
    cpu_shapes: tuple[Shape, ...]
    cuda_shapes: tuple[Shape, ...]
    quick_shapes: tuple[Shape, ...]
    traffic: Mapping[str, float]  # least reads + writes of the tensor a pass
    flops: Mapping[str, float]  # least operations a pass, per element and one of `terms`
    rate: str  # the matrix product's dtype whose unit does these operations; "": the tensor's
    rivals: Mapping[str, Make] = field(default_factory=dict)
    formats: tuple[str, ...] = tuple(FORMATS)
    passes: tuple[str, ...] = PASSES
    terms: Callable[[Shape], float] = lambda shape: 1  # what takes part in an element of a result
    cast: bool = False  # parameters are of the tensor's dtype
    kernel: str = ""  # the operator that the layer runs, where the row has another name
    same: tuple[str, ...] = ()
    # what is kept for the backward is counted for calls of this many tensors of the shape
    kept: Mapping[str, int] = field(default_factory=dict)

    def operations(self, name: str, shape: Shape) -> float:
        """That the pass `name` takes at least on a tensor of the shape."""
        return self.flops[name] * self.terms(shape) * torch.Size(shape).numel()


OPS = {
    "content_guided_attention": Op(
        layer=PixelAttention,
        official=OfficialPixelAttention,
        cpu_shapes=((1, 128, 64, 64), (1, 64, 128, 128), (8, 128, 32, 32)),
        cuda_shapes=((1, 128, 64, 64), (16, 128, 64, 64), (16, 64, 128, 128)),
        quick_shapes=((1, 32, 16, 16),),
        # forward: 1 read + 1 write; backward: x and dy, dx
        traffic={"forward": 2.0, "forward+backward": 5.0, "eval": 2.0},
        # 98 taps, bias, sigmoid 4, gate 1; backward: the taps again, turned, and their gradients
        flops={"forward": 202, "forward+backward": 202 + 3 * 196 + 8, "eval": 202},
        rate="fp32",
        kept={"gate": 1, "gate+residual": 2},
    ),
    "conv3x3": Op(  # for inference on a CPU alone
        layer=Convolution,
        official=OfficialConvolution,
        cpu_shapes=((1, 32, 256, 256), (1, 64, 128, 128), (1, 128, 64, 64)),
        cuda_shapes=(),
        quick_shapes=((1, 16, 16, 16),),
        traffic={"eval": 2.0},  # 1 read + 1 write
        flops={"eval": 8.0},  # 16 products of two operations for four results
        rate="fp32",
        formats=("channels_last",),
        passes=("eval",),
        terms=lambda shape: shape[1],
        cast=True,
    ),
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
        kept={"norm+act": 1, "norm+residual+act": 2},
    ),
    "detail_conv": Op(  # the fold alone; the tensor is the vanilla weight, 9 of a pair's 33 numbers
        layer=Fold,
        official=IndexFold,
        cpu_shapes=((64, 64, 3, 3), (128, 128, 3, 3)),
        cuda_shapes=((64, 64, 3, 3), (128, 128, 3, 3), (1024, 1024, 3, 3)),
        quick_shapes=((16, 16, 3, 3),),
        # 33 read and 9 written; then 9 read and the 24 of the difference branches written
        traffic={"forward": 42 / 9, "forward+backward": 75 / 9, "eval": 42 / 9},
        # forward: centre 10, circle 18, sums 30; backward: centre 18, circle 18, lines 6
        flops={"forward": 58 / 9, "forward+backward": 100 / 9, "eval": 58 / 9},
        rate="fp32",
        formats=("nchw",),
    ),
    "detail_conv_layer": Op(  # the fold and its convolution
        layer=DetailConv,
        official=IndexDetailConv,
        cpu_shapes=((1, 64, 64, 64), (1, 128, 64, 64)),
        cuda_shapes=((16, 64, 128, 128), (16, 128, 64, 64)),
        quick_shapes=((1, 8, 16, 16),),
        # forward: 1 read + 1 write; backward: x and dy, dx
        traffic={"forward": 2.0, "forward+backward": 5.0, "eval": 2.0},
        flops={"forward": 18.0, "forward+backward": 54.0, "eval": 18.0},  # nine taps, directly
        rate="",
        terms=lambda shape: shape[1],
        cast=True,
        kernel="detail_conv",
        # the folded form has one kernel to learn, and so another backward
        rivals={"five convolutions": FiveConvolutions, "folded": folded},
        same=("five convolutions", "folded"),
    ),
    "lambda_attention": Op(
        layer=LambdaHeads,
        official=MaskedHeads,
        cpu_shapes=((1, 6, 5 + 32**2, 64), (1, 6, 5 + 48**2, 64)),
        cuda_shapes=((1, 12, 5 + 64**2, 64), (8, 12, 5 + 64**2, 64)),
        quick_shapes=((1, 2, 5 + 9**2, 64),),
        # q, k, v and the result; then q, k, v, result and dy read, dq, dk and dv written
        traffic={"forward": 4.0, "forward+backward": 12.0},
        # two products of two operations for a pair and channel; five more in the backward
        flops={"forward": 4.0, "forward+backward": 14.0},
        rate="",
        terms=pairs_of,
        cast=True,
        formats=("nchw",),
        passes=("forward", "forward+backward"),
        rivals={"sdpa": DenseHeads, "flex": FlexHeads},  # sdpa: another function, over all pairs
        same=("flex",),
    ),
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

    def module(self, make: Make) -> nn.Module:
        """Made for the shape, on the device and in the dtype that its parameters have here."""
        cast = DTYPES[self.dtype] if OPS[self.op].cast else None
        return make(self.shape).to(self.device, cast)

    @property
    def kernel(self) -> str:
        """The kernel of the forward, by which its absence is explained."""
        return f"{OPS[self.op].kernel or self.op}_forward"

    @property
    def rate(self) -> str:
        """The dtype of the matrix product that the operations are counted by."""
        return OPS[self.op].rate or self.dtype

    @property
    def size(self) -> int:
        """Elements."""
        return torch.Size(self.shape).numel()
