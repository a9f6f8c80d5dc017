"""The rows of DOMAINS whose task is detection."""

from collections.abc import Mapping
from importlib import import_module
from typing import Any

from torch.utils.data import Dataset

from .domain import Domain
from .names import BDD100K_THINGS, BOX_CLASSES, CITYSCAPES_THINGS, DWD, RTTS


def boxed_streets(rows: Mapping[str, Domain]) -> dict[str, Domain]:
    """A row with boxes for each row of streets."""
    return {
        f"{name}_boxes": Domain(
            f"{row.summary}, with boxes",
            _streets,
            classes=BOX_CLASSES,
            stress=row.stress,
            task="detection",
        )
        for name, row in rows.items()
        if name.startswith("streets_")
    }


def _streets(domain: str, split: str, *, root: Any, protocol: Any, **options: Any) -> Dataset:
    from .streets_boxes import StreetsBoxes

    return StreetsBoxes(domain, split, **options)


def _boxed(
    summary: str, module: str, *splits: str, classes: tuple[str, ...] = (), **more: Any
) -> Domain:
    """A row whose `build` is that of a file of this room, imported when called."""

    def build(
        domain: str, split: str, *, preset: Any, size: Any, protocol: Any, **options: Any
    ) -> Dataset:
        return import_module(f"{__package__}.{module}").build(domain, split, **options)

    return Domain(summary, build, splits, classes=classes, task="detection", **more)


BOXED: dict[str, Domain] = {
    **{
        f"{name}_boxes": _boxed(
            summary,
            "cityscapes_boxes",
            *("train", "val", "test"),
            classes=("car",) if name == "cityscapes_car" else CITYSCAPES_THINGS,
            data_key="cityscapes",
        )
        for name, summary in (
            ("cityscapes", "Cityscapes with boxes of 8 classes; test is the official val"),
            ("cityscapes_car", "the same, cars alone: the target of Sim10k"),
            *(
                (f"cityscapes_foggy_{beta}", f"the 8 classes in made fog of density 0.{beta}")
                for beta in ("005", "01", "02")
            ),
            ("cityscapes_foggy_all", "the 8 classes in all three densities of fog"),
        )
    },
    "sim10k": _boxed(
        "Sim10k, rendered, cars, all images to train on",
        *("sim10k", "train"),
        classes=("car",),
        data_key="sim10k",
    ),
    "bdd100k_boxes": _boxed(
        "BDD100K 100k with boxes of 10 classes; test is the official val",
        *("bdd100k_boxes", "train", "val", "test"),
        classes=BDD100K_THINGS,
        data_key="bdd100k",
    ),
    "dwd_daytime_clear": _boxed(
        "Diverse Weather by clear day, the source",
        *("dwd", "train", "test"),
        classes=DWD,
        data_key="dwd",
    ),
    **{
        f"dwd_{name}": _boxed(
            f"Diverse Weather, {summary}", "dwd", "test", classes=DWD, data_key="dwd"
        )
        for name, summary in (
            ("night_clear", "a clear night"),
            ("dusk_rainy", "rain at dusk"),
            ("night_rainy", "rain by night"),
            ("daytime_foggy", "fog by day"),
        )
    },
    "rtts_boxes": _boxed(
        "RESIDE RTTS, real haze, with boxes of 5 classes",
        *("rtts_boxes", "test"),
        classes=RTTS,
        data_key="rtts",
    ),
    **{
        module: _boxed(
            f"your own pictures with boxes of {title}'s format",
            *(module, "train", "val", "test"),
            data_key=module,
            from_disk=("splits", "classes"),
        )
        for module, title in (
            ("coco_json", "COCO"),
            ("voc_xml", "Pascal VOC"),
            ("yolo_txt", "YOLO"),
        )
    },
}
