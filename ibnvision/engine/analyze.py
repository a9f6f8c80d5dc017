"""Where in a network two domains part: the divergence of its features, layer by layer."""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from accelerate.utils import send_to_device
from torch import Tensor, nn
from torch.utils.data import Subset

from ibnvision import data
from ibnvision.config import Config
from ibnvision.methods.divergence import (
    GROUPS,
    ChannelStatistics,
    ImageMoments,
    divergence,
    image_moments,
    merge,
    null,
    quantiles,
    statistics_of,
    summary,
)

from . import sets
from .feature_layers import default_layers, matching_layers
from .processes import explained
from .state import find_task

IMAGES = 200  # of a domain that are measured at most, evenly spread
_NAMED = 5  # layers that a message names at most

Groups = dict[int, ChannelStatistics]  # of the images of a domain, dealt at random
Seen = dict[str, ImageMoments | str]  # of a batch: the moments of a layer, or why there are none


def analyze(
    cfg: Config,
    model: nn.Module,
    *,
    domains: Sequence[str] | None = None,
    split: str = "test",
    layers: Sequence[str] | None = None,
    images: int = IMAGES,
    batch_size: int = 0,
) -> dict[str, Any]:
    """Divergence of the features of `model`, in evaluation mode, between a source and each target.

    Args:
        domains: the source, then the targets; default: the first train domain and the other test
            domains of `cfg`. Labels are not read.
        layers: patterns of module names, as of fnmatch; one that fits the end of a name after a dot
            is enough. Default: see feature_layers.default_layers.
        images: of a domain at most, evenly spread; at least 2.
        batch_size: images of a forward pass; 0: as in an evaluation.

    Returns: {source, targets, split, images and fingerprints by domain, layers, left_out}. A row of
    `layers`, which are in the order in which they run, is {channels, null, divergence}:
    `divergence` by target what methods.divergence.summary gives, `null` by domain the mean and
    quantiles between its halves, None below 8 images. A module that runs several times counts with
    its last run.
    `left_out`: layers of which nothing can be measured, and why.

    Raises: KeyError for an unknown domain; ValueError for fewer than two domains or one given
    twice, too few images, patterns that fit no module or modules without features, features that
    are not finite; RuntimeError with advice when memory or a data worker fails.
    """
    source, *targets = _domains(cfg, domains)
    if images < 2:
        raise ValueError(f"images must be at least 2, got {images}")
    names = default_layers(model) if layers is None else matching_layers(model, layers)
    found: dict[str, dict[str, Groups]] = {}
    left_out: dict[str, str] = {}
    facts: dict[str, dict[str, Any]] = {"images": {}, "fingerprints": {}}
    with explained(cfg):
        for domain in (source, *targets):
            whole: Any = sets.build(cfg, domain, split)
            some = _some(whole, images, f"domain {domain!r} has in its {split} split")
            size = batch_size or sets.evaluation_batch(find_task(cfg), whole)
            found[domain], reasons = _statistics(cfg, model, some, names, size)
            left_out = reasons | left_out  # the first reason stands
            facts["images"][domain] = len(some)
            facts["fingerprints"][domain] = whole.fingerprint()
    rows = {
        name: _row(source, targets, {domain: groups[name] for domain, groups in found.items()})
        for name in found[source]
        if name not in left_out
    }
    if not rows:
        why = "; ".join(f"{name}: {why}" for name, why in list(left_out.items())[:_NAMED])
        raise ValueError(f"layers must name modules that give features of each image, got {why}")
    head = {"source": source, "targets": targets, "split": split, **facts}
    return head | {"layers": rows, "left_out": left_out}


def _domains(cfg: Config, given: Sequence[str] | None) -> list[str]:
    source = cfg.train_domains[0]
    others = [domain for domain in cfg.test_domains if domain != source]
    names = [source, *others] if given is None else list(given)
    for name in names:
        data.domain_of(name)  # a KeyError before anything runs
    if len(names) < 2:
        given_by = "the run has no other test domain: pass --domains" if given is None else "given"
        raise ValueError(
            f"domains must be a source and at least one target, got {names} ({given_by})"
        )
    if len(set(names)) < len(names):
        raise ValueError(f"domains must differ, got {', '.join(names)}")
    return names


