"""Training: one loop from the first step, or that of last.pt, to the last."""

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from rich.console import Console
from rich.progress import track
from torch import Tensor, nn
from torch.utils.data import Dataset

from ibnvision import config, data
from ibnvision.config import Config
from ibnvision.tasks import Task

from . import checkpoint, gate, pictures, run_folder, sets
from .evaluation import Results, evaluate_sets, summary_line
from .processes import any_of, explained, seed, start
from .progress import Interrupted, StepProgress, StopRequest, results_table, told
from .run_folder import RunFolder
from .state import State, find_task, learning_rate, resolved

_AUTOCAST = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_CHECK_BATCHES = 1


def train(cfg: Config, *, resume: bool = False, overwrite: bool = False) -> Path:
    """Train as `cfg` says and return the run folder, <out>/<task>/<name>.

    `resume` goes on from the folder's last.pt, exactly; `overwrite` replaces an existing run. A
    Ctrl-C, SIGTERM or hangup saves last.pt, prints the command that resumes, and raises
    KeyboardInterrupt. Raises also: FileExistsError, FileNotFoundError and ValueError for a folder
    or config that does not fit, FloatingPointError when the loss is not finite, OSError when a file
    cannot be written, RuntimeError with advice when memory or a data worker fails.
    """
    with explained(cfg):
        return _train(cfg, resume, overwrite)


def _train(cfg: Config, resume: bool, overwrite: bool) -> Path:
    begin = time.perf_counter()
    cfg, missing = sets.available(resolved(cfg))
    task, accelerator = find_task(cfg), start(cfg)
    task.check(cfg)
    saved = run_folder.claim(cfg, resume=resume, overwrite=overwrite)
    classes = sets.class_names(cfg, [*cfg.train_domains, *cfg.test_domains])
    selecting = [d for d in cfg.train_domains if "val" in data.splits(d, data.root_of(d, cfg.data))]
    selection = {name: sets.build(cfg, name, "val") for name in selecting}
    tests = {name: sets.build(cfg, name, "test") for name in cfg.test_domains}
    with accelerator.main_process_first():  # last, since it may read every label
        training = sets.training_set(cfg, _watch("labels read for class_uniform", accelerator))
    seed(cfg)
    state = State(cfg, len(classes), accelerator.device, fetch=not saved)
    if saved:
        state.restore(saved)
    accelerator.wait_for_everyone()
    run = RunFolder(
        cfg, main=accelerator.is_main_process, resumed_step=saved["step"] if saved else None
    )
    facts = run_folder.environment(accelerator.device, accelerator.num_processes)
    facts["training"] = sets.training_facts(training)
    run.write_env(facts)
    _announce(run, cfg, facts, state)
    for name in missing:
        run.print(f"{name} is left out: no --data {data.key_of(name)}=DIR")
    if accelerator.num_processes > 1:
        run.print("batch statistics are those of each process: its own batch_size images")
    size = sets.image_size(training)
    identity: dict[str, Any] = {"task": cfg.task, "config": config.to_dict(cfg), "size": size}
    identity |= {"classes": list(classes), "crops": isinstance(training, sets.DrawnSet)}
    gated = gate.entry(state.model, selection.values())

    def save(*names: str) -> None:
        if accelerator.is_main_process:
            for name in names:
                checkpoint.save(run.path / name, {**identity, **gated, **state.plain()})

    def measure(found: dict[str, Dataset], split: str, **options: Any) -> Results:
        model = state.to_evaluate
        return evaluate_sets(cfg, task, model, found, split, classes, accelerator, **options)

    def evaluate_all() -> None:
        last = state.step == cfg.steps
        value = measure(selection, "val", stop=stop)
        results = measure(tests, "test", stop=stop, out=run.path if last and run.main else None)
        rows = [("val", value), ("test", results)]
        for split, found in rows:
            for domain, row in found.items():
                head = {"kind": "eval", "step": state.step, "split": split, "domain": domain}
                head["selection"] = checkpoint.selection("last.pt", state.step, cfg.steps)
                run.record({**head, "weights": "ema" if state.ema else "model", **row})
        table = {f"{d} ({split})": row for split, found in rows for d, row in found.items()}
        run.print(results_table(table, f"step {state.step}"))
        if line := summary_line(cfg, results, task.score):
            run.print(line)
        state.evaluated = state.step
        save("last.pt", *_better(cfg, state, task.score, value, results))
        if run.main:
            pictures.save_curves(run.records(), task.score, run.path / "results.png")

    with StopRequest() as stop:
        try:
            if not saved:
                measure(selection, "val", batches=_CHECK_BATCHES, stop=stop)
                measure(tests, "test", batches=_CHECK_BATCHES, stop=stop)
                run.print(f"data checked, first evaluation after {_since(begin)}")
                save("last.pt")
            _steps(cfg, task, state, accelerator, training, run, stop, evaluate_all)
        except Interrupted:
            save("last.pt")
            accelerator.wait_for_everyone()  # torchrun ends all once the first has left
            run.print(f"stopped at step {state.step}, saved {run.path / 'last.pt'}; to go on:")
            run.print(f"  ibnvision train {run.path / 'config.toml'} resume=true")
            raise
    run.print(f"done in {_since(begin)}")
    run.print(f"folder      {run.path}")
    best = f" (best on source val: {run.path / 'best.pt'})" if selection else ""
    run.print(f"checkpoint  {run.path / 'last.pt'}{best}")
    run.print(f"pictures    {run.path / 'results.png'}, {run.path / 'overlays'}")
    return run.path


