"""The command line: one verb per thing a person wants, importing what that verb needs."""

import argparse
import dataclasses
import json
import math
import re
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from ibnvision.config import nearest

_BENCHMARKS = (
    "attention",
    "dehazing",
    "generalization",
    "lambda_converter",
    "models",
    "ops",
    "resolution",
    "restoration",
    "segmentation",
    "report",
)
_SHOWN = 20  # problems of a split that `data check` prints
_EXPECTED = (ValueError, TypeError, KeyError, OSError, RuntimeError, ImportError, ArithmeticError)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit status: 0, 2 for an error, 130 for Ctrl-C.

    An error is one line on stderr; with `--debug` it is raised instead.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in words
    words = [word for word in words if word != "--debug"]
    try:
        return _dispatch(words)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except _EXPECTED as error:
        if debug:
            raise
        text = error.args[0] if isinstance(error, KeyError) and error.args else error
        print(f"error: {' '.join(_reason(error, text).split())}", file=sys.stderr)
        return 2


def _reason(error: BaseException, text: object) -> str:
    if isinstance(error, OSError) and error.strerror:
        named = f"{error.filename}: " if error.filename else ""
        return f"{named}{error.strerror}"
    return str(text) or type(error).__name__


def _dispatch(words: list[str]) -> int:
    if words and words[0] in ("benchmark", "report"):
        return _benchmark(words[1:] if words[0] == "benchmark" else words)
    if words and not words[0].startswith("-") and words[0] not in _VERBS:
        raise ValueError(f"unknown command {words[0]!r}: {nearest(words[0], _VERBS)}")
    parser = _parser()
    options, rest = parser.parse_known_args(words)
    strange = [word for word in rest if word.startswith("-") or "=" not in word]
    if strange or (rest and "overrides" not in options):
        parser.error(f"unrecognized arguments: {' '.join(strange or rest)}")
    if rest:  # argparse leaves what follows an option
        options.overrides += rest
    status = options.run(options)
    return int(status or 0)


def _benchmark(words: list[str]) -> int:
    """Hand the words to ibnvision.benchmark.<question>.main, which parses its own options."""
    if not words or words[0] in ("-h", "--help"):
        print("usage: ibnvision benchmark QUESTION [options]; each QUESTION has its own --help")
        print(f"QUESTION: {', '.join(_BENCHMARKS)}")
        return 0 if words else 2
    question, *rest = words
    if question not in _BENCHMARKS:
        raise ValueError(f"unknown benchmark {question!r}: {nearest(question, _BENCHMARKS)}")
    return int(import_module(f"ibnvision.benchmark.{question}").main(rest) or 0)


def _train(options: argparse.Namespace) -> None:
    from ibnvision import config, engine

    overrides, flags = [], {"resume": options.resume, "overwrite": options.overwrite}
    for item in [*options.overrides, *(f"data.{pair}" for pair in options.data)]:
        key, _, value = item.partition("=")
        if key in flags:
            flags[key] = _boolean(key, value)
        else:
            overrides.append(item)
    engine.train(config.load(options.name, overrides), **flags)


def _boolean(key: str, value: str) -> bool:
    if value not in ("true", "false"):
        raise ValueError(f"{key} must be true or false, got {value!r}")
    return value == "true"


