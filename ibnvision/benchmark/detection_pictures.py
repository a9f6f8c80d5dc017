"""Pictures of the detection benchmark: scores, and what each row finds in each domain."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ibnvision import data
from ibnvision.engine.pictures import save_png
from ibnvision.engine.predict import Trained
from ibnvision.tasks import TASKS

from . import detection_restored, page_plots, pictures
from .detection_scores import AP50, NOT_CONVERGED
from .plans import Row, dataset_of

Results = Mapping[str, Any]


def write(
    results: Results, folder: Path, restorer: detection_restored.Restorer | None = None
) -> dict[str, Any]:
    """Draw everything that the runs allow; returns the file names, relative to `folder`.

    restorer: of the rows that were measured behind it.
    """
    summary, why = results["summary"][AP50], results["not_converged"]
    shown = {
        f"{row} ({NOT_CONVERGED})" if why[row] else row: cells for row, cells in summary.items()
    }
    figure = page_plots.dressed(pictures.score_bars(shown, results["roles"], "AP50 %"))
    names: dict[str, Any] = {"scores": "scores.png", "detections": {}}
    pictures.save(figure, folder / names["scores"])
    for row in results["rows"]:
        if not row["runs"]:
            continue
        trained = detection_restored.trained(row["runs"][0], restorer)
        for domain in results["roles"]:
            name = f"{domain.replace(':', '_')}_{Row(row['name'], ()).key}.png"
            save_png(detections(trained, domain), folder / name)
            names["detections"].setdefault(domain, {})[row["name"]] = name
    return names


@torch.no_grad()
def detections(trained: Trained, domain: str) -> Tensor:
    """Target and what the first seed finds, for the first test pictures of a domain."""
    task: Any = TASKS["detection"]
    dataset = dataset_of(trained.cfg, domain, "test")
    palette = torch.tensor(data.palette(trained.classes))
    drawn = []
    for index in pictures.SCENES[: len(dataset)]:
        item = dataset[index]
        (found,) = task.predict(trained.model, [item["image"]])
        drawn.append(
            task.draw(
                item["image"], item["target"], found, classes=trained.classes, palette=palette
            )
        )
    width = max(picture.shape[2] for picture in drawn)
    return torch.cat([_widened(picture, width) for picture in drawn], 1)


def _widened(picture: Tensor, width: int) -> Tensor:
    """uint8 [3, H, width], white on the right."""
    return torch.nn.functional.pad(picture, (0, width - picture.shape[2]), value=255)
