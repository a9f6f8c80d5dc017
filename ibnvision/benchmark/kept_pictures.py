"""Sample predictions beside the records: what a study drew, made small, and an index of it.

The folder pictures beside a file of records holds WebP files and index.jsonl, a line a picture. A
domain that is read from a user's folder is named there without a picture: the terms of its frames
let them be looked at, not be passed on.
"""

import hashlib
import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from PIL import Image

from ibnvision import data

from . import dehazing_scores, pictures, record
from .plans import Row

Results = Mapping[str, Any]

FOLDER, INDEX = "pictures", "index.jsonl"
LARGEST, STUDY = 60_000, 350_000  # bytes of a picture, of all pictures of a study
STEPS = (  # width in pixels, quality of WebP; the first that keeps both bounds is taken
    (1216, 70),
    (1024, 60),
    (900, 55),
    (900, 45),
    (720, 50),
    (640, 45),
    (560, 45),
    (480, 40),
    (320, 30),
)


@dataclass(frozen=True)
class Sample:
    """A picture and what it shows; `file` and size are empty where none may be kept."""

    question: str
    run: str
    study: str  # of the records; empty where they name none
    domain: str
    role: str
    rows: tuple[str, ...]
    seed: int
    step: int
    protocol: str
    commit: str
    words: str
    classes: tuple[str, ...] = ()  # whose colours are the prediction
    file: str = ""
    width: int = 0
    height: int = 0


@dataclass(frozen=True)
class Drawn:
    """A file of a study's folder of pictures; scenes: of one height, below each other."""

    file: str
    domain: str
    rows: tuple[str, ...]
    words: str
    scenes: int = 1


def _segmented(results: Results) -> list[Drawn]:
    words = (
        "Input, target and what each row predicts for the first two scenes of the test split; "
        "black pixels of a target are not counted. The number above a row is its score below."
    )
    rows = tuple(row["name"] for row in results["rows"] if row["runs"])
    found = results["pictures"]["predictions"]
    return [Drawn(name, domain, rows, words) for domain, name in found.items()]


def _detected(results: Results) -> list[Drawn]:
    words = "Target and what the row finds in the first scene of the test split."
    return [
        Drawn(name, domain, (row,), words, len(pictures.SCENES))
        for domain, rows in results["pictures"]["detections"].items()
        for row, name in rows.items()
    ]


def _dehazed(results: Results) -> list[Drawn]:
    words = (
        "Hazy input, restored by the dark channel prior and by DEA-Net, and clear: the first "
        "picture of the test split. Numbers above are of this picture, those below of the split."
    )
    rows = (dehazing_scores.IDENTITY, dehazing_scores.PRIOR, dehazing_scores.FULL)
    return [Drawn(name, domain, rows, words) for domain, name in results["pictures"].items()]


# question -> what its results.json says of the pictures
DRAWN: dict[str, Callable[[Results], list[Drawn]]] = {
    "generalization": _segmented,
    "detection": _detected,
    "dehazing": _dehazed,
}


def keep_pictures(
    results: Results, found: Sequence[record.Record], folder: Path, file: str | Path | None
) -> list[Path]:
    """Keep a study's pictures beside a file of records, in place of those that it kept before.

    Args:
        results: its results.json, with `pictures`.
        found: its records.
        folder: where the pictures lie.
        file: the file of records; nothing is kept where none is named or nothing was drawn.

    Returns the paths of the pictures. Raises KeyError for a question that draws none.
    """
    if not file or not results.get("pictures"):
        return []
    target = Path(file).parent / FOLDER
    first = found[0]
    if first["bench"] not in DRAWN:
        raise KeyError(f"no pictures are kept of {first['bench']!r}, only of {', '.join(DRAWN)}")
    every, given = DRAWN[first["bench"]](results), results["config"]["data"]
    foreign = {one.domain: one for one in every if data.root_of(one.domain, given)}
    drawn = [one for one in every if one.domain not in foreign]
    samples = _with_files(results, first, _distinct(drawn, folder))
    samples |= {_sample(results, first, one): b"" for one in foreign.values()}
    for sample, content in samples.items():
        if sample.file:
            record.replace_file(target / sample.file, content)
    _rewrite_index(target, first["bench"], _study(first), list(samples))
    return [target / sample.file for sample in samples if sample.file]