def _eval(options: argparse.Namespace) -> None:
    from rich.console import Console

    from ibnvision import engine
    from ibnvision.engine.checkpoint import selection
    from ibnvision.engine.predict import find_weights, load_trained
    from ibnvision.engine.progress import results_table
    from ibnvision.metrics import rules

    path = find_weights(options.run_or_file)
    trained = load_trained(path)
    cfg = dataclasses.replace(trained.cfg, data=trained.cfg.data | dict(_pairs(options.data)))
    asked = {"protocol": options.protocol, "eval_scales": options.scales}
    asked |= {"eval_flip": options.flip or None}
    cfg = dataclasses.replace(cfg, **{k: v for k, v in asked.items() if v is not None})
    domains = options.domains or list(cfg.test_domains)
    if not domains:
        raise ValueError(f"{path} was trained without test domains: pass --domains")
    results = engine.evaluate(
        cfg, trained.model, domains=domains, split=options.split, out=options.out
    )
    chosen = selection(path.name, trained.step, trained.cfg.steps)
    Console().print(results_table(results, f"{path} ({chosen}) on {options.split}"))
    if options.out:
        report = {"weights": str(path), "selection": chosen, "split": options.split}
        report |= rules(results[domains[0]])
        target = Path(options.out) / "eval.json"
        target.write_text(json.dumps(_plain(report | {"domains": results}), indent=1) + "\n")
        print(target)


def _analyze(options: argparse.Namespace) -> None:
    from rich.console import Console

    from ibnvision.engine.analyze_report import analyze_runs, report_table, save_report
    from ibnvision.engine.predict import find_weights

    if options.out and Path(options.out).is_file():
        raise ValueError(f"--out must be a folder, {options.out} is a file")
    report = analyze_runs(
        [find_weights(run) for run in options.runs],
        domains=options.domains,
        folders=dict(_pairs(options.data)),
        device=options.device,
        split=options.split,
        layers=options.layers,
        images=options.images,
    )
    Console().print(report_table(report))
    out = Path(options.out) if options.out else _free_folder(Path("runs") / "analyze")
    for path in save_report(report, out):
        print(path)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(v) for key, v in value.items()}
    return None if isinstance(value, float) and math.isnan(value) else value


def _pairs(items: Sequence[str], name: str = "--data") -> list[tuple[str, str]]:
    for item in items:
        if "=" not in item:
            raise ValueError(f"{name} must read NAME=DIR, got {item!r}")
    return [(name, root) for name, _, root in (item.partition("=") for item in items)]


def _predict(options: argparse.Namespace) -> None:
    from ibnvision import models
    from ibnvision.engine import checkpoint
    from ibnvision.engine.predict import find_weights, load_trained, usable_device

    device = usable_device(options.device)
    if options.half and device.type != "cuda":
        raise ValueError("--half must come with --device cuda: the CPU is slower in half precision")
    wanted = _ALIASES.get(options.verb)
    weights = find_weights(options.weights, task=wanted)
    out = Path(options.out) if options.out else _free_folder(Path("runs") / "predict")
    task = checkpoint.task_of(weights)
    if task and wanted and task != wanted:
        raise ValueError(
            f"{options.verb} needs weights of {wanted}, {weights} holds those of {task}: "
            "use ibnvision predict, or other --weights"
        )
    if task is None and wanted == "segmentation":
        raise ValueError(f"{options.verb} needs weights of a run of {wanted}, got {weights}")
    if task is None:
        return _restore(options, models.from_weights(weights).to(device), weights, out)
    trained = load_trained(weights, device)
    if hasattr(trained.model, "restore"):
        return _restore(options, trained.model, weights, out)
    return _label(options, trained, weights, out)


def _label(options: argparse.Namespace, trained: Any, weights: Path, out: Path) -> None:
    from rich.console import Console

    from ibnvision.engine.label import label_files, mean_shares
    from ibnvision.engine.predict import draw_scenes, label_function
    from ibnvision.engine.progress import shares_table

    _refuse(options, ("max_memory", "compare", "gate", "gate_range"), "dehazing", weights)
    sizes = ("overlap", "whole", "scale", "height")
    given = {name: getattr(options, name) for name in sizes if getattr(options, name) is not None}
    if options.window:
        given["window"] = tuple(options.window)
    label = label_function(trained, **given, half=options.half)
    print(f"weights   {weights}")
    if not options.paths:
        if options.stride != 1 or options.opacity is not None or options.only is not None:
            raise ValueError("--stride, --opacity and --only need a PATH")
        for written in draw_scenes(trained, label, out, overwrite=options.overwrite):
            print(f"overlay   {written}")
        print(f"classes   {', '.join(f'{i} {name}' for i, name in enumerate(trained.classes))}")
        print(f"folder    {out}")
        return
    style: dict[str, Any] = {} if options.opacity is None else {"opacity": options.opacity}
    if options.only is not None:
        style["only"] = [word.strip() for word in options.only.split(",") if word.strip()]
    report, shares = label_files(
        options.paths,
        label,
        trained.classes,
        out,
        overwrite=options.overwrite,
        stride=options.stride,
        **style,
    )
    for path in report.written:
        print(f"labelled  {path}")
    if shares:
        Console().print(shares_table(trained.classes, mean_shares(shares)))
    print(f"folder    {out}")
    report.check()


