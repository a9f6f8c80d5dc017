"""What the severity benchmark measures: networks of a finished study on changed pictures."""

import dataclasses
import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from torch.utils.data import Dataset

from ibnvision.config import Config
from ibnvision.data.corruptions import VERSION, corrupt, corruption_seed
from ibnvision.data.names import known
from ibnvision.engine import evaluation, find_task, processes, sets
from ibnvision.engine.predict import Trained, load_trained
from ibnvision.engine.progress import StopRequest

from . import record
from .plans import digest

PICTURES = {"segmentation": 100, "detection": 32, "dehazing": 32}  # task -> first ones of a split
SPLIT, SEED = "test", 0  # of the pictures, of their corruptions
HELD_BYTES = 2**27  # of corrupted pictures in memory, about
SAY_EVERY_S = 20.0
UNFIT = {  # corruptions that dehazing leaves out
    "elastic_transform": "it moves what is seen away from the clear picture",
    "fog_depth": "it lays fog over what is hazy already",
}


class Network(NamedTuple):
    """A trained network of a study."""

    row: str
    seed: int
    weights: Path


class Condition(NamedTuple):
    """How the pictures of a domain are shown: as they are, corrupted, or at another scale.

    scale: 0 leaves the pictures to the config of the network.
    """

    domain: str
    corruption: str = ""
    severity: int = 0
    scale: float = 0.0

    @property
    def name(self) -> str:
        """As `ibnvision.engine.evaluate` names it."""
        shown = f"@{self.corruption}_{self.severity}" if self.corruption else ""
        return f"{self.domain}{shown}"


def networks(
    folder: Path,
    results: Mapping[str, Any],
    rows: Sequence[str] | None = None,
    seeds: Sequence[int] | None = None,
) -> tuple[list[Network], dict[str, str]]:
    """Those of a study by its results.json, and row -> why it is left out; None: all of them.

    Raises: KeyError for a row, ValueError for a seed that the study does not have, or where nothing
    is left, FileNotFoundError for a checkpoint that is gone.
    """
    task, found, left = results["config"]["task"], [], {}
    names = [row["name"] for row in results["rows"]]
    for name in rows or ():
        known("row", name, names)
    trained = {run["seed"] for row in results["rows"] for run in row["runs"]}
    if strange := sorted(set(seeds or ()) - trained):
        raise ValueError(f"seeds must be among {sorted(trained)} of the study, got {strange}")
    for row in results["rows"]:
        if rows and row["name"] not in rows:
            continue
        runs = [run for run in row["runs"] if not seeds or run["seed"] in seeds]
        if any(run.get("restored") for run in runs):
            left[row["name"]] = "the study does not hold the restorer that stood in front of it"
        elif not runs:
            left[row["name"]] = "no training finished"
        else:
            places = [folder / "runs" / task / Path(run["folder"]).name for run in runs]
            found += [
                Network(row["name"], run["seed"], place / "last.pt")
                for run, place in zip(runs, places, strict=True)
            ]
    if not found:
        raise ValueError(f"rows must leave a network to measure, got none: {left}")
    for network in found:
        if not network.weights.is_file():
            raise FileNotFoundError(f"the study's {network.weights} is gone: train that row again")
    return found, left


