"""Random numbers: for each seed, worker and purpose a stream of its own.

So the k-th computation of a worker takes the same time under every policy that is compared,
and the same sample brings the same noise: common random numbers. What one stream is used
for does not shift any other.
"""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple

import numpy as np


class Purpose(IntEnum):
    """What random numbers are for; each purpose of each worker has its own stream."""

    COMPUTE = 0
    SERVICE = 1
    SPEED = 2
    FAILURE = 3
    REPAIR = 4
    GRADIENT = 5
    PUBLISH = 6
    TURN_DOWN = 7
    START = 8


def generator(seed: int, worker: int, purpose: Purpose) -> np.random.Generator:
    """Return the generator of one worker for one purpose; the master's worker is 0."""
    sequence = np.random.SeedSequence((seed, worker, int(purpose)))
    return np.random.Generator(np.random.Philox(sequence))


class Sample(NamedTuple):
    """One draw of training data: a place in a stream, where its random numbers begin.

    The sample with this number is the same whichever of the others are drawn at all.
    """

    key: int
    number: int

    @staticmethod
    def key_of(seed: int, worker: int, purpose: Purpose) -> int:
        """Return the key of a stream of samples."""
        words = np.random.SeedSequence((seed, worker, int(purpose))).generate_state(2, np.uint64)
        return int(words[0]) << 64 | int(words[1])

    def generator(self) -> np.random.Generator:
        """Return the generator of this sample."""
        return np.random.Generator(np.random.Philox(key=self.key, counter=self.number << 64))

    def integer(self, below: int) -> int:
        """Return the sample's random integer in [0, below)."""
        return int(self.generator().integers(below))
