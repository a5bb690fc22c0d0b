"""The simulator against reality: calibrate on few workers, predict many, then run them.

    python examples/studies/reality.py --calibrate 2 4 --predict 8 16

Workers are processes on this machine. Their gradient mostly waits, so that as many as you
like fit on a few cores, and the machine does not measure itself; it has to be idle otherwise.
A quadratic is learned; each step takes a lognormal time, all workers begin together, and each
version is published. The largest run of --calibrate is fitted, and what it predicts for the
others is printed before they are run.
"""

from __future__ import annotations

import argparse
import itertools
import math
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from zmqdist import ZmqDist, read_record
from zmqdist.optim import SGD
from zmqdist.staleness import Asynchronous
from zmqdist.tuning.calibrate import Columns, calibrate, compare
from zmqdist.tuning.cluster import Cluster
from zmqdist.tuning.problems import Problem, quadratic
from zmqdist.tuning.simulate import simulate

TARGET = 0.02
SIGMA = 0.3
JOIN_S = 120.0


def problem() -> Problem:
    return quadratic(np.geomspace(0.1, 1.0, 20), start=np.full(20, 0.5), noise=0.05)


@dataclass
class Run:
    """One run, real or simulated: its record, and when the loss reached the target."""

    record: Columns
    target_s: float


def options(given: argparse.Namespace) -> dict[str, Any]:
    """Return what the real and the simulated runs have in common."""
    flow = {"max_in_flight": given.max_in_flight, "publish_every": 1}
    return {"staleness": Asynchronous(), **flow}


def meet(folder: Path, name: str, workers: int) -> None:
    """Wait until all workers have come here, so that slow starts do not count."""
    (folder / name).touch()
    ends = time.monotonic() + JOIN_S
    while len(list(folder.iterdir())) < workers:
        if time.monotonic() > ends:
            raise TimeoutError(f"{workers} workers did not start in {JOIN_S:g} s")
        threading.Event().wait(0.01)


def real(workers: int, given: argparse.Namespace) -> Run:
    """Train with real worker processes."""
    trained = problem()
    gradient, median_s = trained.gradient, given.compute_s
    sgd, reached, began = SGD(given.lr), [math.inf], [math.inf]

    def descent(model: Any, update: Any) -> None:
        began[0] = min(began[0], time.monotonic())
        sgd(model, update)
        if math.isinf(reached[0]) and trained.evaluate(model)["loss"] <= TARGET:
            reached[0] = time.monotonic()

    data = [list(itertools.islice(part, given.steps)) for part in trained.data(workers, 1)]
    with tempfile.TemporaryDirectory() as folder:
        path, joined = Path(folder) / "record.csv", Path(folder) / "joined"
        joined.mkdir()

        def waiting(model: Any, batch: Any) -> Any:
            (sample,) = batch
            if sample.number == 0:
                meet(joined, str(sample.key), workers)
            other = sample._replace(key=sample.key + 1)  # not the stream of the noise
            normal = other.generator().standard_normal()
            threading.Event().wait(median_s * math.exp(SIGMA * normal))
            return gradient(model, batch)

        with ZmqDist(trained.model(), record=path, progress=False, **options(given)) as dd:
            dd.train(data, waiting, descent, batch_size=1, workers=workers)
        record = read_record(path).columns
    return Run(record, reached[0] - began[0])


def simulated(cluster: Cluster, given: argparse.Namespace, seed: int = 0) -> Run:
    """Train in virtual time, from the first update on."""
    trained = problem()
    result = simulate(
        cluster,
        trained.model(),
        [list(itertools.islice(part, given.steps)) for part in trained.data(cluster.workers, 1)],
        trained.gradient,
        SGD(given.lr),
        batch_size=1,
        evaluate=trained.evaluate,
        evaluate_every=1,
        seed=seed,
        **options(given),
    )
    reached = next((e["seconds"] for e in result.history if e["loss"] <= TARGET), math.inf)
    return Run(result.record, reached - float(result.record["time_s"][0]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--calibrate", type=int, nargs="+", default=[2, 4])
    parser.add_argument("--predict", type=int, nargs="+", default=[8, 16])
    parser.add_argument("--steps", type=int, default=120, help="of each worker")
    parser.add_argument("--compute-s", type=float, default=0.25, help="median time of a step")
    parser.add_argument("--max-in-flight", type=int, default=2)
    parser.add_argument("--lr", type=float, default=0.03)
    given = parser.parse_args()

    runs = {workers: real(workers, given) for workers in given.calibrate}
    largest = max(runs)
    found = calibrate(runs[largest].record, **options(given))
    best = found.fits[0]
    print(f"fitted to {largest} workers: {best.delay} (KS {best.distance:.3f})")
    print(f"  latency {found.cluster.latency_s * 1e3:.2f} ms, tail index {found.tail_index:.1f}")
    counts = [*given.calibrate, *given.predict]
    predicted = {n: simulated(found.cluster.with_workers(n), given) for n in counts}
    for n, run in predicted.items():
        mean = run.record["tau"].mean()
        print(f"predicted for {n} workers: staleness {mean:.2f}, target {run.target_s:.2f} s")
    for n in given.predict:
        runs[n] = real(n, given)
    print("errors, simulated less real:")
    print("workers  throughput  mean staleness  KS of staleness  time to target")
    for n in counts:
        errors = compare(runs[n].record, predicted[n].record)
        target = predicted[n].target_s / runs[n].target_s - 1  # NaN: neither got there
        print(
            f"{n:7}  {errors.throughput:10.1%}  {errors.mean_staleness:14.1%}  "
            f"{errors.staleness_distance:15.3f}  {target:14.1%}"
        )


if __name__ == "__main__":
    main()
