"""`ibnvision predict` and its aliases: pictures and videos labelled, searched or dehazed."""

import argparse
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .arguments import free_folder

ALIASES = {  # verb: the task it looks for
    "segment": "segmentation",
    "detect": "detection",
    "dehaze": "dehazing",
}
_OF_LABELS = ("window", "overlap", "whole", "scale", "height", "opacity", "only")
_OF_BOXES = ("threshold",)
_OF_DEHAZING = ("max_memory", "compare", "gate", "gate_range")


def arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("paths", nargs="*", metavar="PATH", help="none: drawn street scenes")
    command.add_argument(
        "--weights", help="run folder or file, also a published one; default: the newest of runs/"
    )
    command.add_argument("--out", help="default: runs/predict, or the next free name")
    command.add_argument("--overwrite", action="store_true", help="replace pictures in --out")
    command.add_argument("--stride", type=int, default=1, help="every so many frames of a video")
    command.add_argument("--device", default="cpu", help="cpu (default) or cuda")
    command.add_argument("--half", action="store_true", help="bfloat16, on a GPU")
    _label_options(
        command.add_argument_group(
            "with the weights of a segmentation network",
            "A network that was trained on crops of pictures of native size (config key scale) "
            "sees a picture at its own size, in windows as large as the crops; any other sees it "
            "whole, at the height of its training images. Written: NAME_overlay and NAME_color, "
            "NAME_label with the class ids of a picture, shares.csv and legend.png.",
        )
    )
    boxes = command.add_argument_group(
        "with the weights of a detector",
        "Written: NAME_boxes with the boxes drawn, detections.json, and coco.json, the same as a "
        "COCO data set whose annotations have a score.",
    )
    boxes.add_argument("--threshold", type=float, help="least score that counts, default 0.5")
    dehaze = command.add_argument_group("with the weights of a dehazing network")
    dehaze.add_argument("--max-memory", metavar="SIZE", help="such as 2GB; the result is the same")
    dehaze.add_argument("--compare", action="store_true", help="also write before beside after")
    dehaze.add_argument(
        "--gate", action="store_true", help="leave clear pictures as they are, by their haze"
    )
    dehaze.add_argument(
        "--gate-range", metavar="LOW,HIGH", help="haze at which the gate opens, not the run's"
    )


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


def run(options: argparse.Namespace) -> None:
    from ibnvision import models
    from ibnvision.engine import checkpoint
    from ibnvision.engine.predict import find_weights, load_trained, usable_device

    device = usable_device(options.device)
    if options.half and device.type != "cuda":
        raise ValueError("--half must come with --device cuda: the CPU is slower in half precision")
    wanted = ALIASES.get(options.verb)
    weights = find_weights(options.weights, task=wanted)
    out = Path(options.out) if options.out else free_folder(Path("runs") / "predict")
    task = checkpoint.task_of(weights)
    if task and wanted and task != wanted:
        raise ValueError(
            f"{options.verb} needs weights of {wanted}, {weights} holds those of {task}: "
            "use ibnvision predict, or other --weights"
        )
    if task is None and wanted in ("segmentation", "detection"):
        raise ValueError(f"{options.verb} needs weights of a run of {wanted}, got {weights}")
    if task is None:
        return _restore(options, models.from_weights(weights).to(device), weights, out)
    trained = load_trained(weights, device)
    if task == "dehazing":
        return _restore(options, trained.model, weights, out)
    return (_detect if task == "detection" else _label)(options, trained, weights, out)


def _label(options: argparse.Namespace, trained: Any, weights: Path, out: Path) -> None:
    from rich.console import Console

    from ibnvision.engine.label import label_files, mean_shares
    from ibnvision.engine.predict import label_function
    from ibnvision.engine.progress import shares_table

    _refuse(options, _OF_DEHAZING, "dehazing", weights)
    _refuse(options, _OF_BOXES, "detection", weights)
    sizes = ("overlap", "whole", "scale", "height")
    given = {name: getattr(options, name) for name in sizes if getattr(options, name) is not None}
    if options.window:
        given["window"] = tuple(options.window)
    label = label_function(trained, **given, half=options.half)
    print(f"weights   {weights}")
    if not options.paths:
        if options.stride != 1 or options.opacity is not None or options.only is not None:
            raise ValueError("--stride, --opacity and --only need a PATH")
        return _scenes(options, trained, label, out, first=0)
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


def _detect(options: argparse.Namespace, trained: Any, weights: Path, out: Path) -> None:
    from ibnvision.engine.detect import detect_files
    from ibnvision.engine.predict import detect_function

    _refuse(options, _OF_LABELS, "segmentation", weights)
    _refuse(options, _OF_DEHAZING, "dehazing", weights)
    least = {} if options.threshold is None else {"threshold": options.threshold}
    detect = detect_function(trained, **least, half=options.half)
    print(f"weights   {weights}")
    if not options.paths:
        if options.stride != 1:
            raise ValueError("--stride needs a PATH")
        return _scenes(options, trained, detect, out, first=1)
    report, seen = detect_files(
        options.paths,
        detect,
        trained.classes,
        out,
        overwrite=options.overwrite,
        stride=options.stride,
    )
    for path in report.written:
        print(f"boxes     {path}")
    print(f"objects   {sum(len(one.objects['labels']) for one in seen)}")
    print(f"folder    {out}")
    report.check()


def _scenes(options: argparse.Namespace, trained: Any, see: Any, out: Path, first: int) -> None:
    """Without a PATH: drawn street scenes, and the classes, of which the first one is `first`."""
    from ibnvision.engine.predict import draw_scenes

    for written in draw_scenes(trained, see, out, overwrite=options.overwrite):
        print(f"overlay   {written}")
    print(f"classes   {', '.join(f'{i} {name}' for i, name in enumerate(trained.classes, first))}")
    print(f"folder    {out}")


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
    _refuse(options, _OF_LABELS, "segmentation", weights)
    _refuse(options, _OF_BOXES, "detection", weights)
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
