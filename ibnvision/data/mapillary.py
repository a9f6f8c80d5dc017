"""Mapillary Vistas v1.2 from the folders that people have on disk, under two label maps.

The folder given is the set, or one that holds it as `mapillary*` or `vistas*`. There, names in any
case:

    {training,validation}/images/*.jpg  with  {training,validation}/v1.2/labels/*.png   (v2.0 files)
                                    or  with  {training,validation}/labels/*.png        (v1.2 files)

and `config_v1.2.json` or `config.json`, whose label names must be those of v1.2: labels of another
version have other ids. Labels are palettes of these ids. The official test labels are not public,
so `test` is the validation folder (2,000 images).

`mapillary_robustnet` and `mapillary_rein` differ in eleven ids, see `label_maps`; published numbers
are of the one or the other.

Neuhold et al., ICCV 2017. For research; not in this package.
"""

import json
from pathlib import Path

from .label_files import Source, find_split, label_pairs, official
from .label_maps import decoder
from .layout import contents

DOMAINS = ("mapillary_robustnet", "mapillary_rein")  # the names of their label maps too
HOMES = (".", "mapillary*", "*vistas*", "mapillary*/*vistas*")
FOLDERS = {"train": "training", "val": "validation"}
IMAGES = ("{}/images",)
LABELS = ("{}/v1.2/labels", "{}/labels")
CONFIGS = ("config_v1.2.json", "config.json")
# The ids that either map scores, as v1.2 names them.
NAMES = {
    2: "construction--barrier--curb",
    3: "construction--barrier--fence",
    6: "construction--barrier--wall",
    7: "construction--flat--bike-lane",
    8: "construction--flat--crosswalk-plain",
    9: "construction--flat--curb-cut",
    10: "construction--flat--parking",
    11: "construction--flat--pedestrian-area",
    13: "construction--flat--road",
    14: "construction--flat--service-lane",
    15: "construction--flat--sidewalk",
    17: "construction--structure--building",
    19: "human--person",
    20: "human--rider--bicyclist",
    21: "human--rider--motorcyclist",
    22: "human--rider--other-rider",
    23: "marking--crosswalk-zebra",
    24: "marking--general",
    27: "nature--sky",
    29: "nature--terrain",
    30: "nature--vegetation",
    41: "object--manhole",
    44: "object--street-light",
    45: "object--support--pole",
    46: "object--support--traffic-sign-frame",
    47: "object--support--utility-pole",
    48: "object--traffic-light",
    49: "object--traffic-sign--back",
    50: "object--traffic-sign--front",
    52: "object--vehicle--bicycle",
    54: "object--vehicle--bus",
    55: "object--vehicle--car",
    57: "object--vehicle--motorcycle",
    58: "object--vehicle--on-rails",
    61: "object--vehicle--truck",
}


def source(domain: str, split: str, root: str | Path) -> Source:
    """A domain of DOMAINS in `root`; layouts and splits as above.

    Raises what `Source` says, FileNotFoundError (no config) and ValueError (a config of another
    version).
    """
    folder, words = official(domain, split)
    title = "Mapillary Vistas v1.2"
    place = find_split(title, root, FOLDERS[folder], IMAGES, LABELS, HOMES)
    check_version(place.home)
    files = label_pairs(place, lambda stem: [f"{stem}.png"])
    return Source(files, decoder(domain), place.home, domain, words, kind="mapillary")


def check_version(home: Path) -> None:
    """Compares the label names of the config in `home` with those of v1.2.

    Raises FileNotFoundError (no config) and ValueError (it is no config, or of another version).
    """
    path = next((home / name for name in CONFIGS if (home / name).is_file()), None)
    if path is None:
        raise FileNotFoundError(
            f"Mapillary Vistas v1.2 must have {' or '.join(CONFIGS)} in {str(home)!r}, which names "
            f"its labels; {contents(home)}"
        )
    try:
        names = [label["name"] for label in json.loads(path.read_text(encoding="utf-8"))["labels"]]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{str(path)!r} must hold `labels`, a list of objects with `name`, got "
            f"{type(error).__name__}: {error}"
        ) from error
    for number, name in NAMES.items():
        found = names[number] if number < len(names) else "nothing"
        if found != name:
            raise ValueError(
                f"{str(path)!r} must name the labels of Mapillary Vistas v1.2, where {number} is "
                f"{name}, got {found} and {len(names)} labels: this is another version, whose "
                "labels have other ids"
            )
