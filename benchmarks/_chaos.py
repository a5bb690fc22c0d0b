"""A training under one fault, with a witness to each update that is applied.

Each step of each partition sends its own name, so that afterwards the witness can say
which are missing and which were applied twice, and when nothing came.
"""

import contextlib
import itertools
import os
import random
import signal
import statistics
import tempfile
import threading
import time
from collections import Counter
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np

from zmqdist import ZmqDist
from zmqdist.errors import ZmqdistError
from zmqdist.staleness import Asynchronous

OWN = "chaos-"
"""How the folder is called that a run has for its temporary files."""


@dataclass(frozen=True)
class Shape:
    """How large a training is: `step_s` is what a gradient takes."""

    partitions: int = 8
    steps: int = 40
    workers: int = 4
    step_s: float = 0.01
    lease_s: float = 2.0
    numbers: int = 10

    @property
    def expected(self):
        return self.partitions * self.steps

    def data(self):
        return [[(p, step) for step in range(self.steps)] for p in range(self.partitions)]


@dataclass
class Run:
    """What one run showed; `lost` and `duplicated` are counted update by update."""

    expected: int = 0
    applied: int = 0
    lost: int = 0
    duplicated: int = 0
    longest_stall_s: float = 0.0
    recovery_s: float | None = None
    left_behind: int = 0
    seconds: float = 0.0
    error: str = ""
    facts: dict = field(default_factory=dict)

    @property
    def exact(self):
        return not (self.lost or self.duplicated or self.left_behind or self.error)


class Witness:
    """A descent that remembers what it applied, when, and from which process."""

    def __init__(self):
        self.seen = []
        self._more = threading.Condition()

    def __call__(self, model, update):
        partition, step, pid = (int(number) for number in update["who"])
        model["w"] += update["w"]
        with self._more:
            self.seen.append((time.monotonic(), partition, step, pid))
            self._more.notify_all()

    def until(self, count, timeout_s=120):
        """Wait for so many updates; return whether they came."""
        with self._more:
            return self._more.wait_for(lambda: len(self.seen) >= count, timeout_s)

    def last_of(self, pid):
        """Return the partition of the last update of a process."""
        return next((p for _, p, _, by in reversed(self.seen) if by == pid), None)


class Gradient:
    """Takes its time and sends the name of its step."""

    def __init__(self, shape):
        self.shape = shape

    def __call__(self, model, batch):
        ((partition, step),) = batch
        threading.Event().wait(self.shape.step_s)
        return {
            "who": np.array([partition, step, os.getpid()]),
            "w": np.full(self.shape.numbers, 1e-3),
        }


