"""Which modules of a network an analysis looks at, by name."""

import difflib
import fnmatch
from collections.abc import Mapping, Sequence

from torch import nn

_SEQUENCES: set[type] = {nn.Sequential, nn.ModuleList}


def default_layers(model: nn.Module) -> list[str]:
    """The stem and the blocks of a backbone, by name.

    They are found from timm's feature_info: a stage is taken apart into its blocks, and blocks of
    the same classes elsewhere in the network, as in a decoder, count too. Without feature_info, the
    outermost blocks of every sequence of modules.

    Raises: ValueError where there is no such module.
    """
    modules = dict(model.named_modules())
    stages = _stages(modules)
    if stages:
        blocks = {block for stage in stages for block in _blocks(modules[stage])}
        kinds = {type(block) for block in blocks if _is_block(block)} - _SEQUENCES
        wanted = [name for name, m in modules.items() if m in blocks or type(m) in kinds]
    else:
        sequences = [m for m in modules.values() if type(m) in _SEQUENCES]
        inside = {child for m in sequences for child in m.children() if _is_block(child)}
        wanted = [name for name, m in modules.items() if m in inside]
    outermost = [
        name for name in wanted if not any(name.startswith(f"{other}.") for other in wanted)
    ]
    if not outermost:
        raise ValueError("layers must be named: no stages or blocks were found in the network")
    return outermost


def matching_layers(model: nn.Module, patterns: Sequence[str]) -> list[str]:
    """The modules whose name, or its end after a dot, fits a pattern.

    Raises: ValueError for a pattern that fits none, or where there is no pattern.
    """
    if not patterns:
        raise ValueError("layers must hold at least one pattern, got none")
    names = [name for name, _ in model.named_modules() if name]
    for pattern in patterns:
        if not any(_fits(name, pattern) for name in names):
            near = difflib.get_close_matches(pattern, names, 1, 0.0)[0]
            raise ValueError(
                f"layers must fit names of modules, {pattern!r} fits none of {len(names)}; the "
                f"nearest is {near!r}"
            )
    return [name for name in names if any(_fits(name, pattern) for pattern in patterns)]


def _stages(modules: Mapping[str, nn.Module]) -> list[str]:
    """The modules that timm's feature_info names, of the outermost network that has it."""
    for name, module in modules.items():
        info = getattr(module, "feature_info", None)
        rows = getattr(info, "info", info) or ()
        paths = [row["module"] for row in rows if row.get("module")]
        choices = [f"{name}.{p}".lstrip(".") for path in paths for p in (path, _flat(path))]
        found = [choice for choice in dict.fromkeys(choices) if choice in modules]
        if found:
            return found
    return []


def _flat(path: str) -> str:
    return path.replace(".", "_")  # as timm's FeatureListNet names what it takes out


def _blocks(stage: nn.Module) -> list[nn.Module]:
    """What a stage is a sequence of, or holds a sequence of; else the stage itself."""
    for part in (stage, *stage.children()):
        blocks = [child for child in part.children() if _is_block(child)]
        if type(part) in _SEQUENCES and blocks:
            return blocks
    return [stage]


def _is_block(module: nn.Module) -> bool:
    """More than one layer with parameters, so that a norm with its activation is none."""
    return sum(bool([*m.parameters(recurse=False)]) for m in module.modules()) > 1


def _fits(name: str, pattern: str) -> bool:
    return any(fnmatch.fnmatchcase(name, form) for form in (pattern, f"*.{pattern}"))
