"""Draw published results, reproduced in simulation: docs/staleness-published.png.

    python examples/studies/published.py

Prints the numbers as well. Takes a few minutes of one core.
"""

from __future__ import annotations

import argparse
import math
import statistics

import numpy as np
from matplotlib.figure import Figure
from setups import ringmaster, seconds_to_target, softsync_accuracy, ssp

from zmqdist.staleness import Rennala, Ringmaster, StalenessAware


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--figure", default="docs/staleness-published.png")
    options.add_argument("--seeds", type=int, default=3, help="of the U-curve")
    given = options.parse_args()
    np.seterr(over="ignore", invalid="ignore")  # some of what is tried diverges
    figure = Figure(figsize=(11, 7.2), layout="constrained")
    (curve, bars), (speed, race) = figure.subplots(2, 2)
    draw_ssp(curve, given.seeds)
    draw_softsync(bars)
    draw_speed_up(speed)
    draw_ringmaster(race)
    figure.savefig(given.figure, dpi=80)


def draw_ssp(axis, seeds: int) -> None:
    slacks = [0, 1, 4, 8, 16, 32, 64]
    for refresh in ("lazy", "eager"):
        times = []
        for slack in slacks:
            found = [ssp(slack, refresh, seed) for seed in range(seeds)]
            times.append(statistics.median(one["seconds"] for one in found))
            staleness = statistics.median(one["staleness"] for one in found)
            print(f"ssp {refresh} slack {slack}: {times[-1]:.1f} s, staleness {staleness:.1f}")
        axis.plot(
            range(len(slacks)), [t if t < math.inf else np.nan for t in times], "o-", label=refresh
        )
    axis.set_xticks(range(len(slacks)), slacks)
    axis.set(yscale="log", xlabel="slack", ylabel="seconds to the target")
    axis.set_title("Stale synchronous parallel: a U with a lazy cache only")
    axis.legend()


def draw_softsync(axis) -> None:
    counts, width = [1, 3, 15, 30], 0.25
    weights = {"constant": None, "1 / tau": "inverse", "1 / sqrt(1 + tau)": "inverse-sqrt"}
    for place, (label, weight) in enumerate(weights.items()):
        policy = None if weight is None else StalenessAware(weight)
        found = [softsync_accuracy(n, policy) for n in counts]
        print(f"softsync {counts}, {label}: " + " ".join(f"{a:.3f}" for a in found))
        axis.bar(np.arange(len(counts)) + (place - 1) * width, found, width, label=label)
    axis.set_xticks(range(len(counts)), [f"{n}-softsync" for n in counts])
    axis.set(ylabel="accuracy on test rows", title="30 learners: weigh by staleness, or fail")
    axis.legend(loc="lower left")


def draw_speed_up(axis) -> None:
    counts = [1, 2, 4, 8, 16, 32]
    for noise in (0.0, 1.0):
        seeds = range(9 if noise else 1)
        times = [
            statistics.fmean(seconds_to_target(n, noise, 0.05, seed) for seed in seeds)
            for n in counts
        ]
        gains = [times[0] / time for time in times]
        print(
            f"speed-up of {counts} workers, noise {noise}: " + " ".join(f"{g:.2f}" for g in gains)
        )
        axis.plot(counts, gains, "o-", label="no noise" if not noise else "noisy gradients")
    axis.plot(counts, counts, "k:", label="linear")
    axis.set_xscale("log", base=2)
    axis.set_yscale("log", base=2)
    axis.set(xlabel="workers", ylabel="speed-up", title="Only noise can be averaged away")
    axis.legend()


def draw_ringmaster(axis) -> None:
    runs = [
        (Ringmaster(24), 0.05, "Ringmaster, R = 24"),
        (Ringmaster(96), 0.01, "Ringmaster, R = 96"),
        (Rennala(24), 1.0, "Rennala, B = 24"),
        (StalenessAware("delay-adaptive"), 0.002, "delay-adaptive"),
    ]
    for policy, lr, label in runs:
        seconds, norms = zip(*ringmaster(policy, lr), strict=True)
        print(f"{label}, lr {lr}: " + " ".join(f"{norms[k]:.2e}" for k in (4, 10, 20, 40)))
        axis.plot(seconds, norms, label=f"{label}, lr {lr}")
    axis.set(yscale="log", xlabel="seconds", ylabel="squared gradient norm")
    axis.set_title("4,000 workers, the i-th takes i seconds")
    axis.legend()


if __name__ == "__main__":
    main()
