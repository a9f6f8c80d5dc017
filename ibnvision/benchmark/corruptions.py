"""How fast are our corruptions beside imagecorruptions?   ibnvision benchmark corruptions

One picture, drawn streets, at the size of KITTI and at that of ImageNet; CPU time of one thread, in
interleaved repetitions. Ours takes and gives float tensors, imagecorruptions bytes; `converted` is
the latter with the two conversions that make it a function of tensors. The ratio is theirs by ours:
above 1 we are faster.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from ibnvision.data.corruptions import IMAGENET_C, SEVERITIES, corrupt
from ibnvision.data.haze import to_bytes
from ibnvision.data.item import to_image
from ibnvision.data.names import known
from ibnvision.data.opencv import cv2
from ibnvision.data.streets import Streets

from . import compare, measure, official_imagecorruptions, record
from .measure import Call

SIZES = ((375, 1242), (224, 224))  # height, width
QUICK = ((48, 64),)
OURS, PEER, CONVERTED = "ibnvision", "imagecorruptions", "imagecorruptions, converted"
RATIOS = {"ratio": PEER, "converted_ratio": CONVERTED}


def calls_of(name: str, severity: int, picture: np.ndarray, peer: Any) -> dict[str, Call]:
    """The calls by backend; peer: as `official_imagecorruptions.load` gives it, or None."""
    image = to_image(picture)
    generator = torch.Generator().manual_seed(0)
    calls: dict[str, Call] = {OURS: lambda: corrupt(image, name, severity, generator)}
    if peer is not None:
        calls[PEER] = lambda: peer(picture, name, severity)
        calls[CONVERTED] = lambda: to_image(peer(to_bytes(image), name, severity))
    return calls


def records_of(calls: dict[str, Call], repeats: int, common: record.Record) -> list[record.Record]:
    """Times of all backends and the ratios to ours."""
    timed, wall, clock = measure.clocked(calls, repeats, "cpu", common["threads"], warmup=1)
    common = common | {"clock": clock, "n": repeats}
    times = [
        common
        | {"metric": "time", "backend": backend, "unit": "ms"}
        | {"value": 1e3 * float(np.median(seconds)), "spread": measure.spread(1e3 * seconds)}
        | {"wall_ms": 1e3 * float(np.median(wall[backend]))}
        for backend, seconds in timed.items()
    ]
    asked = [
        (metric, "times", measure.paired_ratio, (backend, OURS))
        for metric, backend in RATIOS.items()
    ]
    return times + [common | fields for fields in measure.derived(timed, asked)]


def tables(records: Sequence[record.Record]) -> str:
    """A table for each size: milliseconds and the ratios by family."""
    parts = []
    for size in sorted({tuple(r["shape"]) for r in records}, reverse=True):
        here = [r for r in records if tuple(r["shape"]) == size]
        rows = []
        for name in dict.fromkeys(r["corruption"] for r in here):
            found = {
                r.get("backend", r["metric"]): record.number(r["value"])
                for r in here
                if r["corruption"] == name
            }
            rows.append([name, *(found.get(key, "-") for key in (OURS, PEER, CONVERTED, *RATIOS))])
        head = [f"{size[0]}x{size[1]}, severity {here[0]['severity']}", "ours, ms", "theirs, ms"]
        head += ["converted, ms", "theirs by ours", "converted by ours"]
        parts.append(record.table(head, rows))
    return "\n\n".join(parts)


def main(argv: Sequence[str]) -> int:
    """Run the benchmark; 0, or 1 where --compare-with shows a regression."""
    parser = record.parser("corruptions", __doc__, "7; quick 2")
    parser.add_argument("--corruption", metavar="NAME", action="append", help="default: all")
    parser.add_argument("--severity", type=int, default=3, choices=SEVERITIES)
    args = record.parse(parser, argv)
    if args.device != "cpu":
        parser.error("--device must be cpu: imagecorruptions runs nowhere else")
    names = [known("corruption", name, IMAGENET_C) for name in args.corruption or IMAGENET_C]
    shared = record.start("corruptions", argv, args) | {"threads": args.threads}
    then = compare.earlier(args, shared)
    path = record.results_file(args.out, "corruptions")
    peer = None
    try:
        peer, version = official_imagecorruptions.load()
        shared |= {"peer": f"imagecorruptions {version}"}
    except ImportError as error:
        print(f"imagecorruptions skipped: {error}", flush=True)
    cv2.setNumThreads(args.threads)
    np.random.seed(0)
    records = []
    with measure.threads(args.threads):
        for size in QUICK if args.quick else SIZES:
            picture, _ = Streets("streets_day", "test", size=size, limit=1).picture(0)
            for name in names:
                print(f"{name} {size[0]}x{size[1]}", flush=True)
                common = shared | {"corruption": name, "severity": args.severity}
                common |= {"shape": list(size), "dtype": "fp32"}
                calls = calls_of(name, args.severity, picture, peer)
                new = records_of(calls, args.repeats or (2 if args.quick else 7), common)
                record.append(path, new)
                records += new
    print(f"\n{tables(records)}\n\n{len(records)} records appended to {path}")
    return compare.finish(then, records)
