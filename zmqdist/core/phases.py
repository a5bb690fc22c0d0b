"""Where a worker is in its life, and what it may wait for."""

from __future__ import annotations

from enum import StrEnum


class Phase(StrEnum):
    """Where a worker is in its life."""

    JOINING = "joining"
    ACTIVE = "active"
    FINISHED = "finished"
    STOPPED = "stopped"
    LOST = "lost"


class Wait(StrEnum):
    """What a worker may wait for: answers, its limit to move, a fresher model."""

    ACK = "ack"
    GATE = "gate"
    MODEL = "model"


OVER = (Phase.FINISHED, Phase.STOPPED, Phase.LOST)
