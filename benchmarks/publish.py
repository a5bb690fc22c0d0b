"""A version of a 27 MB model of which 5 % of the rows changed, to 1, 4 and 16 subscribers.

From the end of `descent` until the last worker's own model holds the version, each worker
with a replica of its own. The limit is a copy of the changed rows, a bare PUB that sends
them, and a copy into the model at each of as many bare SUBs. "added" is without a descent,
where zmqdist knows which rows an update changes; after a descent of the user's own it has to
compare the whole model. The last rows compare the bytes with those of the full model, and
the time with that of a pickled model over HTTP, fetched by each worker, as DeepDist does it.
"""

import os
import pickle
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import zmq

from benchmarks import _raw
from benchmarks._harness import Case
from zmqdist import RowSparse
from zmqdist.assignment import Assignment
from zmqdist.connection import Connection
from zmqdist.driver import Driver
from zmqdist.master import Master
from zmqdist.models.base import parameters_of
from zmqdist.options import MasterOptions
from zmqdist.worker import run_partition

SHAPE, CHANGED = (68_000, 100), 3_400
VERSIONS, PICKLED = 30, 6
MODEL_BYTES = SHAPE[0] * SHAPE[1] * 4
POLL_S = 0.0005


def cases(options):
    seen = {}

    def ours(count, descent):
        seconds, seen["bytes"] = published(count, descent)
        return 1000 * seconds

    for descent in (None, descend):
        for count in (1, 4, 16):
            yield Case(
                f"{count} subscriber{'s' * (count > 1)}, {'descent' if descent else 'added'}",
                lambda n=count, descent=descent: ours(n, descent),
                lambda n=count: bare(n),
                "ms",
                "ratio <= 2",
            )
    yield Case(
        "bytes per version, 16 subscribers",
        lambda: seen["bytes"] / 1e6,
        lambda: MODEL_BYTES / 1e6,
        "MB encoded, against the full model",
        "ratio <= 0.1",
    )
    yield Case(
        "16 subscribers, against pickle over HTTP",
        lambda: ours(16, descend),
        lambda: pickled(16),
        "ms",
        repeats=min(3, options.repeats),
    )


