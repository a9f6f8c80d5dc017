"""The dehazing domains that need no download: drawn streets and photographs under made haze.

    haze            train, val, test: the source
    haze_dense      test: thicker than any haze of the source
    haze_tinted     test: coloured air light; the source's is within 0.025 of grey
    haze_patchy     test: the optical depth varies in patches, by up to 95 %
    haze_camera     test: sensor noise and JPEG after the haze
    haze_none       test: no haze; the input is the answer
    motorcycle_thin, _medium, _dense    test: a photograph with measured depth, neutral air light

The test domains of haze show the same scenes. Every second one is a street of `streets_day` with
its exact depth, the others are made of photographs (`layered`). No photograph and no street is in
two splits; the motorcycle is never trained or selected on. Constants: `haze.HAZE`, and below.
"""

import hashlib
import json
from typing import Any

import numpy as np
import torch
from torch import Generator, Tensor
from torch.utils.data import Dataset

from . import PRESETS
from .haze import HAZE, HAZE_HASH, degrade, to_bytes, uniform
from .item import restoration_item, to_image
from .layered import VARIED, layered
from .names import known
from .opencv import cv2
from .photos import motorcycle_depth, photo
from .streets import SPLIT_SEEDS, Streets
from .view import draw_view

SCENES_VERSION = 1  # raise it with every change of the clear pictures, depths or draws
SPLIT_PHOTOS = {
    "train": ("astronaut", "coffee", "brick", "grass", "gravel", "ihc"),
    "val": ("rocket",),
    "test": ("chelsea",),
}
PHOTO_EVERY = 2
FAR_M = 60.0  # depth 1 of streets; what lies beyond, the sky too, is as hazy
CLEAR_SHARE = 0.1  # of the drawn items that stay without haze
# arguments of layered: of pictures that never change, and of those drawn for training
FIXED: dict[str, Any] = {"smallest": 0.5, "vary": False, "most": 4}
DRAWN: dict[str, Any] = {"smallest": 0.0, "vary": True, "most": 6}
MOTORCYCLE_SHRINK = {"tiny": 8, "quick": 1, "full": 1}


def _generator(*numbers: int) -> Generator:
    words = np.random.SeedSequence([SCENES_VERSION, *numbers]).generate_state(2)
    return Generator().manual_seed(int(words[0]) << 31 | int(words[1]) >> 1)


