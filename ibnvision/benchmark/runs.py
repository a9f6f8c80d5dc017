"""The trainings of a benchmark: what they are, and running them side by side."""

import contextlib
import dataclasses
import hashlib
import json
import math
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from ibnvision import config, data, engine
from ibnvision.config import Config
from ibnvision.data.shifts import APPEARANCE_HASH
from ibnvision.engine.progress import StopRequest
from ibnvision.engine.run_folder import HARMLESS
from ibnvision.ops import kernel_report

from . import record, scores
from .children import Children, lock_folder


@dataclass(frozen=True)
class Row:
    """A line of the table: its name, and what it changes in the config."""

    name: str
    overrides: tuple[str, ...]

    @property
    def key(self) -> str:
        return self.name.lower().replace(" + ", "_").replace("-", "_").replace(" ", "_")


def _norm_row(name: str, ibn: str, augment: str) -> Row:
    return Row(name, (f"model_args.backbone_args.ibn={ibn}", f"augment={augment}"))


def _isw_row(name: str, augment: str) -> Row:
    """Collected over 500 images, as RobustNet does, after 5 epochs of 20 steps; there after 6."""
    isw = 'model_args.whitening={kind="isw", begin=100, collect=31, clusters=3}'
    return Row(name, (isw, f"augment={augment}"))


ROWS = (  # of the generalization benchmark
    _norm_row("BN", "none", "flip"),
    _norm_row("BN + jitter", "none", "jitter"),
    _norm_row("IBN-a", "a", "flip"),
    _norm_row("IBN-b", "b", "flip"),
)
FULL_ROWS = (  # of its full preset: every norm with and without the augmentation
    *ROWS,
    _norm_row("IBN-a + jitter", "a", "jitter"),
    _norm_row("IBN-b + jitter", "b", "jitter"),
    _isw_row("ISW", "flip"),
    _isw_row("ISW + jitter", "jitter"),
)
RESERVE_S = 40.0  # for throughput, pictures and the page
UNITS = {"miou_pct": "mIoU %", "psnr_rgb_db": "PSNR dB"}  # of a task's score
PHOTOGRAPHS = ("motorcycle_",)  # real, though they need no folder
STRESS = ("streets_sketch", "streets_invert")
CAMVID = ("camvid_day", "camvid_dusk")
NOT_PROTOCOL = (*HARMLESS, "seed", "data", "oracle")
LATER = (  # younger than recorded protocols: left out where they do nothing
    *("loss_args", "lr_end", "backbone_lr", "scale", "class_uniform", "sync_norm"),
    *("protocol", "eval_scales", "eval_flip", "empty_images"),
)


@dataclass(frozen=True)
class Job:
    """One training."""

    row: Row
    seed: int
    cfg: Config
    overrides: tuple[str, ...]
    protocol: str

    @property
    def folder(self) -> Path:
        return Path(self.cfg.out) / self.cfg.task / self.cfg.name

    def command(self, config_name: str, *flags: str) -> list[str]:
        return [sys.executable, "-m", "ibnvision", "train", config_name, *self.overrides, *flags]


def roles_of(cfg: Config) -> dict[str, str]:
    """Domain -> source, target, stress or real, of everything that `cfg` trains on or tests.

    A network that was trained on real frames has real targets, with no role of their own.
    """
    roles = dict.fromkeys(cfg.train_domains, "source")
    drawn = not any(data.domain_of(name).data_key for name in cfg.train_domains)
    for name in cfg.test_domains:
        domain = data.domain_of(name)
        real = drawn and (domain.data_key or name.startswith(PHOTOGRAPHS))
        roles.setdefault(name, "stress" if domain.stress else "real" if real else "target")
    return roles


def fingerprints(cfg: Config) -> dict[str, str]:
    """ "domain split" -> hash of what is trained on or evaluated."""
    splits = [(d, s) for d in cfg.train_domains for s in ("train", "val", "test")]
    splits += [(d, "test") for d in cfg.test_domains if d not in cfg.train_domains]
    return {f"{d} {s}": dataset_of(cfg, d, s).fingerprint() for d, s in splits}


