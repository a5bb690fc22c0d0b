"""What becomes of a message: drawn from a seed and the message's name, not from timing.

The name of a message is its direction, its kind, the partition and step that it is
about, and how often such a message came before. So a seed damages the same messages in
each run, in whatever order the workers get on.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

Frame = bytes | memoryview


@dataclass(frozen=True)
class Rates:
    """How likely each fault is for one message, from 0 to 1.

    `delay_s` is the longest delay in seconds; `only` names the kinds of messages that
    are touched (None: all between the master and its workers).
    """

    drop: float = 0.0
    duplicate: float = 0.0
    reorder: float = 0.0
    delay: float = 0.0
    truncate: float = 0.0
    delay_s: float = 0.5
    only: frozenset[str] | None = None


@dataclass(frozen=True)
class Fate:
    """What becomes of one message: how many arrive, when, and how.

    `reordered` lets the next message of the same worker and direction pass first.
    `cut` is a number from 0 to 1 that says where the message ends, None for a whole one.
    """

    copies: int = 1
    delay_s: float = 0.0
    reordered: bool = False
    cut: float | None = None


@dataclass(frozen=True)
class Name:
    """What a message is called: `way` is "up" to the master, "down" from it, or "out" to all."""

    way: str
    kind: str
    partition: int
    step: int = -1


class Fates:
    """Draws the fate of each message and counts what it did.

    Parameters
    ----------
    seed : int
    rates : Rates

    Attributes
    ----------
    counts : Counter
        Messages by what happened to them: ``dropped``, ``duplicated``, ``reordered``,
        ``delayed``, ``truncated``; ``seen`` counts all that could have been touched.
    """

    def __init__(self, seed: int, rates: Rates) -> None:
        self._seed = seed
        self._rates = rates
        self._came: Counter[Name] = Counter()
        self.counts: Counter[str] = Counter()

    def draw(self, name: Name) -> Fate:
        """Return the fate of the next message of this name."""
        rates = self._rates
        if rates.only is not None and name.kind not in rates.only:
            return Fate()
        self._came[name] += 1
        self.counts["seen"] += 1
        chance = random.Random(f"{self._seed} {name} {self._came[name]}")  # noqa: S311 - no secret
        drop, duplicate, reorder, delay, truncate = (chance.random() for _ in range(5))
        seconds, cut = rates.delay_s * chance.random(), chance.random()
        if drop < rates.drop:
            self.counts["dropped"] += 1
            return Fate(copies=0)
        happened = {
            "duplicated": duplicate < rates.duplicate,
            "reordered": reorder < rates.reorder,
            "delayed": delay < rates.delay,
            "truncated": truncate < rates.truncate,
        }
        self.counts.update(what for what, did in happened.items() if did)
        return Fate(
            copies=1 + happened["duplicated"],
            delay_s=seconds if happened["delayed"] else 0.0,
            reordered=happened["reordered"],
            cut=cut if happened["truncated"] else None,
        )


def truncated(frames: Sequence[Frame], cut: float) -> list[Frame]:
    """Return the beginning of a message: the share `cut` of its bytes, never all of them."""
    left = int(cut * sum(len(frame) for frame in frames))
    kept: list[Frame] = []
    for frame in frames:
        if len(frame) > left:
            return [*kept, frame[:left]]
        kept.append(frame)
        left -= len(frame)
    return kept[:-1]
