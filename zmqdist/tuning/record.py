"""The record of a simulation: one row per update that the master decided on."""

from __future__ import annotations

from array import array
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zmqdist.tuning.virtual_master import Served
from zmqdist.tuning.virtual_worker import CREDIT, GATE, MODEL

DECISIONS = ("apply", "reject", "requeue", "skipped")

COLUMNS: dict[str, type] = {
    "worker": np.int64,
    "partition": np.int64,
    "step": np.int64,
    "base_version": np.int64,
    "applied_version": np.int64,
    "tau": np.int64,
    "weight": np.float64,
    "decision": np.int64,
    "examples": np.int64,
    "norm": np.float64,
    "time_s": np.float64,
    "wait_ack_s": np.float64,
    "wait_gate_s": np.float64,
    "wait_model_s": np.float64,
    "compute_s": np.float64,
    "queue_s": np.float64,
    "service_s": np.float64,
    "bytes": np.int64,
}


class Rows:
    """Collects rows; fifteen numbers each, and no object.

    Parameters
    ----------
    update_bytes : int
        Of every update.
    """

    def __init__(self, update_bytes: int) -> None:
        self._numbers = array("d")
        self._bytes = update_bytes

    def add(self, served: Served) -> None:
        """Take in what became of a step."""
        step, waits_s = served.step, served.step.waits_s
        self._numbers.extend(
            (
                step.worker.number,
                step.partition,
                step.number,
                step.base,
                served.version,
                served.tau,
                served.weight,
                DECISIONS.index(served.decision),
                step.examples,
                served.norm,
                served.time_s,
                waits_s[CREDIT],
                waits_s[GATE],
                waits_s[MODEL],
                step.compute_s,
                served.queued_s,
                served.service_s,
                self._bytes,
            )
        )

    def columns(self) -> dict[str, NDArray[Any]]:
        """Return the columns by name; `decision` as text."""
        table = np.frombuffer(self._numbers, np.float64).reshape(-1, len(COLUMNS))
        found: dict[str, NDArray[Any]]
        found = {name: table[:, i].astype(kind) for i, (name, kind) in enumerate(COLUMNS.items())}
        found["decision"] = np.array(DECISIONS)[found["decision"]]
        return found
