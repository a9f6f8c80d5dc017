"""Weather and light of `corruptions`: snow, frost, fog, brightness; fog by depth, rain and night.

x is one image, [3, H, W] RGB in [0, 1], float32 or float64; chance is drawn on the CPU, in float32.
Constants are indexed by severity - 1. Source of the first four: Hendrycks and Dietterich, ICLR
2019, https://arxiv.org/abs/1903.12261, with the rules of imagecorruptions (Michaelis et al., 2019,
https://arxiv.org/abs/1907.07484) for pictures of any size. Differs: frost is drawn, not cut out of
photographs, which we may not ship, and blended with the same weights; the plasma of fog takes the
neighbours above and below where the published code takes others.

Fog by depth, rain and night are the streets' own (`shifts.APPEARANCE`), in steps up to severity 5.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from .corruptions_blur import clipped_zoom, motion, uniform
from .haze import scatter, smooth_noise
from .shifts import APPEARANCE, LUMA

# flakes: mean, sigma, zoom, threshold; radius and sigma of their fall; share of the image
SNOW = (
    (0.1, 0.3, 3, 0.5, 10, 4, 0.8),
    (0.2, 0.3, 2, 0.5, 12, 4, 0.7),
    (0.55, 0.3, 4, 0.9, 12, 8, 0.7),
    (0.55, 0.3, 4.5, 0.85, 12, 8, 0.65),
    (0.55, 0.3, 2.5, 0.85, 12, 12, 0.55),
)
FROST = ((1, 0.4), (0.8, 0.6), (0.7, 0.7), (0.65, 0.7), (0.6, 0.75))  # weights of image and frost
FROST_COLOURS = ((0.36, 0.51, 0.58), (0.79, 0.81, 0.84))  # between which one is drawn
FROST_SIGMA = 0.1  # of its brightness, half of it needles
FOG = ((1.5, 2.0), (2.0, 2.0), (2.5, 1.7), (2.5, 1.5), (3.0, 1.4))  # strength, decay by octave
BRIGHTNESS = (0.1, 0.2, 0.3, 0.4, 0.5)  # added to the value of HSV
BETA_PER_M = (0.005, 0.01, 0.02, 0.035, 0.05)  # the first three are Foggy Cityscapes'
STEPS = 5


def snow(x: Tensor, severity: int, generator: Generator) -> Tensor:
    """Falling flakes over an image that is whitened where it is bright."""
    mean, sigma, zoom, threshold, radius, length, share = SNOW[severity - 1]
    height, width = x.shape[-2:]
    flakes = torch.randn(1, height, width, generator=generator).to(x).mul_(sigma).add_(mean)
    flakes = clipped_zoom(flakes, zoom)
    flakes = flakes.masked_fill_(flakes < threshold, 0).clamp_(max=1)
    flakes = motion(flakes, int(radius), length, angle=uniform(generator, -135, -45))
    flakes = flakes[:, :height, :width].mul(255).round_().div_(255)
    white = torch.maximum(x, grey(x).mul_(1.5).add_(0.5))
    return torch.lerp(white, x, share).add_(flakes).add_(flakes.flip(-2, -1)).clamp_(0, 1)


def frost(x: Tensor, severity: int, generator: Generator) -> Tensor:
    """Ice crystals on a pane, in blue to white."""
    ours, theirs = FROST[severity - 1]
    ice = frost_texture(x.shape[-2], x.shape[-1], generator)
    return ice.to(x).mul_(theirs).add_(x, alpha=ours).clamp_(0, 1)


def frost_texture(height: int, width: int, generator: Generator) -> Tensor:
    """Our picture of frost, float32 [3, height, width] on the CPU: patches and crossing needles."""
    h, w = math.ceil(height / 2), math.ceil(width / 2)
    patches = smooth_noise(h, w, generator, cells=3)
    needles = torch.zeros(1, h, w)
    for _ in range(3):
        seeds = torch.rand(1, h, w, generator=generator).lt(0.03).float()
        needles += motion(seeds, 8, 5, angle=uniform(generator, -180, 180))
    field = (_standard(patches) + _standard(needles[0])) * (FROST_SIGMA / math.sqrt(2))
    colours = torch.tensor(FROST_COLOURS)
    colour = torch.lerp(colours[0], colours[1], uniform(generator, 0, 1))
    field = F.interpolate(field[None, None], (height, width), mode="bilinear")[0]
    return (field + colour[:, None, None]).clamp_(0, 1)


def fog(x: Tensor, severity: int, generator: Generator) -> Tensor:
    """Plasma clouds; the brightest value of the image stays the brightest possible."""
    strength, decay = FOG[severity - 1]
    height, width = x.shape[-2:]
    side = 1 << (max(height, width) - 1).bit_length()
    clouds = plasma(side, decay, generator)[:height, :width].to(x)
    brightest = x.amax()
    scale = brightest / (brightest + strength)
    return torch.add(x, clouds, alpha=strength).mul_(scale).clamp_(0, 1)


def plasma(side: int, decay: float, generator: Generator) -> Tensor:
    """A fractal by diamonds and squares on a torus, float32 [side, side] in [0, 1], on the CPU.

    side: a power of 2. decay: by which the amplitude shrinks from one octave to the next, squared.
    """
    field = torch.zeros(1, 1)
    amplitude = 100.0

    def displaced(*neighbours: Tensor) -> Tensor:
        noise = torch.rand(field.shape, generator=generator).sub_(0.5)
        total = neighbours[0] + neighbours[1]
        for neighbour in neighbours[2:]:
            total += neighbour
        return noise.mul_(2 * amplitude**2).add_(total, alpha=0.25)

    while len(field) < side:
        right, below = field.roll(-1, 1), field.roll(-1, 0)
        centre = displaced(field, right, below, below.roll(-1, 1))
        top = displaced(field, right, centre, centre.roll(1, 0))
        left = displaced(field, below, centre, centre.roll(1, 1))
        finer = field.new_empty(2 * len(field), 2 * len(field))
        finer[::2, ::2], finer[::2, 1::2], finer[1::2, ::2], finer[1::2, 1::2] = (
            field,
            top,
            left,
            centre,
        )
        field, amplitude = finer, amplitude / decay
    low, high = field.aminmax()
    return field.sub_(low).div_(high - low)


def brightness(x: Tensor, severity: int, generator: Generator) -> Tensor:
    """The value of HSV raised; hue and saturation stay. Nothing is drawn."""
    change = BRIGHTNESS[severity - 1]
    value = x.amax(0)
    raised = (value + change).clamp_(max=1)
    return torch.where(value > 0, x * (raised / value.clamp_min(1e-12)), raised)


def fog_depth(x: Tensor, severity: int, generator: Generator, depth: Tensor) -> Tensor:
    """Koschmieder's law with depth [H, W] in metres, in air light of the streets' colours."""
    recipe = APPEARANCE["fog"]["constants"]
    light = torch.tensor(recipe["airlight_tint"]) * uniform(generator, *recipe["airlight"])
    return scatter(x, depth, BETA_PER_M[severity - 1], light).clamp_(0, 1)


def rain(x: Tensor, severity: int, generator: Generator) -> Tensor:
    """Less colour and light, a blue cast, and streaks within 15 degrees of the vertical."""
    recipe, amount = APPEARANCE["rain"]["constants"], severity / STEPS
    height, width = x.shape[-2:]
    x = torch.lerp(x, grey(x), amount * (1 - recipe["saturation"]))
    x = x.mul_(1 - amount * (1 - recipe["gain"])).add_(amount * recipe["lift"])
    radius = max(1, round(recipe["streak_length"] * height / 2))
    size = (1, height + 4 * radius, width + 4 * radius)  # streaks that start outside come in
    drops = torch.rand(size, generator=generator) < amount * recipe["streak_share"]
    streaks = motion(drops.to(x), radius, radius, angle=uniform(generator, -105, -75))
    streaks = streaks[:, 2 * radius :, 2 * radius :][:, :height, :width]
    x = x.mul_(_cast(recipe["tint"], amount, x)).add_(streaks, alpha=recipe["streak_strength"])
    return x.clamp_(0, 1)


def night(x: Tensor, severity: int, generator: Generator) -> Tensor:
    """Dim blue light, a warm headlight lobe low in the picture, and sensor noise."""
    recipe, amount = APPEARANCE["night"]["constants"], severity / STEPS
    height, width = x.shape[-2:]
    gain = min(recipe["gain"]) ** amount
    lobe = [
        torch.exp(-(((torch.arange(side) + 0.5) / side - middle) / spread).square())
        for side, middle, spread in (
            (height, recipe["headlight_row"], recipe["headlight_spread"][0]),
            (width, 0.5, recipe["headlight_spread"][1]),
        )
    ]
    lit = (lobe[0][:, None] * lobe[1]).to(x) * (amount * recipe["headlight"])
    light = gain * _cast(recipe["tint"], amount, x) + lit * _cast(recipe["headlight_tint"], 1, x)
    noise = torch.randn(x.shape, generator=generator).to(x)
    return light.mul_(x).add_(noise, alpha=amount * recipe["sensor_noise"]).clamp_(0, 1)


def grey(x: Tensor) -> Tensor:
    """Luminance of an image [3, H, W] as [1, H, W]."""
    red, green, blue = LUMA.tolist()
    return (x[:1] * red).add_(x[1:2], alpha=green).add_(x[2:], alpha=blue)


def _cast(tint: Sequence[float], amount: float, x: Tensor) -> Tensor:
    """White moved towards `tint` by `amount`, [3, 1, 1]."""
    return torch.lerp(torch.ones(3), torch.tensor(tint), amount).to(x)[:, None, None]


def _standard(field: Tensor) -> Tensor:
    return (field - field.mean()) / field.std().clamp_min(1e-6)
