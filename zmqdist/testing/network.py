"""A bad network between two places on this machine: cut, one-way, lossy, slow or far.

Two network namespaces are joined by a cable that is a thread here: each end is a TUN
device, and what the kernel of one side sends as an IP packet is handed to the other, or
dropped, or kept for a while. TCP, ZeroMQ and your program are the real ones. It needs
Linux, root, ``ip`` (Debian: iproute2) and /dev/net/tun, and no kernel module for traffic
shaping.
"""

from __future__ import annotations

import fcntl
import heapq
import itertools
import os
import random
import select
import shutil
import struct
import subprocess
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from types import TracebackType

from zmqdist.errors import ConfigError

_TUN = "/dev/net/tun"
_TUNSETIFF, _IFF_TUN, _IFF_NO_PI = 0x400454CA, 0x0001, 0x1000
_numbers = itertools.count()

QUEUE_BYTES = 256 << 10
"""Bytes that wait for a slow cable in each direction; what comes on top is dropped."""


@dataclass(frozen=True)
class Quality:
    """How well one direction of a cable works.

    Parameters
    ----------
    loss : float, default=0
        Share of packets that are dropped, from 0 to 1; 1 is a cut.
    delay_s : float, default=0
        How long a packet is under way, in seconds.
    bytes_per_s : float, default=inf
        How fast it is.
    """

    loss: float = 0.0
    delay_s: float = 0.0
    bytes_per_s: float = float("inf")


@dataclass(frozen=True)
class End:
    """One end of a cable: a network namespace and its address in it."""

    namespace: str
    address: str

    def command(self, order: Sequence[str]) -> list[str]:
        """Return the command that runs `order` at this end."""
        return ["ip", "netns", "exec", self.namespace, *order]


class Cable:
    """Context manager: two namespaces, ``left`` and ``right``, and the cable between them.

    Parameters
    ----------
    seed : int, default=0
        Which packets are lost, as far as the same packets are sent.

    Raises
    ------
    ConfigError
        This machine cannot do it; `obstacle` says why.

    Examples
    --------
    >>> with Cable(seed=1) as cable:
    ...     worker = subprocess.Popen(cable.right.command([sys.executable, "work.py"]))
    ...     cable.set(Quality(loss=0.01, delay_s=0.1))
    ...     cable.cut()
    ...     cable.mend()
    """

    def __init__(self, seed: int = 0) -> None:
        if (reason := obstacle()) is not None:
            raise ConfigError(f"no bad network here: {reason}")
        number = next(_numbers)
        self._names = [f"zq{os.getpid() % 100_000}n{number}{side}" for side in "lr"]
        subnet = f"10.{64 + os.getpid() % 64}.{number % 256}"
        self.left, self.right = (
            End(name, f"{subnet}.{i + 1}") for i, name in enumerate(self._names)
        )
        self._random = random.Random(seed)  # noqa: S311 - no secret
        self._quality = [Quality(), Quality()]
        self._free_at = [0.0, 0.0]
        self._devices: list[int] = []
        self._wake_out, self._wake_in = os.pipe()
        self._thread = threading.Thread(target=self._carry, name="zmqdist-cable", daemon=True)
        self.carried = self.dropped = 0

    def __enter__(self) -> Cable:
        try:
            for end, other in ((self.left, self.right), (self.right, self.left)):
                self._plug_in(end, other)
        except BaseException:
            self._unplug()
            raise
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        os.write(self._wake_in, b"!")
        self._thread.join()
        self._unplug()

    def set(self, quality: Quality, *, from_left: bool = True, from_right: bool = True) -> None:
        """Change one direction or both."""
        for direction, change in enumerate((from_left, from_right)):
            if change:
                self._quality[direction] = quality

    def cut(self, *, from_left: bool = True, from_right: bool = True) -> None:
        """Let nothing pass any more, in one direction or both."""
        for direction, change in enumerate((from_left, from_right)):
            if change:
                self._quality[direction] = replace(self._quality[direction], loss=1.0)

    def mend(self) -> None:
        """Make the cable perfect."""
        self.set(Quality())

    # ---- inside ---------------------------------------------------------------------

    def _plug_in(self, end: End, other: End) -> None:
        _ip("netns", "add", end.namespace)
        device = os.open(_TUN, os.O_RDWR | os.O_NONBLOCK)
        self._devices.append(device)
        name = end.namespace[:15]
        request = struct.pack("16sH", name.encode(), _IFF_TUN | _IFF_NO_PI)
        fcntl.ioctl(device, _TUNSETIFF, request)
        _ip("link", "set", name, "netns", end.namespace)
        inside = ("-n", end.namespace)
        _ip(*inside, "addr", "add", end.address, "peer", other.address, "dev", name)
        _ip(*inside, "link", "set", name, "up")
        _ip(*inside, "link", "set", "lo", "up")

    def _unplug(self) -> None:
        for device in (*self._devices, self._wake_in, self._wake_out):
            os.close(device)
        for name in self._names:
            subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)  # noqa: S603, S607

    def _carry(self) -> None:
        """Hand packets over as they come due."""
        order = itertools.count()
        under_way: list[tuple[float, int, int, bytes]] = []
        while True:
            wait_s = None if not under_way else max(0.0, under_way[0][0] - time.monotonic())
            ready, _, _ = select.select([*self._devices, self._wake_out], [], [], wait_s)
            if self._wake_out in ready:
                return
            now = time.monotonic()
            for direction, device in enumerate(self._devices):
                if device in ready:
                    packet = os.read(device, 1 << 16)
                    if (due := self._due(direction, len(packet), now)) is not None:
                        heapq.heappush(under_way, (due, next(order), direction, packet))
            while under_way and under_way[0][0] <= now:
                _, _, direction, packet = heapq.heappop(under_way)
                self._deliver(self._devices[1 - direction], packet)

    def _due(self, direction: int, n_bytes: int, now: float) -> float | None:
        """Return when a packet arrives, None if it does not."""
        quality = self._quality[direction]
        starts = max(now, self._free_at[direction])
        full = (starts - now) * quality.bytes_per_s > QUEUE_BYTES if starts > now else False
        if full or self._random.random() < quality.loss:
            self.dropped += 1
            return None
        self._free_at[direction] = starts + n_bytes / quality.bytes_per_s
        return self._free_at[direction] + quality.delay_s

    def _deliver(self, device: int, packet: bytes) -> None:
        try:
            os.write(device, packet)
            self.carried += 1
        except OSError:
            self.dropped += 1  # the other side's device is full or down


def obstacle() -> str | None:
    """Return why this machine can have no `Cable`, None if it can."""
    if not os.access(_TUN, os.R_OK | os.W_OK):
        return f"{_TUN} cannot be opened"
    if os.geteuid() != 0:
        return "only root may make network namespaces"
    if shutil.which("ip") is None:
        return "there is no `ip`; on Debian: apt-get install iproute2"
    name = f"zq{os.getpid() % 100_000}probe"
    made = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True, check=False)  # noqa: S603, S607
    if made.returncode:
        return f"no network namespace can be made: {made.stderr.strip()}"
    subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)  # noqa: S603, S607
    return None


def _ip(*arguments: str) -> None:
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)  # noqa: S603, S607
    if done.returncode:
        raise ConfigError(f"ip {' '.join(arguments)}: {done.stderr.strip()}")
