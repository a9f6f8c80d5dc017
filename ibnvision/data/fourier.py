"""Fourier style augmentation: images of a batch lend each other amplitudes and keep their phases.

    |F(y)| = (1 - l) |F(x)| + l |F(x[partner])|   in a window of low frequencies, |F(x)| outside
    phase of F(y) = phase of F(x),                l drawn evenly from `strength`

Without a window and with strength (0, 1) this is the amplitude mix of FACT, with a window of 0.01
to 0.09 and strength (1, 1) the swap of FDA. Every channel is transformed by itself.

Sources: Xu et al., "A Fourier-based Framework for Domain Generalization" (FACT), CVPR 2021,
https://arxiv.org/abs/2105.11120; Yang and Soatto, "FDA", CVPR 2020,
https://arxiv.org/abs/2004.05498. FDA's window is beta H by beta W as in the paper; its code takes
the shorter side for both.
"""

import torch
from torch import Generator, Tensor


def fourier_style(
    images: Tensor,
    generator: Generator,
    *,
    window: float | None = None,
    strength: tuple[float, float] = (0.0, 1.0),
    p: float = 0.5,
) -> Tensor:
    """`images` with mixed amplitudes, cut to [0, 1], of the same shape and dtype.

    Half precision is worked on in float32. The partners are a random permutation of the batch, so
    an image may meet itself, and the only image of a batch does: it comes back up to rounding.
    Images that are not chosen come back to the bit. The draws do not depend on the images.

    Args:
        images: [N, C, H, W], floating point, in [0, 1].
        generator: on the CPU, so that every device draws the same.
        window: share of the frequencies that are mixed, on either side of zero: those up to
            floor(window H) and floor(window W) waves along a side; in [0, 0.5], where 0 is the
            mean colour alone. None for all.
        strength: (least, greatest) share of the partner's amplitude, within [0, 1].
        p: share of the images that are changed.

    Raises:
        TypeError: images are not of a floating-point type.
        ValueError: another shape, a generator on another device, or an argument out of range.
    """
    _check(images, generator, window, strength, p)
    n, _, height, width = images.shape
    chosen = torch.rand(n, generator=generator) < p
    share = torch.rand(n, generator=generator) * (strength[1] - strength[0]) + strength[0]
    partner = torch.randperm(n, generator=generator)
    if not chosen.any() or images.numel() == 0:
        return images
    x = images.to(torch.promote_types(images.dtype, torch.float32))
    spectrum = torch.fft.rfft2(x)
    amplitude = spectrum.abs()
    weight = share.to(amplitude)[:, None, None, None] * _low(height, width, window).to(amplitude)
    mixed = torch.lerp(amplitude, amplitude[partner.to(x.device)], weight)
    y = torch.fft.irfft2(torch.polar(mixed, spectrum.angle()), s=(height, width)).clamp(0, 1)
    return torch.where(chosen.to(x.device)[:, None, None, None], y.to(images.dtype), images)


def _low(height: int, width: int, window: float | None) -> Tensor:
    """Whether each frequency of rfft2 lies in the window, [H, W // 2 + 1]."""
    down = torch.fft.fftfreq(height, 1 / height).round().abs()
    across = torch.arange(width // 2 + 1)
    if window is None:
        return torch.ones(len(down), len(across), dtype=torch.bool)
    return (down <= int(window * height))[:, None] & (across <= int(window * width))


def _check(
    images: Tensor,
    generator: Generator,
    window: float | None,
    strength: tuple[float, float],
    p: float,
) -> None:
    if not images.is_floating_point():
        raise TypeError(f"images must be floating point in [0, 1], got dtype {images.dtype}")
    if images.dim() != 4:
        raise ValueError(f"images must have shape [N, C, H, W], got {list(images.shape)}")
    if generator.device.type != "cpu":
        raise ValueError(f"generator must be on the CPU, got one on {generator.device}")
    if window is not None and not 0 <= window <= 0.5:
        raise ValueError(f"window must lie in [0, 0.5] or be None, got {window}")
    if not 0 <= strength[0] <= strength[1] <= 1:
        raise ValueError(f"strength must be (least, greatest) within [0, 1], got {strength}")
    if not 0 <= p <= 1:
        raise ValueError(f"p must lie in [0, 1], got {p}")
