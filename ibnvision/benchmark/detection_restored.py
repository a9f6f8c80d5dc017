"""The trained detectors once more behind a restorer: nothing is trained again.

Dehaze, then detect: the restorer clears an image as far as its identity gate finds it hazy, and the
detector, which never saw a restored image, is measured on the same sets as before.
"""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from ibnvision import engine
from ibnvision.config import Config
from ibnvision.data.paired import digest
from ibnvision.engine import checkpoint
from ibnvision.engine.predict import Trained, load_trained
from ibnvision.engine.state import resolved
from ibnvision.tasks.detection_network import restorer_in_front

from . import detection_scores as words
from .by_image import Again
from .plans import Job

Restorer = dict[str, Any]  # the table model_args.restorer of a config, with its weights as `state`


def load(weights: Path) -> tuple[Restorer, dict[str, Any]]:
    """The restorer of a dehazing checkpoint, and what to store of it.

    Raises: FileNotFoundError, and ValueError for a checkpoint of another task.
    """
    cfg = resolved(Config(task="detection", model_args={"restorer": {"weights": str(weights)}}))
    saved, table = checkpoint.load(weights), cfg.model_args["restorer"]
    facts = {key: table.get(key) for key in ("model", "args", "gate")}
    facts |= {"trained_on": saved["config"]["train_domains"], "steps": saved["step"]}
    facts |= {"seed": saved["config"]["seed"], "sha256": digest(weights)}
    return {**table, "state": checkpoint.weights(saved)}, facts


def trained(run: dict[str, Any], restorer: Restorer | None) -> Trained:
    """The detector of a run; behind the restorer where the run was measured so."""
    found = load_trained(Path(run["folder"]) / "last.pt")
    if not run.get("restored"):
        return found
    assert restorer is not None
    return found._replace(model=restorer_in_front(found.model, restorer))


def rows(
    measured: Sequence[dict[str, Any]],
    restorer: Restorer,
    domains: Sequence[str],
    say: Callable[[str], None],
) -> list[dict[str, Any]]:
    """`measured`, rows as of `run_results.rows_of`, and each of words.RESTORED_ONES once more."""
    added = []
    for row in measured:
        if not row["name"].startswith(words.RESTORED_ONES):
            continue
        name, runs = row["name"] + words.RESTORED, []
        for run in row["runs"]:
            again = run | {"restored": True, "cpu_s": None, "wall_s": None}
            network = trained(again, restorer)
            found = engine.evaluate(
                network.cfg, network.model, domains=domains, classes=network.classes
            )
            runs.append(again | {"found": checkpoint.finite(found)})
            say(f"{name}, seed {run['seed']}: measured")
        added.append({"name": name, "command": row["command"], "runs": runs, "failed": {}})
    return [*measured, *added]


def again(
    measured: Sequence[dict[str, Any]], jobs: Sequence[Job], restorer: Restorer, sha256: str
) -> list[Again]:
    """The restored runs of `rows`, for what is measured beside the scores; costs of an open gate.

    jobs: the trainings that ended. sha256: of the restorer's file.
    """
    by_folder = {str(job.folder): job for job in jobs}
    open_ = restorer | {"gate": None}
    return [
        Again(
            row["name"],
            by_folder[run["folder"]],
            made_of=sha256,
            load=partial(trained, run, restorer),
            logged=found,
            at_work=partial(trained, run, open_),
        )
        for row in measured
        for run in row["runs"]
        if run.get("restored") and (found := run["found"])
    ]