class Scene:
    """What a disturber may see and do while a training runs."""

    def __init__(self, witness, chance, shape):
        self.witness = witness
        self.chance = chance
        self.shape = shape
        self.struck = None  # when, the partition that should recover (None: any), the pid that died

    def random_moment(self):
        """Wait until a moment in the first three quarters of the run."""
        self.witness.until(self.chance.randrange(1, self.shape.expected * 3 // 4))
        self.wait(self.chance.random() * 5 * self.shape.step_s)

    def wait(self, seconds):
        threading.Event().wait(seconds)

    def random_worker(self):
        """Return a live worker that has sent something lately; None if all have ended."""
        recent = {pid for *_, pid in self.witness.seen[-4 * self.shape.workers :]}
        living = sorted(recent & set(local_workers()))
        return self.chance.choice(living) if living else None


def run(seed, disturb, shape=None, wrap=lambda gradient: gradient, **options):
    """Train while `disturb(scene)` does its worst in a thread; return the `Run`."""
    shape, error = shape or Shape(), ""
    witness, chance = Witness(), random.Random(seed)
    scene = Scene(witness, chance, shape)
    thread = threading.Thread(target=disturb, args=(scene,), daemon=True)
    model = {"w": np.zeros(shape.numbers)}
    with own_folder():
        before, started = leftovers(), time.monotonic()
        with ZmqDist(model, staleness=Asynchronous(), lease_s=shape.lease_s, **options) as dd:
            thread.start()
            try:
                dd.train(
                    shape.data(),
                    wrap(Gradient(shape)),
                    witness,
                    batch_size=1,
                    workers=shape.workers,
                    timeout_s=300,
                )
            except ZmqdistError as caught:
                error = f"{type(caught).__name__}: {caught}"[:300]
        thread.join(30)
        left = sorted(leftovers() - before)
    return replace(
        judged(witness.seen, shape, scene.struck),
        seconds=round(time.monotonic() - started, 2),
        left_behind=len(left),
        error=error,
        facts={"left": left} if left else {},
    )


def judged(seen, shape, struck):
    """Return the counts and times of what a witness saw."""
    applied = Counter((p, step) for _, p, step, _ in seen)
    named = {item for part in shape.data() for item in part}
    times = [at for at, *_ in seen]
    gaps = [b - a for a, b in itertools.pairwise(times)]
    recovery = None
    if struck is not None:
        since, partition, dead = struck  # what the dead had sent may still come
        after = [
            at for at, p, _, pid in seen if at > since and partition in (None, p) and pid != dead
        ]
        recovery = round(after[0] - since, 3) if after else None
    return Run(
        expected=shape.expected,
        applied=len(seen),
        lost=len(named - applied.keys()),
        duplicated=sum(applied.values()) - len(applied),
        longest_stall_s=round(max(gaps, default=0.0), 3),
        recovery_s=recovery,
    )


def local_workers(parent=None):
    """Return the local worker processes of a process, by default of this one."""
    parent = parent or os.getpid()
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            mother = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            if (
                mother == parent
                and "zmqdist.engines.local_worker" in (entry / "cmdline").read_text()
            ):
                found.append(int(entry.name))
    return found


@contextlib.contextmanager
def own_folder():
    """Give temporary files of this process and its children a folder of their own."""
    with tempfile.TemporaryDirectory(prefix=OWN) as folder:
        before = os.environ.get("TMPDIR")
        os.environ["TMPDIR"], tempfile.tempdir = folder, None
        try:
            yield
        finally:
            os.environ.pop("TMPDIR") if before is None else os.environ.update(TMPDIR=before)
            tempfile.tempdir = None


def leftovers():
    """Return what a run could leave behind: workers, shared memory, and files in `own_folder`."""
    own = Path(tempfile.gettempdir())
    found = [*Path("/dev/shm").glob("*zmqdist*")]
    found += [path for path in own.rglob("*") if not path.is_dir()] if own.name[:6] == OWN else []
    files = set(map(str, found))
    return files | {f"process {pid}" for pid in local_workers()}


def send(pid, number):
    """Send a signal; nothing if the process has ended."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


# ---- disturbers ---------------------------------------------------------------------------


def kill_a_worker(scene):
    """SIGKILL a random worker at a random moment."""
    scene.random_moment()
    if (pid := scene.random_worker()) is not None:
        send(pid, signal.SIGKILL)
        scene.struck = time.monotonic(), scene.witness.last_of(pid), pid


def suspend_a_worker(scene):
    """SIGSTOP a random worker for longer than its lease, then let it wake as a zombie."""
    scene.random_moment()
    if (pid := scene.random_worker()) is not None:
        send(pid, signal.SIGSTOP)
        scene.wait(scene.shape.lease_s * (1.2 + scene.chance.random()))
        send(pid, signal.SIGCONT)
        scene.struck = time.monotonic(), scene.witness.last_of(pid), None


def nothing(scene):
    """Leave the training alone."""


# ---- of many runs --------------------------------------------------------------------------


def summed(runs):
    """Return the table row of many runs of one fault."""
    recoveries = [one.recovery_s for one in runs if one.recovery_s is not None]
    row = {
        "runs": len(runs),
        "exact": sum(one.exact for one in runs),
        **{
            name: sum(getattr(one, name) for one in runs)
            for name in ("expected", "applied", "lost", "duplicated", "left_behind")
        },
        "longest_stall_s": max(one.longest_stall_s for one in runs),
        "recovery_median_s": round(statistics.median(recoveries), 3) if recoveries else None,
        "recovery_max_s": max(recoveries, default=None),
        "errors": sorted({one.error for one in runs if one.error}),
    }
    row["each"] = [asdict(one) for one in runs]
    return row
