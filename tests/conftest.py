"""Every test starts from one seed, in one thread, with NaN in memory that nobody wrote."""

import os

os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # deterministic cuBLAS, read at start

import pytest  # noqa: E402
import torch  # noqa: E402

NO_GPU = "needs a CUDA device, none is present"


def pytest_configure(config: pytest.Config) -> None:
    # warn_only: some of torch's own CUDA backwards (resize) have no deterministic form
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    torch.set_num_threads(1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason=NO_GPU))


_register = torch.jit._builtins._register_builtin
_registered = []  # torch knows operators by id() and lets some die: another object takes the id


def _register_and_keep(function: object, name: str) -> None:
    _registered.append(function)
    _register(function, name)


torch.jit._builtins._register_builtin = _register_and_keep


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    skipped = terminalreporter.stats.get("skipped", [])
    count = sum(NO_GPU in str(report.longrepr) for report in skipped)
    if count:
        terminalreporter.write_line(f"{count} GPU tests skipped: no CUDA device is present")
