"""Pictures of the dehazing benchmark: hazy, prior, network and truth side by side."""

import io
from collections.abc import Mapping
from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch import Tensor

from ibnvision.config import Config
from ibnvision.engine.predict import load_trained
from ibnvision.methods import dark_channel
from ibnvision.metrics import psnr

from . import pictures, record
from .dehazing_scores import FULL, PRIOR
from .plans import dataset_of

SHOWN = {"motorcycle_medium": 0, "haze": 0}  # domain -> picture: the first ones, never picked
LARGEST = 300_000  # bytes of the picture for the README


def write(weights: Path, folder: Path) -> dict[str, str]:
    """Draw the panels of SHOWN with the network of `weights`; domain -> file name in folder."""
    names = {}
    for domain in SHOWN:
        names[domain] = f"panels_{domain}.png"
        pictures.save(_figure(panels(weights, domain)), folder / names[domain])
    return names


def write_before_after(folder: Path, path: Path, domain: str = "motorcycle_medium") -> Path:
    """Write hazy, restored and clear as a JPEG below 300 kB, from a folder of the benchmark.

    Raises: FileNotFoundError where the folder holds no dehazer.pt.
    """
    weights = folder / "dehazer.pt"
    if not weights.is_file():
        raise FileNotFoundError(f"no {weights}: run `ibnvision benchmark dehazing` first")
    found = panels(weights, domain)
    del found[PRIOR]
    for quality in (92, 85, 75, 60):
        buffer = io.BytesIO()
        _figure(found).savefig(buffer, format="jpeg", dpi=130, pil_kwargs={"quality": quality})
        if len(buffer.getvalue()) <= LARGEST:
            break
    record.replace_file(path, buffer.getvalue())
    return path


@torch.no_grad()
def panels(weights: Path, domain: str) -> dict[str, Tensor]:
    """Name -> picture [3, H, W] in [0, 1]: hazy, by the prior, by the network, clear."""
    trained = load_trained(weights)
    item = _item(trained.cfg, domain)
    hazy = item["image"][None]
    restored = trained.model.restore(hazy)  # type: ignore[operator]
    return {
        "hazy": item["image"],
        PRIOR: dark_channel.restore(hazy)[0],
        FULL: restored[0],
        "clear": item["target"],
    }


def _item(cfg: Config, domain: str) -> dict:
    return dataset_of(cfg, domain, "test")[SHOWN[domain]]


def _figure(found: Mapping[str, Tensor]) -> Figure:
    """The panels in a row, each under its name and its PSNR against the last."""
    *_, clear = found.values()
    height, width = clear.shape[1:]
    wide = 2.85
    figure = Figure(figsize=(wide * len(found), wide * height / width + 0.3))
    grid = figure.subplots(1, len(found), squeeze=False)[0]
    top = 1 - 0.3 / figure.get_figheight()
    figure.subplots_adjust(left=0, right=1, bottom=0, top=top, wspace=0.02)
    for axes, (name, picture) in zip(grid, found.items(), strict=True):
        axes.imshow(picture.permute(1, 2, 0).clamp(0, 1).numpy(), interpolation="antialiased")
        axes.set_axis_off()
        score = psnr(picture[None], clear[None]).item()
        title = name if picture is clear else f"{name}  {score:.1f} dB"
        axes.set_title(title, fontsize=10, color=pictures.INK, pad=4)
    return figure
