"""The state of a training: everything that its next step depends on."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from ibnvision.config import Config, nearest
from ibnvision.tasks import TASKS, Task

from . import checkpoint


def find_task(cfg: Config) -> Task:
    """The module of `cfg.task`; KeyError with the nearest name."""
    if cfg.task not in TASKS:
        raise KeyError(f"unknown task {cfg.task!r}: {nearest(cfg.task, TASKS)}")
    return TASKS[cfg.task]


def build_model(cfg: Config, num_classes: int, *, fetch: bool = True) -> nn.Module:
    """The network of `cfg`, on the CPU, with fresh weights in its memory format.

    fetch: False: without the published weights that `model_args.pretrained` asks for and those of
    `model_args.restorer`, where those of a checkpoint follow.
    """
    args = dict(cfg.model_args)
    if "pretrained" in args and not fetch:
        if cfg.task == "detection":  # where `pretrained` decides what is frozen, too
            args["backbone_args"] = {**args.get("backbone_args", {}), "pretrained": False}
        else:
            args["pretrained"] = False
    if isinstance(args.get("restorer"), dict) and fetch:
        state = checkpoint.weights(_restorer_of(args["restorer"]))
        args["restorer"] = {**args["restorer"], "state": state}
    model = find_task(cfg).build_model(
        cfg.model, num_classes=num_classes, mean=cfg.mean, std=cfg.std, **args
    )
    layout = torch.channels_last if cfg.channels_last else torch.contiguous_format
    return model.to(memory_format=layout)


def resolved(cfg: Config) -> Config:
    """`cfg` with what `model_args.restorer` leaves to its file of weights: `model`, `args`, `gate`.

    So a checkpoint of the run can be built without that file. Raises: ValueError for a table
    without weights or a file of another task; as `checkpoint.load`.
    """
    restorer = cfg.model_args.get("restorer")
    if not isinstance(restorer, dict) or "args" in restorer:
        return cfg
    saved = _restorer_of(restorer)
    found = {"model": saved["config"]["model"], "args": saved["config"]["model_args"]}
    found |= {"gate": list(saved["gate"].values())} if saved.get("gate") else {}
    args = {**cfg.model_args, "restorer": {**found, **restorer}}
    return dataclasses.replace(cfg, model_args=args)


def _restorer_of(restorer: dict[str, Any]) -> dict[str, Any]:
    if not restorer.get("weights"):
        raise ValueError(
            "model_args.restorer.weights must name the checkpoint of a dehazing run, got none"
        )
    try:
        saved = checkpoint.load(restorer["weights"])
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"{error}: model_args.restorer.weights must be the checkpoint of a dehazing run; train "
            "one first (ibnvision train streets_dehaze), or name another"
        ) from None
    if saved["task"] != "dehazing":
        raise ValueError(
            f"model_args.restorer.weights must be of the task dehazing, {restorer['weights']} is "
            f"of {saved['task']}"
        )
    return saved


def learning_rate(cfg: Config, step: int) -> float:
    """The rate of optimizer step `step`, counted from 0: linear warm-up times the schedule.

    The cosine reaches `lr_end` at the last step, which it counts as `steps`, as DEA-Net's does.
    """
    rising = min(1.0, (step + 1) / cfg.warmup) if cfg.warmup else 1.0
    if cfg.schedule == "cosine":
        share = 0.5 * (1 + math.cos(math.pi * (step + 1) / cfg.steps))
        return rising * (cfg.lr_end + (cfg.lr - cfg.lr_end) * share)
    falling = (1 - step / cfg.steps) ** cfg.power if cfg.schedule == "poly" else 1.0
    return cfg.lr * rising * falling


def parameter_groups(model: nn.Module, cfg: Config) -> list[dict[str, Any]]:
    """Parameters with their factor of the learning rate; ValueError for a model without backbone.

    A backbone is a child module `backbone`, wherever it stands; of a detector's, which holds the
    pyramid too, its `body`.
    """
    parameters = list(model.parameters())
    if cfg.backbone_lr == 1:
        return [{"params": parameters, "factor": 1.0}]
    inner = [m for name, m in model.named_modules() if name.rpartition(".")[2] == "backbone"]
    if not inner:
        raise ValueError(
            f"backbone_lr must be 1 for a model without backbone, got {cfg.backbone_lr} for "
            f"{cfg.model}"
        )
    slow = {id(p): p for p in getattr(inner[0], "body", inner[0]).parameters()}
    rest = [p for p in parameters if id(p) not in slow]
    return [
        {"params": list(slow.values()), "factor": cfg.backbone_lr},
        {"params": rest, "factor": 1.0},
    ]


class State:
    """All that a checkpoint holds: everything that the next step depends on.

    fetch: as of `build_model`; False where `restore` follows.
    """

    def __init__(
        self, cfg: Config, num_classes: int, device: torch.device, *, fetch: bool = True
    ) -> None:
        self.model = build_model(cfg, num_classes, fetch=fetch).to(device)
        groups = parameter_groups(self.model, cfg)
        if cfg.optimizer == "sgd":
            self.optimizer: torch.optim.Optimizer = torch.optim.SGD(
                groups,
                lr=cfg.lr,
                momentum=cfg.momentum,
                nesterov=cfg.nesterov and cfg.momentum > 0,
                weight_decay=cfg.weight_decay,
            )
        else:
            kind = torch.optim.Adam if cfg.optimizer == "adam" else torch.optim.AdamW
            self.optimizer = kind(groups, lr=cfg.lr, weight_decay=cfg.weight_decay)
        self.scaler = torch.amp.GradScaler(device.type, enabled=cfg.precision == "fp16")
        average = get_ema_multi_avg_fn(cfg.ema)
        self.ema = AveragedModel(self.model, multi_avg_fn=average) if cfg.ema else None
        self.step = 0  # optimizer steps done
        self.position = 0  # training samples read
        self.evaluated = 0  # the last step that was evaluated
        self.best = -1.0  # score on the source's val split
        self.oracle = -1.0  # score on the test domains
        self.losses: list[float] = []  # since the last log line

    def set_rate(self, lr: float) -> None:
        """The learning rate of the next step; groups keep their factor of it."""
        for group in self.optimizer.param_groups:
            group["lr"] = lr * group.get("factor", 1.0)  # runs of old have none

    @property
    def to_evaluate(self) -> nn.Module:
        return self.ema.module if self.ema else self.model

    def plain(self) -> dict[str, Any]:
        ema = self.ema
        return {
            "model": self.model.state_dict(),
            "ema": {"weights": ema.module.state_dict(), "updates": int(ema.n_averaged)}
            if ema
            else None,
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "schedule": {"step": self.step},
            "sampler": {"position": self.position},
            "step": self.step,
            "evaluated": self.evaluated,
            "best": self.best,
            "oracle": self.oracle,
            "losses": self.losses,
            "rng": checkpoint.random_state(),
        }

    def restore(self, saved: Mapping[str, Any]) -> None:
        self.model.load_state_dict(saved["model"])
        if self.ema:
            self.ema.module.load_state_dict(saved["ema"]["weights"])
            self.ema.n_averaged.fill_(saved["ema"]["updates"])
        self.optimizer.load_state_dict(saved["optimizer"])
        self.scaler.load_state_dict(saved["scaler"])
        self.step, self.position = saved["step"], saved["sampler"]["position"]
        self.evaluated, self.best = saved["evaluated"], saved["best"]
        self.oracle = saved.get("oracle", -1.0)  # younger than some runs
        self.losses = list(saved["losses"])
        checkpoint.restore_random_state(saved["rng"])
