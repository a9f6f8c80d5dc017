"""What every operator promises to compilers and exporters; the rows are in contract_rows.py."""

import dataclasses

import pytest
import torch
from contract_rows import WHOLE, devices, every, in_turn
from contract_tools import assert_results_close, noise, outputs, results

from ibnvision.ops import reference_ops
from ibnvision.testing import assert_close

pytestmark = pytest.mark.filterwarnings("ignore:.* runs as plain PyTorch")


class Layer(torch.nn.Module):
    """The operator with parameters and buffers of its own; its inputs are the other tensors."""

    def __init__(self, row, arguments):
        super().__init__()
        self.call, self.given, self.kept, self.options = row.call, [], [], {}
        for name, value in row.fresh(arguments).items():
            if not torch.is_tensor(value):
                self.options[name] = value
            elif name not in row.owned + row.buffers:
                self.given.append(name)
            else:
                self.kept.append(name)
                owned = name in row.owned
                setattr(self, name, torch.nn.Parameter(value) if owned else torch.nn.Buffer(value))

    def forward(self, *inputs):
        kept = {name: getattr(self, name) for name in self.kept}
        return self.call(**dict(zip(self.given, inputs, strict=True)), **kept, **self.options)


def step(row, function, layer, arguments):
    """Outputs, gradients and buffers of one training step."""
    layer.zero_grad()
    made = row.fresh(arguments)
    inputs = [made[name] for name in layer.given]
    ys = outputs(function(*inputs))
    torch.autograd.backward(ys, [noise(y) for y in ys])
    leaves = (*zip(layer.given, inputs, strict=True), *layer.named_parameters())
    return (
        {f"output {i}": y.detach() for i, y in enumerate(ys)}
        | {f"d {name}": value.grad for name, value in leaves if value.requires_grad}
        | {name: value.clone() for name, value in layer.named_buffers()}
    )


@devices
@in_turn("compiled", WHOLE)
def test_compiles_with_dynamic_shapes(row, case, form, device):
    torch._dynamo.reset()
    first = row.draw(row.dynamic[0], case, form, device=device)
    eager, compiled = Layer(row, first), Layer(row, first)
    function = torch.compile(compiled, fullgraph=True, dynamic=True)
    for i, size in enumerate(row.dynamic):
        arguments = row.draw(size, case, form, device=device)
        want = step(row, eager, eager, arguments)
        with torch._dynamo.config.patch(error_on_recompile=i > 0 and not row.recompiles):
            assert_results_close(step(row, function, compiled, arguments), want)
    arguments = row.draw(size, case, device=device)
    with reference_ops():  # the compiled layer recompiles into plain PyTorch
        want = step(row, eager, eager, arguments)
        assert_results_close(step(row, function, compiled, arguments), want)


def dynamic_dims(first, second):
    """For torch.export: the sizes that differ are dynamic, and equal pairs are one."""
    dims = {}

    def dim(*pair):
        if pair[0] == pair[1]:
            return torch.export.Dim.STATIC
        return dims.setdefault(pair, torch.export.Dim(f"size_{len(dims)}", min=min(pair), max=64))

    return tuple(
        tuple(dim(*pair) for pair in zip(a.shape, b.shape, strict=True))
        for a, b in zip(first, second, strict=True)
    )


@devices
@in_turn(rows=WHOLE)
def test_exports_with_dynamic_shapes(row, case, form, device):
    drawn = [row.draw(size, case, form, device=device) for size in row.dynamic]
    eager, exported = Layer(row, drawn[0]), Layer(row, drawn[0])
    inputs = [tuple(made[name] for name in eager.given) for made in drawn]
    dims = (dynamic_dims(*inputs),)
    program = torch.export.export(exported, inputs[0], dynamic_shapes=dims).module()
    for given in inputs:
        for got, want in zip(outputs(program(*given)), outputs(eager(*given)), strict=True):
            assert_close(got, want)
    assert_results_close(dict(program.named_buffers()), dict(eager.named_buffers()))


@devices
@every(rows=[row for row in WHOLE if row.scripts])
def test_scripts(row, case, form, device):
    arguments = row.draw(row.small, case, form, device=device)
    scripted = dataclasses.replace(row, call=torch.jit.script(row.call))
    got, want = (results(r, arguments) for r in (scripted, row))
    assert_results_close(got, want)


@devices
@every(rows=WHOLE)
def test_traces_to_one_node(row, case, form, device):
    arguments = row.draw(row.small, case, form, device=device)
    first = next(iter(arguments))
    graph = torch.fx.symbolic_trace(lambda x: row.call(**arguments | {first: x}))
    called = [node.target for node in graph.graph.nodes if node.op == "call_function"]
    assert called == [getattr(torch.ops.ibnvision, row.name)]
    want = outputs(row.call(**arguments | row.copies(arguments)))
    for got, wanted in zip(outputs(graph(arguments[first])), want, strict=True):
        assert_close(got, wanted)