def dataset_of(cfg: Config, domain: str, split: str, limit: int | None = None) -> Any:
    root = data.root_of(domain, cfg.data)
    size: Any = tuple(cfg.size) or None
    how: dict[str, Any] = {"preset": cfg.preset, "size": size, "empty": cfg.empty_images}
    return data.build_domain(domain, split, root=root, limit=limit, **how)


def digest(*parts: Any) -> str:
    """SHA-256 of plain values."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def protocol_of(prints: Mapping[str, str], *configs: Config) -> str:
    """Hash of the data, the appearance recipe and the configs without seed and names."""
    plain, defaults = [], config.to_dict(Config())
    for cfg in configs:
        values = config.to_dict(cfg)
        idle = [key for key in LATER if values[key] == defaults[key]]
        plain.append({k: v for k, v in values.items() if k not in (*NOT_PROTOCOL, *idle)})
    return digest(dict(prints), APPEARANCE_HASH, plain)


def plan(
    config_name: str,
    seeds: Sequence[int],
    overrides: Sequence[str],
    out: Path,
    *,
    camvid: bool,
    rows: Sequence[Row] = ROWS,
) -> list[Job]:
    """All trainings of the generalization benchmark; see plan_rows."""
    base = config.load(config_name, overrides)
    tests = [*dict.fromkeys([*base.train_domains, *base.test_domains, *STRESS])]
    tests += [d for d in CAMVID if camvid and d not in tests]
    return plan_rows(rows, tests, config_name, seeds, overrides, out)


def plan_rows(
    rows: Sequence[Row],
    tests: Sequence[str],
    config_name: str,
    seeds: Sequence[int],
    overrides: Sequence[str],
    out: Path,
) -> list[Job]:
    """All trainings, seed by seed, so that a benchmark cut short holds whole seeds.

    tests: the domains that every one is tested on.
    """
    base = config.load(config_name, overrides)
    prints = fingerprints(dataclasses.replace(base, test_domains=tuple(tests)))
    jobs = []
    for seed in seeds:
        for row in rows:
            mine = (
                *overrides,
                f"test_domains=[{','.join(tests)}]",
                *row.overrides,
                f"seed={seed}",
                "threads=1",
                f"out={out / 'runs'}",
                f"scenes={out / 'scenes'}",
                f"name={row.key}_seed{seed}",
            )
            cfg = config.load(config_name, mine)
            jobs.append(Job(row, seed, cfg, mine, protocol_of(prints, cfg)))
    return jobs


def final_scores(job: Job) -> dict[str, dict[str, Any]] | None:
    """Domain -> the metric's fields after the last step; None where the run is not complete."""
    rows = [
        r
        for r in engine.read_records(job.folder)
        if r["kind"] == "eval" and r["split"] == "test" and r["step"] == job.cfg.steps
    ]
    found = {r["domain"]: r for r in rows}
    complete = set(job.cfg.test_domains) <= set(found) and (job.folder / "last.pt").is_file()
    return found if complete else None


def announce(
    bench: str, argv: Sequence[str], args: Any, jobs: Sequence[Job], out: Path
) -> record.Record:
    """Make the folder `out`, print what will run, and return what all records of the run share."""
    out.mkdir(parents=True, exist_ok=True)
    quick = args.preset == "tiny" or bool(args.overrides)
    common = record.environment(bench, argv, "cpu", quick=quick)
    print(f"{common['device']}, torch {common['torch']}, {args.workers} one-thread worker(s)")
    print("\n".join(f"op {name}: {path}" for name, path in kernel_report().items()))
    names = ", ".join(dict.fromkeys(job.row.name for job in jobs))
    print(f"{len(jobs)} trainings: {names}; seeds {args.seeds}; folder {out}", flush=True)
    return common


class Trained(NamedTuple):
    """What a benchmark goes on with after its trainings."""

    common: record.Record  # what all records of the run share
    say: Callable[[str], None]  # see speaker
    state: "State"
    outcome: "Outcome"


