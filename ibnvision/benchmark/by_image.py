"""What each test image adds to the scores of a finished run, kept in the run's folder.

Of every domain a file by_image/DOMAIN.npz, of a row that trains nothing by_image/ROW/DOMAIN.npz,
with the key of what it was measured of: the checkpoint, what stands beside it, the set and how the
task looks at an image. Where the key is another one, it is measured anew.
"""

import hashlib
import io
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ibnvision import engine
from ibnvision.config import Config
from ibnvision.data.paired import digest as digest_of_file
from ibnvision.engine import sets
from ibnvision.engine.checkpoint import write_atomic
from ibnvision.engine.evaluation import send_to_device
from ibnvision.engine.predict import Trained, load_trained
from ibnvision.engine.processes import start
from ibnvision.metrics import by_image
from ibnvision.metrics.by_image import Statistics

from .plans import Job, dataset_of, digest, final_scores, slug

FOLDER = "by_image"
FORMAT = 1  # of the files; another one is measured anew
TOLERANCE = 1e-3  # points between the score of the images and the one in the run's log


@dataclass(frozen=True)
class Again:
    """A row that trains nothing: finished runs, measured once more with something beside them.

    row: its name. job: the run of this seed. made_of: what stands beside the network, as a hash or
    other plain values. load: the network of both, ready to evaluate. logged: domain -> the metric's
    fields of it over each whole set. at_work: as load, but what stands beside acts on every image,
    for its cost; None: it does so as loaded.
    """

    row: str
    job: Job
    made_of: Any
    load: Callable[[], Trained]
    logged: Mapping[str, Mapping[str, Any]]
    at_work: Callable[[], Trained] | None = None


def as_trained(job: Job) -> Again:
    """A finished run as its own row."""
    weights = job.folder / "last.pt"
    return Again(job.row.name, job, None, lambda: load_trained(weights), final_scores(job) or {})


def of_run(
    again: Again, domains: Sequence[str], say: Callable[[str], None] = print
) -> dict[str, Statistics]:
    """Domain -> statistics of its test split under the last checkpoint of a finished run.

    As `metrics.by_image.statistics` gives them, and `scenes`: see `measured`.

    Raises: FileNotFoundError where the run has no checkpoint; ValueError where a domain is not in
    its log, or stands there at another score: weights and log do not belong together.
    """
    job, weights = again.job, again.job.folder / "last.pt"
    if not weights.is_file():
        raise FileNotFoundError(f"job must be a finished run, there is no {weights}")
    task, sha256 = engine.find_task(job.cfg), digest_of_file(weights)
    beside = [again.made_of] if again.made_of is not None else []
    folder = job.folder / FOLDER / (slug(again.row) if beside else "")
    trained, found, new = None, {}, 0
    for domain in domains:
        if domain not in again.logged:
            raise ValueError(f"domains must be in the log of {job.folder}, got {domain!r}")
        fingerprint = dataset_of(job.cfg, domain, "test").fingerprint()
        key = digest(FORMAT, sha256, fingerprint, task.facts(job.cfg), *beside)
        path = folder / f"{domain.replace(':', '_')}.npz"
        kept = read(path, key)
        fresh = kept is None
        if kept is None:
            trained = trained or again.load()
            kept = measured(job.cfg, trained.model, domain, trained.classes)
        _check(job, domain, kept, task.score, again.logged[domain][task.score])
        if fresh:
            write(path, key, kept)
            new += int(kept["images"])
        found[domain] = kept
    if new:
        say(f"{again.row}, seed {job.seed}: {new} images one by one")
    return found


@torch.no_grad()
def measured(cfg: Config, model: nn.Module, domain: str, classes: Sequence[str]) -> Statistics:
    """What each image of a domain's test split adds, evaluated as in `engine.evaluate`.

    `scenes` tells sets apart that show other scenes: the hash of all targets. Domains that differ
    in appearance alone have the same.
    """
    task, device = engine.find_task(cfg), start(cfg).device
    dataset: Any = sets.build(cfg, domain, "test")
    batches = sets.loader(cfg, dataset, batch_size=sets.evaluation_batch(task, dataset))
    training, model = model.training, model.to(device).eval()
    metrics, scenes = [], hashlib.sha256()
    for batch in batches:
        for target in batch["target"]:
            _update(scenes, target)
        given = task.evaluate(model, send_to_device(batch, device), cfg)
        for i in range(len(given[0])):
            metrics.append(task.new_metric(classes))
            metrics[-1].update(*(column[i : i + 1] for column in given))
    model.train(training)
    return {**by_image.statistics(metrics), "scenes": np.array(scenes.hexdigest())}


def _update(scenes: Any, target: Any) -> None:
    """Hash a target: a tensor, or a mapping of them by name."""
    if isinstance(target, Tensor):
        scenes.update(f"{target.dtype} {list(target.shape)}".encode() + target.numpy().tobytes())
    else:
        for name in sorted(target):
            scenes.update(name.encode())
            _update(scenes, target[name])


def _check(job: Job, domain: str, found: Statistics, field: str, logged: float | None) -> None:
    expected = np.nan if logged is None else logged
    value = by_image.whole(found, field)
    if not np.isclose(value, expected, rtol=0, atol=TOLERANCE, equal_nan=True):
        raise ValueError(
            f"last.pt of {job.folder} and what was logged of it must belong together, but {field} "
            f"on {domain} is {value:.4f} by the weights and {expected:.4f} in the log"
        )


def write(path: Path, key: str, found: Statistics) -> None:
    """Keep what `read` finds under the same key."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, key=np.array(key), **found)  # type: ignore[arg-type]
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, buffer.getvalue())


def read(path: Path, key: str) -> Statistics | None:
    """What a file holds; None where it is missing, damaged or of another key."""
    try:
        with np.load(path) as file:
            if str(file["key"]) != key:
                return None
            return {name: file[name] for name in file.files if name != "key"}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None
