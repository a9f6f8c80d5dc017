"""What a benchmark trains: its rows and seeds, on which data, under which hash."""

import dataclasses
import hashlib
import json
import re
import sys
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ibnvision import config, data, engine
from ibnvision.config import Config
from ibnvision.data.shifts import APPEARANCE_HASH
from ibnvision.engine.run_folder import HARMLESS
from ibnvision.engine.sets import available


@dataclass(frozen=True)
class Row:
    """A line of the table: its name, and what it changes in the config."""

    name: str
    overrides: tuple[str, ...]

    @property
    def key(self) -> str:
        """Its name as part of a file's."""
        return slug(self.name)


def slug(name: str) -> str:
    """A name as part of a file's."""
    return re.sub("[^a-z0-9]+", "_", name.lower()).strip("_")


def read_row(path: Path) -> Row:
    """A row from a TOML file: its `name`, and what it changes in the config, as a config has it.

    Raises: FileNotFoundError, and ValueError for a file that is no TOML or has no name.
    """
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise FileNotFoundError(f"no row file {path}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not valid TOML: {error}") from None
    name = values.pop("name", None)
    if not isinstance(name, str) or not re.search("[a-z0-9]", name.lower()):
        raise ValueError(f"{path} must hold the row's name, as text, got name = {name!r}")
    return Row(name, tuple(_assignments(values)))


def _assignments(values: Mapping[str, Any], place: str = "") -> Iterator[str]:
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _assignments(value, f"{place}{key}.")
        else:
            yield f"{place}{key}={json.dumps(value)}"


def _norm_row(name: str, ibn: str, augment: str) -> Row:
    return Row(name, (f"model_args.backbone_args.ibn={ibn}", f"augment={augment}"))


def _isw_row(name: str, augment: str) -> Row:
    """Collected over 500 images, as RobustNet does, after 5 epochs of 20 steps; there after 6."""
    isw = 'model_args.whitening={kind="isw", begin=100, collect=31, clusters=3}'
    return Row(name, (isw, f"augment={augment}"))


def _mixstyle_row(name: str, augment: str) -> Row:
    """After the first two stages, in half of the batches, as in the paper's ResNet-18."""
    return Row(
        name,
        ("model_args.backbone_args.ibn=none", "model_args.mixstyle=[1,2]", f"augment={augment}"),
    )


ROWS = (  # of the generalization benchmark
    _norm_row("BN", "none", "flip"),
    _norm_row("BN + jitter", "none", "jitter"),
    _norm_row("IBN-a", "a", "flip"),
    _norm_row("IBN-b", "b", "flip"),
)
FULL_ROWS = (  # of its full preset: every norm with and without the augmentation
    *ROWS,
    _norm_row("IBN-a + jitter", "a", "jitter"),
    _norm_row("IBN-b + jitter", "b", "jitter"),
    _isw_row("ISW", "flip"),
    _isw_row("ISW + jitter", "jitter"),
    _mixstyle_row("MixStyle", "flip"),
    _mixstyle_row("MixStyle + jitter", "jitter"),
)
PHOTOGRAPHS = ("motorcycle_",)  # real, though they need no folder
STRESS = ("streets_sketch", "streets_invert")
CAMVID = ("camvid_day", "camvid_dusk")
NOT_PROTOCOL = (*HARMLESS, "seed", "data", "oracle")
LATER = (  # younger than recorded protocols: left out where they do nothing
    *("loss_args", "lr_end", "backbone_lr", "scale", "class_uniform", "sync_norm"),
    *("protocol", "eval_scales", "eval_flip", "empty_images"),
)


@dataclass(frozen=True)
class Job:
    """One training."""

    row: Row
    seed: int
    cfg: Config
    overrides: tuple[str, ...]
    protocol: str
    base: Config  # what all rows of the plan share

    @property
    def folder(self) -> Path:
        return Path(self.cfg.out) / self.cfg.task / self.cfg.name

    def command(self, config_name: str, *flags: str) -> list[str]:
        return [sys.executable, "-m", "ibnvision", "train", config_name, *self.overrides, *flags]


def roles_of(cfg: Config) -> dict[str, str]:
    """Domain -> source, target, stress or real, of everything that `cfg` trains on or tests.

    A network that was trained on real frames has real targets, with no role of their own.
    """
    roles = dict.fromkeys(cfg.train_domains, "source")
    drawn = not any(data.domain_of(name).data_key for name in cfg.train_domains)
    for name in cfg.test_domains:
        domain = data.domain_of(name)
        real = drawn and (domain.data_key or name.startswith(PHOTOGRAPHS))
        roles.setdefault(name, "stress" if domain.stress else "real" if real else "target")
    return roles


