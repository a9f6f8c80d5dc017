"""Training and evaluation: two plain loops over accelerate, in one process or many (torchrun).

On a CPU a run is decided by its config bit for bit, interrupted and resumed or not; of many
processes a resumed one goes on with the random numbers of the first. Beside the results, see
`run_folder` for the records that a run leaves and `checkpoint` for its files.
"""

import contextlib
import random
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator, InitProcessGroupKwargs
from accelerate.utils import broadcast, gather_object, send_to_device
from rich.console import Console
from rich.progress import track
from torch import Tensor, nn
from torch.utils.data import Dataset

from ibnvision import config, data
from ibnvision.config import Config
from ibnvision.metrics import as_text, target_mean, unit, worst_domain
from ibnvision.tasks import Task

from . import checkpoint, gate, pictures, run_folder, sets
from .progress import Interrupted, StepProgress, StopRequest, results_table, told
from .run_folder import RunFolder, read_records
from .state import State, build_model, find_task, learning_rate, resolved

__all__ = ["build_model", "evaluate", "find_task", "learning_rate", "read_records", "train"]

_AUTOCAST = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_PICTURES_PER_DOMAIN = 3
_CHECK_BATCHES = 1
# for the process that reads all labels first: 12,000 of GTAV take longer than NCCL's 10 minutes
_PATIENCE = InitProcessGroupKwargs(timeout=timedelta(hours=3))

Results = dict[str, dict[str, Any]]


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


def evaluate(
    cfg: Config,
    model: nn.Module,
    *,
    domains: Sequence[str] | None = None,
    split: str = "test",
    out: str | Path | None = None,
    corruptions: Sequence[str] = (),
    severities: Sequence[int] = (1, 2, 3, 4, 5),
    classes: Sequence[str] | None = None,
) -> Results:
    """Measure `model` in fp32 on a split of each domain (default: the test domains of `cfg`), and
    under each of the corruptions at each of the severities, as the domain NAME@CORRUPTION_SEVERITY.
    classes: those of `model`, which each domain must have; default: of the first train domain.

    Returns per domain what the task's metric computes, `images`, and `facts`, that is what was
    evaluated and how: protocol, label map, split, hash of the file list. With `out`, also writes
    overlays/<domain>_<i>.png there, and confusion_<domain>.png where the metric has counted one.
    """
    task, accelerator = find_task(cfg), _start(cfg)
    names = list(cfg.test_domains if domains is None else domains)
    source = [cfg.train_domains[0]] if classes is None else []
    classes = sets.class_names(cfg, [*source, *names], classes)
    task.check(cfg)
    with explained(cfg):
        found = {name: sets.build(cfg, name, split) for name in names}
        for name in names if corruptions else ():
            found |= sets.corrupted(cfg, name, found[name], corruptions, severities)
        model = model.to(accelerator.device)
        folder = Path(out) if out is not None and accelerator.is_main_process else None
        return _evaluate(cfg, task, model, found, split, classes, accelerator, out=folder)


def _train(cfg: Config, resume: bool, overwrite: bool) -> Path:
    begin = time.perf_counter()
    cfg, missing = sets.available(resolved(cfg))
    task, accelerator = find_task(cfg), _start(cfg)
    task.check(cfg)
    saved = run_folder.claim(cfg, resume=resume, overwrite=overwrite)
    classes = sets.class_names(cfg, [*cfg.train_domains, *cfg.test_domains])
    selecting = [d for d in cfg.train_domains if "val" in data.splits(d, data.root_of(d, cfg.data))]
    selection = {name: sets.build(cfg, name, "val") for name in selecting}
    tests = {name: sets.build(cfg, name, "test") for name in cfg.test_domains}
    with accelerator.main_process_first():  # last, since it may read every label
        training = sets.training_set(cfg, _watch("labels read for class_uniform", accelerator))
    _seed(cfg)
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
        return _evaluate(cfg, task, model, found, split, classes, accelerator, **options)

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
        summary = _summary(cfg, results, task.score)
        if summary:
            run.print(summary)
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
            if _any(stop.raised, votes):
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


def _any(mine: bool, processes: Any) -> bool:
    """Whether one of the processes says so, asked at the same step, so that all stop there and
    none waits for one that did; None: there is one.
    """
    if processes is None:
        return mine
    vote = torch.tensor(int(mine))
    torch.distributed.all_reduce(vote, torch.distributed.ReduceOp.MAX, group=processes)
    return bool(vote)


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


