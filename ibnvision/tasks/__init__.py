"""Tasks: what a batch means. A task is a module with the functions of `Task`, listed in `TASKS`."""

from collections.abc import Sequence
from typing import Any, Protocol

from torch import Generator, Tensor, nn

from . import dehazing, detection, segmentation

Batch = dict[str, Any]


class Metric(Protocol):
    """A measure over a whole set."""

    def update(self, prediction: Any, target: Any) -> None: ...

    def compute(self) -> dict[str, Any]: ...

    def state(self) -> Any:
        """What was counted so far, to be sent to other processes."""
        ...

    def merge(self, state: Any) -> None:
        """Count what the measure of another process has counted, too."""
        ...


class Task(Protocol):
    """The functions that the engine calls; images are float RGB in [0, 1] throughout."""

    score: str  # the key of the metric's result that is compared; larger is better
    EVALUATION_BATCH: int  # images per forward pass of an evaluation; 0: the config's batch_size,
    # and 1 for data sets with a `protocol`, whose images differ in size
    RAGGED: bool  # whether images of a batch may differ in size, so that training needs no crops

    def check(self, cfg: Any) -> None:
        """Refuse a config that this task cannot train, before anything is written."""
        ...

    def collate(self, items: list[Batch], /) -> Batch:
        """A batch of the items of a data set."""
        ...

    def build_model(
        self,
        name: str,
        *,
        num_classes: int,
        mean: Sequence[float] = ...,
        std: Sequence[float] = ...,
        **args: Any,
    ) -> nn.Module:
        """The network of this task, with the normalization of its input inside."""
        ...

    def augment(self, batch: Batch, mode: str, generator: Generator) -> Batch:
        """A changed copy of a training batch; `generator` is the only source of chance."""
        ...

    def compute_loss(self, model: nn.Module, batch: Batch, cfg: Any) -> Tensor:
        """The training loss of a batch, a scalar."""
        ...

    def predict(self, model: nn.Module, images: Tensor) -> Any:
        """What pictures take, an entry for each image."""
        ...

    def evaluate(self, model: nn.Module, batch: Batch, cfg: Any) -> tuple[Any, ...]:
        """What the metric's update takes under the protocol of `cfg`; first what pictures take."""
        ...

    def facts(self, cfg: Any) -> dict[str, Any]:
        """What `evaluate` does with an image, as plain values to store beside the numbers."""
        ...

    def new_metric(self, classes: Sequence[str]) -> Metric:
        """An empty measure."""
        ...

    def draw(
        self,
        image: Tensor,
        target: Any,
        prediction: Any,
        *,
        classes: Sequence[str],
        palette: Tensor,
    ) -> Tensor:
        """A picture for people, uint8 [3, h, w]."""
        ...


TASKS: dict[str, Task] = {
    "segmentation": segmentation,
    "dehazing": dehazing,
    "detection": detection,
}

__all__ = ["TASKS", "Batch", "Metric", "Task"]
