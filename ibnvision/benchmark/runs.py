"""Running the trainings of a benchmark side by side, and going on where it was stopped."""

import contextlib
import dataclasses
import json
import math
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from ibnvision import config, engine
from ibnvision.config import Config
from ibnvision.engine.progress import StopRequest
from ibnvision.engine.run_folder import HARMLESS
from ibnvision.ops import kernel_report

from . import record, scores
from .children import Children, lock_folder
from .plans import Job, final_scores, roles_of

RESERVE_S = 40.0  # for throughput, pictures and the page
UNITS = {"miou_pct": "mIoU %", "psnr_rgb_db": "PSNR dB", "ap50_pct": "AP50 %"}  # of a task's score


def announce(
    bench: str, argv: Sequence[str], args: Any, jobs: Sequence[Job], out: Path
) -> record.Record:
    """Make the folder `out`, print what will run, and return what all records of the run share."""
    out.mkdir(parents=True, exist_ok=True)
    common = record.environment(bench, argv, "cpu", quick=not args.conclusive)
    common |= {"setting": args.setting} if args.setting else {}
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
    """A config without what moves when a folder, also of data, is renamed or a log gets finer."""
    return {k: v for k, v in config.to_dict(cfg).items() if k not in (*HARMLESS, "data")}


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
