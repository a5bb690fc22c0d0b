"""The limits: bare pyzmq processes that move the same bytes in 1 MiB frames.

The receiver runs in the benchmark's own process, the sender in another one
(``python -m benchmarks._raw ROLE JSON``), as zmqdist's master and worker do.
"""

import contextlib
import json
import subprocess
import sys
import time

import numpy as np
import zmq

FRAME_BYTES = 1 << 20
DEPTH = 4
"""Messages queued at most at either end: plenty to keep both sides busy."""


class Receiver:
    """A ROUTER, and a PUB if asked for, with `senders` processes that run one role.

    Use as a context manager; the processes have ended when it exits.
    """

    def __init__(self, role, *, curve=False, senders=1, publishes=False, depth=DEPTH, **options):
        self._context = zmq.Context()
        self._keys = [key.decode() for key in zmq.curve_keypair()] if curve else None
        self.router = self._bound(zmq.ROUTER, depth)
        self.publisher = self._bound(zmq.XPUB, depth) if publishes else None
        options |= {"address": self.router.last_endpoint.decode(), "keys": self._keys}
        options |= {"depth": depth}
        if publishes:
            options["publishes"] = self.publisher.last_endpoint.decode()
        command = [sys.executable, "-m", "benchmarks._raw", role, json.dumps(options)]
        self.processes = [subprocess.Popen(command) for _ in range(senders)]

    def _bound(self, kind, depth):
        socket = self._context.socket(kind)
        socket.rcvhwm = socket.sndhwm = depth
        if self._keys:
            socket.curve_server = True
            socket.curve_publickey, socket.curve_secretkey = map(str.encode, self._keys)
        socket.bind("tcp://127.0.0.1:*")
        return socket

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for process in self.processes:
            process.wait(60)
        self._context.destroy(linger=0)

    def subscribers(self, count):
        """Wait until so many have subscribed."""
        for _ in range(count):
            self.publisher.recv()


def connected(kind, address, options):
    """Return a socket connected to a `Receiver`."""
    socket = zmq.Context.instance().socket(kind)
    socket.rcvhwm = socket.sndhwm = options["depth"]
    if options["keys"]:
        own = zmq.curve_keypair()
        socket.curve_publickey, socket.curve_secretkey = own
        socket.curve_serverkey = options["keys"][0].encode()
    if kind == zmq.SUB:
        socket.subscribe(b"")
    socket.connect(address)
    return socket


def frames_of(array):
    """Return an array's bytes in frames, as views."""
    octets = memoryview(array.reshape(-1).view(np.uint8))
    return [octets[at : at + FRAME_BYTES] for at in range(0, len(octets), FRAME_BYTES)]


def add(model, parts):
    """Add received frames to a flat model where they belong."""
    at = 0
    for part in parts:
        values = np.frombuffer(part.buffer, model.dtype)
        place = model[at : at + len(values)]
        np.add(place, values, out=place)
        at += len(values)


def copy(model, parts):
    """Put received frames into a flat model where they belong."""
    at = 0
    for part in parts:
        values = np.frombuffer(part.buffer, model.dtype)
        model[at : at + len(values)] = values
        at += len(values)


def seconds_per_item(times, skip):
    """Return the mean seconds between readings, the first `skip` left out."""
    return (times[-1] - times[skip]) / (len(times) - 1 - skip)


def flood(options):
    """Send one array again and again; take in what is published meanwhile."""
    update = np.random.default_rng(0).normal(size=options["elements"]).astype(np.float32)
    dealer = connected(zmq.DEALER, options["address"], options)
    frames = frames_of(update)
    subscriber, model = None, None
    if "publishes" in options:
        subscriber = connected(zmq.SUB, options["publishes"], options)
        model = np.zeros_like(update)
    for _ in range(options["messages"]):
        dealer.send_multipart(frames, copy=False)
        if subscriber is not None:
            with contextlib.suppress(zmq.Again):
                copy(model, subscriber.recv_multipart(zmq.NOBLOCK, copy=False))
    dealer.close(linger=-1)
    zmq.Context.instance().destroy(linger=-1)


def flooded(elements, messages, *, curve, publish_every=None, adds=True):
    """Return the seconds per update: received and, unless told, added, in this process.

    With `publish_every`, the model is copied and sent back each so many updates.
    """
    model = np.zeros(elements, np.float32)
    snapshot = np.zeros_like(model)
    times = []
    options = {"elements": elements, "messages": messages, "curve": curve}
    with Receiver("flood", publishes=publish_every is not None, **options) as receiver:
        if publish_every:
            receiver.subscribers(1)
        for number in range(1, messages + 1):
            parts = receiver.router.recv_multipart(copy=False)[1:]
            if adds:
                add(model, parts)
            times.append(time.perf_counter())
            if publish_every and number % publish_every == 0:
                np.copyto(snapshot, model)
                sent = snapshot.copy()  # the next one must not overtake it
                receiver.publisher.send_multipart(frames_of(sent), copy=False)
    return seconds_per_item(times, messages // 4)


def ask(options):
    """Send an array and take the reply, with so many of them under way."""
    update = np.random.default_rng(0).normal(size=options["elements"]).astype(np.float32)
    dealer = connected(zmq.DEALER, options["address"], options)
    octets = frames_of(update)[0]
    dealer.send(b"here")
    dealer.recv()  # everybody is
    for number in range(options["messages"] + options["under_way"]):
        if number < options["messages"]:
            dealer.send(octets)
        if number >= options["under_way"]:
            dealer.recv()
    zmq.Context.instance().destroy()


def asked(elements, messages, senders, *, curve=False, under_way=2):
    """Return the seconds per request: received, added and answered, in this process."""
    model = np.zeros(elements, np.float32)
    times = []
    options = {"elements": elements, "messages": messages, "under_way": under_way}
    with Receiver("ask", curve=curve, senders=senders, depth=1000, **options) as receiver:
        router = receiver.router
        here = [router.recv_multipart()[0] for _ in range(senders)]
        for peer in here:
            router.send_multipart([peer, b"go"])
        for _ in range(messages * senders):
            peer, octets = router.recv_multipart()
            np.add(model, np.frombuffer(octets, np.float32), out=model)
            router.send_multipart([peer, b"taken"])
            times.append(time.perf_counter())
    return seconds_per_item(times[: len(times) * 9 // 10], len(times) // 10)


ROLES = {"flood": flood, "ask": ask}

if __name__ == "__main__":
    ROLES[sys.argv[1]](json.loads(sys.argv[2]))
