"""A dehazing set in memory: smooth colours behind haze that thickens with a smooth depth."""

import torch
import torch.nn.functional as F
from torch.utils.data import Dataset

from ibnvision import data

HEIGHT, WIDTH = 24, 28


class HazyToy(Dataset):
    """A "dense" domain has more haze; every second picture of a "ragged" one is narrower."""

    def __init__(self, domain, split, count=6):
        chance = torch.Generator().manual_seed({"train": 1, "val": 2, "test": 3}[split])

        def smooth(channels):
            coarse = torch.rand(count, channels, 5, 6, generator=chance)
            return F.interpolate(coarse, (HEIGHT, WIDTH), mode="bilinear")

        self.domain, self.clear, depth = domain, smooth(3), smooth(1)
        self.t = torch.exp(-(2.5 if "dense" in domain else 1) * depth)

    def __len__(self):
        return len(self.clear)

    def pair(self, i, airlight):
        clear, t = self.clear[i], self.t[i]
        return clear * t + airlight * (1 - t), clear

    def __getitem__(self, i):
        if i >= len(self):
            raise IndexError(i)
        width = WIDTH - 5 if "ragged" in self.domain and i % 2 else WIDTH
        hazy, clear = (image[..., :width] for image in self.pair(i, 0.9))
        return {"image": hazy, "target": clear, "domain": self.domain}


class DrawnHazyToy(HazyToy):
    """The same with a random crop and air light for training."""

    def draw(self, i, generator, size):
        draws = torch.rand(3, generator=generator).tolist()
        top, left = (
            int(d * (n - s + 1)) for d, n, s in zip(draws, (HEIGHT, WIDTH), size, strict=False)
        )
        hazy, clear = (
            image[:, top : top + size[0], left : left + size[1]]
            for image in self.pair(i, 0.7 + 0.3 * draws[2])
        )
        return {"image": hazy, "target": clear, "domain": self.domain}


def add_domains(monkeypatch, *names, kind=DrawnHazyToy):
    """Rows of DOMAINS for the length of a test; a name that is there stays as it is."""
    for name in names:
        if name not in data.DOMAINS:
            row = data.Domain(
                "smooth haze", lambda *at, **_: kind(*at), classes=(), task="dehazing"
            )
            monkeypatch.setitem(data.DOMAINS, name, row)