@torch.no_grad()
def _evaluate(
    cfg: Config,
    task: Task,
    model: nn.Module,
    found: Mapping[str, Dataset],
    split: str,
    classes: Sequence[str],
    accelerator: Accelerator,
    *,
    stop: StopRequest | None = None,
    batches: int | None = None,
    out: Path | None = None,
) -> Results:
    """The evaluation loop, without augmentation and autocast; `batches` makes it a quick check."""
    training = model.training
    model.eval()
    if accelerator.num_processes > 1:  # statistics are each process's own: those that are saved
        broadcast(list(model.buffers()))
    results: Results = {}
    overlays = (out or Path()) / "overlays"
    for domain, dataset in found.items():
        metric, shown = task.new_metric(classes), 0
        single, mine = sets.evaluation_batch(task, dataset), sets.share(dataset, accelerator)
        for index, batch in enumerate(sets.loader(cfg, mine, batch_size=single)):
            if index == batches or (stop and stop.raised):
                break
            batch = send_to_device(batch, accelerator.device)
            given = task.evaluate(model, batch, cfg)
            prediction = given[0]
            metric.update(*given)
            wanted = min(_PICTURES_PER_DOMAIN - shown, len(prediction)) if out else 0
            for i in range(wanted):
                picture = task.draw(
                    batch["image"][i],
                    batch["target"][i],
                    prediction[i],
                    classes=classes,
                    palette=torch.tensor(data.palette(classes)),
                )
                pictures.save_png(picture, overlays / f"{domain}_{shown}.png")
                shown += 1
        stopped = bool(stop and stop.raised)
        if accelerator.num_processes > 1:
            states = gather_object([(metric.state(), stopped)])
            metric = task.new_metric(classes)
            for counted, left in states:
                metric.merge(counted)
                stopped = stopped or left
        if stopped:  # here, where all processes know of it
            raise Interrupted
        told = {**sets.facts(cfg, dataset, split), **task.facts(cfg)}
        results[domain] = {"images": told["images"], **metric.compute(), "facts": told}
        if out and hasattr(metric, "confusion"):
            path = out / f"confusion_{domain}.png"
            pictures.save_confusion(metric.confusion, classes, domain, path)
    model.train(training)
    return results


def _summary(cfg: Config, results: Results, score: str) -> str:
    """Source, mean and worst of the targets without stress domains, and gap, where there are both.

    An undefined score is no score: it takes part in nothing.
    """
    found = {
        d: row
        for d, row in results.items()
        if not data.domain_of(d).stress and not np.isnan(row[score])
    }
    targets = {d: row for d, row in found.items() if d not in cfg.train_domains}
    source = {d: row for d, row in found.items() if d in cfg.train_domains}
    if not source or not targets:
        return ""
    home, away = target_mean(source, score), target_mean(targets, score)
    parts = f"source {as_text(score, home)}, mean of {len(targets)} targets {as_text(score, away)}"
    if len(targets) > 1:
        name, worst = worst_domain(targets, score)
        parts += f", worst {as_text(score, worst)} ({name})"
    gap = f"gap {as_text(score, home - away)}"
    return f"{score.rpartition('_')[0]} {unit(score)}: {parts}, {gap}"


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


def _start(cfg: Config) -> Accelerator:
    """Set threads and device; ValueError for what this machine or these processes cannot do."""
    if cfg.device == "cuda" and not torch.cuda.is_available():
        raise ValueError("device is cuda, but torch sees no CUDA device: use device=cpu or auto")
    torch.set_num_threads(
        run_folder.usable_cores() if isinstance(cfg.threads, str) else cfg.threads
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # advice of accelerate about launchers
        accelerator = Accelerator(
            cpu=cfg.device == "cpu", mixed_precision="no", kwargs_handlers=[_PATIENCE]
        )
    if cfg.sync_norm and accelerator.num_processes > 1:
        raise ValueError(
            "sync_norm must be false under several processes, got true with "
            f"{accelerator.num_processes}: the fused layers do not synchronize batch statistics "
            "yet. Train in one process (grad_accum does not replace it), or pass sync_norm=false "
            "for statistics of each process's own images"
        )
    return accelerator


def _seed(cfg: Config) -> None:
    random.seed(cfg.seed)
    np.random.seed(cfg.seed % 2**32)
    torch.manual_seed(cfg.seed)
    if cfg.deterministic:
        torch.use_deterministic_algorithms(True, warn_only=True)


@contextlib.contextmanager
def explained(cfg: Config) -> Iterator[None]:
    """Turn the two failures whose own messages do not help into advice."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        text = str(error)
        memory = isinstance(error, (torch.OutOfMemoryError, MemoryError))
        if memory or "can't allocate memory" in text:
            size = "x".join(map(str, cfg.size)) or f"that of preset {cfg.preset}"
            raise RuntimeError(
                f"out of memory: lower batch_size (now {cfg.batch_size}; "
                f"grad_accum keeps the sum), use a smaller size (now {size}) "
                f"or precision=bf16 (now {cfg.precision})"
            ) from error
        if "DataLoader worker" in text and ("exited unexpectedly" in text or "killed" in text):
            raise RuntimeError(
                f"a data worker died (workers = {cfg.workers}): use workers=0 to see its own "
                f"error, or fewer workers if memory or /dev/shm is short. {text.splitlines()[0]}"
            ) from error
        raise


def _since(begin: float) -> str:
    return f"{time.perf_counter() - begin:.1f} s"
