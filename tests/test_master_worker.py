"""Masters and workers over real sockets: hostile peers, deaths, a bad network, keys."""

from __future__ import annotations

import json
import logging
import os
import queue
import re
import signal
import subprocess
import sys
import textwrap
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support import (
    Peer,
    Proxy,
    Running,
    ThreadEngine,
    epoch,
    eventually,
    serving,
    work,
    worker_processes,
)
from zmqdist import ZmqDist
from zmqdist.core.budgets import BURST
from zmqdist.core.messages import PROTOCOL
from zmqdist.driver import Driver
from zmqdist.errors import MasterLost, TrainTimeout
from zmqdist.flood import DROPS_AT_ONCE
from zmqdist.net.security import ClientKeys, KeyPair, MasterKeys
from zmqdist.net.transport import MAX_FRAME_BYTES, MasterSockets


def model() -> dict[str, Any]:
    return {"w": np.zeros(1000), "n": 0}


def count(model: Any, items: Any) -> Any:
    for _ in items:
        yield {"n": 1, "w": np.full(1000, 0.5)}


def forever(model: Any, items: Any) -> Any:
    while True:
        yield {"n": 1}


class Gate:
    """Data whose items come when the test gives them."""

    def __init__(self) -> None:
        self._items: queue.SimpleQueue[bool] = queue.SimpleQueue()

    def __iter__(self) -> Any:
        while self._items.get(timeout=20):
            yield 1

    def give(self, items: int) -> None:
        for _ in range(items):
            self._items.put(True)

    def close(self) -> None:
        self._items.put(False)


# ---- hostile peers ------------------------------------------------------------------------------


def header(kind: str, **fields: Any) -> bytes:
    return json.dumps({"zmqdist": PROTOCOL, "kind": kind, **fields}).encode()