def splits_of(cfg: Config) -> list[tuple[str, str]]:
    """(domain, split) of everything that is trained on or evaluated."""
    found: list[tuple[str, str]] = []
    for domain in cfg.train_domains:
        there = data.splits(domain, data.root_of(domain, cfg.data))
        found += [(domain, split) for split in ("train", "val", "test") if split in there]
    return found + [(d, "test") for d in cfg.test_domains if d not in cfg.train_domains]


def fingerprints(cfg: Config) -> dict[str, str]:
    """ "domain split" -> hash of what is trained on or evaluated."""
    return {f"{d} {s}": dataset_of(cfg, d, s).fingerprint() for d, s in splits_of(cfg)}


def dataset_of(cfg: Config, domain: str, split: str, limit: int | None = None) -> Any:
    root = data.root_of(domain, cfg.data)
    size: Any = tuple(cfg.size) or None
    how: dict[str, Any] = {"preset": cfg.preset, "size": size, "empty": cfg.empty_images}
    return data.build_domain(domain, split, root=root, limit=limit, **how)


def digest(*parts: Any) -> str:
    """SHA-256 of plain values."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def settings_of(cfg: Config) -> dict[str, Any]:
    """A config as plain values, without seed, names and what does nothing."""
    values, defaults = config.to_dict(cfg), config.to_dict(Config())
    idle = [key for key in LATER if values[key] == defaults[key]]
    return {k: v for k, v in values.items() if k not in (*NOT_PROTOCOL, *idle)}


def protocol_of(prints: Mapping[str, str], cfg: Config) -> str:
    """Hash of the data, the appearance recipe and the config of one training without its seed."""
    return digest(dict(prints), APPEARANCE_HASH, [settings_of(cfg)])


def plan(
    config_name: str,
    seeds: Sequence[int],
    overrides: Sequence[str],
    out: Path,
    *,
    rows: Sequence[Row] = ROWS,
) -> list[Job]:
    """All trainings of the generalization benchmark in segmentation; see plan_rows."""
    base = config.load(config_name, overrides)
    fitting = [fitted(row, base) if row in FULL_ROWS else row for row in rows]
    return plan_rows(fitting, tests_of(base), config_name, seeds, overrides, out)


def fitted(row: Row, base: Config) -> Row:
    """A row of the drawn streets for another config: its norm placed into a network that is none of
    resnet*_ibn, and its augmentation beside that of the config, which all rows keep.
    """
    found = []
    for word in row.overrides:
        key, _, value = word.partition("=")
        if key == "model_args.backbone_args.ibn" and "_ibn_" not in base.model:
            found += [] if value == "none" else [f"model_args.norm=ibn_{value}"]
        elif key == "augment" and base.augment not in ("none", "flip"):
            found += [] if value == "flip" else [f"augment={base.augment}+{value}"]
        else:
            found.append(word)
    return Row(row.name, tuple(found))


def tests_of(cfg: Config) -> list[str]:
    """What a study by this config is tested on: its sources and its test domains that need no
    folder or were given one; to label drawn streets also drawn stress, and CamVid where it is."""
    tests = [*cfg.train_domains, *cfg.test_domains]
    drawn = all(name.startswith("streets_") for name in cfg.train_domains)
    if drawn and cfg.task == "segmentation":
        tests += [*STRESS, *CAMVID]
    tests = [*dict.fromkeys(tests)]
    kept, _ = available(dataclasses.replace(cfg, test_domains=tuple(tests)))
    return list(kept.test_domains)


def plan_rows(
    rows: Sequence[Row],
    tests: Sequence[str],
    config_name: str,
    seeds: Sequence[int],
    overrides: Sequence[str],
    out: Path,
) -> list[Job]:
    """All trainings, seed by seed, so that a benchmark cut short holds whole seeds.

    tests: the domains that every one is tested on.
    """
    shared = (*overrides, f"test_domains=[{','.join(tests)}]", "threads=1")
    base = config.load(config_name, shared)
    prints = fingerprints(base)
    jobs = []
    for seed in seeds:
        for row in rows:
            mine = (
                *shared,
                *row.overrides,
                f"seed={seed}",
                f"out={out / 'runs'}",
                f"scenes={out / 'scenes'}",
                f"name={row.key}_seed{seed}",
            )
            cfg = config.load(config_name, mine)
            jobs.append(Job(row, seed, cfg, mine, protocol_of(prints, cfg), base))
    return jobs


def final_scores(job: Job) -> dict[str, dict[str, Any]] | None:
    """Domain -> the metric's fields after the last step; None where the run is not complete."""
    rows = [
        r
        for r in engine.read_records(job.folder)
        if r["kind"] == "eval" and r["split"] == "test" and r["step"] == job.cfg.steps
    ]
    found = {r["domain"]: r for r in rows}
    complete = set(job.cfg.test_domains) <= set(found) and (job.folder / "last.pt").is_file()
    return found if complete else None