class HazyScenes(Dataset):
    """One domain and split of the table above as items of image, target and domain.

    `preset` gives picture size and count; the motorcycle is one picture, whole, and an eighth of
    its size in the preset tiny. `limit` keeps the first pictures. `size` is the crop that `draw`
    will be asked for; the items do not depend on it. Pictures are made on first use and kept.

    Raises KeyError (domain), ValueError (split, preset, limit) and, when a photograph is first
    needed, FileNotFoundError (no scikit-image).
    """

    def __init__(
        self,
        domain: str,
        split: str,
        *,
        preset: str = "quick",
        size: tuple[int, int] | None = None,
        limit: int | None = None,
    ):
        self.domain = known("domain", domain, (name for name in HAZE if name != "ridcp"))
        splits = tuple(SPLIT_SEEDS) if domain == "haze" else ("test",)
        if split not in splits:
            raise ValueError(f"split of {domain} must be one of {', '.join(splits)}, got {split!r}")
        if preset not in PRESETS:
            raise ValueError(f"preset must be one of {', '.join(PRESETS)}, got {preset!r}")
        if limit is not None and limit < 1:
            raise ValueError(f"limit must be at least 1, got {limit}")
        self.split, self.seed, self.preset = split, SPLIT_SEEDS[split], preset
        chosen = PRESETS[preset]
        self.height, self.width = chosen.height, chosen.width
        self.measured = domain.startswith("motorcycle_")
        self.count = 1 if self.measured else min(limit or 10**9, getattr(chosen, split))
        self._streets = Streets("streets_day", split, preset=preset)
        self._scenes: dict[int, tuple[np.ndarray, np.ndarray]] = {}
        self._hazy: dict[int, np.ndarray] = {}

    def __len__(self) -> int:
        return self.count

    def of_photographs(self, index: int) -> bool:
        """Whether scene `index` is made of photographs, else it is a street."""
        return self.measured or index % PHOTO_EVERY == PHOTO_EVERY - 1

    def scene(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Clear picture uint8 [H, W, 3] and depth float32 [H, W] of item `index`.

        The depth is that of HAZE: in metres for the motorcycle, else 1 at the far end.
        """
        if not 0 <= index < self.count:
            raise IndexError(f"index must lie in [0, {self.count}), got {index}")
        if index not in self._scenes:
            self._scenes[index] = self._make(index)
        return self._scenes[index]

    def _make(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        if self.measured:
            return _shrunk(photo("motorcycle"), motorcycle_depth(), MOTORCYCLE_SHRINK[self.preset])
        if self.of_photographs(index):
            size, generator = (self.height, self.width), _generator(self.seed, index)
            clear, depth = layered(SPLIT_PHOTOS[self.split], size, generator, **FIXED)
            return to_bytes(clear), depth.numpy()
        depth_m = self._streets.scene(index).depth
        return self._streets.picture(index)[0], np.minimum(depth_m / np.float32(FAR_M), 1)

    def picture(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Hazy and clear picture, uint8 [H, W, 3] RGB, of item `index`."""
        clear, depth = self.scene(index)
        if index not in self._hazy:
            generator = _generator(self.seed, index, list(HAZE).index(self.domain))
            hazy = degrade(to_image(clear), torch.tensor(depth), HAZE[self.domain], generator)
            self._hazy[index] = to_bytes(hazy)
        return self._hazy[index], clear

    def __getitem__(self, index: int) -> dict:
        return restoration_item(*self.picture(index), self.domain)

    def draw(self, index: int, generator: Generator, size: tuple[int, int]) -> dict:
        """A random item [3, *size] for training, `size` being (height, width).

        Of a street a random view (see draw_view); a scene of photographs is composed anew. The
        haze is fresh, and absent in CLEAR_SHARE of the items. `generator`, on the CPU, is the
        only source of chance. Raises ValueError for a street smaller than the crop.
        """
        clear, depth = self._drawn(index, generator, size)
        hazy = clear
        if uniform(generator) >= CLEAR_SHARE:
            hazy = degrade(clear, depth, HAZE[self.domain], generator)
        return {"image": hazy, "target": clear, "domain": self.domain}

    def _drawn(
        self, index: int, generator: Generator, size: tuple[int, int]
    ) -> tuple[Tensor, Tensor]:
        if self.of_photographs(index) and not self.measured:
            clear, depth = layered(SPLIT_PHOTOS[self.split], size, generator, **DRAWN)
            picture, far = clear.permute(1, 2, 0).numpy(), depth.numpy()
            view = draw_view(generator, size, size)
            shown = np.ascontiguousarray(view.cut(picture).transpose(2, 0, 1))
            return torch.from_numpy(shown), torch.from_numpy(view.cut(far).copy())
        picture, far = self.scene(index)
        try:
            view = draw_view(generator, far.shape, size)
        except ValueError as error:
            raise ValueError(
                f"{self.domain}, preset {self.preset}: {error}; train with a smaller size or a "
                "larger preset"
            ) from None
        return to_image(view.cut(picture)), torch.from_numpy(view.cut(far).copy())

    def fingerprint(self) -> str:
        """SHA-256 of all that decides the items: scenes, recipes, photographs, sizes, count."""
        names = ("motorcycle",) if self.measured else SPLIT_PHOTOS[self.split]
        facts = {
            "scenes": [SCENES_VERSION, PHOTO_EVERY, FAR_M, CLEAR_SHARE, FIXED, DRAWN, VARIED],
            "haze": HAZE_HASH,
            "streets": self._streets.fingerprint(),
            "photographs": [_digest(photo(name)) for name in names],
            "depth": _digest(motorcycle_depth()) if self.measured else "",
            "domain": [self.domain, self.split, self.preset, self.count],
        }
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _shrunk(clear: np.ndarray, depth: np.ndarray, factor: int) -> tuple[np.ndarray, np.ndarray]:
    """Both, area-averaged to 1 / factor of the height and width."""
    if factor == 1:
        return clear, depth
    size = (clear.shape[1] // factor, clear.shape[0] // factor)
    small = (cv2.resize(plane, size, interpolation=cv2.INTER_AREA) for plane in (clear, depth))
    return next(small), next(small)


def _digest(array: np.ndarray) -> str:
    return hashlib.sha256(array.tobytes()).hexdigest()
