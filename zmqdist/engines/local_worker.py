"""Main module of a local worker process: takes work from stdin, answers on a pipe."""

from __future__ import annotations

import os
import pickle
import select
import signal
import sys
import threading
from typing import Any, BinaryIO

import cloudpickle

from zmqdist.engines.job import Job, run_task
from zmqdist.engines.portions import Arriving

GRACE_S = 1.0
"""How long a worker may take to end by itself once its parent has, in seconds."""


def main() -> None:
    """Run what the parent sends until it closes the pipe."""
    # Ctrl-C reaches the whole process group; the driver stops its workers itself.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    threading.Thread(target=_end_with_parent, name="zmqdist-parent", daemon=True).start()
    with os.fdopen(int(sys.argv[1]), "wb") as answers, sys.stdin.buffer as orders:
        serve(orders, answers)


def _end_with_parent() -> None:
    """End this process when the parent closed the pipe or died, whatever it is busy with."""
    pipe = select.poll()
    pipe.register(sys.stdin.fileno(), 0)  # tells of the end only, and reads nothing
    pipe.poll()
    threading.Event().wait(GRACE_S)  # an idle worker ends by itself
    os._exit(1)


def serve(orders: BinaryIO, answers: BinaryIO) -> None:
    """Answer each order with ("done", Summary) or ("error", exception)."""
    job: Job | None = None
    while True:
        try:
            order = pickle.load(orders)  # noqa: S301 - the pipe from our own parent
        except EOFError:
            return
        if order[0] == "job":
            job = order[1]
            continue
        _, partition, attempt = order
        data = Arriving(orders)
        answer: tuple[str, Any]
        try:
            if job is None:
                raise RuntimeError("work came before the job")
            answer = ("done", run_task(job, partition, attempt, data))
        except Exception as error:
            answer = ("error", error)
        data.drain()
        try:
            octets = cloudpickle.dumps(answer)
            pickle.loads(octets)  # noqa: S301 - our own; not every exception can be made again
        except Exception:
            text = f"{type(answer[1]).__name__}: {answer[1]}"
            octets = cloudpickle.dumps(("error", RuntimeError(text)))
        answers.write(octets)
        answers.flush()


if __name__ == "__main__":
    main()
