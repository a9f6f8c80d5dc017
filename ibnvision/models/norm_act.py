"""Turns a norm and the activation after it into one fused layer, in place of both."""

from typing import Any

from torch import nn

from ibnvision.layers import BatchNormAct2d, IBNAct2d, InstanceNormAct2d, with_act


def fuse(norm: nn.Module, act: nn.Module) -> tuple[nn.Module, nn.Module]:
    """(norm, act) as (BatchNormAct2d on norm's own tensors, Identity).

    Comes back unchanged where norm is not a BatchNorm2d. act may be an Identity.
    """
    if not isinstance(norm, nn.BatchNorm2d) or isinstance(norm, BatchNormAct2d):
        return norm, act
    return with_act(norm, act), nn.Identity()


def mix(
    norm: nn.Module, act: nn.Module, channels: int, ratio: float, dd: dict[str, Any], **kwargs: Any
) -> tuple[nn.Module, nn.Module]:
    """(IBNAct2d with a share `ratio` of instance-normalized channels, Identity) for (norm, act).

    kwargs go to IBNAct2d, dd holds its device and dtype. eps and momentum are those of norm.
    """
    options = {**_options(norm), **kwargs}
    return IBNAct2d(channels, ratio, act_layer=lambda: act, **options, **dd), nn.Identity()


def instance(act: nn.Module, channels: int, dd: dict[str, Any]) -> tuple[nn.Module, nn.Module]:
    """(affine InstanceNormAct2d followed by act, Identity); dd holds its device and dtype."""
    return InstanceNormAct2d(channels, act_layer=lambda: act, **dd), nn.Identity()


def fuse_sequence(sequence: nn.Module | None) -> None:
    """Fuse, in place, every norm of an nn.Sequential with the activation after it, if any."""
    if not isinstance(sequence, nn.Sequential):
        return
    for i, module in enumerate(sequence):
        if i + 1 < len(sequence):
            sequence[i], sequence[i + 1] = fuse(module, sequence[i + 1])
        else:
            sequence[i], _ = fuse(module, nn.Identity())


def _options(norm: nn.Module) -> dict[str, Any]:
    names = ("eps", "momentum", "affine", "track_running_stats")
    return {n: getattr(norm, n) for n in names} if isinstance(norm, nn.BatchNorm2d) else {}
