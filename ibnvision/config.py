"""One experiment, one frozen Config: read from TOML, changed by `key=value`, written back resolved.

A key that is unknown, a value of the wrong type and a value out of range are errors that name the
key.
"""

import dataclasses
import difflib
import json
import re
import tomllib
import types
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

_CHOICES = {
    "preset": ("tiny", "quick", "full"),
    "optimizer": ("sgd", "adam", "adamw"),
    "schedule": ("poly", "cosine", "constant"),
    "precision": ("fp32", "bf16", "fp16"),
    "device": ("auto", "cpu", "cuda"),
    "protocol": ("native", "half"),
    "empty_images": ("keep", "drop"),
}
_MINIMUM = {
    "steps": 1,
    "batch_size": 1,
    "grad_accum": 1,
    "warmup": 0,
    "momentum": 0,
    "weight_decay": 0,
    "power": 0,
    "seed": 0,
    "workers": 0,
    "eval_every": 0,
    "log_every": 1,
}


@dataclass(frozen=True, kw_only=True)
class Config:
    """Everything that decides a training run; a file holds what differs from these defaults."""

    # what
    task: str = "segmentation"  # a name in ibnvision.tasks.TASKS
    name: str = "run"  # the run folder is <out>/<task>/<name>; load() fills in the file's name
    model: str = "resnet50_ibn_a"  # backbone, a timm name
    model_args: dict[str, Any] = field(default_factory=dict)  # handed to the task's build_model
    loss_args: dict[str, Any] = field(default_factory=dict)  # handed to the task's compute_loss

    # data
    train_domains: tuple[str, ...] = ("streets_day",)  # sources; their val split selects best.pt
    test_domains: tuple[str, ...] = ()  # measured at every evaluation, never used for a choice
    preset: str = "quick"  # size and count of the procedural sets: tiny, quick, full
    scenes: str = ""  # folder that keeps drawn scenes for later runs; empty: each run draws them
    data: dict[str, str] = field(default_factory=dict)  # domain or family (camvid) -> root folder
    size: tuple[int, ...] = ()  # height and width in pixels, in dehazing of crops; empty: preset's
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)  # per RGB channel, of images in [0, 1]
    std: tuple[float, ...] = (0.229, 0.224, 0.225)  # dehazing takes neither mean nor std
    augment: str = "flip"  # none; flip: horizontal, and with it what the task knows, joined by "+"
    scale: tuple[float, ...] = ()  # random scale of training crops, low and high; empty: 1
    class_uniform: float = 0.0  # share of training crops around a class drawn uniformly

    # optimization
    steps: int = 10_000  # optimizer steps
    batch_size: int = 16  # images per process and forward pass
    grad_accum: int = 1  # forward passes per optimizer step
    optimizer: str = "sgd"  # sgd, adam, adamw
    lr: float = 0.01  # peak learning rate
    backbone_lr: float = 1.0  # of the backbone's parameters, as a factor of lr
    momentum: float = 0.9  # of sgd
    nesterov: bool = True  # of sgd
    weight_decay: float = 5e-4
    schedule: str = "poly"  # poly: lr * (1 - step / steps) ** power; cosine: to lr_end; constant
    power: float = 0.9  # of poly
    lr_end: float = 0.0  # of cosine: the rate of the last step
    warmup: int = 20  # first steps, over which lr rises linearly
    ema: float = 0.0  # decay of the averaged weights that are then evaluated; 0: off

    # machine
    precision: str = "fp32"  # autocast of the training pass: fp32, bf16, fp16; evaluation is fp32
    channels_last: bool = False
    compile: bool = False  # torch.compile the training pass
    device: str = "auto"  # auto, cpu, cuda
    threads: int | str = "auto"  # of the CPU; auto: the cores that this process may use
    workers: int = 0  # data worker processes, one thread each; 0: load in the training process
    seed: int = 0
    sync_norm: bool = False  # batch statistics over all processes: not yet, so one process only
    deterministic: bool = False  # deterministic algorithms on a GPU too; the CPU always is

    # evaluation
    protocol: str = "native"  # native: whole images; half: resized images, sliding windows
    eval_scales: tuple[float, ...] = (1.0,)  # probabilities are averaged over these sizes
    eval_flip: bool = False  # and over mirrored images
    empty_images: str = "keep"  # of detection, in all splits; drop: as some published numbers do
    oracle: bool = False  # also keep best_on_target.pt, chosen on the test domains: not a result

    # records
    out: str = "runs"  # folder that holds all runs
    eval_every: int = 0  # steps between evaluations, each of which saves; 0: at the end only
    log_every: int = 10  # steps between training lines

    def __post_init__(self) -> None:
        for key, kind in typing.get_type_hints(Config).items():
            object.__setattr__(self, key, _typed(key, getattr(self, key), kind))
        for key, choices in _CHOICES.items():
            if getattr(self, key) not in choices:
                raise ValueError(
                    f"{key} must be one of {', '.join(choices)}, got {getattr(self, key)!r}"
                )
        for key, low in _MINIMUM.items():
            _require(getattr(self, key) >= low, key, f"at least {low}", getattr(self, key))
        _require(self.lr > 0, "lr", "greater than 0", self.lr)
        _require(0 <= self.lr_end <= self.lr, "lr_end", f"in [0, lr={self.lr}]", self.lr_end)
        _require(0 <= self.ema < 1, "ema", "in [0, 1)", self.ema)
        _require(self.backbone_lr >= 0, "backbone_lr", "at least 0", self.backbone_lr)
        _require(0 <= self.class_uniform <= 1, "class_uniform", "in [0, 1]", self.class_uniform)
        scaled = not self.scale or (len(self.scale) == 2 and 0 < self.scale[0] <= self.scale[1])
        _require(scaled, "scale", "empty or [low, high] above 0", list(self.scale))
        several = len(self.eval_scales) > 0 and min(self.eval_scales) > 0
        _require(several, "eval_scales", "one or more numbers above 0", list(self.eval_scales))
        _require(
            self.threads == "auto" or (isinstance(self.threads, int) and self.threads > 0),
            "threads",
            'at least 1, or "auto"',
            self.threads,
        )
        sized = not self.size or (len(self.size) == 2 and min(self.size) > 0)
        _require(sized, "size", "empty or [height, width] in pixels", list(self.size))
        for key in ("mean", "std"):
            _require(len(getattr(self, key)) == 3, key, "three numbers", list(getattr(self, key)))
        _require(min(self.std) > 0, "std", "greater than 0", list(self.std))
        _require(len(self.train_domains) > 0, "train_domains", "at least one domain", [])
        plain = self.name not in ("", ".", "..") and not set(self.name) & set("/\\")
        _require(plain, "name", "a plain folder name", self.name)


