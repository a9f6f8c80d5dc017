"""Switchable whitening: each group of channels is whitened by a learned mix of statistics.

    y = U (x - mean) * weight + bias,   U = (S + eps I)^(-1/2)
    mean = sum_k m_k mean_k,  S = sum_k s_k S_k,   m, s: softmax of a weight for each kind k

Kinds, in this order: batch whitening (bw), instance whitening (iw), batch norm (bn), instance norm
(in), layer norm (ln); the last three standardize, so their S_k is diagonal. U comes from Newton's
iteration on S / trace(S), without an eigendecomposition.

Source: Pan et al., "Switchable Whitening for Deep Representation Learning", ICCV 2019,
https://arxiv.org/abs/1904.09739. Differs from the released layer: momentum counts as in
BatchNorm2d; running_cov starts as the identity; every kind has its own weight where that layer's
sw_type 5 uses bw's and iw's for the covariance of bn and in; ln's variance is the biased one.
"""

import torch
from torch import Tensor, nn

KINDS = {2: ("bw", "iw"), 3: ("bw", "iw", "ln"), 5: ("bw", "iw", "bn", "in", "ln")}


class SwitchWhiten2d(nn.Module):
    """Switchable whitening of [N, C, H, W], a layer in the place of a batch norm.

    Parameters and buffers keep the released names and shapes. Batch statistics are those of one
    process and, in evaluation, the running ones.

    Args:
        num_features: C.
        num_pergroup: channels that are whitened together; where it does not divide C, the largest
            divisor of C below it.
        sw_type: number of kinds: 2 (bw, iw), 3 (and ln) or 5 (all).
        T: Newton iterations, at least 1. The more the statistics differ along their directions,
            the more it takes; 5 leaves the weakest ones under-amplified, as published.
        tie_weight: one softmax for mean and covariance.
        eps: added to the diagonal of the covariance.
        momentum: weight of a new batch in the running statistics (the released 0.99 is 0.01 here).
        affine: whether weight and bias exist.

    Raises:
        ValueError: an argument outside of its range.
    """

    def __init__(
        self,
        num_features: int,
        num_pergroup: int = 16,
        sw_type: int = 2,
        T: int = 5,
        tie_weight: bool = False,
        eps: float = 1e-5,
        momentum: float = 0.01,
        affine: bool = True,
    ) -> None:
        super().__init__()
        if num_features < 1 or num_pergroup < 1:
            raise ValueError(
                f"num_features and num_pergroup must be at least 1, got {num_features} and "
                f"{num_pergroup}"
            )
        if sw_type not in KINDS:
            raise ValueError(f"sw_type must be one of {', '.join(map(str, KINDS))}, got {sw_type}")
        if T < 1:
            raise ValueError(f"T must be at least 1, got {T}")
        if not eps > 0:
            raise ValueError(f"eps must be above 0, got {eps}")
        if not 0 <= momentum <= 1:
            raise ValueError(f"momentum must lie in [0, 1], got {momentum}")
        c = next(c for c in range(min(num_pergroup, num_features), 0, -1) if num_features % c == 0)
        g = num_features // c
        self.num_features, self.num_pergroup, self.num_groups = num_features, c, g
        self.sw_type, self.T, self.tie_weight = sw_type, T, tie_weight
        self.eps, self.momentum = eps, momentum
        self.sw_mean_weight = nn.Parameter(torch.ones(sw_type))
        self.sw_var_weight = None if tie_weight else nn.Parameter(torch.ones(sw_type))
        self.weight = nn.Parameter(torch.ones(num_features)) if affine else None
        self.bias = nn.Parameter(torch.zeros(num_features)) if affine else None
        self.register_buffer("running_mean", torch.zeros(g, c, 1))
        self.register_buffer("running_cov", torch.eye(c).repeat(g, 1, 1))
        self.running_mean: Tensor
        self.running_cov: Tensor

    def forward(self, x: Tensor) -> Tensor:
        """x: [N, C, H, W]; the same shape and dtype, contiguous.

        At least float32 inside, under autocast too.

        Raises:
            ValueError: another number of dimensions or of channels.
        """
        return switch_whiten(
            x, self.running_mean, self.running_cov, self.sw_mean_weight,
            self.sw_mean_weight if self.sw_var_weight is None else self.sw_var_weight,
            self.weight, self.bias, self.training, self.momentum, self.eps, self.T,
        )  # fmt: skip

    def extra_repr(self) -> str:
        return (
            f"{self.num_features}, num_pergroup={self.num_pergroup}, sw_type={self.sw_type}, "
            f"T={self.T}, tie_weight={self.tie_weight}"
        )