HUGE = {"array": {"dtype": "<f8", "shape": [100_000_000_000 // 8]}}
SPARSE_HUGE = {
    "array": {
        "shape": [1 << 33, 2],
        "rows": {"dtype": "<i8", "shape": [0]},
        "values": {"dtype": "<f8", "shape": [0, 2]},
    }
}
GARBAGE: dict[str, tuple[list[bytes], str]] = {
    "random": ([os.urandom(100), os.urandom(50)], "not JSON"),
    "empty": ([b""], "not JSON"),
    "many empty": ([b""] * 100, "not JSON"),
    "no object": ([b"[1, 2]"], "JSON list; expected an object"),
    "deep": ([b"[" * 100_000], "not JSON"),
    "nan": ([b'{"zmqdist": NaN}'], "not JSON"),
    "wrong version": ([b'{"zmqdist": 99, "kind": "hello"}'], "protocol version is 99; expected"),
    "no version": ([b"{}"], "protocol version is None"),
    "unknown kind": ([header("surprise")], "unknown message kind 'surprise'"),
    "kind is a list": ([header([])], "unknown message kind"),  # type: ignore[arg-type]
    "missing fields": ([header("push", session=1)], "push lacks base, step"),
    "wrong type": ([header("push", session="1", step=0, base=0)], "push.session is '1'"),
    "too large a number": ([header("push", session=2**70, step=0, base=0)], "push.session"),
    "a master's message": ([header("pong", session=1, limit=None)], "takes no 'pong'"),
    "too many partitions": ([header("begin", partitions=10**15)], "expected 1 to 100,000"),
    "no partitions": ([header("begin", partitions=0)], "expected 1 to 100,000"),
}


class TestHostilePeers:
    @pytest.mark.parametrize("name", GARBAGE)
    def test_garbage_is_refused(self, name: str) -> None:
        frames, reason = GARBAGE[name]
        with serving(model()) as master, Peer(master.address) as peer, epoch(master) as there:
            peer.raw(*frames)
            assert reason in peer.answer("refused")["reason"]
            work(there, model(), count, range(5))
            assert master.model["n"] == master.state.version == 5

    @pytest.mark.parametrize(
        ("tree", "frames", "reason"),
        [
            ({"array": {"dtype": "<f8", "shape": [1000]}}, [b"x" * 10], "frame has 10 bytes"),
            ({"array": {"dtype": "<f8", "shape": [1000]}}, [], "tree"),
            (HUGE, [b"x" * 100], "decodes to|frames"),
            (SPARSE_HUGE, [], "decodes to .* expected at most"),
            ({"array": {"dtype": "|O", "shape": [1]}}, [b"x" * 8], "dtype '|O' is not allowed"),
            ({"pickle": "gASVAA=="}, [], "unknown kind"),
            ({"array": {"dtype": "<f8", "shape": [-1]}}, [b""], "shape is"),
            ({"array": {"dtype": "<f8", "shape": [10], "blosc": "1"}}, [b"x" * 40], "blosc"),
            ([[]] * 200_000, [], "more than 100000 entries"),
        ],
        ids=lambda value: str(value)[:30],
    )
    def test_update_that_cannot_be_decoded(self, tree: Any, frames: Any, reason: str) -> None:
        with serving(model()) as master, Peer(master.address) as peer, epoch(master) as there:
            fields = {"run": there.run, "epoch": there.epoch, "partition": 0}
            session = peer.ask("hello", "welcome", **fields, attempt=99, worker="evil")["session"]
            push = {"session": session, "step": 0, "base": 0, "tree": tree}
            refused = peer.ask("push", "refused", *frames, **push)
            assert re.search(reason, refused["reason"])
            assert peer.ask("heartbeat", "rejoin", session=session)["session"] == session
            work(there, model(), count, range(5))
            assert master.model["n"] == master.state.version == 5
            assert master.alive

    def test_pushes_out_of_order(self) -> None:
        with serving(model()) as master, Peer(master.address) as peer, epoch(master) as there:
            fields = {"run": there.run, "epoch": there.epoch, "partition": 0}
            session = peer.ask("hello", "welcome", **fields, attempt=99, worker="odd")["session"]
            tree = {"dict": [["n", 1]]}
            for step, duplicate in ((3, False), (0, False), (3, True), (0, True), (1, False)):
                push = {"session": session, "step": step, "base": 0, "tree": tree}
                answer = peer.ask("push", "ack", **push)
                assert (answer["outcome"], answer["duplicate"]) == ("applied", duplicate)
            for step, base in ((9, 10**6), (9, -1), (-1, 0)):
                push = {"session": session, "step": step, "base": base, "tree": tree}
                assert f"push of step {step}" in peer.ask("push", "refused", **push)["reason"]
            assert peer.ask("finish", "finished", session=session, steps=9)["complete"] is False
            assert master.model["n"] == 3
            done = work(there, model(), count, range(5))
            assert done.complete
            assert (done.steps, master.model["n"], master.state.totals.duplicates) == (5, 5, 2)

    def test_what_is_not_of_this_run(self) -> None:
        with serving(model()) as master, Peer(master.address) as peer, epoch(master) as there:
            hello = {"run": there.run, "epoch": there.epoch, "partition": 0, "attempt": 1}
            for wrong, reason in (
                ({"run": "another"}, "another run"),
                ({"epoch": 7}, "a closed epoch"),
                ({"partition": 5}, "a closed epoch"),
                ({"partition": -1}, "a closed epoch"),
            ):
                fields = {**hello, **wrong, "worker": "lost"}
                assert reason in peer.ask("hello", "stop", **fields)["reason"]
            for kind, fields in (
                ("push", {"step": 0, "base": 0}),
                ("pull", {"have": -1}),
                ("heartbeat", {}),
                ("finish", {"steps": 0}),
                ("fail", {"step": 0, "what": "x", "error": "x", "traceback": "x"}),
            ):
                assert peer.ask(kind, "rejoin", session=12345, **fields)["session"] == 12345
            assert peer.ask("status", "report", run=there.run, epoch=99)["fatal"]["what"] == "epoch"
            own = {"epoch": there.epoch}
            for kind in ("status", "end"):
                assert peer.ask(kind, "report", run="another", **own)["fatal"]["what"] == "epoch"
            assert peer.ask("status", "report", run=there.run, **own)["fatal"] is None
            assert master.state.version == 0
            assert master.state.totals.failed == 0

    def test_oversized_frame_cuts_the_peer_off(self) -> None:
        with serving(model()) as master, Peer(master.address) as peer, epoch(master) as there:
            peer.socket.get_monitor_socket()
            peer.raw(b"x" * (MAX_FRAME_BYTES + 1))
            work(there, model(), count, range(5))
            assert master.model["n"] == 5
            peer.raw(b"{}")  # by a new connection
            assert "protocol version" in peer.answer("refused")["reason"]
            assert master.state.totals.refused == 1

    def test_numbers_that_would_not_fit_a_report(self) -> None:
        with serving(model()) as master, Peer(master.address) as peer, epoch(master) as there:
            fields = {"run": there.run, "epoch": there.epoch, "partition": 0}
            hello = {**fields, "attempt": 99, "worker": "w" * 100_000}
            session = peer.ask("hello", "welcome", **hello)["session"]
            push = {"session": session, "step": 0, "base": 0, "tree": {"dict": [["n", 1]]}}
            for wrong in ({"metrics": {"loss": 7e77}}, {"compute_s": 7e77}, {"half_sq": 7e77}):
                peer.raw(header("push", **push, **wrong).replace(b"7e+77", b"7e777"))
                assert re.search("push.* is .*inf.*; expected", peer.answer("refused")["reason"])
            for step in range(3):
                peer.send("push", **push | {"step": step}, compute_s=1e308)
                peer.answer("ack")
            for attempt in range(30):
                hello["attempt"] = attempt
                session = peer.ask("hello", "welcome", **hello)["session"]
                text = "\U0001f600" * 20_000
                fail = {"step": 1, "what": text[:9000], "error": text, "traceback": text}
                peer.send("fail", session=session, **fail)
                peer.answer("pong")
            report = peer.ask("status", "report", run=there.run, epoch=there.epoch)
            assert report["totals"]["failed"] == 30
            assert report["metrics"] == {}
            work(there, model(), count, range(5))
            assert master.model["n"] == 5

    def test_in_the_midst_of_training(self) -> None:
        with ZmqDist(model(), security="none") as dd, Peer(dd.address) as peer:
            run = Running(lambda: dd.train([range(300)] * 2, count, epochs=2))
            for _ in range(BURST // len(GARBAGE) // 2):
                for frames, _ in GARBAGE.values():
                    peer.raw(*frames)
                for _ in GARBAGE:
                    peer.answer("refused")
            assert run.join().applied == 1200
            assert dd.model["n"] == dd.version == 1200
            assert np.all(dd.model["w"] == 600)

    def test_what_floods_is_dropped_unread(
        self, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        rests: list[float] = []
        rest = MasterSockets.rest

        def counted(sockets: MasterSockets, seconds: float) -> None:
            rests.append(seconds)
            rest(sockets, seconds)

        monkeypatch.setattr(MasterSockets, "rest", counted)
        with ZmqDist(model(), security="none") as dd, Peer(dd.address) as peer:
            assert dd._master is not None
            totals = dd._master.state.totals
            for number in range(3 * BURST):
                peer.send("heartbeat", session=number)
            eventually(lambda: totals.dropped >= BURST, "most of it is dropped")
            assert len(rests) > BURST // DROPS_AT_ONCE // 2  # the loop may end in between
            for _ in range(50):
                peer.raw(b"nonsense")
            assert dd.train([range(300)] * 2, count, epochs=2).applied == 1200
            eventually(lambda: totals.dropped + totals.refused > BURST + 50, "all came")
        assert len([r for r in caplog.records if "settles nothing" in r.message]) <= 50
        assert len([r for r in caplog.records if "refused" in r.message]) < 50


# ---- deaths and ends ----------------------------------------------------------------------


class TestEnds:
    def test_master_dies(self) -> None:
        gate = Gate()
        with serving(model(), lease_s=1) as master, epoch(master) as there:
            run = Running(lambda: work(there, model(), count, gate))
            gate.give(3)
            eventually(lambda: master.state.version == 3, "three updates")
            master.stop()
            gate.give(9)
            with pytest.raises(
                MasterLost, match=r"silent for 1 s: it ended, hangs, .* raise lease_s"
            ):
                run.join()

    def test_driver_loses_its_master(self) -> None:
        with serving(model(), lease_s=1) as master:
            driver = Driver(master.address, None, connect_s=0.5)
            begun = driver.begin(1, "")
            master.stop()
            with pytest.raises(MasterLost, match="has not answered for 1 s: it ended or hangs"):
                driver.status(begun.epoch)
            asked = time.monotonic()
            with pytest.raises(MasterLost):
                driver.end(begun.epoch)
            assert time.monotonic() - asked < 0.5  # it does not wait a second time
            driver.close()

    def test_silent_worker_costs_its_lease(self) -> None:
        with serving(model(), lease_s=0.5) as master, Peer(master.address) as peer:
            with epoch(master) as there:
                fields = {"run": there.run, "epoch": there.epoch, "partition": 0}
                welcome = peer.ask("hello", "welcome", **fields, attempt=9, worker="dead")
                eventually(lambda: master.state.totals.evicted == 1, "the eviction")
                work(there, model(), count, range(4))
                late = {"session": welcome["session"], "step": 4, "base": 0}
                peer.ask("push", "rejoin", **late, tree={"dict": [["n", 1]]})
                assert master.model["n"] == 4

    def test_stop_reaches_the_workers(self) -> None:
        with serving(model()) as master:
            with epoch(master) as there:
                run = Running(lambda: work(there, model(), forever, [1]))
                eventually(lambda: master.state.version > 3, "an update")
            summary = run.join()
            assert (summary.complete, summary.stopped) == (False, "the test is over")

    def test_second_attempt_at_one_partition(self) -> None:
        gate = Gate()
        with serving(model()) as master, epoch(master) as there:
            slow = Running(lambda: work(there, model(), count, gate, attempt=1))
            gate.give(2)
            eventually(lambda: master.state.version == 2, "updates of the slow attempt")
            fast = work(there, model(), count, range(6), attempt=2)
            assert fast.complete
            gate.give(10)  # more than may be under way: it has to hear of it
            summary = slow.join()
            assert summary.stopped == "another attempt has completed this partition"
            assert master.model["n"] == master.state.version == 6
            third = work(there, model(), count, range(6), attempt=3)
            assert third.complete
            assert third.steps == third.computed == 0

    @pytest.mark.usefixtures("threads")
    def test_timeout(self) -> None:
        message = r"timeout_s=0.3 passed in epoch 1 of 2 with 0 of 2 partitions .* updates applied"
        with ZmqDist(model()) as dd:
            with pytest.raises(TrainTimeout, match=message):
                dd.train([[1], [1]], forever, epochs=2, timeout_s=0.3)
            assert dd.model["n"] == dd.version > 0
            before = dd.version
            assert dd.train([range(3)], count).applied == 3
            assert dd.model["n"] == before + 3

    def test_timeout_ends_processes_that_do_not_listen(self, monkeypatch: Any) -> None:
        monkeypatch.setattr("zmqdist.training.GRACE_S", 0.2)

        def deaf(model: Any, items: Any) -> Any:
            threading.Event().wait(60)

        with ZmqDist(model()) as dd:
            with pytest.raises(TrainTimeout):
                dd.train([[1]], deaf, timeout_s=0.5)
            assert not worker_processes()
            assert dd.stats()["seconds"] < 10

    def test_ctrl_c_cancels_a_job_that_goes_on(self, monkeypatch: Any) -> None:
        cancelled = threading.Event()

        class Deaf(ThreadEngine):
            def run(self, job: Any, missing: Any) -> Any:
                os.kill(os.getpid(), signal.SIGINT)
                assert cancelled.wait(20)
                raise RuntimeError("cancelled")

            def cancel(self) -> None:
                cancelled.set()

        monkeypatch.setattr("zmqdist.training.GRACE_S", 0.2)
        monkeypatch.setattr("zmqdist.api.engine_for", Deaf)
        try:
            with ZmqDist(model()) as dd, pytest.raises(KeyboardInterrupt):
                dd.train([[1]], count)
            assert cancelled.is_set()
        finally:
            cancelled.set()

    @pytest.mark.parametrize("group", [True, False], ids=["whole group", "driver only"])
    def test_ctrl_c(self, tmp_path: Path, group: bool) -> None:
        program = """
            import os
            import threading
            from zmqdist import ZmqDist

            def gradient(model, items):
                while True:
                    os.write(1, b"step\\n")  # whole, beside the other worker's
                    yield {"n": 1}

            try:
                with ZmqDist({"n": 0}) as dd:
                    dd.train([[1], [2]], gradient, workers=2)
            except KeyboardInterrupt:
                print("count", dd.model["n"] == dd.version > 0, threading.active_count())
                raise SystemExit(7)
        """
        file = tmp_path / "program.py"
        file.write_text(textwrap.dedent(program))
        with subprocess.Popen(
            [sys.executable, str(file)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        ) as process:
            assert process.stdout is not None
            try:
                for _ in range(20):
                    assert process.stdout.readline() == "step\n"
                (os.killpg if group else os.kill)(process.pid, signal.SIGINT)
                out, err = process.communicate(timeout=15)
            finally:
                process.kill()
        assert process.returncode == 7, err
        assert "count True" in out
        assert "Traceback" not in err
        eventually(lambda: not _group(process.pid), lambda: f"left: {_group(process.pid)}")


def _group(leader: int) -> list[str]:
    """Return the living processes of a process group."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            state, _, group = (entry / "stat").read_text().rpartition(")")[2].split()[:3]
        except OSError:
            continue
        if int(group) == leader and state != "Z":
            found.append(entry.name)
    return found


# ---- a bad network ------------------------------------------------------------------------------


class TestNetwork:
    @pytest.mark.parametrize("pull", ["cut", "stall"])
    def test_worker_reconnects(self, pull: str) -> None:
        gate = Gate()
        with serving(model(), lease_s=2) as master, Proxy(port_of(master)) as proxy:
            with epoch(master) as there:
                far = replace(there, address=proxy.address)
                run = Running(lambda: work(far, model(), count, gate))
                for given in (3, 8, 13, 18):
                    gate.give(3)
                    eventually(lambda n=given: master.state.version == n, "3 more updates")
                    connections, swallowed = proxy.accepted, proxy.swallowed
                    if pull == "stall":
                        proxy.stall()
                        gate.give(2)
                        eventually(lambda n=swallowed: proxy.swallowed > n, "swallowed bytes")
                        proxy.heal()
                    else:
                        gate.give(2)
                        proxy.cut()
                    eventually(lambda n=connections: proxy.accepted > n, "a new connection")
                gate.close()
                summary = run.join()
            assert summary.complete
            assert summary.steps == master.model["n"] == master.state.version
            assert summary.steps == 20
            assert np.all(master.model["w"] == 10)

    def test_worker_rejoins_after_its_lease(self) -> None:
        gate = Gate()
        with serving(model(), lease_s=3) as master, Proxy(port_of(master)) as proxy:
            with epoch(master) as there:
                far = replace(there, address=proxy.address)
                run = Running(lambda: work(far, model(), count, gate))
                gate.give(3)
                eventually(lambda: master.state.version == 3, "three updates")
                proxy.stall()
                gate.give(2)
                for session in list(master.state.sessions):
                    session.last_seen -= 3  # as if the stall were a long one
                eventually(lambda: master.state.totals.evicted == 1, "the eviction")
                proxy.heal()
                gate.give(5)
                gate.close()
                summary = run.join()
            assert summary.complete
            assert master.model["n"] == master.state.version == summary.steps == 10
            assert master.state.totals.sessions == 2

    @pytest.mark.usefixtures("threads")
    def test_whole_training_over_a_network_that_breaks(self) -> None:
        with serving(model(), lease_s=4) as master, Proxy(port_of(master)) as proxy:
            remote = {"n": 0, "w": np.zeros(1000)}
            with ZmqDist(remote, master=proxy.address, security="none") as dd:
                run = Running(lambda: dd.train([range(1500)] * 2, count))
                for so_far in range(200, 2400, 400):
                    eventually(
                        lambda n=so_far: run.ended or master.state.version > n, "more updates"
                    )
                    proxy.cut()
                result = run.join(60)
            assert proxy.accepted > 6
            assert result.applied == master.state.version == master.model["n"] == 3000
            assert dd.model is remote
            assert remote["n"] == 3000
            assert np.array_equal(remote["w"], master.model["w"])


def port_of(master: Any) -> int:
    return int(master.address.rpartition(":")[2])


# ---- keys stay secret -------------------------------------------------------------------------


class TestKeys:
    def test_no_repr_shows_a_key(self) -> None:
        pair, other = KeyPair.generate(), KeyPair.generate()
        client, server = ClientKeys(pair, other.public), MasterKeys(other, pair.public)
        from zmqdist.assignment import Assignment
        from zmqdist.engines.job import Job
        from zmqdist.options import MasterOptions

        there = Assignment("tcp://127.0.0.1:1", "run", 0, {}, keys=client)
        job = Job("name", "title", there, b"payload")
        for thing in (pair, client, server, there, job, MasterOptions(keys=server), ZmqDist([1])):
            for key in (pair.public, pair.secret, other.public, other.secret):
                assert key not in repr(thing)
                assert key not in str(thing)

    def test_a_run_shows_no_key(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        caplog.set_level(logging.DEBUG)
        made: list[KeyPair] = []
        generate = KeyPair.generate

        def recording() -> KeyPair:
            made.append(generate())
            return made[-1]

        monkeypatch.setattr(KeyPair, "generate", staticmethod(recording))
        seen = tmp_path / "seen"

        def gradient(model: Any, items: Any) -> Any:
            files = [Path("/proc/self/cmdline"), Path("/proc/self/environ")]
            seen.write_bytes(b"".join(file.read_bytes() for file in files))
            return {"n": 1}

        with ZmqDist(model()) as dd:
            dd.train([[1]], gradient)
            stranger = Driver(dd.address, ClientKeys(generate(), made[0].public), connect_s=0.3)
            with pytest.raises(Exception, match="handshake failed"):
                stranger.begin(1, "")
            stranger.close()
        assert len(made) == 3
        assert "refused a connection with an unknown key" in caplog.text
        shown = caplog.text.encode() + seen.read_bytes()
        assert b"local_worker" in shown
        for pair in made:
            assert pair.public.encode() not in shown
            assert pair.secret.encode() not in shown
