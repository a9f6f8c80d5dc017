"""Named domains as datasets.

    build_domain("streets_fog", "test")[0]
    -> {"image": float32 [3, H, W] RGB in [0, 1], "target": int64 [H, W], "domain": "streets_fog"}

Targets of segmentation index the domain's classes, CLASSES or CITYSCAPES (trainIds); 255 is
ignored. Those of dehazing are the clear image, float32 [3, H, W]. Datasets that are read from disk,
those of dehazing and the real ones of CITYSCAPES, also have `draw`, a random view for training.
Of the latter an item is what an evaluation protocol shows, see `protocols.PROTOCOLS`, and `facts()`
is what a number measured on them means.

Those of detection ("streets_fog_boxes") are a dict: boxes float32 [n, 4], x0, y0, x1, y1 in pixels
of the image, from 0 and with exclusive ends; labels int64 [n], where i is the class i - 1 of
`classes(domain)`; ignore bool [n], objects that neither count nor are trained on; area float32 [n];
image_id int64. An image without objects has boxes [0, 4]. Those on disk have `draw` and `facts`.

Every dataset also has `picture(i)`, the same as bytes, and `fingerprint()`, a SHA-256 of what is
evaluated. Nothing here imports OpenCV before a dataset is built.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from torch.utils.data import Dataset

from .boxed_domains import BOXED, boxed_streets
from .domain import Domain
from .names import CITYSCAPES, CLASSES, IGNORED, color_mask, known, palette
from .protocols import PROTOCOLS

__all__ = [
    "CITYSCAPES",
    "CLASSES",
    "DOMAINS",
    "IGNORED",
    "PRESETS",
    "PROTOCOLS",
    "Domain",
    "Preset",
    "build_domain",
    "classes",
    "color_mask",
    "domain_of",
    "key_of",
    "palette",
    "root_of",
    "splits",
]


@dataclass(frozen=True)
class Preset:
    """Picture size in pixels and number of streets scenes per split."""

    height: int
    width: int
    train: int
    val: int
    test: int


PRESETS = {
    "tiny": Preset(32, 48, train=64, val=16, test=16),
    "quick": Preset(64, 96, train=320, val=100, test=100),
    "full": Preset(128, 256, train=2000, val=200, test=500),
}


def _streets(domain: str, split: str, *, root: Any, protocol: Any, **options: Any) -> Dataset:
    from .streets import Streets

    return Streets(domain, split, **options)


def _camvid(
    domain: str, split: str, *, root: Any, size: Any, preset: str, limit: Any, **_: Any
) -> Dataset:
    from .camvid import CamVid

    chosen = PRESETS[preset]
    size = size or (chosen.height, chosen.width)
    return CamVid(domain, split, root=root, size=size, limit=limit)


def _reside(domain: str, split: str, *, root: Any, limit: Any, **_: Any) -> Dataset:
    from .reside import build

    return build(domain, split, root=root, limit=limit)


def _ntire(domain: str, split: str, *, root: Any, limit: Any, **_: Any) -> Dataset:
    from .ntire import build

    return build(domain, split, root=root, limit=limit)


def _paired_folder(domain: str, split: str, *, root: Any, limit: Any, **_: Any) -> Dataset:
    from .paired_folder import build

    return build(domain, split, root=root, limit=limit)


def _scenes(domain: str, split: str, *, root: Any, protocol: Any, **options: Any) -> Dataset:
    from .hazy_scenes import HazyScenes

    return HazyScenes(domain, split, **options)


def _of(module: str) -> Callable[..., Dataset]:
    """A file of images with labels, imported when called; see `label_files.Source`."""

    def build(
        domain: str, split: str, *, root: Any, limit: Any, protocol: str, **_: Any
    ) -> Dataset:
        from .labelled import Labelled

        source = import_module(f"{__name__}.{module}").source(domain, split, root)
        return Labelled(domain, **source._asdict(), protocol=protocol, limit=limit)

    return build


def _made(summary: str, *, stress: bool = False) -> Domain:
    return Domain(summary, _scenes, ("test",), classes=(), stress=stress, task="dehazing")


def _hazy(summary: str, build: Callable[..., Dataset], data_key: str, *splits: str) -> Domain:
    return Domain(summary, build, splits, classes=(), data_key=data_key, task="dehazing")


def _real(summary: str, module: str, *splits: str, data_key: str = "", **more: Any) -> Domain:
    row = {"splits": splits or ("train", "val", "test"), "classes": CITYSCAPES, **more}
    return Domain(summary, _of(module), data_key=data_key or module, **row)


DOMAINS: dict[str, Domain] = {
    "streets_day": Domain("drawn streets by day, the source", _streets),
    "streets_fog": Domain("drawn streets in fog", _streets),
    "streets_night": Domain("drawn streets by night", _streets),
    "streets_dusk": Domain("drawn streets at dusk", _streets),
    "streets_rain": Domain("drawn streets in rain", _streets),
    "streets_style": Domain("drawn streets by another renderer", _streets),
    "streets_sketch": Domain("edges on paper", _streets, stress=True),
    "streets_invert": Domain("photographic negative", _streets, stress=True),
    "camvid_day": Domain("real streets by day", _camvid, data_key="camvid"),
    "camvid_dusk": Domain(
        "real streets at dusk", _camvid, splits=("train", "test"), data_key="camvid"
    ),
    "gtav": _real("GTAV, rendered, the official split", "gtav"),
    "gtav_val": _real("GTAV as a target: test is the official val", "gtav", "test"),
    "gtav_all": _real("GTAV, all images to train on", "gtav", "train"),
    "synthia": _real("SYNTHIA-RAND-CITYSCAPES, rendered", "synthia", from_disk=("splits",)),
    "urbansyn": _real("UrbanSyn, rendered, all images to train on", "urbansyn", "train"),
    "cityscapes": _real("Cityscapes; test is the official val", "cityscapes"),
    **{
        f"cityscapes_foggy_{beta}": _real(
            f"Cityscapes in made fog of density 0.{beta}", "cityscapes"
        )
        for beta in ("005", "01", "02")
    },
    "bdd100k": _real("BDD100K 10k; test is the official val", "bdd100k"),
    **{
        f"mapillary_{name}": _real(
            f"Mapillary Vistas v1.2, labels as {title} maps them; test is val", "mapillary"
        )
        for name, title in (("robustnet", "RobustNet"), ("rein", "Rein"))
    },
    "acdc": _real("ACDC, fog, night, rain and snow; test is val", "acdc"),
    **{
        f"acdc_{name}": _real(f"ACDC, {name}; test is val", "acdc")
        for name in ("fog", "night", "rain", "snow")
    },
    "image_mask_folder": _real(
        "your own images/ and masks/ of your own classes",
        "image_mask_folder",
        classes=(),
        from_disk=("splits", "classes"),
    ),
    "haze": Domain(
        "drawn streets and photographs in made haze, the source",
        _scenes,
        classes=(),
        task="dehazing",
    ),
    "haze_dense": _made("thicker than any haze of the source"),
    "haze_tinted": _made("coloured air light"),
    "haze_patchy": _made("haze in patches"),
    "haze_camera": _made("sensor noise and JPEG after the haze"),
    "haze_none": _made("no haze: the input is the answer", stress=True),
    "motorcycle_thin": _made("a photograph in haze by its measured depth, t = 0.69"),
    "motorcycle_medium": _made("the same, t = 0.45"),
    "motorcycle_dense": _made("the same, t = 0.26"),
    "its": _hazy("RESIDE ITS, synthetic haze indoors", _reside, "its", "train", "val"),
    "ots": _hazy("RESIDE OTS, synthetic haze outdoors", _reside, "ots", "train", "val"),
    "sots_indoor": _hazy("the test set of ITS", _reside, "sots", "test"),
    "sots_outdoor": _hazy("the test set of OTS", _reside, "sots", "test"),
    "haze4k": _hazy("Haze4K, synthetic haze", _reside, "haze4k", "train", "val", "test"),
    "rtts": _hazy("RESIDE RTTS, real haze without clear images", _reside, "rtts", "unpaired"),
    "o_haze": _hazy("O-HAZE, real haze outdoors, all pairs", _ntire, "o_haze", "test"),
    "i_haze": _hazy("I-HAZE, real haze indoors, all pairs", _ntire, "i_haze", "test"),
    "dense_haze": _hazy("Dense-Haze, real, all pairs", _ntire, "dense_haze", "test"),
    "nh_haze": _hazy("NH-HAZE, real uneven haze, all pairs", _ntire, "nh_haze", "test"),
    **{
        f"{name}_last5": _hazy(
            f"{name} to train on: the last 5 pairs test", _ntire, name, "train", "val", "test"
        )
        for name in ("o_haze", "i_haze", "dense_haze", "nh_haze")
    },
    "paired_folder": _hazy(
        "your own hazy/ and clear/", _paired_folder, "paired_folder", "train", "val", "test"
    ),
}
DOMAINS |= {**boxed_streets(DOMAINS), **BOXED}


def build_domain(
    name: str,
    split: str,
    *,
    preset: str = "quick",
    root: str | Path | None = None,
    size: tuple[int, int] | None = None,
    limit: int | None = None,
    protocol: str = "native",
    empty: str = "keep",
) -> Dataset:
    """Dataset of a domain; items as above.

    preset: picture size, and for streets the number of scenes. root: folder of a domain that is
    read from disk. size: (height, width) in pixels, in place of the preset's; pairs on disk keep
    theirs. limit: at most so many items. protocol: name in PROTOCOLS, how the real sets of
    CITYSCAPES and your own are evaluated; others ignore it. empty: of detection, "keep" or "drop"
    images that show no object; others ignore it. Raises KeyError for an unknown name or
    protocol, ValueError for an unknown split or preset, a limit below 1, a size below 16 or a
    missing root.
    """
    domain = domain_of(name)
    known("protocol", protocol, PROTOCOLS)
    if preset not in PRESETS:
        raise ValueError(f"preset must be one of {', '.join(PRESETS)}, got {preset!r}")
    if size is not None and (len(size) != 2 or min(size) < 16):
        raise ValueError(f"size must be (height, width), each at least 16, got {size}")
    _check_root(name, root)
    base, _, label = name.partition(":")
    options: dict[str, Any] = {"preset": preset, "root": root, "size": size, "limit": limit}
    if domain.task == "detection":
        options["empty"] = empty
    dataset: Any = domain.build(base, split, protocol=protocol, **options)
    if label:
        dataset.domain = name
    return dataset


def domain_of(name: str) -> Domain:
    """The row of a domain in DOMAINS.

    A domain that is read from a folder may carry a label of one's own, as in coco_json:night, so
    that one run can read several folders of one format: `--data coco_json:night=DIR`.

    Raises: KeyError for an unknown name, ValueError for a label of a domain that has no folder and
    for one of other characters than letters, digits, "_" and "-".
    """
    base, colon, label = name.partition(":")
    domain = DOMAINS[known("domain", base, DOMAINS)]
    if label and not re.fullmatch("[A-Za-z0-9_-]+", label):  # it goes into names of files
        raise ValueError(
            f"the label of a domain must be of letters, digits, '_' and '-', got {name!r}"
        )
    if colon and not (label and domain.data_key):
        raise ValueError(
            f"domain must be a name, or that of a domain read from a folder with a label after a "
            f"colon, got {name!r}"
        )
    return domain


def key_of(name: str) -> str:
    """KEY of the option `--data KEY=DIR` that gives a domain its folder; "" for one without."""
    return name if ":" in name else domain_of(name).data_key


def root_of(name: str, roots: Mapping[str, str]) -> str | None:
    """Folder of a domain among those of `--data KEY=DIR`: under its own name, else its data_key.

    That of a domain with a label stands under its own name only. Raises as `domain_of`.
    """
    domain = domain_of(name)
    return roots.get(name, None if ":" in name else roots.get(domain.data_key))


def classes(name: str, root: str | Path | None = None) -> tuple[str, ...]:
    """Class names of a domain in the order of its targets.

    root: folder of a domain whose classes are read from it. Raises KeyError for an unknown name,
    ValueError for such a domain without root, and what reading the folder raises.
    """
    return _of_row(name, "classes", root)


def splits(name: str, root: str | Path | None = None) -> tuple[str, ...]:
    """The splits that a domain has, in this folder where that depends on it; as `classes`."""
    return _of_row(name, "splits", root)


def _of_row(name: str, what: str, root: str | Path | None) -> tuple[str, ...]:
    domain = domain_of(name)
    if what not in domain.from_disk:
        return getattr(domain, what)
    _check_root(name, root)
    return getattr(import_module(f"{__name__}.{name.partition(':')[0]}"), what)(root)


def _check_root(name: str, root: str | Path | None) -> None:
    key = key_of(name)
    if key and root is None:
        raise ValueError(
            f"{name} is read from a folder: give root=DIR (on the command line "
            f"--data {key}=DIR), got None"
        )
