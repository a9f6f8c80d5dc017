"""Training and evaluation: two plain loops over accelerate, in one process or many (torchrun).

On a CPU a run is decided by its config bit for bit, interrupted and resumed or not; of many
processes a resumed one goes on with the random numbers of the first. Beside the results, see
`run_folder` for the records that a run leaves and `checkpoint` for its files.
"""

from .evaluation import evaluate
from .run_folder import read_records
from .state import build_model, find_task, learning_rate
from .training import train

__all__ = ["build_model", "evaluate", "find_task", "learning_rate", "read_records", "train"]
