"""Updates per second of processor time with hostile neighbours, against the same without them.

The master and two local workers, which send small updates as fast as they can, with CURVE,
share one processor. Time is what they get of it, so that others on the machine do not count.
Another process has a processor of its own, as if on another machine, and

* holds 1,000 connections without a key, or 1,000 that stop in the midst of their first
  message, and makes each anew that is closed;
* holds 200 clients whose keys nobody knows; one that was turned away knocks again within
  a second;
* sends garbage, or heartbeats, hellos and questions for the model, as fast as it can, under
  a key that is admitted.

The line of each run says what that process did, what the master counted, how many lines it
logged, and the updates per second of real time.
"""

import contextlib
import json
import logging
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from benchmarks._chaos import local_workers
from benchmarks._harness import Case
from zmqdist import ZmqDist
from zmqdist.net.security import KeyPair
from zmqdist.staleness import Asynchronous

ATTACKS = ("no-key", "half-a-message", "unknown-key", "garbage", "flood")
STEPS = 4000


class Lines(logging.Handler):
    """Counts what zmqdist logs."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def emit(self, record):
        self.count += 1


def cases(options):
    for attack in ATTACKS:
        yield Case(
            attack,
            lambda attack=attack: updates_per_s(attack),
            lambda: updates_per_s(None),
            "updates/s",
            "ratio >= 0.8",
        )


def updates_per_s(attack):
    """Train under an attack; return the updates per second once it is under way."""
    marks, lines, done, count = [], Lines(), "", 0
    logging.getLogger("zmqdist").addHandler(lines)

    def descent(model, update):
        nonlocal count
        model["w"] += update["w"]
        count += 1
        if count in (STEPS // 2, 2 * STEPS):
            marks.append((time.perf_counter(), processor_s()))

    ours, theirs = processors()
    os.sched_setaffinity(0, {ours})  # threads and processes that are made from here on, too
    model = {"w": np.zeros(100)}
    try:
        with ZmqDist(model, staleness=Asynchronous(), progress=False) as dd:
            stranger = attacker(dd, attack, theirs) if attack else None
            try:
                dd.train([range(STEPS)] * 2, gradient, descent, batch_size=1, workers=2)
                totals = dd._master.state.totals
            finally:
                if stranger is not None:
                    stranger.terminate()
                    done = stranger.communicate()[0].strip()
    finally:
        os.sched_setaffinity(0, {ours, theirs})
        logging.getLogger("zmqdist").removeHandler(lines)
    assert model["w"][0] == count == 2 * STEPS
    (since, used_before), (until, used) = marks
    counted = 2 * STEPS - STEPS // 2
    if attack:
        told = f"refused {totals.refused:,}, dropped {totals.dropped:,}, logged {lines.count}"
        real = f"{counted / (until - since):,.0f} updates/s of real time"
        print(f"  {attack}: {done}; {told}; {real}", flush=True)
    return counted / (used - used_before)


def processor_s():
    """Return the processor time of this process, with the master in it, and its workers."""
    seconds = time.process_time()
    for pid in local_workers():
        with contextlib.suppress(OSError):
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            seconds += sum(map(int, fields[11:13])) / os.sysconf("SC_CLK_TCK")
    return seconds


def processors():
    """Return one for the training and one for the attack."""
    found = sorted(os.sched_getaffinity(0))
    if len(found) < 2:
        sys.exit("hostile needs two processors: one is the stranger's")
    return found[0], found[1]


def gradient(model, batch):
    return {"w": np.ones(100)}


def attacker(dd, attack, processor):
    """Start the other process and wait until it is at work."""
    pair = KeyPair.generate()
    dd._master._sockets.admit(pair.public)  # a worker's key that got into wrong hands
    told = {
        "address": dd.address,
        "server": dd._client_keys.server_public,
        "public": pair.public,
        "secret": pair.secret,
        "run": dd._master.state.run,
    }
    stranger = subprocess.Popen(
        [sys.executable, "-m", "benchmarks._stranger", attack, str(processor)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[1],
    )
    json.dump(told, stranger.stdin)
    stranger.stdin.close()
    stranger.stdin = None
    assert stranger.stdout.readline() == "at work\n"
    return stranger
