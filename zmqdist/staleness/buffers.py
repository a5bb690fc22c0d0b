"""Policies that merge several updates into one version."""

from __future__ import annotations

from zmqdist.core.staleness import APPLY, REJECT, REQUEUE, Arrival, Decision, Policy, Verdict
from zmqdist.staleness.arguments import ON_STALE, choice, count, positive


class SoftSync(Policy):
    """Merge ``workers / n`` updates into one version; nobody waits for a slow worker.

    The n-softsync protocol of [1]_: of w workers the updates of any ``max(1, floor(w / n))``
    are merged (by ``merge=``, default the mean) and applied together. ``n=1`` takes as
    many updates as there are workers, ``n >= w`` is `Asynchronous`. The version counts
    flushes, so staleness is counted in flushes too.

    Parameters
    ----------
    n : int, default=1
        Part of the workers: see above; >= 1. Not the number of workers.
    timeout_s : float, default=5.0
        Flush what is there when the oldest update has waited for this long, in seconds, so
        that workers that died hold nobody up.

    Raises
    ------
    ConfigError
        If an option is outside its range.

    References
    ----------
    .. [1] W. Zhang, S. Gupta, X. Lian, J. Liu, "Staleness-aware async-SGD for
       distributed deep learning", IJCAI 2016, arXiv:1511.05950, section 3.
    """

    def __init__(self, n: int = 1, timeout_s: float = 5.0) -> None:
        self.n = count("SoftSync", "n", n, 1)
        self.timeout_s = positive("SoftSync", "timeout_s", timeout_s, "seconds")

    @property
    def buffers(self) -> bool:
        """Always: that is what it does."""
        return True

    @property
    def flush_after_s(self) -> float:
        """The time-out."""
        return self.timeout_s

    def flush_size(self, workers: int) -> int:
        """Return ``max(1, floor(workers / n))``."""
        return max(1, workers // self.n)


class FedBuff(Policy):
    """Merge every `size` updates, the stale ones damped; nobody waits.

    FedBuff [1]_: the buffer is applied when it holds K updates, each of them multiplied
    by ``1 / sqrt(1 + tau)`` when it enters. With the default ``merge=Mean()`` the model
    moves by ``1/K x sum``. The version counts flushes.

    Parameters
    ----------
    size : int, default=10
        K, >= 1.
    timeout_s : float, default=5.0
        Flush what is there when the oldest update has waited for this long, in seconds.

    Raises
    ------
    ConfigError
        If an option is outside its range.

    References
    ----------
    .. [1] J. Nguyen et al., "Federated learning with buffered asynchronous aggregation",
       AISTATS 2022, arXiv:2106.06639.
    """

    def __init__(self, size: int = 10, timeout_s: float = 5.0) -> None:
        self.size = count("FedBuff", "size", size, 1)
        self.timeout_s = positive("FedBuff", "timeout_s", timeout_s, "seconds")

    @property
    def buffers(self) -> bool:
        """Always: that is what it does."""
        return True

    @property
    def flush_after_s(self) -> float:
        """The time-out."""
        return self.timeout_s

    def flush_size(self, workers: int) -> int:
        """Return `size`."""
        return self.size

    def decide(self, update: Arrival) -> Decision:
        """Apply with weight ``1 / sqrt(1 + tau)``."""
        return Decision(Verdict.APPLY, (1 + update.tau) ** -0.5) if update.tau else APPLY


class _OnCurrentVersion(Policy):
    """Merges updates that were computed on the current version; turns others down."""

    on_stale: str

    @property
    def buffers(self) -> bool:
        """Always: that is what it does."""
        return True

    @property
    def patience(self) -> int:
        """0: what was computed on an older version is turned down."""
        return 0

    @property
    def rejects(self) -> bool:
        """Whether stale updates are dropped."""
        return self.on_stale == "reject"

    def decide(self, update: Arrival) -> Decision:
        """Apply if nothing came in between; else do what `on_stale` says."""
        if update.tau == 0:
            return APPLY
        return REQUEUE if self.on_stale == "requeue" else REJECT


class Rennala(_OnCurrentVersion):
    """Merge `size` updates that were all computed on the current version; nobody waits.

    Rennala SGD [1]_: a worker goes on computing updates of the current version until
    `size` of them have come from anybody; their mean makes the next version, and what was
    still under way is turned down. Good where workers differ but are steady, bad where
    their times have heavy tails.

    Parameters
    ----------
    size : int
        B, >= 1. In theory ``max(1, ceil(sigma^2 / eps))``, see `Ringmaster`.
    on_stale : {"reject", "requeue"}, default="reject"
        What becomes of an update of an older version: dropped, or computed again.

    Raises
    ------
    ConfigError
        If an option is outside its range.

    References
    ----------
    .. [1] A. Tyurin, P. Richtarik, "Optimal time complexities of parallel stochastic
       optimization methods under a fixed computation model", NeurIPS 2023.
    """

    def __init__(self, size: int, on_stale: str = "reject") -> None:
        self.size = count("Rennala", "size", size, 1)
        self.on_stale = choice("Rennala", "on_stale", on_stale, ON_STALE)

    def flush_size(self, workers: int) -> int:
        """Return `size`."""
        return self.size


class BackupWorkers(_OnCurrentVersion):
    """Synchronous SGD that does not wait for the slowest `backups` workers.

    Of w workers that compute on the same version the first ``w - backups`` make the next
    version together; what the others bring later is dropped [1]_. A worker gives one
    update to a version and then waits for the next one.

    Parameters
    ----------
    backups : int
        Workers that are not waited for, >= 0. At least one is.
    on_stale : {"reject", "requeue"}, default="reject"
        What becomes of the late updates: dropped, so that the data of slow workers is
        lost, or computed again on the new version.

    Raises
    ------
    ConfigError
        If an option is outside its range.

    References
    ----------
    .. [1] J. Chen, X. Pan, R. Monga, S. Bengio, R. Jozefowicz, "Revisiting distributed
       synchronous SGD", 2016, arXiv:1604.00981.
    """

    def __init__(self, backups: int, on_stale: str = "reject") -> None:
        self.backups = count("BackupWorkers", "backups", backups)
        self.on_stale = choice("BackupWorkers", "on_stale", on_stale, ON_STALE)

    @property
    def synchronous(self) -> bool:
        """Always: a worker waits for the version that it has contributed to."""
        return True

    def flush_size(self, workers: int) -> int:
        """Return ``max(1, workers - backups)``."""
        return max(1, workers - self.backups)


class BulkSynchronous(_OnCurrentVersion):
    """Synchronous SGD: one update of each worker makes the next version; all wait for it.

    The mean (or what ``merge=`` says) of the updates of all workers that are here is
    applied at once. A worker that dies is waited for until its lease is over. Each
    update is computed on the version that it is applied to, so staleness is 0.
    """

    on_stale = "requeue"  # only a worker that was taken for dead can be late

    @property
    def synchronous(self) -> bool:
        """Always: a worker waits for the version that it has contributed to."""
        return True

    def flush_size(self, workers: int) -> int:
        """Return the number of workers."""
        return workers
