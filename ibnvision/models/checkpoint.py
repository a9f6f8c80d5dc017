"""Reads published weight files in every form in circulation, strictly and without running code.

Forms: a plain state dict; one wrapped in a dict (`state_dict`, `model`, ...); keys behind `module.`
or `_orig_mod.`; DenseNets with the early keys `denselayerL.norm.1`; files without
num_batches_tracked.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import timm.models
import torch
from torch import Tensor, nn

_WRAPPERS = ("state_dict_ema", "model_ema", "state_dict", "model", "net", "weights")
_PREFIXES = ("_orig_mod.", "module.")
# training scripts leave numbers of NumPy beside the weights, under the names of either version
_NUMBERS: list[Any] = [
    (np.float64(0).__reduce__()[0], f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")
] + [np.dtype, *(type(np.dtype(kind)) for kind in ("float64", "float32", "int64"))]
_EARLY_DENSENET = re.compile(r"(denselayer\d+\.(?:norm|conv))\.([12])\.")


def release_cfg(name: str, first_conv: str, classifier: str) -> dict[str, Any]:
    """timm's pretrained configuration of an IBN-Net; name, of the release file, is "" for none."""
    source = "https://github.com/XingangPan/IBN-Net"
    return {
        "url": f"{source}/releases/download/v1.0/{name}.pth" if name else "",
        "num_classes": 1000,
        "input_size": (3, 224, 224),
        "pool_size": (7, 7),
        "crop_pct": 0.875,
        "interpolation": "bilinear",
        "mean": (0.485, 0.456, 0.406),
        "std": (0.229, 0.224, 0.225),
        "first_conv": first_conv,
        "classifier": classifier,
        "license": "mit",
        "origin_url": source,
        "paper_ids": "arXiv:1807.09441",
    }


def checkpoint_filter_fn(state_dict: Mapping[str, Any], model: nn.Module) -> dict[str, Tensor]:
    """Map a checkpoint of any form to the keys of model and check that none is lost or left over.

    The classifier named in model.pretrained_cfg is not checked, since timm may replace it.

    Args:
        state_dict: a state dict or a dict around one.
        model: the network it shall fill; only its keys are read, but one that has a folded form is
            folded if the weights are.

    Raises:
        ValueError: keys are missing or unexpected, each kind listed.
    """
    state = _unwrapped(state_dict)
    match_form = getattr(model, "match_form", None)  # of a network with a folded form
    if match_form is not None:
        state = match_form(state)

    classifier = (getattr(model, "pretrained_cfg", None) or {}).get("classifier") or ()
    heads = tuple(f"{n}." for n in ([classifier] if isinstance(classifier, str) else classifier))
    own = model.state_dict().keys()
    optional = (*heads, *(key for key in own if key.endswith("num_batches_tracked")))
    missing = [key for key in own if key not in state and not key.startswith(optional)]
    unexpected = [key for key in state if key not in own and not key.startswith(heads)]
    if missing or unexpected:
        hint = ""
        if any(".IN." in key for key in missing) and not any(".IN." in key for key in state):
            hint = (
                "; the weights are of a network without IBN: load them there, then convert_to_ibn"
            )
        raise ValueError(
            f"state_dict must hold the keys of {type(model).__name__}; missing {some(missing)}, "
            f"unexpected {some(unexpected)}{hint}"
        )
    return state


def load_weights(model: nn.Module, path: str | Path) -> None:
    """Fill model from a weights file (.pth, .pt, .tar, .safetensors) of any form, strictly.

    Args:
        model: the network, its classifier as in the file.
        path: the file; read with weights_only, so that it cannot run code.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file cannot be read, or its keys or shapes are not those of model.
    """
    fill(model, read_weights(path), path)


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """The state dict in a weights file of any form, under plain keys; raises as load_weights."""
    if not Path(path).is_file():
        raise FileNotFoundError(f"path must be a weights file, found none at {str(path)!r}")
    try:
        with torch.serialization.safe_globals(_NUMBERS):
            state = timm.models.load_state_dict(str(path), weights_only=True)
    except Exception as error:  # torch and safetensors raise a dozen types for a damaged file
        raise ValueError(f"weights file {str(path)!r} cannot be read: {error}") from error
    if not isinstance(state, Mapping):
        raise ValueError(f"weights file {str(path)!r} must hold a dict, got {type(state).__name__}")
    return _unwrapped(state)


def fill(model: nn.Module, state: Mapping[str, Any], path: str | Path) -> None:
    """Load `state`, of any form, into model; ValueError naming the file at `path` if not whole."""
    try:
        model.load_state_dict(checkpoint_filter_fn(state, model), strict=True)
    except (RuntimeError, ValueError) as error:
        lines = [line.strip() for line in str(error).splitlines()]
        raise ValueError(f"weights file {str(path)!r} does not fit: {some(lines)}") from error


def _unwrapped(state: Mapping[str, Any]) -> dict[str, Tensor]:
    while (wrapper := next((k for k in _WRAPPERS if _is_dict(state, k)), None)) is not None:
        state = state[wrapper]
    return {_official(key): value for key, value in state.items()}


def _is_dict(state_dict: Mapping[str, Any], key: str) -> bool:
    return isinstance(state_dict.get(key), Mapping)


def _official(key: str) -> str:
    while (prefix := next((p for p in _PREFIXES if key.startswith(p)), None)) is not None:
        key = key.removeprefix(prefix)
    return _EARLY_DENSENET.sub(r"\1\2.", key)


def some(found: list[str], limit: int = 6) -> str:
    """The first few of what is listed, in words, and how many more there are."""
    more = f" and {len(found) - limit} more" if len(found) > limit else ""
    return (", ".join(found[:limit]) or "none") + more
