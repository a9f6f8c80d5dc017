"""The code of a block as a torch.fx graph, and a block that runs a changed graph."""

import inspect
from typing import Any

import torch
from torch import Tensor, fx, nn

from ._structure import holds_norm, keep_modes


class TracedBlock(fx.GraphModule):
    """A block with rewritten code over the very children, parameters and buffers of the original.

    Names and order of the state do not change, also through copies and pickles.
    """

    def __init__(self, root: nn.Module, graph: fx.Graph, class_name: str = "") -> None:
        super().__init__(root, graph, class_name or type(root).__name__)
        for key in ("_modules", "_parameters", "_buffers"):
            self.__dict__[key] = root.__dict__[key]

    @staticmethod
    def _deepcopy_init() -> Any:
        return TracedBlock.__init__

    def __reduce__(self) -> Any:
        return _unpickle, (*super().__reduce__(), type(self).__name__)


def _unpickle(function: Any, args: tuple[Any, ...], class_name: str) -> TracedBlock:
    module = function(*args)
    for key in ("_modules", "_parameters", "_buffers"):
        module.__dict__[key] = args[0][key]
    return TracedBlock(module, module.graph, class_name)


class _Tracer(fx.Tracer):
    """Looks into a module only for norms below it; knows which nodes are the root's own code."""

    def __init__(self) -> None:
        super().__init__()
        self.depth = 0
        self.own: set[fx.Node] = set()

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, TracedBlock) or not holds_norm(m)

    def call_module(self, m: nn.Module, forward: Any, args: Any, kwargs: Any) -> Any:
        inner = not self.is_leaf_module(m, "")
        self.depth += inner
        try:
            return super().call_module(m, forward, args, kwargs)
        finally:
            self.depth -= inner

    def create_node(self, *args: Any, **kwargs: Any) -> fx.Node:
        node = super().create_node(*args, **kwargs)
        if self.depth == 0:
            self.own.add(node)
        return node


def trace(module: nn.Module) -> tuple[fx.Graph, set[fx.Node], bool]:
    """The graph of module, the nodes of its own code, and whether it is the same in eval mode.

    Raises:
        ValueError: why the code cannot be traced.
    """
    arguments = inspect.signature(module.forward).parameters.values()
    if any(a.default is not a.empty or a.kind != a.POSITIONAL_OR_KEYWORD for a in arguments):
        raise ValueError("forward takes optional arguments")
    code = []
    with keep_modes(module):
        for mode in (False, True):
            for m in module.modules():
                m.training = mode
            tracer = _Tracer()
            try:
                graph = tracer.trace(module)
            except Exception as error:  # any code may stand in a forward
                reason = str(error).strip().splitlines() or [""]
                raise ValueError(f"torch.fx: {reason[0]}") from error
            code.append(str(graph))
    return graph, tracer.own, code[0] == code[1]


def evaluate(module: nn.Module, x: Tensor) -> Tensor:
    """module(x) in eval mode, without gradients, on a copy of x."""
    with keep_modes(module), torch.no_grad():
        return module.eval()(x.clone())


def agree(a: Tensor, b: Tensor) -> bool:
    """Whether two results are equal but for rounding; meta tensors by shape."""
    if a.shape != b.shape or a.is_meta:
        return a.shape == b.shape
    scale = 1e-3 if a.dtype in (torch.float32, torch.float64) else 3e-2
    return torch.allclose(a, b, rtol=scale, atol=scale * a.abs().max().item(), equal_nan=True)
