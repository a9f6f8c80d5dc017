import argparse

import pytest

from ibnvision.benchmark import model_rows, op_rows, rivals
from ibnvision.benchmark.model_costs import COMPILED


def test_words_stand_for_backends():
    assert rivals.chosen(None) is None and rivals.wanted("sdpa", None)
    found = rivals.chosen("timm, torch.compile")
    assert found == {"timm", "compiled", "compiled fallback"}
    assert rivals.wanted("timm", found) and not rivals.wanted("flex", found)
    assert rivals.chosen("") == frozenset()


def test_an_unknown_rival_names_the_nearest():
    with pytest.raises(KeyError, match="'torch_compile'.*did you mean 'torch.compile'"):
        rivals.chosen("timm,torch_compile")


def test_every_rival_of_a_row_has_a_word():
    known = {backend for found in rivals.WORDS.values() for backend in found}
    rows = {name for op in op_rows.OPS.values() for name in op.rivals}
    rows |= {row.rival for row in model_rows.ROWS.values()} | {COMPILED, "compiled"}
    assert rows <= known and known <= rows
    assert known >= rivals.COMPILED


def test_a_word_that_chooses_nothing_says_why():
    present = {"batch norm", "compiled"}
    assert rivals.absent(None, present, "cpu") == []
    assert rivals.absent("torch.compile,batch_norm", present, "cpu") == []
    found = rivals.absent("flex,cudnn", present, "cpu")
    assert found[0] == "flex skipped: no row of this run has it"
    assert len(found) == 2 and found[1].startswith("cudnn needs CUDA")
    assert len(rivals.absent("flex,cudnn", present, "cuda")) == 1


def test_cudnn_is_noted_of_records_on_cuda_alone():
    assert rivals.cudnn("cpu") == {} and rivals.cudnn_note([{"value": 1}]) == ""
    assert "version 91002, in all" in rivals.cudnn_note([{"cudnn": 91002}, {}])


def test_options_repeat():
    parser = argparse.ArgumentParser()
    rivals.add_options(parser, "fp32", "both")
    args = parser.parse_args(["--dtype", "bf16", "--dtype", "fp32", "--format", "nchw"])
    assert args.dtype == ["bf16", "fp32"] and args.format == ["nchw"] and args.against is None
