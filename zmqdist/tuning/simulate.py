"""Simulate a run: discrete events in virtual time, the policies of the product itself.

Without a model a simulation is about times: staleness, throughput, waits. With one it
computes real gradients. For one seed the result is the same to the last byte.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from zmqdist.core.pacing import Pacing
from zmqdist.core.staleness import Policy
from zmqdist.errors import ConfigError
from zmqdist.merge import Merge
from zmqdist.staleness import default_policy
from zmqdist.tuning.agenda import Agenda
from zmqdist.tuning.cluster import Cluster
from zmqdist.tuning.failing import Failing
from zmqdist.tuning.learning import Descent, Diverged, Gradient, Learning, batches_of
from zmqdist.tuning.observer import Evaluate, Observer, Simulated
from zmqdist.tuning.record import Rows
from zmqdist.tuning.virtual_master import VirtualMaster
from zmqdist.tuning.virtual_worker import VirtualWorker
from zmqdist.tuning.work import Work, without_data


def simulate(
    cluster: Cluster,
    model: Any = None,
    data: Sequence[Iterable[Any]] | None = None,
    gradient: Gradient | None = None,
    descent: Descent | None = None,
    *,
    staleness: Policy | None = None,
    merge: Merge | None = None,
    epochs: int = 1,
    batch_size: int | None = None,
    partitions: int | None = None,
    steps: int | None = None,
    evaluate: Evaluate | None = None,
    evaluate_every: int | None = None,
    evaluate_every_s: float | None = None,
    stop: Callable[[dict[str, float]], bool] | None = None,
    callbacks: Sequence[Callable[[dict[str, float]], object]] = (),
    max_updates: int | None = None,
    timeout_s: float | None = None,
    max_in_flight: int = 2,
    publish_every: int | None = None,
    publish_interval_s: float | None = None,
    lease_s: float = 30.0,
    record: bool = True,
    seed: int = 0,
) -> Simulated:
    """Run asynchronous SGD on a simulated cluster.

    Parameters
    ----------
    cluster : Cluster
        The machines.
    model : object, optional
        Changed in place. None simulates times alone.
    data, gradient, descent
        As in `zmqdist.ZmqDist.train`. `data` is a list of partitions; they may be endless.
        `gradient` gets lists of `batch_size` items and returns one update.
    staleness, merge, max_in_flight, publish_every, publish_interval_s, lease_s
        As in `zmqdist.ZmqDist`. The simulation works on a copy of the policy.
    epochs, batch_size, max_updates
        As in `zmqdist.ZmqDist.train`.
    partitions, steps : int, optional
        Without data: how many partitions (default: one per worker), and how many steps each
        has (default: no end).
    evaluate : callable (model) -> float or dict of float, optional
        A float is called ``loss``. What it returns goes into `Simulated.history`.
    evaluate_every, evaluate_every_s : int, float, optional
        After so many versions; in virtual seconds.
    stop : callable (entry) -> bool, optional
        Asked with each entry of the history; True ends the simulation.
    callbacks : sequence of callable (entry)
        Called with each entry of the history.
    timeout_s : float, optional
        Virtual time at which the simulation ends.
    record : bool, default=True
        Keep a row per update: about 150 bytes each.
    seed : int, default=0
        Of all random numbers, but for those of the user's functions.

    Returns
    -------
    Simulated

    Raises
    ------
    ConfigError
        Options that do not fit together, or a simulation that would never end.
    """
    policy = (staleness or default_policy()).fresh()
    timed = model is None
    if timed and any(given is not None for given in (data, gradient, descent, evaluate)):
        raise ConfigError("data, gradient, descent and evaluate need a model")
    if not timed and (data is None or gradient is None):
        raise ConfigError("a model needs data and a gradient")
    if not timed and (partitions is not None or steps is not None):
        raise ConfigError("partitions and steps are those of the data; leave them out")
    if timed and steps is None and max_updates is None and timeout_s is None:
        raise ConfigError("this never ends; give steps, max_updates or timeout_s")
    counts = {"epochs": epochs, "max_in_flight": max_in_flight, "max_updates": max_updates}
    for name, count in {**counts, "partitions": partitions, "steps": steps}.items():
        if count is not None and count < 1:
            raise ConfigError(f"{name} is {count!r}; expected an integer >= 1")
    if timeout_s is not None and not timeout_s > 0:
        raise ConfigError(f"timeout_s is {timeout_s!r}; expected seconds > 0")
    agenda = Agenda()
    rows = Rows(cluster.update_bytes) if record else None
    observer = Observer(
        agenda,
        Simulated(),
        rows,
        model,
        evaluate=evaluate,
        every=evaluate_every,
        every_s=evaluate_every_s,
        stop=stop,
        callbacks=callbacks,
        max_updates=max_updates,
        figures=policy.figures,
    )
    if data is not None and gradient is not None:
        work = Work(batches_of(data, batch_size), epochs, agenda)
        learner = Learning(model, gradient, descent, policy=policy, merge=merge)
    else:
        work = Work(without_data(steps, partitions or cluster.workers), epochs, agenda)
        learner = None
    pacing = Pacing(publish_every, publish_interval_s)
    master = VirtualMaster(
        cluster, policy, pacing, agenda, learner=learner, observer=observer, seed=seed
    )
    workers = [
        VirtualWorker(i, cluster, agenda, master, work, max_in_flight=max_in_flight, seed=seed)
        for i in range(cluster.workers)
    ]
    for worker in workers:
        agenda.at(cluster.starts_s(worker.number, seed), worker.join, None)
    if cluster.fail_every is not None and cluster.down_for is not None:
        fail_every, down_for = cluster.fail_every, cluster.down_for
        Failing(fail_every, down_for, agenda, workers, lease_s=lease_s, seed=seed)
    started = time.perf_counter()
    try:
        agenda.run(math.inf if timeout_s is None else timeout_s)
    except Diverged:
        observer.diverged()
    result = observer.finish(agenda.now)
    result.busy_s, result.pulls = master.busy_s, master.pulls
    result.publications = master.publications_made
    result.wall_s = time.perf_counter() - started
    return result