def _refuse(
    options: argparse.Namespace, names: Sequence[str], task: str, weights: Path | str
) -> None:
    """ValueError for an option that only weights of another task take."""
    for name in names:
        if getattr(options, name) not in (None, False):
            flag = f"--{name.replace('_', '-')}"
            raise ValueError(f"{flag} needs weights of {task}, {weights} holds others")


def _restore(options: argparse.Namespace, model: Any, weights: Path, out: Path) -> None:
    from ibnvision.engine.gate import gate_of, stored_gate
    from ibnvision.engine.restore import restore_files

    if not options.paths:
        raise ValueError(f"PATH must name pictures or videos to restore with {weights}")
    labels = ("window", "overlap", "whole", "scale", "height", "opacity", "only")
    _refuse(options, labels, "segmentation", weights)
    if options.stride != 1:
        raise ValueError("--stride must be 1 for a restored video")
    gate = gate_of(options.gate_range) if options.gate_range else None
    if options.gate and not gate:
        gate = stored_gate(weights)
    if hasattr(model, "fuse"):
        model.fuse()
    report = restore_files(
        options.paths,
        model.bfloat16() if options.half else model,
        out,
        overwrite=options.overwrite,
        compare=options.compare,
        max_memory=None if options.max_memory is None else _bytes(options.max_memory),
        gate=gate,
    )
    print(f"weights   {weights}")
    if gate:
        print(f"gate      untouched up to haze {gate.low:.3f}, restored from {gate.high:.3f} on")
    for path in report.written:
        print(f"restored  {path}")
    print(f"folder    {out}")
    report.check()


def _bytes(text: str) -> int:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(i?)B?", text.strip(), re.IGNORECASE)
    if not match:
        raise ValueError(f"--max-memory must read like 2GB, 500MiB or 800000000, got {text!r}")
    power = " KMGT".index(match[2].upper() or " ")
    return int(float(match[1]) * (1024 if match[3] else 1000) ** power)


def _free_folder(path: Path) -> Path:
    """`path`, or `path` with the first number that is still free."""
    choice, number = path, 2
    while choice.exists():
        choice, number = path.with_name(f"{path.name}{number}"), number + 1
    return choice


def _data(options: argparse.Namespace) -> int:
    if options.action == "check":
        return _data_check(options)
    if options.overrides or not options.out:
        raise ValueError("data make takes --out DIR and no NAME=DIR")
    _data_make(options)
    return 0


def _data_check(options: argparse.Namespace) -> int:
    from rich.console import Console
    from rich.progress import track

    from ibnvision.data.check import check_set

    def watch(indices: range) -> Any:
        return track(indices, "reading", console=Console(stderr=True), transient=True)

    if not options.overrides:
        raise ValueError("data check must be followed by NAME=DIR, such as its=DIR")
    wrong, size = 0, tuple(options.size) if options.size else None
    for name, root in _pairs(options.overrides, "data check"):
        for found in check_set(name, root, size=size, watch=watch):
            count = len(found.problems)
            wrong += count
            title = f"{found.domain} {found.split}"
            print(f"{title:24} {found.items} items, {count} problem{'s' * (count != 1)}")
            for problem in found.problems[:_SHOWN]:
                print(f"  {problem}")
            if count > _SHOWN:
                print(f"  and {count - _SHOWN} more")
    return 2 if wrong else 0


