"""The command line: one verb per thing a person wants, importing what that verb needs.

A verb has a file with `arguments(command)`, which imports nothing, and `run(options)`, which does.
"""

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Any

from ibnvision.benchmark import BENCHES
from ibnvision.config import nearest

from . import about, analyze, data, evaluate, predict, train

_BENCHMARKS = (*BENCHES, "compare", "report")
# verb: what runs it, what adds its arguments, what it does, aliases
_VERBS: dict[str, tuple[Any, ...]] = {
    "train": (train.run, train.arguments, "train a config, found by name or path"),
    "eval": (evaluate.run, evaluate.arguments, "measure a trained run on domains"),
    "analyze": (
        analyze.run,
        analyze.arguments,
        "compare the features of trained runs between domains, by layer",
    ),
    "predict": (
        predict.run,
        predict.arguments,
        "label, search or dehaze pictures, folders, patterns or videos",
        *predict.ALIASES,
    ),
    "data": (
        data.run,
        data.arguments,
        "data make --out DIR writes a procedural set; data check NAME=DIR reads a real set",
    ),
    "list": (about.run_list, about.list_arguments, "name the configs, domains and models"),
    "info": (about.run_info, None, "say what was built, what runs as kernel, and why"),
}
_WORDS = (*_VERBS, *predict.ALIASES, "benchmark", "report")
_EXPECTED = (ValueError, TypeError, KeyError, OSError, RuntimeError, ImportError, ArithmeticError)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit status: 0, 2 for an error, 130 for Ctrl-C.

    An error is one line on stderr; with `--debug` it is raised instead.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in words
    words = [word for word in words if word != "--debug"]
    try:
        return _dispatch(words)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except _EXPECTED as error:
        if debug:
            raise
        text = error.args[0] if isinstance(error, KeyError) and error.args else error
        print(f"error: {' '.join(_reason(error, text).split())}", file=sys.stderr)
        return 2


def _reason(error: BaseException, text: object) -> str:
    if isinstance(error, OSError) and error.strerror:
        named = f"{error.filename}: " if error.filename else ""
        return f"{named}{error.strerror}"
    return str(text) or type(error).__name__


def _dispatch(words: list[str]) -> int:
    if words and words[0] in ("benchmark", "report"):
        return _benchmark(words[1:] if words[0] == "benchmark" else words)
    if words and not words[0].startswith("-") and words[0] not in _WORDS:
        raise ValueError(f"unknown command {words[0]!r}: {nearest(words[0], _WORDS)}")
    parser = _parser()
    options, rest = parser.parse_known_args(words)
    strange = [word for word in rest if word.startswith("-") or "=" not in word]
    if strange or (rest and "overrides" not in options):
        parser.error(f"unrecognized arguments: {' '.join(strange or rest)}")
    if rest:  # argparse leaves what follows an option
        options.overrides += rest
    import_module("ibnvision.models")  # registers them in timm
    return int(options.run(options) or 0)


def _benchmark(words: list[str]) -> int:
    """Hand the words to ibnvision.benchmark.<question>.main, which parses its own options."""
    if not words or words[0] in ("-h", "--help"):
        print("usage: ibnvision benchmark QUESTION [options]; each QUESTION has its own --help")
        print(f"QUESTION: {', '.join(_BENCHMARKS)}")
        return 0 if words else 2
    question, *rest = words
    if question not in _BENCHMARKS:
        raise ValueError(f"unknown benchmark {question!r}: {nearest(question, _BENCHMARKS)}")
    import_module("ibnvision.models")
    return int(import_module(f"ibnvision.benchmark.{question}").main(rest) or 0)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ibnvision",
        description="Vision models that keep working when the domain changes.",
        epilog="also: ibnvision benchmark QUESTION, ibnvision report; "
        "--debug anywhere shows the traceback of an error.",
    )
    verbs = parser.add_subparsers(title="commands", metavar="COMMAND", required=True, dest="verb")
    for name, (run, arguments, text, *aliases) in _VERBS.items():
        command = verbs.add_parser(name, help=text, description=text, aliases=aliases)
        command.set_defaults(run=run)
        if arguments:
            arguments(command)
    return parser