def train_all(
    bench: str,
    argv: Sequence[str],
    args: Any,
    jobs: Sequence[Job],
    config_name: str,
    out: Path,
    *,
    begin: float,
    budget_s: float = 0.0,
) -> Trained | None:
    """Announce and run the trainings of a benchmark; None, said aloud, where none finished."""
    common, say = announce(bench, argv, args, jobs, out), speaker(begin)
    state = State(out)
    outcome = run_jobs(
        jobs, config_name, state, workers=args.workers, budget_s=budget_s, say=say, begin=begin
    )
    if not outcome.done:
        print("no training finished", file=sys.stderr)
        return None
    return Trained(common, say, state, outcome)


def speaker(begin: float) -> Callable[[str], None]:
    """say(text): a line of progress with the seconds since `begin`."""
    return lambda text: print(f"[{time.perf_counter() - begin:5.0f} s] {text}", flush=True)


class State:
    """What is remembered of the runs in <out>/state.json: protocol and seconds by name.

    cpu_s is that of the whole training, None where it was interrupted. As long as this lives, no
    other process gets the folder; FileExistsError where another one has it.
    """

    def __init__(self, out: Path) -> None:
        self.path, self.lock = out / "state.json", lock_folder(out)
        self.runs: dict[str, dict[str, Any]] = {}
        if self.path.is_file():
            self.runs = json.loads(self.path.read_text(encoding="utf-8"))

    def put(self, job: Job, **fields: Any) -> None:
        self.runs.setdefault(job.cfg.name, {}).update(fields)
        record.replace_file(self.path, json.dumps(self.runs, indent=1) + "\n")

    def same(self, job: Job) -> bool:
        """Whether the run in the folder was trained by this very protocol and config."""
        if self.runs.get(job.cfg.name, {}).get("protocol") != job.protocol:
            return False
        try:
            return _comparable(config.load(job.folder / "config.toml")) == _comparable(job.cfg)
        except (OSError, KeyError, TypeError, ValueError):
            return False


def _comparable(cfg: Config) -> dict[str, Any]:
    """A config without what moves when a folder is renamed or a log gets finer."""
    return {k: v for k, v in config.to_dict(cfg).items() if k not in HARMLESS}


def affordable(
    elapsed_s: float, run_s: Sequence[float], jobs: int, workers: int, budget_s: float
) -> bool:
    """Whether `jobs` more runs likely end within the budget, by the mean of those that ended."""
    if not budget_s or not run_s:
        return True
    return elapsed_s + math.ceil(jobs / workers) * sum(run_s) / len(run_s) + RESERVE_S <= budget_s


@dataclass
class Outcome:
    """What became of the jobs."""

    done: list[Job] = dataclasses.field(default_factory=list)
    reused: set[str] = dataclasses.field(default_factory=set)
    failed: dict[str, str] = dataclasses.field(default_factory=dict)  # run name -> its last words
    dropped: list[int] = dataclasses.field(default_factory=list)  # seeds


def run_jobs(
    jobs: Sequence[Job],
    config_name: str,
    state: State,
    *,
    workers: int,
    budget_s: float = 0.0,
    say: Callable[[str], None] = print,
    begin: float | None = None,
) -> Outcome:
    """Train what is not trained yet, `workers` processes side by side.

    A run that crashes is reported and the others go on. From the second seed on, a seed that would
    not fit into the budget (0: none) is left out and named.

    Raises: KeyboardInterrupt at a Ctrl-C, SIGTERM or hangup, once the trainings have saved; called
    again, they go on. Where this process is killed outright, they save and end as well.
    """
    begin = time.perf_counter() if begin is None else begin
    outcome, waiting = Outcome(), list(jobs)
    running: dict[subprocess.Popen, tuple[Job, float]] = {}
    walls: list[float] = []
    said = time.perf_counter()
    with _told_how_to_go_on(jobs, state, say), StopRequest() as stop, Children(state.lock) as crew:
        while waiting or running:
            stop.check()
            while waiting and len(running) < workers:
                job = waiting[0]
                if state.same(job) and final_scores(job):
                    waiting.pop(0)
                    say(f"{job.cfg.name}: finished before, reused")
                    outcome.done.append(job)
                    outcome.reused.add(job.cfg.name)
                    continue
                elapsed = time.perf_counter() - begin
                if not _fits(jobs, waiting, len(running), elapsed, walls, workers, budget_s):
                    outcome.dropped = list(dict.fromkeys(j.seed for j in waiting))
                    say(
                        f"seeds {outcome.dropped} dropped: {elapsed / 60:.1f} of {budget_s / 60:g} "
                        f"minutes are used and a run takes {sum(walls) / len(walls):.0f} s here; "
                        "--minutes 0 removes the budget"
                    )
                    waiting = []
                    break
                waiting.pop(0)
                running[_start(job, config_name, state, crew)] = (job, time.perf_counter())
                say(f"{job.cfg.name}: started")
            for process, cpu in crew.ended():
                job, started = running.pop(process)
                wall = time.perf_counter() - started
                if _settle(job, process.returncode, wall, cpu, state, outcome, say):
                    walls.append(wall)
            if running and time.perf_counter() - said > 20:
                said = time.perf_counter()
                say("  " + "; ".join(_progress(job) for job, _ in running.values()))
            time.sleep(0.1 if running else 0)
    return outcome


