"""Other Python processes that do what they are told, and can be killed or suspended.

They are forked from one that has imported what takes long.
"""

from __future__ import annotations

import ast
import contextlib
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_PARENT = """
import os, select, signal, socket, sys, tempfile
import numpy, zmqdist.sharing.replica, tests.sharing.test_replica

signal.signal(signal.SIGCHLD, signal.SIG_IGN)
listener = socket.socket(fileno=int(sys.argv[1]))
while True:
    if sys.stdin in select.select([listener, sys.stdin], [], [])[0]:
        sys.exit()
    connection, _ = listener.accept()
    if not os.fork():
        break
    connection.close()
listener.close()
orders, answers, place = connection.makefile("r"), connection.makefile("w"), {}
connection.close()
print(os.getpid(), file=answers, flush=True)
for line in orders:
    try:
        exec(eval(line), place)
        answer = place.pop("answer", None)
    except Exception as error:
        answer = "error", type(error).__name__, str(error)
    print(repr(answer), file=answers, flush=True)
"""


@contextlib.contextmanager
def parent(path: str) -> Iterator[None]:
    """Run the process that the others are forked from."""
    with socket.create_server(path, family=socket.AF_UNIX) as listener:
        fd = listener.fileno()
        command = [sys.executable, "-c", _PARENT, str(fd)]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, pass_fds=(fd,))
    Elsewhere.parent = path
    yield
    process.communicate()


class Elsewhere:
    """A process; use it as a context manager."""

    parent = ""

    def __init__(self, setup: str = "") -> None:
        self._orders = socket.socket(socket.AF_UNIX)
        self._orders.connect(self.parent)
        self._answers = self._orders.makefile("r")
        self.pid = int(self._answers.readline())
        self._watch = os.pidfd_open(self.pid)
        self.do(f"import tempfile; tempfile.tempdir = {tempfile.gettempdir()!r}")
        self.do(setup)

    def __enter__(self) -> Elsewhere:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._watch, signal.SIGKILL)
        self.wait()
        self._answers.close()
        self._orders.close()
        os.close(self._watch)

    def do(self, code: str) -> Any:
        """Run some statements; return what they put into `answer`."""
        self.begin(code)
        return self.end()

    def begin(self, code: str) -> None:
        """Have some statements run, without waiting."""
        self._orders.sendall(f"{code!r}\n".encode())

    def end(self) -> Any:
        """Wait for what `begin` began."""
        answer = ast.literal_eval(self._answers.readline())
        assert not (isinstance(answer, tuple) and answer[:1] == ("error",)), answer
        return answer

    def wait(self) -> None:
        """Wait for its end: files closed, locks gone."""
        assert select.select([self._watch], [], [], 20)[0], "the process does not end"

    def suspend(self) -> None:
        """Stop it where it is."""
        os.kill(self.pid, signal.SIGSTOP)

    def suspended(self) -> bool:
        """Whether it is stopped."""
        return Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"
