"""Trainings over a bad network between namespaces: workers at one end, the master at the other."""

from __future__ import annotations

from dataclasses import replace

import pytest

from benchmarks._chaos_network import FAULTS, PATIENT, poor
from zmqdist.testing.network import Quality, obstacle

OBSTACLE = obstacle()
pytestmark = [
    pytest.mark.netns,
    pytest.mark.skipif(OBSTACLE is not None, reason=f"no bad network: {OBSTACLE}"),
]


@pytest.mark.timeout(300)
def test_a_lossy_and_distant_link() -> None:
    quality = Quality(loss=0.02, delay_s=0.02)
    run = poor(quality, replace(PATIENT, steps=20))(seed=1)
    assert run.exact, run
    assert run.applied == run.expected == 80
    assert run.facts["dropped"] > 0  # packets, which TCP sent again


@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", FAULTS)
def test_each_fault_of_the_network(name: str) -> None:
    run = FAULTS[name](seed=1)
    assert run.exact, run
    assert run.facts["peak_mb"] < 300
