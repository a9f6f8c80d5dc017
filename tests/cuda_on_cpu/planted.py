"""A mistake planted into the sources of a kernel, and what must happen then."""

from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

NUMBERS = "not close|Greatest absolute difference"
OVERFLOW = "heap-buffer-overflow"


class Defect(NamedTuple):
    file: str  # of csrc
    old: str
    new: str
    case: Any
    reason: str  # a regular expression
    checks: str = "races"


def parameters(defects: Iterable[str], slow: Collection[str]) -> list[Any]:
    """The names, those of `slow` marked so: each is caught as another one of the file is."""
    marks = {True: [pytest.mark.slow], False: []}
    return [pytest.param(name, marks=marks[name in slow]) for name in defects]


def assert_caught(
    target_of: Callable[..., Any],
    op: str,
    defect: Defect,
    check: Callable[[Any, Any], object],
    kernels: Path | None = None,
) -> None:
    """check(target, case) fails for the defect's own reason; `kernels` as in Builder.module."""
    planted = (defect.file, defect.old, defect.new)
    broken = target_of(op, defect.checks, kernels=kernels, defect=planted)
    with pytest.raises((AssertionError, RuntimeError), match=defect.reason):
        check(broken, defect.case)


def sound_target(target_of: Callable[..., Any], op: str, checks: str, kernels: Path) -> Any:
    """The source with nothing planted; where addresses are checked, what is built for all cases."""
    return target_of(op, checks, kernels=kernels if checks == "races" else None)