def _some(whole: Any, images: int, what: str) -> Subset:
    """At most `images` items, evenly spread; ValueError below 2."""
    count = min(images, len(whole))
    if count < 2:
        raise ValueError(f"at least 2 images are needed, {what} {len(whole)}")
    return Subset(whole, [i * len(whole) // count for i in range(count)])


@torch.no_grad()
def _statistics(
    cfg: Config, model: nn.Module, some: Subset, names: Sequence[str], batch_size: int
) -> tuple[dict[str, Groups], dict[str, str]]:
    """By layer the statistics of the groups of images, and why a layer has none."""
    device, forward = next(model.parameters()).device, getattr(model, "restore", model)
    dealt = torch.randperm(len(some), generator=torch.Generator().manual_seed(0)) % GROUPS
    found: dict[str, Groups] = {}
    left_out: dict[str, str] = {}
    training, start = model.training, 0
    model.eval()
    try:
        with _watched(model, names) as seen:
            for batch in sets.loader(cfg, some, batch_size=batch_size):
                seen |= dict.fromkeys(names, "it did not run")
                images = batch["image"]
                forward(send_to_device(images, device))
                groups = dealt[start : start + len(images)]
                start += len(images)
                for name, moments in seen.items():
                    why = _add(found.setdefault(name, {}), moments, groups)
                    if why:
                        left_out.setdefault(name, why)
    finally:
        model.train(training)
    return found, left_out


def _add(layer: Groups, moments: ImageMoments | str, dealt: Tensor) -> str:
    """Add a batch to the groups of a layer; returns why not, or nothing."""
    if isinstance(moments, str):
        return moments
    if len(moments.mean) != len(dealt):
        return f"it gives {len(moments.mean)} features for {len(dealt)} images"
    channels = moments.mean.shape[1]
    if any(known.mean.numel() != channels for known in layer.values()):
        return "its channels change with the size of the image"
    for group in dealt.unique().tolist():
        part = statistics_of(ImageMoments(*(values[dealt == group] for values in moments)))
        layer[group] = merge([layer[group], part]) if group in layer else part
    return ""


@contextlib.contextmanager
def _watched(model: nn.Module, names: Sequence[str]) -> Iterator[Seen]:
    """A dict in which every forward pass leaves the moments of these modules, while inside."""
    seen: Seen = {}
    modules = dict(model.named_modules())
    nhwc = [n for n, m in modules.items() if getattr(m, "output_fmt", "NCHW") == "NHWC"]

    def keep(name: str, last: bool) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            seen.pop(name, None)  # so that the order is that of running
            seen[name] = _moments(name, output, last)

        return hook

    handles = []
    try:
        for name in names:
            module = modules[name]
            last = any(name.startswith(n) for n in nhwc) and not isinstance(module, nn.Conv2d)
            handles.append(module.register_forward_hook(keep(name, last)))
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def _moments(name: str, output: Any, channels_last: bool) -> ImageMoments | str:
    if not isinstance(output, Tensor):
        return f"it gives a {type(output).__name__}, not a tensor"
    if not output.is_floating_point() or output.dim() not in (2, 3, 4) or 0 in output.shape:
        return f"it gives {output.dtype} of shape {list(output.shape)}, no features"
    if channels_last and output.dim() == 4:
        output = output.permute(0, 3, 1, 2)
    try:
        return ImageMoments(*(moment.cpu() for moment in image_moments(output)))
    except ValueError as error:
        raise ValueError(f"layer {name}: {error}") from error


def _row(source: str, targets: Sequence[str], groups: Mapping[str, Groups]) -> dict[str, Any]:
    """The numbers of one layer."""
    whole = {domain: merge(parts.values()) for domain, parts in groups.items()}
    halves = {domain: null([*parts.values()]) for domain, parts in groups.items()}
    levels = {d: None if rows is None else quantiles(rows) for d, rows in halves.items()}
    return {
        "channels": whole[source].mean.numel(),
        "null": levels,
        "divergence": {t: summary(divergence(whole[source], whole[t])) for t in targets},
    }