def _better(cfg: Config, state: State, score: str, value: Results, results: Results) -> list[str]:
    """Files of the checkpoints that this evaluation chooses; moves the best scores of `state`.

    best.pt goes by the source's val split. With `oracle`, best_on_target.pt goes by the mean over
    the test domains that are neither source nor stress: a bound, not a result.
    """
    names = []
    away = [d for d in results if d not in cfg.train_domains and not data.domain_of(d).stress]
    choices = [("best.pt", "best", list(value.values()))]
    if cfg.oracle:
        choices.append(("best_on_target.pt", "oracle", [results[d] for d in away]))
    for name, key, rows in choices:
        mean = float(np.mean([row[score] for row in rows])) if rows else -1.0
        if mean > getattr(state, key):
            setattr(state, key, mean)
            names.append(name)
    return names


def _watch(text: str, accelerator: Accelerator) -> Callable[[range], Iterable[int]]:
    """Progress of a first pass over a set, on the terminal of the main process."""
    console = Console(stderr=True, quiet=not accelerator.is_main_process)
    return lambda indices: track(indices, text, console=console, transient=True)


def _steps(
    cfg: Config,
    task: Task,
    state: State,
    accelerator: Accelerator,
    training: Dataset,
    run: RunFolder,
    stop: StopRequest,
    evaluate_all: Callable[[], None],
) -> None:
    """The training loop, from `state.step` to the last step; evaluates where it is due."""
    device, world = accelerator.device, accelerator.num_processes
    first = state.position // cfg.batch_size
    count = (cfg.steps - state.step) * cfg.grad_accum * world
    order = sets.order(cfg, training, first, first + count)
    model = accelerator.prepare_model(state.model)
    forward: Any = torch.compile(model) if cfg.compile else model
    loader = sets.loader(cfg, training, batch_sampler=order)
    batches = iter(accelerator.prepare_data_loader(loader))
    several = accelerator.num_processes > 1
    votes: Any = torch.distributed.new_group(backend="gloo") if several else None
    pending: list[Tensor] = []
    clock, counted = time.perf_counter(), state.step
    with StepProgress(run.console, cfg.steps, state.step) as progress:
        while True:
            due = bool(cfg.eval_every) and state.step > 0 and state.step % cfg.eval_every == 0
            if (due or state.step == cfg.steps) and state.evaluated < state.step:
                _settle(cfg, state, pending, run, accelerator)
                pause = time.perf_counter()
                evaluate_all()
                clock += time.perf_counter() - pause
            if state.step == cfg.steps:
                return
            if any_of(stop.raised, votes):
                _settle(cfg, state, pending, run, accelerator)
                raise Interrupted
            lr = learning_rate(cfg, state.step)
            state.set_rate(lr)
            pending.append(_step(cfg, task, state, accelerator, forward, batches, model).detach())
            state.step += 1
            state.position += cfg.batch_size * cfg.grad_accum * world
            if state.ema:
                state.ema.update_parameters(state.model)
            progress.advance()
            if state.step % cfg.log_every == 0 or state.step == cfg.steps:
                _settle(cfg, state, pending, run, accelerator)
                if device.type == "cuda":
                    torch.cuda.synchronize(device)
                now = time.perf_counter()
                images = (state.step - counted) * cfg.batch_size * cfg.grad_accum * world
                rate, loss = images / (now - clock), float(np.mean(state.losses))
                clock, counted, state.losses = now, state.step, []
                row = {"kind": "train", "step": state.step, "loss": loss, "lr": lr}
                run.record({**row, "images_per_s": rate})
                text = progress.line(state.step, loss, lr, rate, device)
                if progress.plain:
                    run.print(text)


