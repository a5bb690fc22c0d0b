"""A `zmqdist-master` under a supervisor that is killed at random moments while it is used.

The model counts each update by its name, so that what a checkpoint took back and what was
run again come out in it: every count is 1 at the end, or something is wrong. Beside that the
master notes in a file when it applied something, in whichever of its lives.
"""

import contextlib
import itertools
import os
import random
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from benchmarks._chaos import Run, leftovers, own_folder, send
from zmqdist import ZmqDist
from zmqdist.errors import ZmqdistError
from zmqdist.models.tiers import Tiers
from zmqdist.net.security import write_key_files

PARTITIONS, STEPS, STEP_S = 6, 30, 0.02
LEASE_S, EVERY_S = 20.0, 0.25
ROOT = Path(__file__).parents[1]
MOMENTS = "ZMQDIST_CHAOS_MOMENTS"
"""Names the file of moments in the environment of the master."""


def make_model():
    """Return a model with one count for each update there should be."""
    return {"count": np.zeros((PARTITIONS, STEPS))}


def count_it(model, update):
    """Count an update that names itself, or several that were summed; note when."""
    before = model["count"].sum()
    np.add(model["count"], update["count"], out=model["count"])
    with open(os.environ[MOMENTS], "ab") as file:
        file.write(struct.pack("d", time.monotonic()) * round(model["count"].sum() - before))


def named(partition, step):
    """Return the update of a step."""
    one = np.zeros((PARTITIONS, STEPS))
    one[partition, step] = 1
    return {"count": one}


def one_each(model, batch):
    """Return the update of a batch of one."""
    threading.Event().wait(STEP_S)
    return named(*batch[0])


def yielding(model, items):
    """Yield an update for each item."""
    for item in items:
        threading.Event().wait(STEP_S)
        yield named(*item)


def in_place(model, items):
    """Count in the worker's own model."""
    for partition, step in items:
        threading.Event().wait(STEP_S)
        model["count"][partition, step] += 1
        yield None


KINDS = {
    "batch_size": (one_each, {"batch_size": 1}, ()),
    "generator": (yielding, {}, ()),
    "tiers": (in_place, {"tiers": Tiers(hot_rows=2, all_every=4)}, ()),
    "softsync": (yielding, {}, ("--staleness", "softsync:1", "--merge", "sum")),
    "ssp": (one_each, {"batch_size": 1}, ("--staleness", "ssp:3:lazy")),
}
"""How updates come about: the gradient, options of train(), options of the master."""