def read(folder: Path) -> list[tuple[Sample, bytes]]:
    """What is kept in the folder pictures of a folder of records; nothing where there is none."""
    place = folder / FOLDER
    return [(s, (place / s.file).read_bytes() if s.file else b"") for s in _index(place)]


def _index(place: Path) -> list[Sample]:
    if not (place / INDEX).is_file():
        return []
    lines = map(json.loads, (place / INDEX).read_text(encoding="utf-8").splitlines())
    return [
        Sample(**line | {key: tuple(line[key]) for key in ("rows", "classes")}) for line in lines
    ]


def _rewrite_index(place: Path, question: str, study: str, new: Sequence[Sample]) -> None:
    """The index with a study's lines replaced; then remove the files that none names any more."""
    old = _index(place)
    lines = [s for s in old if (s.question, s.study) != (question, study)] + list(new)
    text = "".join(json.dumps(asdict(sample)) + "\n" for sample in lines)
    record.replace_file(place / INDEX, text)
    for name in {s.file for s in old if s.file} - {s.file for s in lines}:
        (place / name).unlink(missing_ok=True)


def _study(first: record.Record) -> str:
    """What tells the studies of a question apart; "" where there is one alone."""
    return str(first.get("study", record.about(first)))


def _distinct(drawn: Sequence[Drawn], folder: Path) -> list[tuple[Drawn, Image.Image]]:
    """The first scenes; rows whose pictures of a domain are the same share one."""
    found: dict[tuple[str, str], tuple[Drawn, Image.Image]] = {}
    for one in drawn:
        content = (folder / one.file).read_bytes()
        key = one.domain, hashlib.sha256(content).hexdigest()
        if key in found:
            first, picture = found[key]
            found[key] = replace(first, rows=first.rows + one.rows), picture
        else:
            picture = Image.open(io.BytesIO(content)).convert("RGB")
            found[key] = one, picture.crop((0, 0, picture.width, picture.height // one.scenes))
    return list(found.values())


def _with_files(
    results: Results, first: record.Record, drawn: Sequence[tuple[Drawn, Image.Image]]
) -> dict[Sample, bytes]:
    """Sample -> its file's content."""
    shrunk = _shrunk([picture for _, picture in drawn])
    domains = [one.domain for one, _ in drawn]
    found = {}
    for (one, _), (content, (width, height)) in zip(drawn, shrunk, strict=True):
        parts = [first["bench"], _study(first), one.domain]
        parts += [one.rows[0]] if domains.count(one.domain) > 1 else []
        name = "-".join(Row(part, ()).key for part in parts if part) + ".webp"
        sample = _sample(results, first, one)
        found[replace(sample, file=name, width=width, height=height)] = content
    return found


def _shrunk(drawn: Sequence[Image.Image]) -> list[tuple[bytes, tuple[int, int]]]:
    """All of them at the first of STEPS at which they keep the bounds, else at the last."""
    for width, quality in STEPS:
        made: list[tuple[bytes, tuple[int, int]]] = []
        for picture in drawn:
            made.append(_webp(picture, width, quality))
            fits = len(made[-1][0]) <= LARGEST and sum(len(b) for b, _ in made) <= STUDY
            if not fits and (width, quality) != STEPS[-1]:
                break
        else:
            break
    return made


def _webp(picture: Image.Image, width: int, quality: int) -> tuple[bytes, tuple[int, int]]:
    """Its file and size, no wider than `width`."""
    if picture.width > width:
        height = round(picture.height * width / picture.width)
        picture = picture.resize((width, height), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    picture.save(buffer, "WEBP", quality=quality, method=6)
    return buffer.getvalue(), picture.size


def _sample(results: Results, first: record.Record, one: Drawn) -> Sample:
    """What a picture shows: networks of the first seed at their last step."""
    runs = [run for row in results["rows"] if row["name"] in one.rows for run in row["runs"]]
    return Sample(
        question=first["bench"],
        run=first["run"],
        study=_study(first),
        domain=one.domain,
        role=results["roles"][one.domain],
        rows=one.rows,
        seed=runs[0]["seed"],
        step=results.get("steps", {}).get(one.rows[0], results["config"]["steps"]),
        protocol=results["protocol"],
        commit=first["commit"],
        words=one.words,
        classes=tuple(results.get("classes", ())),
    )
