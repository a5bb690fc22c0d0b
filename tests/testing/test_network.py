"""A `Cable` does to packets what it was told to, and leaves nothing behind."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from zmqdist.errors import ConfigError
from zmqdist.testing import network
from zmqdist.testing.network import Cable, Quality, obstacle

OBSTACLE = obstacle()
needs_namespaces = pytest.mark.skipif(OBSTACLE is not None, reason=f"no bad network: {OBSTACLE}")

ECHO = """
import socket, sys
here = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
here.bind((sys.argv[1], 7000))
print("up", flush=True)
while True:
    data, peer = here.recvfrom(2000)
    here.sendto(data, peer)
"""
ASK = """
import socket, sys, time
here = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
here.bind((sys.argv[2], 0))
here.settimeout(float(sys.argv[5]))
came, took = set(), []
started = time.monotonic()
for number in range(int(sys.argv[3])):
    sent = time.monotonic()
    here.sendto(number.to_bytes(4, "big") + bytes(int(sys.argv[4])), (sys.argv[1], 7000))
    try:
        came.add(here.recv(2000)[:4])
        took.append(time.monotonic() - sent)
    except TimeoutError:
        pass
print(len(came), min(took, default=-1), time.monotonic() - started)
"""


@pytest.fixture
def cable() -> Iterator[Cable]:
    with Cable(seed=3) as made:
        order = made.left.command([sys.executable, "-c", ECHO, made.left.address])
        with subprocess.Popen(order, stdout=subprocess.PIPE, text=True) as echo:
            assert echo.stdout is not None
            assert echo.stdout.readline() == "up\n"
            yield made
            echo.kill()


def ask(cable: Cable, count: int, size: int = 10, wait_s: float = 0.02) -> tuple[int, float, float]:
    """Send `count` packets from the right; return answers, shortest way there and back, seconds."""
    numbers = map(str, (count, size, wait_s))
    order = [sys.executable, "-c", ASK, cable.left.address, cable.right.address, *numbers]
    done = subprocess.run(
        cable.right.command(order), capture_output=True, text=True, timeout=60, check=True
    )
    answers, shortest, seconds = done.stdout.split()
    return int(answers), float(shortest), float(seconds)


@pytest.mark.netns
@needs_namespaces
def test_a_cable(cable: Cable) -> None:
    cable.mend()
    assert ask(cable, 20, wait_s=5.0)[0] == 20
    cable.cut(from_left=True, from_right=False)
    before = cable.carried
    assert ask(cable, 3)[0] == 0
    assert cable.carried - before >= 3  # they arrived, and the answers did not
    cable.cut()
    assert ask(cable, 3)[0] == 0
    cable.set(Quality(delay_s=0.1))
    answers, shortest, _ = ask(cable, 3, wait_s=5.0)
    assert answers == 3
    assert shortest >= 0.2
    cable.set(Quality(bytes_per_s=20_000), from_left=False)
    answers, _, seconds = ask(cable, 10, 972, wait_s=5.0)  # 1,004 bytes with their headers
    assert answers == 10
    assert seconds >= 0.5
    cable.set(Quality(loss=0.5), from_left=False)
    cable.set(Quality(), from_right=False)
    assert 60 <= ask(cable, 200)[0] <= 140


@pytest.mark.netns
@needs_namespaces
def test_nothing_is_left_behind() -> None:
    def left() -> list[str]:
        ours = f"zq{os.getpid() % 100_000}"
        folder = Path("/run/netns")
        names = [path.name for path in folder.iterdir()] if folder.exists() else []
        return [name for name in names if name.startswith(ours)]

    before, descriptors = left(), len(os.listdir("/proc/self/fd"))
    with Cable() as cable:
        assert len(left()) == len(before) + 2
        assert cable.left.address != cable.right.address
    assert left() == before
    assert len(os.listdir("/proc/self/fd")) == descriptors


def test_says_why_it_cannot(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network, "_TUN", "/dev/nothing")
    with pytest.raises(ConfigError, match="no bad network here: /dev/nothing cannot be opened"):
        Cable()