@contextlib.contextmanager
def _told_how_to_go_on(
    jobs: Sequence[Job], state: State, say: Callable[[str], None]
) -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        kept = sum(state.same(job) and bool(final_scores(job)) for job in jobs)
        say(
            f"stopped: {kept} of {len(jobs)} trainings are finished and kept in "
            f"{state.path.parent}; the same command goes on with the others"
        )
        raise


def _fits(
    jobs: Sequence[Job],
    waiting: Sequence[Job],
    running: int,
    elapsed_s: float,
    walls: Sequence[float],
    workers: int,
    budget_s: float,
) -> bool:
    """Whether the seed that comes next, if it is not the first one, fits into the budget."""
    seed = waiting[0].seed
    rest = sum(job.seed == seed for job in waiting)
    begun = rest < len({job.row for job in jobs})
    if seed == jobs[0].seed or begun:
        return True
    return affordable(elapsed_s, walls, rest + running, workers, budget_s)


def _settle(
    job: Job,
    status: int,
    wall: float,
    cpu: float,
    state: State,
    outcome: Outcome,
    say: Callable[[str], None],
) -> bool:
    """Put down and say what became of a training that ended; whether it is complete."""
    found = final_scores(job) if status == 0 else None
    if found is None:
        words = _last_words(_log(job))
        outcome.failed[job.cfg.name] = words
        say(f"{job.cfg.name}: FAILED with exit status {status}\n{words}")
        return False
    state.put(job, wall_s=wall, cpu_s=None if _resumed(state, job) else cpu)
    outcome.done.append(job)
    key = engine.find_task(job.cfg).score
    row = scores.of_run({d: r[key] for d, r in found.items()}, roles_of(job.cfg))
    shown = ", ".join(f"{c} {row[c]:.1f}" for c in (scores.SOURCE, scores.MEAN) if c in row)
    say(f"{job.cfg.name}: done in {wall:.0f} s, {UNITS.get(key, key)} {shown}")
    return True


def _log(job: Job) -> Path:
    return Path(job.cfg.out).parent / "logs" / f"{job.cfg.name}.txt"


def _start(job: Job, config_name: str, state: State, crew: Children) -> subprocess.Popen:
    flags: tuple[str, ...] = ()
    if job.folder.exists():
        interrupted = state.same(job) and (job.folder / "last.pt").is_file()
        complete = bool(final_scores(job))
        flags = ("resume=true",) if interrupted and not complete else ("overwrite=true",)
    state.put(job, protocol=job.protocol, resumed="resume=true" in flags)
    return crew.start(job.command(config_name, *flags), _log(job))


def _resumed(state: State, job: Job) -> bool:
    return bool(state.runs[job.cfg.name].get("resumed"))


def _last_words(log: Path, lines: int = 6) -> str:
    text = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return "\n".join(f"    {line}" for line in text[-lines:])


def _progress(job: Job) -> str:
    rows = [r for r in engine.read_records(job.folder) if r["kind"] == "train"]
    at = (
        f"step {rows[-1]['step']} of {job.cfg.steps}, loss {rows[-1]['loss']:.3f}"
        if rows
        else "starting"
    )
    return f"{job.cfg.name} {at}"
