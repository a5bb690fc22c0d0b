"""1 to 64 worker processes that sleep 5, 20 and 100 ms for each step, with a model of 1 MB.

The ideal is one update per worker and step time, up to the knee (Z + S) / S: Z is the time
that a step really took asleep, S the master's time for an update (its busy time, publishing
included, over the updates), measured in the same run. Beyond the knee the ideal is 1 / S.
The last rows hold the knee that shows, the highest rate times Z + S, against (Z + S) / S.

A sleep needs no core, but all around it does: where workers have no cores of their own,
these are full before the master is.
"""

import json
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks._harness import Case
from benchmarks._workers import meet
from zmqdist import ZmqDist
from zmqdist.staleness import Asynchronous

ELEMENTS = 250_000
SLEEPS_S = (0.005, 0.02, 0.1)
PHASE_S = 3.0
"""How long each worker keeps at one step time."""


def arguments(add):
    add("--workers", type=int, nargs="+", default=[1, 2, 4, 8, 16, 32, 64], help="how many")


def cases(options):
    runs, counts = {}, options.workers

    def run(workers, repeat):
        if (workers, repeat) not in runs:
            runs[workers, repeat] = measured(workers)
        return runs[workers, repeat]

    for place, sleep_s in enumerate(SLEEPS_S):
        for workers in counts:
            yield _case(f"{1000 * sleep_s:.0f} ms, {workers} workers", run, workers, place)
        yield Case(
            f"{1000 * sleep_s:.0f} ms, knee",
            _each(lambda repeat, place=place: shown(run, counts, place, repeat)),
            _each(lambda repeat, place=place: modelled(run, counts, place, repeat)),
            "workers",
            "ratio >= 0.9",
        )


def _case(name, run, workers, place):
    return Case(
        name,
        _each(lambda repeat: run(workers, repeat)[place]["rate"]),
        _each(lambda repeat: ideal(workers, run(workers, repeat)[place])),
        "updates/s",
        "ratio >= 0.9",
    )


def _each(figure):
    """Return a function that returns the figure of one repeat after the other."""
    count = iter(range(1_000))
    return lambda: figure(next(count))


def ideal(workers, phase):
    return min(workers / phase["sleep_s"], 1 / phase["service_s"])


def shown(run, counts, place, repeat):
    """Return the knee that the rates show."""
    phases = [run(workers, repeat)[place] for workers in counts]
    best = max(phases, key=lambda phase: phase["rate"])
    return best["rate"] * (best["sleep_s"] + best["service_s"])


def modelled(run, counts, place, repeat):
    """Return the knee by the model, with S where the master was busiest; at most all workers."""
    phases = [run(workers, repeat)[place] for workers in counts]
    best = max(phases, key=lambda phase: phase["rate"])
    return min(max(counts), (best["sleep_s"] + best["service_s"]) / best["service_s"])


def measured(workers):
    """Return for each step time the rate, the sleep and the master's time for an update."""
    notes = []
    totals = None

    def descent(model, update):
        model["w"] += update["w"]
        notes.append((time.perf_counter(), totals().busy_s))

    model = {"w": np.zeros(ELEMENTS, np.float32)}
    with tempfile.TemporaryDirectory() as folder:
        options = {"staleness": Asynchronous(), "progress": False}
        with ZmqDist(model, **options) as dd:
            totals = lambda: dd._master.state.totals  # noqa: E731
            data = [[(folder, number, workers)] for number in range(workers)]
            dd.train(data, sleeping, descent, workers=workers)
        slept = [json.loads(path.read_text()) for path in Path(folder).glob("slept-*")]
    phases, at = [], 0
    for place in range(len(SLEEPS_S)):
        count = sum(note[place]["steps"] for note in slept)
        part = notes[at : at + count]
        at += count
        part = part[count // 10 : count - count // 10]  # when all were at it
        (first_s, first_busy_s), (last_s, last_busy_s) = part[0], part[-1]
        phases.append(
            {
                "rate": (len(part) - 1) / (last_s - first_s),
                "service_s": (last_busy_s - first_busy_s) / (len(part) - 1),
                "sleep_s": float(np.mean([note[place]["sleep_s"] for note in slept])),
            }
        )
    return phases


def sleeping(model, data):
    """Sleep and send, for a while at each step time; all workers begin together."""
    folder, number, workers = next(data)
    update = np.random.default_rng(number).normal(size=ELEMENTS).astype(np.float32)
    notes = []
    for sleep_s in SLEEPS_S:
        meet(folder, f"{1000 * sleep_s:.0f}-{number}", workers)
        slept_s, steps, until = 0.0, 0, time.perf_counter() + PHASE_S
        while time.perf_counter() < until:
            started = time.perf_counter()
            time.sleep(sleep_s)
            slept_s, steps = slept_s + time.perf_counter() - started, steps + 1
            yield {"w": update}
        notes.append({"steps": steps, "sleep_s": slept_s / steps})
    Path(folder, f"slept-{number}").write_text(json.dumps(notes))