class Times:
    """Clock readings of many processes in one file: a row for each, a column for each version.

    The last row is the sender's.
    """

    def __init__(self, path, shape):
        self.path, self.versions = str(path), shape[1] - 1
        self.table = np.memmap(path, np.float64, "r+", shape=shape)

    @classmethod
    def new(cls, folder, subscribers, versions):
        path = Path(folder) / "times"
        path.write_bytes(bytes(8 * (subscribers + 1) * (versions + 1)))
        return cls(path, (subscribers + 1, versions + 1))

    def note(self, version, who=-1):
        self.table[who, version] = time.monotonic()

    def wait_for(self, version, sender=False):
        """Wait until all subscribers, or the sender, have noted a version."""
        until = time.monotonic() + 120
        while not np.all(self.table[-1:] if sender else self.table[:-1], axis=0)[version]:
            assert time.monotonic() < until, f"version {version} did not get there"
            time.sleep(POLL_S)

    def seconds(self):
        """Return the median time from the sender to the last subscriber."""
        spans = self.table[:-1, 1:].max(axis=0) - self.table[-1, 1:]
        return float(np.median(spans[len(spans) // 4 :]))

    def process(self, role, who, what):
        """Start a subscriber."""
        order = Path(self.path).parent / f"{role}-{who}"
        order.write_bytes(pickle.dumps((self.path, self.table.shape, who, what)))
        command = [sys.executable, "-m", "benchmarks.publish", role, str(order)]
        return subprocess.Popen(command, env=os.environ)


# ---- ours ----------------------------------------------------------------------------------


def descend(model, update):
    model["w"] += update["w"]


class Noting(Master):
    """Notes when an update is in the model."""

    times = None

    def _descend(self, update):
        super()._descend(update)
        self.times.note(self.state.version + 1)


def published(count, descent):
    """Return seconds per version, and the bytes of one as it was encoded."""
    master = Noting({"w": np.zeros(SHAPE, np.float32)}, MasterOptions(publish_every=1))
    master.descent = descent
    with tempfile.TemporaryDirectory() as folder:
        master.times = times = Times.new(folder, count, VERSIONS)
        master.start()
        driver = Driver(master.address, None)
        try:
            begun = driver.begin(count + 1, "")
            schema = {name: (dtype, tuple(shape)) for name, (dtype, shape) in begun.schema.items()}
            assignment = Assignment(
                master.address, begun.run, begun.epoch, schema, replica="private"
            )
            subscribers = [times.process("listen", who, assignment) for who in range(count)]
            times.wait_for(0)
            before = master.state.totals.bytes_published
            send(assignment, count, times)
            encoded = master.state.totals.bytes_published - before
            for process in subscribers:
                process.wait(60)
            driver.end(begun.epoch, "over")
        finally:
            driver.close()
            master.stop()
        return times.seconds(), encoded / VERSIONS


def send(assignment, partition, times):
    """Push one update after another, each when the one before is everywhere."""

    def gradient(model, data):
        rng = np.random.default_rng(0)
        for version in range(1, VERSIONS + 1):
            rows = np.sort(rng.choice(SHAPE[0], CHANGED, replace=False))
            values = rng.normal(size=(CHANGED, SHAPE[1])).astype(np.float32)
            yield {"w": RowSparse(rows, values, SHAPE)}
            times.wait_for(version)

    model = {"w": np.zeros(SHAPE, np.float32)}
    run_partition(
        assignment, model, gradient, partition=partition, attempt=0, data=[1], worker="sender"
    )


class Listener(Connection):
    """A worker that computes nothing."""

    def hold(self, version, parameters):
        """Wait for a version, and put it into the model."""
        with self._turn:
            self._wait_for(lambda: self._state.version >= version)
            self._read_into(parameters)


def listen(times, who, assignment):
    parameters = parameters_of({"w": np.zeros(SHAPE, np.float32)})
    with Listener(assignment, who, who, "listener") as link:
        for version in range(VERSIONS + 1):
            link.hold(version, parameters)
            times.note(version, who)


# ---- the limits ----------------------------------------------------------------------------


def bare(count):
    """Return milliseconds per version with bare sockets."""
    model = np.zeros(SHAPE, np.float32)
    rows = np.sort(np.random.default_rng(0).choice(SHAPE[0], CHANGED, replace=False))
    with tempfile.TemporaryDirectory() as folder, zmq.Context() as context:
        times = Times.new(folder, count, VERSIONS)
        publisher = context.socket(zmq.XPUB)
        publisher.xpub_verbose, publisher.linger = True, 0  # tells of each subscriber
        publisher.bind("tcp://127.0.0.1:*")
        address = publisher.last_endpoint.decode()
        subscribers = [times.process("take", who, address) for who in range(count)]
        for _ in range(count):
            publisher.recv()
        times.wait_for(0)
        for version in range(1, VERSIONS + 1):
            times.note(version)
            publisher.send_multipart(_raw.frames_of(model[rows]), copy=False)
            times.wait_for(version)
        for process in subscribers:
            process.wait(60)
        publisher.close()
        return 1000 * times.seconds()


def take(times, who, address):
    model = np.zeros(CHANGED * SHAPE[1], np.float32)
    with zmq.Context() as context, context.socket(zmq.SUB) as subscriber:
        subscriber.subscribe(b"")
        subscriber.connect(address)
        times.note(0, who)
        for version in range(1, VERSIONS + 1):
            _raw.copy(model, subscriber.recv_multipart(copy=False))
            times.note(version, who)


def pickled(count):
    """Return milliseconds until each has fetched the pickled model once."""
    model = {"w": np.zeros(SHAPE, np.float32)}

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self):
            octets = pickle.dumps(model, -1)
            self.send_response(200)
            self.send_header("Content-Length", str(len(octets)))
            self.end_headers()
            self.wfile.write(octets)

        def log_message(self, *_): ...

    with (
        tempfile.TemporaryDirectory() as folder,
        ThreadingHTTPServer(("127.0.0.1", 0), Answer) as server,
    ):
        times = Times.new(folder, count, PICKLED)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}/model"
        fetchers = [times.process("fetch", who, address) for who in range(count)]
        times.wait_for(0)
        for version in range(1, PICKLED + 1):
            times.note(version)
            times.wait_for(version)
        for process in fetchers:
            process.wait(60)
        server.shutdown()
        return 1000 * times.seconds()


def fetch(times, who, address):
    times.note(0, who)
    for version in range(1, times.versions + 1):
        times.wait_for(version, sender=True)
        with urllib.request.urlopen(address) as answer:  # noqa: S310 - the address is our own
            pickle.loads(answer.read())  # noqa: S301 - from our own process
        times.note(version, who)


if __name__ == "__main__":
    path, shape, who, what = pickle.loads(Path(sys.argv[2]).read_bytes())  # noqa: S301 - from our own process
    {"listen": listen, "take": take, "fetch": fetch}[sys.argv[1]](Times(path, shape), who, what)
