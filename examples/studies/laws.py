"""Draw what is known in closed form beside simulations: docs/staleness-laws.png.

python examples/studies/laws.py
"""

from __future__ import annotations

import argparse

import numpy as np
from matplotlib.figure import Figure

from zmqdist.staleness import Asynchronous, BoundedStaleness, Policy
from zmqdist.tuning import theory
from zmqdist.tuning.cluster import Cluster
from zmqdist.tuning.delays import Constant, Delay, Exponential, Lognormal, Pareto
from zmqdist.tuning.observer import Simulated
from zmqdist.tuning.simulate import simulate


def run(workers: int, policy: Policy, updates: int, **machines: Delay) -> Simulated:
    cluster = Cluster(workers=workers, **{"compute": Exponential(1.0), **machines})
    return simulate(cluster, staleness=policy, max_in_flight=1, max_updates=updates)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--figure", default="docs/staleness-laws.png")
    options.add_argument("--updates", type=int, default=30_000, help="of each simulation")
    given = options.parse_args()
    figure = Figure(figsize=(11, 3.4), layout="constrained")
    spread, accepted, rate = figure.subplots(1, 3)

    delays = [Constant(1.0), Exponential(1.0), Lognormal(1.0, 1.0), Pareto(2.1, 1.0)]
    for delay in delays:
        taus = run(16, Asynchronous(), given.updates, compute=delay).record["tau"]
        shares = np.bincount(taus, minlength=61)[:61] / len(taus)
        print(f"16 workers, {delay.name}: mean staleness {taus.mean():.2f}")
        spread.plot(shares, label=f"{delay.name}: mean {taus.mean():.2f}")
    spread.plot(theory.staleness_distribution(16, 61), "k:", label="geometric")
    spread.set(xlabel="staleness", ylabel="part of the updates", ylim=(0, 0.15))
    spread.set_title("16 workers: the mean is always 15")
    spread.legend(fontsize=7)

    bounds = [0, 1, 3, 7, 15, 31, 63, 127]
    for workers in (8, 32, 128):
        parts = []
        for bound in bounds:
            result = run(workers, BoundedStaleness(bound), given.updates // 4)
            parts.append(result.applied / (result.applied + result.rejected))
        law = [theory.accepted(workers, bound) for bound in bounds]
        print(f"{workers} workers, part applied: " + " ".join(f"{part:.3f}" for part in parts))
        print("                   closed form: " + " ".join(f"{part:.3f}" for part in law))
        (line,) = accepted.plot(bounds, law, label=f"{workers} workers")
        accepted.plot(bounds, parts, "o", color=line.get_color())
    accepted.set_xscale("symlog")
    accepted.set(xlabel="bound", ylabel="part applied", title="A hard bound turns down")
    accepted.legend(fontsize=7)

    counts = [10, 25, 50, 75, 100, 150, 200]
    found = [run(n, Asynchronous(), given.updates, apply=Exponential(0.01)) for n in counts]
    for n, result in zip(counts, found, strict=True):
        law = theory.throughput(n, 1.0, 0.01)
        print(f"{n} workers: {result.throughput:.1f} updates/s, closed form {law:.1f}")
    every = range(1, 201)
    rate.plot(every, [theory.throughput(n, 1.0, 0.01) for n in every], label="closed form")
    rate.plot(counts, [result.throughput for result in found], "o", label="simulated")
    rate.axvline(theory.knee(1.0, 0.01), color="grey", ls=":", label="knee")
    rate.set(xlabel="workers", ylabel="updates per second", title="One master, 10 ms an update")
    rate.legend(fontsize=7)
    figure.savefig(given.figure, dpi=90)


if __name__ == "__main__":
    main()