def _data_make(options: argparse.Namespace) -> None:
    from ibnvision.data.streets_set import write_set

    out = write_set(
        options.out,
        options.domain,
        options.preset,
        options.split,
        limit=options.limit,
        overwrite=options.overwrite,
    )
    print(f"folder    {out}")
    print(f"pictures  {out / 'contact_sheet.png'}")


def _list(options: argparse.Namespace) -> None:
    from ibnvision import config, data, models

    rows: dict[str, list[str]] = {
        "configs": config.names(),
        "domains": [f"{name:16} {domain.summary}" for name, domain in data.DOMAINS.items()],
        "models": list(models.NAMES),
    }
    for kind in [options.kind] if options.kind else rows:
        print(f"{kind}:")
        for row in rows[kind]:
            print(f"  {row}")


def _info(_: argparse.Namespace) -> None:
    import platform
    from importlib import metadata

    from ibnvision import __version__, ops

    print(f"ibnvision {__version__}, python {platform.python_version()}")
    for package in ("torchvision", "timm", "accelerate", "torchmetrics", "numpy"):
        try:
            print(f"{package} {metadata.version(package)}")
        except metadata.PackageNotFoundError:
            print(f"{package} not installed")
    print("\n".join(ops.info()))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ibnvision",
        description="Vision models that keep working when the domain changes.",
        epilog="also: ibnvision benchmark QUESTION, ibnvision report; "
        "--debug anywhere shows the traceback of an error.",
    )
    verbs = parser.add_subparsers(title="commands", metavar="COMMAND", required=True, dest="verb")

    def verb(name: str, run: Callable[[argparse.Namespace], Any], text: str, *aliases: str) -> Any:
        command = verbs.add_parser(name, help=text, description=text, aliases=list(aliases))
        command.set_defaults(run=run)
        return command

    train = verb("train", _train, "train a config, found by name or path")
    train.add_argument("name", help="a name of `ibnvision list configs`, or a TOML file")
    train.add_argument("overrides", nargs="*", metavar="key=value", help="such as lr=0.005 seed=1")
    train.add_argument("--resume", action="store_true", help="go on from last.pt")
    train.add_argument("--overwrite", action="store_true", help="replace an existing run")
    _data_option(train)

    measure = verb("eval", _eval, "measure a trained run on domains")
    measure.add_argument("run_or_file", metavar="RUN", help="run folder or checkpoint file")
    measure.add_argument("--domains", nargs="+", help="default: the run's test domains")
    measure.add_argument("--split", default="test", choices=("train", "val", "test"))
    measure.add_argument(
        "--protocol", choices=("native", "half"), help="of segmentation; default: the run's"
    )
    measure.add_argument(
        "--scales", nargs="+", type=float, metavar="S", help="sizes to average over, such as 0.5 1"
    )
    measure.add_argument("--flip", action="store_true", help="average over mirrored images too")
    measure.add_argument("--out", help="also write eval.json, confusion matrices and overlays here")
    _data_option(measure)

    analyze = verb(
        "analyze", _analyze, "compare the features of trained runs between domains, by layer"
    )
    analyze.add_argument("runs", metavar="RUN", nargs="+", help="run folder or checkpoint file")
    analyze.add_argument(
        "--domains", nargs="+", help="source, then targets; default: the first run's"
    )
    analyze.add_argument("--split", default="test", choices=("train", "val", "test"))
    analyze.add_argument(
        "--layers", nargs="+", metavar="PATTERN", help="such as 'layer1.*'; default: every block"
    )
    analyze.add_argument("--images", type=int, default=200, help="of a domain, at most")
    analyze.add_argument("--device", default="cpu", help="cpu (default) or cuda")
    analyze.add_argument("--out", help="default: runs/analyze, or the next free name")
    _data_option(analyze)

    predict = verb(
        "predict", _predict, "label or dehaze pictures, folders, patterns or videos", *_ALIASES
    )
    predict.add_argument("paths", nargs="*", metavar="PATH", help="none: drawn street scenes")
    predict.add_argument(
        "--weights", help="run folder or file, also a published one; default: the newest of runs/"
    )
    predict.add_argument("--out", help="default: runs/predict, or the next free name")
    predict.add_argument("--overwrite", action="store_true", help="replace pictures in --out")
    predict.add_argument("--stride", type=int, default=1, help="every so many frames of a video")
    predict.add_argument("--device", default="cpu", help="cpu (default) or cuda")
    predict.add_argument("--half", action="store_true", help="bfloat16, on a GPU")
    _label_options(
        predict.add_argument_group(
            "with the weights of a segmentation network",
            "A network that was trained on crops of pictures of native size (config key scale) "
            "sees a picture at its own size, in windows as large as the crops; any other sees it "
            "whole, at the height of its training images. Written: NAME_overlay and NAME_color, "
            "NAME_label with the class ids of a picture, shares.csv and legend.png.",
        )
    )
    dehaze = predict.add_argument_group("with the weights of a dehazing network")
    dehaze.add_argument("--max-memory", metavar="SIZE", help="such as 2GB; the result is the same")
    dehaze.add_argument("--compare", action="store_true", help="also write before beside after")
    dehaze.add_argument(
        "--gate", action="store_true", help="leave clear pictures as they are, by their haze"
    )
    dehaze.add_argument(
        "--gate-range", metavar="LOW,HIGH", help="haze at which the gate opens, not the run's"
    )

    data = verb(
        "data",
        _data,
        "data make --out DIR writes a procedural set; data check NAME=DIR reads a real set",
    )
    data.add_argument("action", choices=("make", "check"))
    data.add_argument(  # _dispatch adds what follows an option to `overrides`
        "overrides", nargs="*", metavar="NAME=DIR", help="check: such as its=DIR"
    )
    data.add_argument(
        "--size", nargs=2, type=int, metavar=("H", "W"), help="check: the crop to train with"
    )
    data.add_argument("--out", help="make: the folder to write")
    data.add_argument("--domain", default="streets_day")
    data.add_argument("--preset", default="quick")
    data.add_argument("--split", default="train", choices=("train", "val", "test"))
    data.add_argument("--limit", type=int, help="at most so many scenes")
    data.add_argument("--overwrite", action="store_true")

    listing = verb("list", _list, "name the configs, domains and models")
    listing.add_argument("kind", nargs="?", choices=("configs", "domains", "models"))
    verb("info", _info, "say what was built, what runs as kernel, and why")
    return parser


def _label_options(group: Any) -> None:
    group.add_argument(
        "--window", nargs=2, type=int, metavar=("H", "W"), help="see it in windows of this size"
    )
    group.add_argument("--overlap", type=float, help="share of a window seen twice, default 1/3")
    group.add_argument("--whole", action="store_true", help="no windows, however large it is")
    group.add_argument("--scale", type=float, help="see it at its own size times this")
    group.add_argument("--height", type=int, help="see it at this height")
    group.add_argument("--opacity", type=float, help="of the colours of an overlay, default 0.6")
    group.add_argument("--only", metavar="KINDS", help="such as overlay,label; the third is color")


def _data_option(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--data", action="append", default=[], metavar="NAME=DIR", help="such as camvid=DIR"
    )


_ALIASES = {"segment": "segmentation", "dehaze": "dehazing"}  # of predict: the task they look for
_VERBS = (
    "train",
    "eval",
    "analyze",
    "predict",
    *_ALIASES,
    "benchmark",
    "report",
    "data",
    "list",
    "info",
)