def _step(
    cfg: Config,
    task: Task,
    state: State,
    accelerator: Accelerator,
    forward: nn.Module,
    batches: Iterator[dict[str, Any]],
    model: nn.Module,
) -> Tensor:
    """One optimizer step over `grad_accum` batches; returns the mean loss."""
    half, kind = cfg.precision != "fp32", accelerator.device.type
    total = torch.zeros((), device=accelerator.device)
    state.model.train()
    for part in range(cfg.grad_accum):
        batch = next(batches)
        place = (state.step, part, accelerator.process_index)
        batch = task.augment(batch, cfg.augment, sets.step_generator(cfg.seed, *place))
        if cfg.channels_last and isinstance(batch["image"], Tensor):
            batch["image"] = batch["image"].contiguous(memory_format=torch.channels_last)
        last = part == cfg.grad_accum - 1
        with contextlib.nullcontext() if last else accelerator.no_sync(model):
            with torch.autocast(kind, _AUTOCAST[cfg.precision], enabled=half):
                loss = task.compute_loss(forward, batch, cfg) / cfg.grad_accum
            state.scaler.scale(loss).backward()
        total += loss.detach()
    state.scaler.step(state.optimizer)
    state.scaler.update()
    state.optimizer.zero_grad(set_to_none=True)
    return total


def _settle(
    cfg: Config,
    state: State,
    pending: list[Tensor],
    run: RunFolder,
    accelerator: Accelerator | None = None,
) -> None:
    """Bring the losses to the host; raises FloatingPointError for the first that is not finite.

    accelerator: where all processes call this at the same step, so that all raise and none waits
    for one that did.
    """
    if not pending:
        return
    mine = torch.stack(pending)
    every = accelerator.gather(mine[None]) if accelerator else mine[None]
    for index, values in enumerate(every.T.tolist()):
        value = next((v for v in values if not np.isfinite(v)), None)
        if value is not None:
            step = state.step - len(pending) + index
            raise FloatingPointError(
                f"the loss is {value} at step {step} (lr {learning_rate(cfg, step):.3g}); "
                "try a lower lr, more warmup or precision=fp32. The last checkpoint is "
                f"{run.path / 'last.pt'}"
            )
    state.losses += mine.tolist()
    pending.clear()


def _announce(run: RunFolder, cfg: Config, facts: Mapping[str, Any], state: State) -> None:
    run.print(config.dump(cfg).rstrip())
    run.print(f"device {facts['device']}, {facts['threads']} of {facts['cores']} cores")
    for name, path in facts["ops"].items():
        run.print(f"op {name}: {path}")
    weights = sum(p.numel() for p in state.model.parameters())
    run.print(f"{cfg.model}: {weights / 1e6:.2f} M parameters; folder {run.path}")
    for domain, row in facts["training"].items():
        run.print(told(f"{domain} (train)", row))
    if state.step:
        run.print(f"resumed at step {state.step}")


def _since(begin: float) -> str:
    return f"{time.perf_counter() - begin:.1f} s"
