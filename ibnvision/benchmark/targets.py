"""The project's bars: every target of every issue."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from . import all_tasks, dehazing_scores, detection_scores, resolution_scores, row_costs, scores
from .target_values import (
    SAME,
    Records,
    bandwidth,
    converted,
    copies,
    faster,
    fewest,
    kept,
    least,
    most,
    slowest_step,
    stored,
    unconverged,
    unexplained,
)

CHECKS = {"make test": 600, ".ci/run": 1800, "emulated kernels": 240}  # wall seconds


@dataclass(frozen=True)
class Target:
    """A bar on one number of one run."""

    bench: str
    text: str
    bar: float
    at_least: bool  # else at most
    unit: str
    value: Callable[[Records], float]  # NaN where the run does not hold the number

    def met(self, value: float) -> bool:
        return value >= self.bar if self.at_least else value <= self.bar

    @property
    def bar_text(self) -> str:
        """The bar with its side and unit."""
        return f"{'>=' if self.at_least else '<='} {self.bar:g} {self.unit}"


def _cpu_targets() -> Iterable[Target]:
    for form, forward, both in (("nchw", 6, 5), ("channels_last", 8, 8)):
        where = {"format": form}
        eager, compiled = "times eager, geometric mean", "times compiled, geometric mean"
        for name, bar, rival, text in (
            ("forward", forward, "eager", eager),
            ("forward", 2, "compiled", compiled),
            ("forward+backward", both, "eager", eager),
            ("forward+backward", 1.5, "compiled", compiled),
            ("eval", 4, "eager", eager),
        ):
            value = faster(rival, "kernel", "cpu", **where, **{"pass": name})
            yield Target("ops", f"CPU {name}, {form}: {text}", bar, True, "x", value)
        worst = least("compiled", "kernel", "cpu", **where, **{"pass": "forward"})
        yield Target(
            "ops", f"CPU forward, {form}: times compiled, worst shape", 1.3, True, "x", worst
        )
        bar = 1.4 if form == "nchw" else 1.7
        text = f"CPU forward, {form}: copies, tensor larger than the cache"
        yield Target("ops", text, bar, False, "copies", copies(form))
    fold = least("eager", "kernel", "cpu", "detail_conv", **{"pass": "forward+backward"})
    text = "CPU fold of detail_conv with backward: times index assignments, worst shape"
    yield Target("ops", text, 5, True, "x", fold)
    for name, bar in (("forward", 10), ("forward+backward", 6)):
        gate = least(
            "eager",
            "kernel",
            "cpu",
            "content_guided_attention",
            shape=[1, 128, 64, 64],
            **{"pass": name},
        )
        text = f"CPU content_guided_attention {name}, C=128 64x64: times eager, worst format"
        yield Target("ops", text, bar, True, "x", gate)
    yield Target("ops", "kept for the backward, share of eager's, worst", 0.5, False, "x", kept)
    step = "CPU training step, resnet50_ibn_a"
    for form, bar in (("nchw", 0.95), ("channels_last", 1.0)):
        recovered = stored("recovered", "cpu", format=form)
        yield Target("models", f"{step}, {form}: recovered share", 65, True, "%", recovered)
        ratio = stored("time by timm's resnet50", "cpu", format=form)
        yield Target("models", f"{step}, {form}: time by timm's resnet50", bar, False, "x", ratio)
        text = f"{step}, {form}: interleaved pairs behind it"
        pairs = fewest("time by timm's resnet50", device_type="cpu", format=form)
        yield Target("models", text, 9, True, "pairs", pairs)


def _restoration_targets() -> Iterable[Target]:
    """DEA-Net; the least of the sizes."""
    bars = {"nchw": ("plain contiguous", 2.0), "channels_last": ("plain channels_last", 1.5)}
    for form, (rival, bar) in bars.items():
        where = {"format": form}
        value = stored("times faster than plain", "cpu", **where, **{"pass": "folded inference"})
        text = f"CPU folded DEA-Net, least of 256 and 1024 px: times {rival}"
        yield Target("restoration", text, bar, True, "x", value)
        value = stored("times faster than plain", "cpu", **where, **{"pass": "training step"})
        text = f"CPU training step of DEA-Net, 128 px crops: times {rival}"
        yield Target("restoration", text, 1.5, True, "x", value)
    value = stored("times faster than compiled", "cpu", **{"pass": "folded inference"})
    text = "CPU folded DEA-Net, least of sizes and formats: times compiled"
    yield Target("restoration", text, 1.2, True, "x", value)
    text = "live tensors of folded DEA-Net, both formats"
    yield Target(
        "restoration", text, 420, False, "bytes/pixel", most("live", "cpu", backend="kernel")
    )
    for part, bar in (("folded inference", 1.5), ("training step", 1.3)):
        value = stored("times faster than plain", "cuda", **{"pass": part})
        text = f"GPU {part} of DEA-Net, bf16 channels_last: times plain"
        yield Target("restoration", text, bar, True, "x", value)
    value = stored("times faster than compiled", "cuda", **{"pass": "folded inference"})
    text = "GPU folded inference of DEA-Net: times compiled"
    yield Target("restoration", text, 1.2, True, "x", value)


def _network_targets() -> Iterable[Target]:
    """A segmenter and a detector on ResNet-50 with IBN-b; bars of the GPU by rival."""
    for bench, kind, gpu, bars in (
        ("segmentation", "DeepLabV3+", "768 px", {"fallback": 1.2, "compiled fallback": 1.05}),
        ("detector", "Faster R-CNN", "640 px", {"fallback": 1.15}),
    ):
        name = f"{kind} on resnet50_ibn_b"
        for part in ("training step", "inference"):
            for form in ("nchw", "channels_last"):
                where = {"format": form, "pass": part}
                text = f"CPU {part} of {name}, {form}"
                value = stored("recovered", "cpu", **where)
                yield Target(bench, f"{text}: recovered share", 60, True, "%", value)
                if part == "inference":  # without what folding and the own convolution give
                    value = stored("recovered by kernels alone", "cpu", **where)
                    name_of = f"{text}: recovered share, kernels alone"
                    yield Target(bench, name_of, 60, True, "%", value)
                value = stored("times faster than fallback", "cpu", **where)
                yield Target(bench, f"{text}: times fallback", 1, True, "x", value)
        step = f"GPU training step of {name}, bf16, {gpu}, batch 8"
        for rival, bar in bars.items():
            value = stored(f"times faster than {rival}", "cuda", **{"pass": "training step"})
            yield Target(bench, f"{step}: times {rival}", bar, True, "x", value)


def _attention_targets() -> Iterable[Target]:
    """Lambda-shaped attention: prefix 5, window 15x15, heads of 64."""
    both = "forward+backward"
    for name, bars in (("forward", (3, 10, 20)), (both, (2, 7, 15))):
        for side, bar in zip((32, 64, 96), bars, strict=True):
            where = {"pass": name, "grid": side}
            value = stored("times faster than dense", "cpu", **where)
            text = f"CPU lambda_attention {name}, {side}x{side}: times dense"
            yield Target("attention", text, bar, True, "x", value)
    for rival in ("halo", "flex"):
        value = stored(f"times faster than {rival}", "cpu")
        text = f"CPU lambda_attention, least of passes and grids: times {rival}"
        yield Target("attention", text, 1, True, "x", value)
    text = "CPU lambda_attention forward, 96x96: times dense, the goal"
    value = stored("times faster than dense", "cpu", **{"pass": "forward", "grid": 96})
    yield Target("attention", text, 25, True, "x", value)
    value = most("extra memory", backend="kernel", device_type="cpu")
    text = "CPU lambda_attention forward, 96x96: memory beside the inputs"
    yield Target("attention", text, 25, False, "MB", value)
    text = "CPU lambda_attention forward: time at 96x96 by 64x64"
    value = most("time growth from 64x64", device_type="cpu")
    yield Target("attention", text, 2.5, False, "x", value)
    value = most("time of bf16 by fp32", device_type="cpu")
    text = "CPU lambda_attention: time of bf16 by fp32, the most"
    yield Target("attention", text, 1.05, False, "x", value)
    for part in ("inference", "training step"):
        value = stored("times faster than dense", "cpu", **{"pass": f"ViT-S/16 {part}"})
        text = f"CPU ViT-S/16 with registers at 1024 px, {part}: times dense"
        yield Target("attention", text, 2, True, "x", value)
    for name, side, bar in (("forward", 64, 3), ("forward", 128, 10), (both, 128, 8)):
        value = stored("times faster than dense", "cuda", **{"pass": name, "grid": side})
        text = f"GPU lambda_attention {name}, {side}x{side} bf16: times dense"
        yield Target("attention", text, bar, True, "x", value)
    value = stored("times faster than flex", "cuda")
    text = "GPU lambda_attention, least: times FlexAttention"
    yield Target("attention", text, 1.2, True, "x", value)


def _cuda_targets() -> Iterable[Target]:
    both = {"pass": "forward+backward"}
    text = "GPU forward+backward, worst of dtype, format, launch:"
    eager, compiled = (faster(rival, "kernel", "cuda", **both) for rival in ("eager", "compiled"))
    yield Target("ops", f"{text} times eager", 4, True, "x", eager)
    yield Target("ops", f"{text} times compiled", 1.3, True, "x", compiled)
    yield Target("ops", "GPU share of copy bandwidth above the L2, worst", 80, True, "%", bandwidth)
    for name in ("forward", "forward+backward"):
        gate = least("eager", "kernel", "cuda", "content_guided_attention", **{"pass": name})
        text = f"GPU content_guided_attention {name}, least: times eager"
        yield Target("ops", text, 3, True, "x", gate)
    step = "GPU training step, resnet50_ibn_a:"
    for rival, bar in (("fallback", 1.2), ("compiled fallback", 1.05), ("timm's resnet50", 1.0)):
        value = stored(f"times faster than {rival}", "cuda")
        yield Target("models", f"{step} times faster than {rival}", bar, True, "x", value)


def _generalization_targets() -> Iterable[Target]:
    for metric, bar, at_least, unit in (
        ("IBN-b above BN, synthetic target mean", 8, True, "mIoU points"),
        ("IBN-b's source from BN's, absolute", 3, False, "mIoU points"),
        ("IBN-a above BN on camvid_dusk, least seed", 0, True, "mIoU points"),
        ("IBN-b above BN on camvid_dusk, least seed", 0, True, "mIoU points"),
        ("streets scene of the quick preset, one domain", 0.04, False, "CPU s"),
        ("whole benchmark", 600, False, "s"),
    ):
        yield Target("generalization", metric, bar, at_least, unit, stored(metric))


def _dehazing_targets() -> Iterable[Target]:
    for metric, more, bar, unit in (
        (dehazing_scores.ABOVE_INPUT, "", 4, "dB"),
        (dehazing_scores.ABOVE_PRIOR, ", by any margin", 0, "dB"),
        (dehazing_scores.REACHED, "", 2, "of 3"),
    ):
        yield Target("dehazing", metric + more, bar, True, unit, stored(metric))


def _detection_targets() -> Iterable[Target]:
    value = stored(detection_scores.AP50, column=scores.SOURCE)
    text = "AP50 on the source, the least row"
    yield Target("detection", text, detection_scores.LEAST_SOURCE, True, "%", value)
    low, high = (f"{100 * share:g}" for share in detection_scores.GRADED)
    text = f"rows that do not count: lost at home, or no target at {low} to {high} % of it"
    yield Target("detection", text, 0, False, "rows", unconverged)
    text = "CPU corruptions, least of families and sizes: times imagecorruptions"
    yield Target("corruptions", text, 1, True, "x", stored("ratio", "cpu"))


def _resolution_targets() -> Iterable[Target]:
    plain, all_, bar = (
        resolution_scores.CONVERGED_PLAIN,
        resolution_scores.CONVERGED,
        resolution_scores.ALLOWED,
    )
    unit = "mIoU points"
    yield Target("resolution", plain, bar, False, unit, resolution_scores.plain_gap)
    yield Target("resolution", all_, bar, False, unit, stored(all_))


def _converter_targets() -> Iterable[Target]:
    text = "window over the grid against SDPA, the most"
    value = most("difference", window="whole")
    yield Target("lambda_converter", text, SAME, False, "of the largest value", value)
    yield Target(
        "lambda_converter", "timm networks that stay within it", 8, True, "networks", converted
    )
    text = "names of timm's transformers without an answer"
    yield Target("lambda_converter", text, 0, False, "names", unexplained)


def _nothing_slower_targets() -> Iterable[Target]:
    """Nothing is slower end to end than the fallback, wherever both were timed."""
    text = "CPU training step of resnet50_ibn_a, least of batches, sizes and widths: times fallback"
    yield Target("scaling", text, 1, True, "x", slowest_step)
    text = "CPU networks of the table, least of parts and formats: times fallback"
    yield Target("models", text, 1, True, "x", stored("times faster than the fallback", "cpu"))
    for bench, backbone in (
        *(("generalization", {"backbone": f"resnet{depth}"}) for depth in (18, 50)),
        ("detection", {}),
        ("dehazing", {}),
    ):
        what = ", ".join([bench, *backbone.values()])
        text = f"CPU inference of the rows in {what}, the least: times fallback"
        yield Target(bench, text, 1, True, "x", stored(row_costs.RATIO, "cpu", **backbone))


def _suite_targets() -> Iterable[Target]:
    text = "quick preset of all tasks, two cores"
    value = stored(all_tasks.WHOLE, preset="quick")
    yield Target("all_tasks", text, 30 * 60, False, "s", value)
    text = "segmentation in that run, which is what make demo trains"
    value = stored(all_tasks.PART, preset="quick", model="segmentation")
    yield Target("all_tasks", text, 10 * 60, False, "s", value)
    full = "ISW"  # a row that the demo leaves out, which is no study
    for bench, what, count in (
        ("generalization", "segmentation, ResNet-18", fewest("miou", full, backbone="resnet18")),
        ("generalization", "segmentation, ResNet-50", fewest("miou", full, backbone="resnet50")),
        ("detection", "detection", fewest(detection_scores.AP50)),
        ("dehazing", "dehazing", fewest(dehazing_scores.PSNR, model=dehazing_scores.FULL)),
        ("resolution", "resolution", fewest(resolution_scores.MIOU)),
    ):
        yield Target(bench, f"seeds of the recorded study, {what}", 5, True, "seeds", count)
    for text, bar in CHECKS.items():
        yield Target("checks", f"{text}, two cores", bar, False, "s", stored(text, threads=2))
    text = "emulator: fibers resumed, with schedule and race checks"
    value = stored("fiber resumes", fibers="boost", checks="races")
    yield Target("emulator", text, 10, True, "million/s", value)


TARGETS = (
    *_cpu_targets(),
    *_restoration_targets(),
    *_network_targets(),
    *_attention_targets(),
    *_cuda_targets(),
    *_generalization_targets(),
    *_dehazing_targets(),
    *_detection_targets(),
    *_resolution_targets(),
    *_converter_targets(),
    *_nothing_slower_targets(),
    *_suite_targets(),
)
