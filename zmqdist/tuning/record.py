"""The record of a simulation: one row per update that the master decided on.

The columns are those of a run's record, but for the run, and one more. The worker is its number in
the cluster.
"""

from __future__ import annotations

import math
import struct
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zmqdist.core.staleness import Verdict
from zmqdist.record import COLUMNS as RECORDED
from zmqdist.tuning.virtual_master import SKIPPED, Served
from zmqdist.tuning.virtual_worker import CREDIT, GATE, MODEL

DECISIONS = {Verdict.APPLY: "applied", Verdict.REJECT: "rejected", Verdict.REQUEUE: "requeue"}
"""How a run's record calls the verdicts; a step without an update is skipped."""

_CODES: dict[str, int] = {**{v: i for i, v in enumerate(DECISIONS)}, SKIPPED: len(DECISIONS)}

COLUMNS: dict[str, type] = {
    **{name: kind for name, kind in RECORDED.items() if name != "run"},
    "decision": int,
    "queue_s": float,
}
"""The columns, in order; of `wait_s` the parts spent on answers, on slower workers and on newer
versions, and `queue_s`, from the end of the computation until the master begins."""

_PACK = struct.Struct(f"{len(COLUMNS)}d").pack  # a third of the time of array.extend


class Rows:
    """Collects rows as plain numbers.

    Parameters
    ----------
    update_bytes : int
        Of every update that is sent.
    """

    def __init__(self, update_bytes: int) -> None:
        self._numbers = bytearray()
        self._bytes = update_bytes

    def add(self, served: Served) -> None:
        """Take in what became of a step."""
        step, waits_s = served.step, served.step.waits_s
        code = _CODES[served.decision]
        self._numbers += _PACK(
            served.time_s,
            step.epoch,
            step.partition,
            step.number,
            step.worker.number,
            step.clock,
            step.base,
            served.version,
            served.tau,
            math.nan if code else served.weight,
            code,
            step.examples,
            served.norm,
            sum(waits_s),
            step.compute_s,
            0.0,
            served.service_s,
            0 if step.abandoned else self._bytes,
            waits_s[CREDIT],
            waits_s[GATE],
            waits_s[MODEL],
            served.queued_s,
        )

    def columns(self) -> dict[str, NDArray[Any]]:
        """Return the columns by name; `decision` in words."""
        table = np.frombuffer(self._numbers, np.float64).reshape(-1, len(COLUMNS))
        found: dict[str, NDArray[Any]]
        found = {name: table[:, i].astype(kind) for i, (name, kind) in enumerate(COLUMNS.items())}
        found["decision"] = np.array([*DECISIONS.values(), SKIPPED])[found["decision"]]
        return found
