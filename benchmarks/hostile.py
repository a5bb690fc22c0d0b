"""Updates per second with hostile neighbours, against the same without them.

Two local workers send small updates as fast as they can, with CURVE. Meanwhile another
process, at the lowest priority since it would have a machine of its own,

* holds 1,000 connections without a key, or 1,000 that stop in the midst of their first
  message, and makes each anew that is closed;
* knocks with 200 clients whose keys nobody knows;
* sends garbage, or heartbeats, hellos and questions for the model, as fast as it can, under
  a key that is admitted.

Lines that were logged meanwhile are counted: see ``logged`` on the line of each run.
"""

import json
import logging
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from benchmarks._harness import Case
from zmqdist import ZmqDist
from zmqdist.net.security import KeyPair
from zmqdist.staleness import Asynchronous

ATTACKS = ("no-key", "half-a-message", "unknown-key", "garbage", "flood")
STEPS = 1000


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
    times, lines = [], Lines()
    logging.getLogger("zmqdist").addHandler(lines)

    def descent(model, update):
        model["w"] += update["w"]
        times.append(time.perf_counter())

    model = {"w": np.zeros(100)}
    with ZmqDist(model, staleness=Asynchronous(), progress=False) as dd:
        stranger = attacker(dd, attack) if attack else None
        try:
            dd.train([range(STEPS)] * 2, gradient, descent, batch_size=1, workers=2)
            totals = dd._master.state.totals
        finally:
            if stranger is not None:
                stranger.kill()
                stranger.communicate()
    logging.getLogger("zmqdist").removeHandler(lines)
    assert model["w"][0] == len(times) == 2 * STEPS
    if attack:
        told = f"refused {totals.refused:,}, dropped {totals.dropped:,}, logged {lines.count}"
        print(f"  {attack}: {told}", flush=True)
    quarter = len(times) // 4
    return (len(times) - quarter) / (times[-1] - times[quarter - 1])


def gradient(model, batch):
    return {"w": np.ones(100)}


def attacker(dd, attack):
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
        [sys.executable, "-m", "benchmarks._stranger", attack],
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
