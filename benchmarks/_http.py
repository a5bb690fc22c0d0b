"""A master in the manner of DeepDist (2014): HTTP, pickle, whole models.

Written anew for the comparison, from the way DeepDist works: a task fetches the pickled
model, computes one update on its partition, and posts it pickled; updates are applied under
a lock. The pickled model is kept for all tasks until none is under way. It unpickles what
anybody sends, so it listens on loopback only.
"""

import pickle
import threading
import time
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class HttpMaster:
    """Context manager: serves a model, applies what comes.

    Attributes
    ----------
    address : str
    applied : list of float
        When each update was in the model, by `time.perf_counter`.
    moved_bytes : int
        Bytes of models and updates that went over the sockets.
    """

    def __init__(self, model, descent):
        self.model, self.descent = model, descent
        self.applied, self.moved_bytes = [], 0
        self._lock = threading.Lock()
        self._served, self._pickled = 0, None
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _answers(self))
        self.address = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self):
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_):
        self._server.shutdown()
        self._server.server_close()

    def fetched(self):
        """Return the pickled model for a task."""
        with self._lock:
            if self._pickled is None:
                self._pickled = pickle.dumps(self.model, -1)
            self._served += 1
            self.moved_bytes += len(self._pickled)
            return self._pickled

    def posted(self, body):
        """Apply the pickled update of a task."""
        update = pickle.loads(body)  # noqa: S301 - from our own process
        with self._lock:
            self.descent(self.model, update)
            self.applied.append(time.perf_counter())
            self.moved_bytes += len(body)
            if len(self.applied) >= self._served:
                self._pickled = None


def _answers(master):
    class Answer(BaseHTTPRequestHandler):
        def do_GET(self):
            self._answer(master.fetched())

        def do_POST(self):
            master.posted(self.rfile.read(int(self.headers["Content-Length"])))
            self._answer(b"OK")

        def _answer(self, octets):
            self.send_response(200)
            self.send_header("Content-Length", str(len(octets)))
            self.end_headers()
            self.wfile.write(octets)

        def log_message(self, *_): ...

    return Answer


def task(address, gradient, data):
    """Run one partition as DeepDist does: fetch, compute, post."""
    with urllib.request.urlopen(f"{address}/model") as answer:  # noqa: S310 - the address is our own
        model = pickle.loads(answer.read())  # noqa: S301 - from our own process
    body = pickle.dumps(gradient(model, data), -1)
    with urllib.request.urlopen(urllib.request.Request(f"{address}/update", body)):  # noqa: S310 - the address is our own
        pass
