"""Which of timm's transformers take the Lambda shape?   ibnvision benchmark lambda_converter

Every name that timm lists in the files of FILES is built without memory (device meta) and given to
to_lambda: served, or refused with the reason. Eight small models run on random images, before and
after: with a window over the grid the features must stay, with a small one they must not. Their
LayerScale is set to 1, since at its start it hides all that an attention does.
"""

import argparse
import warnings
from collections.abc import Sequence
from typing import Any

import timm
import torch
from torch import Tensor, nn

from ibnvision.layers import from_lambda, to_lambda

from . import record

FILES = (  # of timm.models
    "beit cait convit crossvit deepseek_vit deit eva gemma4_vit hiera hieradet_sam2 levit mvitv2 "
    "naflexvit pit qwen3_vit swin_transformer swin_transformer_v2 swin_transformer_v2_cr tnt twins "
    "vision_transformer vision_transformer_hybrid vision_transformer_relpos vision_transformer_sam "
    "vitamin volo xcit"
).split()
RUN: dict[str, tuple[int, dict[str, Any]]] = {  # name: (patch, arguments)
    "vit_tiny_patch16_224": (16, {"dynamic_img_size": True}),
    "deit3_small_patch16_224": (16, {"dynamic_img_size": True}),
    "eva02_tiny_patch14_224": (14, {"dynamic_img_size": True}),
    "vit_small_patch14_reg4_dinov2": (14, {"dynamic_img_size": True, "img_size": 224}),
    "vit_small_patch16_dinov3": (16, {"img_size": 224}),
    "vit_small_patch16_rope_mixed_224": (16, {"dynamic_img_size": True}),
    "vit_base_patch16_siglip_224": (16, {"dynamic_img_size": True, "depth": 4}),
    "beit_base_patch16_224": (16, {"depth": 4}),
}
SERVED, REFUSED, FAILED = "served", "refused", "failed"  # failed: by an error that is no refusal


def names() -> list[str]:
    """The names to try, without those of this package."""
    return [
        name
        for name in timm.list_models()
        if timm.models.model_entrypoint(name).__module__.rpartition(".")[2] in FILES
    ]


def build(name: str) -> nn.Module:
    """The network without memory for its parameters."""
    try:
        return timm.create_model(name, device="meta")
    except (TypeError, NotImplementedError, RuntimeError):  # a few constructors compute or forget
        with torch.device("meta"):
            return timm.create_model(name)


def outcome(name: str) -> dict[str, Any]:
    """The class of a network, and what to_lambda says of it, as fields of a record."""
    model = build(name)
    fields: dict[str, Any] = {"class": type(model).__name__}
    try:
        table = to_lambda(model)
    except ValueError as error:
        return fields | {"outcome": REFUSED, "reason": str(error)}
    except Exception as error:  # what a user would meet; the other names are still asked
        return fields | {"outcome": FAILED, "reason": f"{type(error).__name__}: {error}"}
    return fields | {"outcome": SERVED, "reason": table.rows[0].note}


def visible(model: nn.Module) -> nn.Module:
    """The model with LayerScale 1, and attention weights as large as trained ones."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if "gamma" in key:
                parameter.fill_(1)
            elif "relative_position" in key:
                parameter.normal_(generator=generator)
            elif key.endswith("qkv.weight"):
                parameter.normal_(std=parameter.shape[1] ** -0.5, generator=generator)
    return model.eval()


@torch.no_grad()
def forwards(name: str) -> dict[str, float]:
    """Relative differences of the features from the dense model's, by the window.

    "whole" covers the grid, "trained" is the default, "5" is small; "resized" is whether a larger
    grid of another shape gives finite features, 1 or 0.
    """
    patch, arguments = RUN[name]
    torch.manual_seed(0)
    model: Any = visible(timm.create_model(name, num_classes=0, **arguments))
    side = model.patch_embed.grid_size[0]

    def image(height: int, width: int) -> Tensor:
        return torch.randn(1, 3, height * patch, width * patch)

    x = image(side, side)
    y = model.forward_features(x)
    found = {}
    for key, window in (("whole", 2 * side - 1), ("trained", None), ("5", 5)):
        to_lambda(model, window)
        found[key] = ((model.forward_features(x) - y).norm() / y.norm()).item()
        if key == "trained":
            features = model.forward_features(image(side + 6, side + 1))
            found["resized"] = float(features.isfinite().all())
        from_lambda(model)
    return found


def tables(records: Sequence[record.Record]) -> str:
    """What is served and refused by class and reason; then the forwards."""
    rows = [
        [r["class"], r["outcome"], str(r["value"]), r["models"][0], r["reason"]]
        for r in records
        if r["metric"] == "models"
    ]
    rows.sort(key=lambda row: (row[1] != SERVED, row[0], row[4]))
    served = sum(int(row[2]) for row in rows if row[1] == SERVED)
    total = sum(int(row[2]) for row in rows)
    text = f"{served} of {total} names are served.\n\n"
    text += record.table(["class", "", "names", "such as", "why"], rows)
    found: dict[str, dict[str, float]] = {}
    for r in records:
        if r["metric"] == "difference":
            found.setdefault(r["model"], {})[r["window"]] = r["value"]
    runs = [
        [model, *(f"{v[w]:.1e}" for w in ("whole", "trained", "5")), str(v["resized"] == 1)]
        for model, v in found.items()
    ]
    head = ["features against the dense model", "window over the grid", "default", "5x5"]
    return f"{text}\n\n{record.table([*head, 'finite at other sizes'], runs)}"


def main(argv: Sequence[str]) -> int:
    """Run the benchmark; 0 when it ran, whatever it found."""
    parser = argparse.ArgumentParser(
        prog="ibnvision benchmark lambda_converter", description=__doc__
    )
    parser.add_argument("--quick", action="store_true", help="three names, one forward")
    parser.add_argument("--commit", metavar="ID", help="recorded commit, outside a git checkout")
    parser.add_argument("--out", help="JSON-lines file to append to")
    args = parser.parse_args(argv)
    warnings.filterwarnings("ignore", category=UserWarning)  # of initialization without memory
    tried = ["beit_base_patch16_224", "cait_xxs24_224", "vit_tiny_patch16_224"]
    groups: dict[tuple[str, ...], list[str]] = {}
    for name in tried if args.quick else names():
        groups.setdefault(tuple(outcome(name).values()), []).append(name)
    shared = record.environment(
        "lambda_converter", argv, "cpu", quick=args.quick, commit_id=args.commit
    ) | {"timm": timm.__version__}
    records = [
        shared
        | {"metric": "models", "class": kind, "outcome": said, "reason": reason}
        | {"value": len(models), "unit": "models", "models": models}
        for (kind, said, reason), models in groups.items()
    ]
    for name in list(RUN)[:1] if args.quick else RUN:
        records += [
            shared | {"metric": "difference", "model": name, "window": key, "value": value}
            for key, value in forwards(name).items()
        ]
    path = record.results_file(args.out, "lambda_converter")
    record.append(path, records)
    print(tables(records))
    print(f"\n{len(records)} records appended to {path}")
    return 0