def nearest(name: str, known: Iterable[str]) -> str:
    """The end of a message about an unknown name: the closest known one, or all of them."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    return f"did you mean {close[0]!r}?" if close else f"known: {', '.join(names) or 'none'}"


def folder() -> Path:
    """Where the named configs lie: inside the installed package, or beside it in a checkout."""
    installed = Path(str(resources.files("ibnvision") / "configs"))
    return installed if installed.is_dir() else Path(__file__).resolve().parents[1] / "configs"


def names() -> list[str]:
    """The configs that `load` finds by name."""
    return sorted(path.stem for path in folder().glob("*.toml"))


def load(name_or_path: str | Path, overrides: Iterable[str] = ()) -> Config:
    """Read an installed config by name, or any TOML file by path, and apply `key=value` overrides.

    An override reads as TOML; bare words need no quotes
    (`test_domains=[streets_fog,streets_night]`), and a dot reaches into a table
    (`model_args.ibn=b`, `data.camvid=DIR`).

    Raises: KeyError for an unknown name or key, TypeError and ValueError for a value that does not
    fit, each naming the key.
    """
    path = Path(name_or_path)
    if path.suffix != ".toml":
        path = folder() / f"{name_or_path}.toml"
        if not path.is_file():
            raise KeyError(f"unknown config {str(name_or_path)!r}: {nearest(path.stem, names())}")
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise FileNotFoundError(f"no config file {path}") from None
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{path} is not valid TOML: {error}") from None
    values.setdefault("name", path.stem)
    for item in overrides:
        _override(values, item)
    return from_dict(values)


def from_dict(values: Mapping[str, Any]) -> Config:
    """A Config from plain values, as `to_dict` gives them; an unknown key is a KeyError."""
    known = [f.name for f in dataclasses.fields(Config)]
    for key in values:
        if key not in known:
            raise KeyError(f"unknown config key {key!r}: {nearest(key, known)}")
    return Config(**values)


def to_dict(cfg: Config) -> dict[str, Any]:
    """Plain values that JSON, TOML and a weights-only checkpoint can hold; tuples become lists."""
    return json.loads(json.dumps(dataclasses.asdict(cfg)))


def dump(cfg: Config) -> str:
    """The resolved config as TOML text that `load` reads back to an equal Config."""
    values = to_dict(cfg)
    tables = {key: value for key, value in values.items() if isinstance(value, dict)}
    lines = [f"{key} = {_toml(value)}" for key, value in values.items() if key not in tables]
    for key, table in tables.items():
        lines += ["", f"[{key}]", *_toml_items(table)]
    return "\n".join(lines) + "\n"


def _toml(value: Any) -> str:
    if isinstance(value, list):
        return f"[{', '.join(map(_toml, value))}]"
    if isinstance(value, dict):
        return "{" + ", ".join(_toml_items(value)) + "}"
    return json.dumps(value, ensure_ascii=False)  # TOML's strings, numbers and booleans are JSON's


def _toml_items(table: Mapping[str, Any]) -> list[str]:
    bare = re.compile("[A-Za-z0-9_-]+")
    return [f"{k if bare.fullmatch(k) else _toml(k)} = {_toml(v)}" for k, v in table.items()]


def _override(values: dict[str, Any], item: str) -> None:
    key, equals, text = item.partition("=")
    if not equals or not key:
        raise ValueError(f"an override must read key=value, got {item!r}")
    top, *path = key.split(".")
    hints = typing.get_type_hints(Config)
    if top not in hints:
        raise KeyError(f"unknown config key {top!r}: {nearest(top, hints)}")
    if path and typing.get_origin(hints[top]) is not dict:
        raise KeyError(f"config key {top!r} holds a single value, so {key!r} does not exist")
    text_only = hints[top] is str or hints[top] == dict[str, str]
    value = text if text_only and not text.startswith(("{", '"')) else _value(text)
    table = values
    for part in (top, *path)[:-1]:
        table = table.setdefault(part, {})
        if not isinstance(table, dict):
            raise KeyError(f"{key!r} does not exist: {part!r} holds {table!r}, not a table")
    table[(top, *path)[-1]] = value


def _value(text: str) -> Any:
    """TOML where it parses, else a list of such values, else the bare text."""
    try:
        parsed = tomllib.loads(f"value = {text}")
        if list(parsed) == ["value"]:
            return parsed["value"]
    except tomllib.TOMLDecodeError:
        pass
    if text.startswith("[") and text.endswith("]"):
        return [_value(part.strip()) for part in text[1:-1].split(",") if part.strip()]
    return text


def _require(holds: bool, key: str, rule: str, value: Any) -> None:
    if not holds:
        raise ValueError(f"{key} must be {rule}, got {value!r}")


def _typed(key: str, value: Any, kind: Any) -> Any:
    """`value` as `kind` (an int becomes a float, a list a tuple), or a TypeError naming the key."""
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if kind is Any or (kind in (int, bool, str) and type(value) is kind):
        return value
    if kind is float and type(value) in (int, float):
        return float(value)
    if origin is tuple and isinstance(value, (list, tuple)):
        return tuple(_typed(f"{key}[{i}]", v, args[0]) for i, v in enumerate(value))
    if origin is dict and isinstance(value, dict):
        return {k: _typed(f"{key}.{k}", v, args[1]) for k, v in value.items()}
    if origin is types.UnionType and type(value) in args:
        return value
    raise TypeError(f"{key} must be {_said(kind)}, got {value!r} of type {type(value).__name__}")


def _said(kind: Any) -> str:
    words = {int: "an integer", float: "a number", bool: "true or false", str: "a string"}
    if kind in words:
        return words[kind]
    args = typing.get_args(kind)
    if typing.get_origin(kind) is tuple:
        return f"a list, each entry {_said(args[0])}"
    if typing.get_origin(kind) is dict:
        return "a table"
    return " or ".join(map(_said, args))
