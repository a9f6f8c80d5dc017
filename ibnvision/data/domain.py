"""What a row of `ibnvision.data.DOMAINS` is."""

from collections.abc import Callable
from dataclasses import dataclass

from torch.utils.data import Dataset

from .names import CLASSES


@dataclass(frozen=True)
class Domain:
    """A row of DOMAINS. `data_key` names the option `--data KEY=DIR` that gives the folder, if any.

    A stress domain is reported and never averaged into a target mean. `task` is a name in
    `ibnvision.tasks.TASKS`; a domain of dehazing has no classes. `from_disk` names what the folder
    decides: "splits" (fewer than those of the row), "classes"; ask `splits` and `classes`.
    """

    summary: str
    build: Callable[..., Dataset]
    splits: tuple[str, ...] = ("train", "val", "test")
    classes: tuple[str, ...] = CLASSES
    data_key: str = ""
    stress: bool = False
    task: str = "segmentation"
    from_disk: tuple[str, ...] = ()