@torch.fx.wrap  # one node, whatever the shape
def switch_whiten(
    x: Tensor,
    running_mean: Tensor,
    running_cov: Tensor,
    mean_weight: Tensor,
    var_weight: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    training: bool,
    momentum: float,
    eps: float,
    T: int,
) -> Tensor:
    """SwitchWhiten2d as a function of its parameters and buffers; training moves the latter."""
    groups, c, _ = running_mean.shape
    if x.dim() != 4 or x.shape[1] != groups * c:
        raise ValueError(f"x must be [N, C={groups * c}, H, W], got {list(x.shape)}")
    with torch.autocast(x.device.type, enabled=False):
        z = x.to(torch.promote_types(x.dtype, torch.float32)).reshape(len(x), groups, c, -1)
        means, covs = _statistics(z, running_mean, running_cov, training, momentum)
        kinds = KINDS[len(mean_weight)]
        m, s = mean_weight.to(z.dtype).softmax(0), var_weight.to(z.dtype).softmax(0)
        eye = torch.eye(c, dtype=z.dtype, device=z.device)
        mean = sum((m[i] * means[kind] for i, kind in enumerate(kinds)), z.new_zeros(c, 1))
        cov = sum((s[i] * covs[kind] for i, kind in enumerate(kinds)), eps * eye)
        u = inverse_root(cov, T)
        shift = -(u @ mean)
        if weight is not None and bias is not None:
            scale = weight.view(groups, c, 1).to(z.dtype)
            u, shift = u * scale, shift * scale + bias.view(groups, c, 1).to(z.dtype)
        y = torch.baddbmm(shift.flatten(0, 1), u.flatten(0, 1), z.flatten(0, 1))
    return y.view(x.shape).to(x.dtype)


def _statistics(
    z: Tensor, running_mean: Tensor, running_cov: Tensor, training: bool, momentum: float
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Mean and covariance of each kind, of z, [N, g, c, HW]; they broadcast over images."""
    mean_i = z.mean(3, keepdim=True)
    centred = z - mean_i
    cov_i = centred @ centred.mT / z.shape[3]
    if training:  # of the batch: within the images and between them
        mean_b = mean_i.mean(0, keepdim=True)
        between = mean_i - mean_b
        cov_b = (cov_i + between @ between.mT).mean(0, keepdim=True)
        with torch.no_grad():
            running_mean.lerp_(mean_b[0].to(running_mean.dtype), momentum)
            running_cov.lerp_(cov_b[0].to(running_cov.dtype), momentum)
    else:
        mean_b, cov_b = running_mean[None].to(z.dtype), running_cov[None].to(z.dtype)
    # of a whole image: within its channels and between them
    var_i = cov_i.diagonal(dim1=2, dim2=3)
    mean_l = mean_i.mean((1, 2), keepdim=True)
    var_l = var_i.mean((1, 2))[:, None, None, None] + (mean_i - mean_l).square().mean(
        (1, 2), keepdim=True
    )
    eye = torch.eye(z.shape[2], dtype=z.dtype, device=z.device)
    means = {"bw": mean_b, "iw": mean_i, "bn": mean_b, "in": mean_i, "ln": mean_l}
    covs = {"bw": cov_b, "iw": cov_i, "bn": cov_b * eye, "in": cov_i * eye, "ln": var_l * eye}
    return means, covs


def inverse_root(s: Tensor, steps: int) -> Tensor:
    """S^(-1/2) of symmetric positive matrices, [..., c, c], after so many of Newton's iterations.

    With A = S / trace(S), P <- (3 P - P^3 A) / 2 from P = I. Every eigenvalue of A lies in (0, 1],
    where that converges. Carrying A P along gives the same P and keeps rounding errors from
    growing, which they do in the formula as it stands.
    """
    trace = s.diagonal(dim1=-2, dim2=-1).sum(-1)[..., None, None]
    eye = torch.eye(s.shape[-1], dtype=s.dtype, device=s.device)
    a = s / trace
    p = 1.5 * eye - 0.5 * a
    ap = a @ p
    for _ in range(steps - 1):
        factor = 1.5 * eye - 0.5 * (p @ ap)
        p, ap = factor @ p, ap @ factor
    return p * trace.rsqrt()
