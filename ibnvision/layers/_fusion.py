"""Finds norm -> activation and norm -> sum -> activation in traced code and makes each one call."""

import copy
import operator
from collections import Counter
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from ._conversion import Conversion, Row, channels, describe
from ._structure import is_norm
from ._traced import TracedBlock, agree, evaluate, trace
from .ibn_norm import IBN, BatchNormAct2d, IBNAct2d, InstanceNormAct2d

_FUSABLE = (nn.ReLU, nn.LeakyReLU, nn.SiLU)
SUMS = (operator.add, operator.iadd, torch.add, "add", "add_")
_IN_PLACE = (operator.iadd, "add_")


def activation(node: fx.Node, modules: dict[str, nn.Module]) -> nn.Module | None:
    """The activation that node computes, if the op knows it."""
    if node.op == "call_module":
        module = modules[str(node.target)]
        return module if type(module) in _FUSABLE else None
    if node.target in (F.relu, torch.relu, F.relu_, torch.relu_, "relu", "relu_"):
        return nn.ReLU()
    if node.target is F.silu:
        return nn.SiLU()
    if node.target is F.leaky_relu:
        slope = node.args[1] if len(node.args) > 1 else node.kwargs.get("negative_slope", 0.01)
        return nn.LeakyReLU(slope) if isinstance(slope, float) else None
    return None


def with_act(norm: Any, act: nn.Module | None) -> Any:
    """The fused layer over the very parameters and buffers of norm, followed by act."""
    after = norm.act if act is None and hasattr(norm, "act") else act or nn.Identity()
    options: dict[str, Any] = {"act_layer": lambda **_: after, "device": "meta"}
    new: Any
    if isinstance(norm, IBN):
        new = IBNAct2d(norm.num_features, **options)
        new.IN, new.BN = norm.IN, norm.BN
        new.instance_channels, new.instance_last = norm.instance_channels, norm.instance_last
    elif isinstance(norm, nn.InstanceNorm2d):
        new = InstanceNormAct2d(norm.num_features, norm.eps, norm.affine, **options)
    else:
        drop = getattr(norm, "drop", nn.Identity())
        settings = (norm.eps, norm.momentum, norm.affine, norm.track_running_stats)
        options["drop_layer"] = lambda: drop
        new = BatchNormAct2d(norm.num_features, *settings, **options)
    if not isinstance(norm, IBN):
        new._parameters, new._buffers = norm._parameters, norm._buffers
    new.training = norm.training
    return new


def _is_open(norm: nn.Module) -> bool:
    """Whether something that follows norm may move into it."""
    tail = (getattr(norm, key, None) for key in ("act", "drop"))
    tracked = isinstance(norm, nn.InstanceNorm2d) and norm.track_running_stats
    return is_norm(norm) and not tracked and all(type(t) in (type(None), nn.Identity) for t in tail)


def _chain(node: fx.Node, modules: dict[str, nn.Module]) -> tuple[list[fx.Node], fx.Node | None]:
    """node and the identities after it, and the only user of the last of them."""
    chain = [node]
    while len(chain[-1].users) == 1:
        user = next(iter(chain[-1].users))
        if user.op != "call_module" or type(modules[str(user.target)]) is not nn.Identity:
            return chain, user
        chain.append(user)
    return chain, None


def _takes_residual(total: fx.Node, chain: list[fx.Node]) -> bool:
    """Whether `total` adds another value to the end of chain and the norm may run in its place."""
    plain = total.target in SUMS and len(total.all_input_nodes) == 2 and not total.kwargs
    if not plain or len(chain[0].all_input_nodes[0].users) != 1:
        return False
    mutated = total.all_input_nodes[0] if total.target in _IN_PLACE else chain[-1]
    return len(mutated.users) == 1


@dataclass
class _Pattern:
    """norm -> [sum ->] [activation], to become one call in the code of a block."""

    nodes: list[fx.Node]
    total: fx.Node | None
    act: nn.Module | None

    def rewrite(self, graph: fx.Graph) -> None:
        inputs = list(self.nodes[0].args)
        if self.total is not None:
            end = self.nodes[self.nodes.index(self.total) - 1]
            inputs += [n for n in self.total.all_input_nodes if n is not end]
        with graph.inserting_before(self.total or self.nodes[0]):
            call = graph.call_module(str(self.nodes[0].target), tuple(inputs))
        self.nodes[-1].replace_all_uses_with(call)
        for node in reversed(self.nodes):
            graph.erase_node(node)