class Supervised:
    """A `zmqdist-master` that is started again whenever it dies."""

    def __init__(self, folder, *options):
        self.ports = [free_port(), free_port()]
        self.keys, self.log = folder / "keys", folder / "log"
        self._moments = folder / "moments"
        write_key_files(self.keys)
        self._order = [sys.executable, "-m", "zmqdist.cli"]
        self._order += ["--model", f"{__name__}:make_model"]
        self._order += ["--descent", f"{__name__}:count_it"]
        self._order += ["--port", str(self.ports[0]), "--publish-port", str(self.ports[1])]
        self._order += ["--keys", str(self.keys), "--lease", str(LEASE_S)]
        self._order += ["--checkpoint", str(folder / "checkpoints")]
        self._order += ["--checkpoint-every", str(EVERY_S), "--resume", "auto", *options]
        self._ends = threading.Event()
        self.lives = 0
        self._process = self._start()
        self._thread = threading.Thread(target=self._look_after, daemon=True)
        self._thread.start()

    @property
    def address(self):
        return f"tcp://127.0.0.1:{self.ports[0]}"

    def wait(self, deadline_s=120):
        """Wait until the first life listens: a busy machine takes its time to start it."""
        until = time.monotonic() + deadline_s
        while time.monotonic() < until:
            with (
                contextlib.suppress(OSError),
                socket.create_connection(("127.0.0.1", self.ports[0])),
            ):
                return
            threading.Event().wait(0.05)
        raise TimeoutError(f"zmqdist-master does not listen after {deadline_s} s")

    def moments(self):
        """Return when each update was applied, in all lives."""
        noted = self._moments.read_bytes() if self._moments.exists() else b""
        return [moment for (moment,) in struct.iter_unpack("d", noted)]

    def kill(self):
        """SIGKILL to the master that runs now."""
        send(self._process.pid, signal.SIGKILL)

    def close(self):
        """End the master as an administrator would; return its exit status."""
        self._ends.set()
        self._thread.join()
        self._process.send_signal(signal.SIGTERM)
        try:
            return self._process.wait(30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()

    def _start(self):
        self.lives += 1
        with self.log.open("a") as log:
            own = os.environ | {MOMENTS: str(self._moments)}
            return subprocess.Popen(self._order, stderr=log, cwd=ROOT, env=own)

    def _look_after(self):
        while not self._ends.is_set():
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(0.05)
                if not self._ends.is_set():
                    self._process = self._start()


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def master_killed(seed, kind=None):
    """SIGKILL to a `zmqdist-master` one to three times; a supervisor starts it again.

    First in the midst of the training, then at any time within two seconds: while it comes
    back, or once it is at work again.
    """
    chance = random.Random(seed)
    kind = kind or list(KINDS)[seed % len(KINDS)]
    gradient, options, of_master = KINDS[kind]
    epochs = 1 + seed % 2
    data = [[(p, step) for step in range(STEPS)] for p in range(PARTITIONS)]
    seen = Run(expected=epochs * PARTITIONS * STEPS)
    model, error, kills = make_model(), "", []
    with own_folder():
        before, started = leftovers(), time.monotonic()
        folder = Path(os.environ["TMPDIR"])
        served = Supervised(folder, *of_master)
        done = threading.Event()

        def harm():
            first = chance.randrange(1, seen.expected * 3 // 4)
            while len(served.moments()) < first and not done.wait(0.005):
                pass
            for pause in [0, *(chance.uniform(0, 2) for _ in range(chance.randrange(3)))]:
                if done.wait(pause):
                    return
                served.kill()
                kills.append(time.monotonic())

        thread = threading.Thread(target=harm, daemon=True)
        served.wait()
        try:
            with ZmqDist(model, master=served.address, keys=f"{served.keys}.client") as dd:
                thread.start()
                result = dd.train(
                    data, gradient, epochs=epochs, workers=3, timeout_s=120, **options
                )
                seen.applied = result.applied
        except ZmqdistError as caught:
            error = f"{type(caught).__name__}: {caught}"[:300]
        done.set()
        thread.join()
        status, moments = served.close(), served.moments()
        removed(folder)
        left = sorted(leftovers() - before)
    missing = np.clip(epochs - model["count"], 0, None).sum()
    twice = np.clip(model["count"] - epochs, 0, None).sum()
    if not error and status:
        error = f"the master ended with status {status}"
    return replace(
        seen,
        lost=round(missing),
        duplicated=round(twice),
        longest_stall_s=round(max((b - a for a, b in itertools.pairwise(moments)), default=0), 3),
        recovery_s=recovery(kills, moments),
        left_behind=len(left),
        seconds=round(time.monotonic() - started, 2),
        error=error or ("" if kills else "it ended before the master was killed"),
        facts={"kind": kind, "lives": served.lives, "kills": len(kills), "left": left},
    )


def recovery(kills, moments):
    """Return the longest time from a kill to the next moment; None if none came."""
    after = [next((at - killed for at in moments if at > killed), None) for killed in kills]
    return max((round(seconds, 3) for seconds in after if seconds is not None), default=None)


def removed(folder):
    """Remove what the master wrote, which is meant to stay."""
    for path in sorted(folder.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()


FAULTS = {"master-killed": master_killed}