def fitting(task: str, corruptions: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """The corruptions that say something in a task, and those left out with the reason."""
    left = {name: UNFIT[name] for name in corruptions if task == "dehazing" and name in UNFIT}
    return [name for name in corruptions if name not in left], left


class Held(Dataset):
    """Items in memory, with what `sets` and `Corrupted` ask of the set that they come from."""

    def __init__(self, items: Sequence[dict], origin: Dataset) -> None:
        self.items = list(items)
        for name in ("domain", "protocol", "scene"):
            if hasattr(origin, name):
                setattr(self, name, getattr(origin, name))

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> dict:
        return self.items[index]


class Pictures:
    """The first `count` pictures of the test split of each domain, clean and corrupted.

    In dehazing the hazy picture alone is corrupted; the clear one stays as it is.
    """

    def __init__(self, cfg: Config, domains: Sequence[str], count: int) -> None:
        self.cfg = dataclasses.replace(cfg, scenes="")  # nothing is written into the study
        self.clean: dict[str, Held] = {}
        self.hashes: dict[str, str] = {}
        for domain in domains:
            whole: Any = sets.build(self.cfg, domain, SPLIT)
            taken = min(count, len(whole))
            self.clean[domain] = Held([whole[i] for i in range(taken)], whole)
            self.hashes[domain] = digest(whole.fingerprint(), taken)

    def identity(self, condition: Condition) -> list[Any]:
        """Plain values that decide what is shown."""
        changed = [condition.corruption, condition.severity, SEED, VERSION]
        return [self.hashes[condition.domain], *(changed if condition.corruption else [])]

    def nbytes(self, domain: str) -> int:
        """About the bytes of one set."""
        held = self.clean[domain]
        return len(held) * 2 * int(held[0]["image"].nbytes)

    def shown(self, condition: Condition) -> Held:
        """The set under a condition, the scale aside: that is the network's to apply."""
        clean, name = self.clean[condition.domain], condition.corruption
        if not name:
            return clean
        if self.cfg.task != "dehazing":
            found = sets.corrupted(self.cfg, condition.domain, clean, [name], [condition.severity])
            changed: Any = found[condition.name]
            return Held([changed[i] for i in range(len(clean))], clean)
        items = []
        for index, item in enumerate(clean.items):
            seed = corruption_seed(index, name, condition.severity, SEED)
            items.append(item | {"image": corrupt(item["image"], name, condition.severity, seed)})
        return Held(items, clean)


class Scores:
    """The task's score of networks under conditions, kept in a file of JSON lines as they come."""

    def __init__(self, path: Path, pictures: Pictures, say: Callable[[str], None]) -> None:
        self.path, self.pictures, self.say = path, pictures, say
        lines = path.read_text("utf-8").splitlines() if path.is_file() else []
        self.known: dict[str, dict[str, Any]] = {r["key"]: r for r in map(json.loads, lines)}
        self.accelerator = processes.start(_alone(pictures.cfg))
        self._hashes: dict[Path, str] = {}

    def of(self, network: Network, condition: Condition) -> float | None:
        """What was measured; None where it is undefined. KeyError before `measure`."""
        return self.known[self._key(network, condition)]["score"]

    def cpu_s(self, network: Network, conditions: Sequence[Condition]) -> float:
        """CPU seconds that the scores of a network took, the pictures aside."""
        return sum(self.known[self._key(network, c)]["cpu_s"] for c in conditions)

    def measure(
        self, found: Sequence[Network], conditions: Sequence[Condition], stop: StopRequest
    ) -> None:
        """Whatever is missing: corrupted pictures are made once, and every network reads them.

        Raises: KeyboardInterrupt where a stop is asked for; called again, it goes on.
        """
        whole = [(n, c) for c in conditions for n in found]
        left = sum(self._key(*pair) not in self.known for pair in whole)
        self.say(f"{len(whole)} scores of {len(found)} networks, {len(whole) - left} known before")
        begin = said = time.perf_counter()
        done = 0
        for chunk in self._chunks(conditions):
            missing = {n: [c for c in chunk if self._key(n, c) not in self.known] for n in found}
            shown = {}
            for c in dict.fromkeys(c for mine in missing.values() for c in mine):
                stop.check()
                shown[c] = self.pictures.shown(c)
            for network, mine in missing.items():
                trained = load_trained(network.weights) if mine else None
                for c in mine:
                    stop.check()
                    assert trained is not None
                    self._put(network, c, self._score(trained, shown[c], c, stop))
                    done += 1
                    now = time.perf_counter()
                    if now - said > SAY_EVERY_S:
                        rest, said = (now - begin) / done * (left - done), now
                        self.say(f"{left - done} scores remain, about {rest / 60:.1f} minutes")

    def _chunks(self, conditions: Sequence[Condition]) -> Iterator[list[Condition]]:
        """Parts whose pictures fit into HELD_BYTES."""
        chunk: list[Condition] = []
        held = 0
        for c in conditions:
            size = self.pictures.nbytes(c.domain) if c.corruption else 0
            if chunk and held + size > HELD_BYTES:
                yield chunk
                chunk, held = [], 0
            chunk.append(c)
            held += size
        if chunk:
            yield chunk

    def _score(
        self, trained: Trained, held: Held, c: Condition, stop: StopRequest
    ) -> tuple[float, float]:
        """The score, and the CPU seconds that it took."""
        cfg, begin = _alone(trained.cfg), time.process_time()
        if c.scale:
            cfg = dataclasses.replace(cfg, eval_scales=(c.scale,))
        task, model, classes = find_task(cfg), trained.model, trained.classes
        found = evaluation.evaluate_sets(
            cfg, task, model, {c.name: held}, SPLIT, classes, self.accelerator, stop=stop
        )
        return float(found[c.name][task.score]), time.process_time() - begin

    def _put(self, network: Network, condition: Condition, measured: tuple[float, float]) -> None:
        score, cpu_s = measured
        row: dict[str, Any] = {"key": self._key(network, condition)}
        row |= {"row": network.row, "seed": network.seed, **condition._asdict()}
        row |= {"score": score if score == score else None, "cpu_s": cpu_s}  # NaN is not itself
        record.append(self.path, [row])
        self.known[row["key"]] = row

    def _key(self, network: Network, condition: Condition) -> str:
        if network.weights not in self._hashes:
            read = network.weights.read_bytes()
            self._hashes[network.weights] = hashlib.sha256(read).hexdigest()
        identity = self.pictures.identity(condition)
        return digest(self._hashes[network.weights], identity, condition.scale)


def _alone(cfg: Config) -> Config:
    """A config for one process of one thread on the CPU."""
    return dataclasses.replace(cfg, workers=0, threads=1, device="cpu", scenes="")