class Fusion:
    """One run of fuse_norm_act: bottom up, every module that holds norms is read and improved."""

    def __init__(self, model: nn.Module, inputs: dict[str, Tensor]) -> None:
        self.conversion = Conversion(model)
        self.inputs = inputs
        self.reasons: dict[str, str] = {}
        self.uses = Counter(
            id(child) for parent in model.modules() for child in parent._modules.values()
        )

    def swap(self, name: str, norm: nn.Module, new: nn.Module, was: str, note: str = "") -> None:
        self.conversion.swap(norm, new, lambda: None)
        row = Row(name, was, describe(new), *channels(new), note)
        self.conversion.rows.append(row)

    def read(self, prefix: str, module: nn.Module) -> None:
        try:
            graph, own, steady = trace(module)
        except ValueError as error:
            self.reasons[prefix] = str(error)
            return
        modules = dict(module.named_modules(remove_duplicate=False))
        called = Counter(id(modules[str(n.target)]) for n in graph.nodes if n.op == "call_module")
        patterns: list[_Pattern] = []
        taken: set[fx.Node] = set()
        for node in graph.nodes:
            if node.op != "call_module" or len(node.args) != 1 or node.kwargs:
                continue
            norm = modules[str(node.target)]
            if not _is_open(norm) or called[id(norm)] != 1:
                continue
            chain, user = _chain(node, modules)
            act = None if user is None else activation(user, modules)
            if user is None or user in taken:
                continue
            if act is not None and called[id(act)] == self.uses[id(act)] == 1:
                was = f"{describe(norm)} + {type(act).__name__}"
                self.conversion.swap(act, nn.Identity(), lambda: None)  # before the norm holds it
                self.swap(_join(prefix, str(node.target)), norm, with_act(norm, act), was)
            elif act is not None and user in own:
                patterns.append(_Pattern([*chain, user], None, act))
            elif user in own and not isinstance(norm, nn.InstanceNorm2d):
                if _takes_residual(user, chain):
                    taken.add(user)
                    after, last = _chain(user, modules)
                    act = activation(last, modules) if last in own else None
                    tail = [*after, last] if act is not None else [user]
                    patterns.append(_Pattern([*chain, *tail], user, act))
        if patterns:
            self.rewrite(prefix, module, graph, steady, patterns)

    def rewrite(
        self, prefix: str, module: nn.Module, graph: fx.Graph, steady: bool, patterns: list
    ) -> None:
        """Give module new code with fused calls, if that can be shown to keep its numbers."""
        if not prefix:
            self.reasons[prefix] = "the model's own forward stays as it is"
        elif isinstance(module, nn.Sequential):
            self.reasons[prefix] = "a Sequential stays as it is"
        elif not steady:
            self.reasons[prefix] = "code depends on the training flag"
        elif module._forward_hooks or module._forward_pre_hooks:
            self.reasons[prefix] = "has forward hooks"
        elif prefix not in self.inputs:
            self.reasons[prefix] = "not seen to run on one [N, C, H, W]"
        else:
            self._rewrite(prefix, module, graph, patterns)

    def _rewrite(
        self, prefix: str, module: nn.Module, graph: fx.Graph, patterns: list[_Pattern]
    ) -> None:
        mark = self.conversion.mark()
        expected = evaluate(module, self.inputs[prefix])
        for pattern in patterns:
            name = str(pattern.nodes[0].target)
            norm = module.get_submodule(name)
            act = copy.deepcopy(pattern.act)
            parts = [describe(norm), "sum" if pattern.total is not None else ""]
            parts.append("" if act is None else type(act).__name__)
            note = "" if pattern.total is None else "takes the residual"
            was = " + ".join(p for p in parts if p)
            self.swap(_join(prefix, name), norm, with_act(norm, act), was, note)
            pattern.rewrite(graph)
        try:
            traced = TracedBlock(module, graph)
            traced.training = module.training
            same = agree(expected, evaluate(traced, self.inputs[prefix]))
        except (ValueError, RuntimeError):  # a residual of another shape
            same = False
        if same:
            self.conversion.swap(module, traced, lambda: None)
        else:
            self.conversion.back_to(*mark)
            self.reasons[prefix] = "fused code would change its numbers"


def _join(prefix: str, name: str) -> str:
    return f"{prefix}.{name}" if prefix else name
