"""A segmentation set in memory, a network for it and a config that trains it in a second."""

import torch
from torch import nn
from torch.utils.data import Dataset

from ibnvision import data
from ibnvision.config import Config
from ibnvision.engine import checkpoint
from ibnvision.tasks import segmentation

CLASSES = ("left", "right")


class Toy(Dataset):
    """Two classes told apart by colour; the night domain is four times darker."""

    def __init__(self, domain, split, count=12):
        chance = torch.Generator().manual_seed({"train": 1, "val": 2, "test": 3}[split])
        self.target = torch.randint(0, 2, (count, 8, 12), generator=chance)
        colour = torch.stack([self.target, 1 - self.target, 0 * self.target], 1).float()
        noise = 0.3 * torch.rand(colour.shape, generator=chance)
        self.image = (0.6 * colour + noise) * (0.25 if domain == "toy_night" else 1)
        self.domain = domain

    def __len__(self):
        return len(self.target)

    def __getitem__(self, i):
        if i >= len(self):
            raise IndexError(i)
        return {"image": self.image[i], "target": self.target[i], "domain": self.domain}


def small_network(*_, num_classes, **__):
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Dropout(0.3),  # draws from the global generator: a resumed run must restore it
        nn.Conv2d(8, num_classes, 1),
    )


def add_toys(monkeypatch):
    """Rows of DOMAINS and the network of a run, for the length of a test."""

    def build(name, split, **_):
        return Toy(name, split, 0 if name == "toy_empty" else 12)

    for name in ("toy_day", "toy_night", "toy_empty"):
        row = data.Domain("two colours", build, classes=CLASSES)
        monkeypatch.setitem(data.DOMAINS, name, row)
    monkeypatch.setattr(segmentation, "build_model", small_network)


def toy_config(out):
    return Config(
        name="toy",
        train_domains=("toy_day",),
        test_domains=("toy_day", "toy_night"),
        steps=10,
        batch_size=4,
        lr=0.1,
        warmup=2,
        eval_every=4,
        log_every=2,
        device="cpu",
        threads=1,
        out=str(out),
    )


def weights_of(folder, name="last.pt"):
    return checkpoint.load(folder / name)["model"]
