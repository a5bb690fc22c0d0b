"""Whatever users get wrong: one clear error, the model as the applied updates made it."""

from __future__ import annotations

import contextlib
import re
import socket
import sys
import threading
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from tests.support import Running, epoch, eventually, free_port, serving, work
from zmqdist import RowSparse, Update, ZmqDist
from zmqdist.assignment import Assignment
from zmqdist.core.staleness import Decision, Verdict
from zmqdist.driver import Driver
from zmqdist.engines.reach import whereabouts
from zmqdist.errors import (
    AddressInUse,
    ConfigError,
    DescentError,
    GradientError,
    MasterLost,
    MasterUnreachable,
    ModelError,
    ModelMismatch,
    RemoteProtocolError,
    UpdateError,
)
from zmqdist.merge import Adasum, Mean, RowTrustRegion, Sum, TouchedMean
from zmqdist.models.tiers import REFRESH, Tiers
from zmqdist.net.security import ClientKeys, KeyPair, MasterKeys, write_key_files
from zmqdist.optim import SGD
from zmqdist.staleness import (
    Asynchronous,
    BoundedStaleness,
    BulkSynchronous,
    DelayCompensated,
    FedBuff,
    Policy,
    Ringmaster,
    SoftSync,
    StaleSynchronous,
)

PARTITIONS = [[1, 2, 3], [4, 5]]


class Learns(Policy):
    """Keeps what it learned among its options."""

    def __init__(self) -> None:
        self.seen = 0


def model() -> dict[str, Any]:
    return {"w": np.zeros((4, 2)), "f": np.zeros(3, "f4"), "i": np.zeros(3, "i8"), "n": 0}


def count(model: Any, items: Any) -> Any:
    for _ in items:
        yield {"n": 1}


HALFWAY, SPOILT = threading.Event(), threading.Event()


def waiting(model: Any, items: Any) -> Any:
    for item in items:
        if item == 3:
            HALFWAY.set()
            assert SPOILT.wait(20)
        yield {"n": 1}


def check_usable(dd: ZmqDist) -> None:
    """The model is what the applied updates made it, and training goes on."""
    assert dd.model["n"] == dd.version
    assert not dd.model["w"].any()
    before = dd.version
    result = dd.train(PARTITIONS, count)
    assert result.applied == 5
    assert dd.model["n"] == dd.version == before + 5


# ---- updates that do not fit ------------------------------------------------------------------


def rejecting(bad: Any) -> Any:
    """A gradient whose fifth item yields something bad."""

    def gradient(model: Any, items: Any) -> Any:
        for item in items:
            yield bad if item == 5 else {"n": 1}

    return gradient


@pytest.mark.usefixtures("threads")
class TestUpdates:
    @pytest.mark.parametrize(
        ("bad", "message"),
        [
            ({"v": 1}, r"names 'v', expected names from \['w', 'f', 'i', 'n'\]; use the names"),
            ([1, 2], r"update is a list, expected a dict .* or give train\(\) a descent"),
            ("text", r"update is a str, expected a dict"),
            ({"w": np.ones(5)}, r"'w' does not fit: got float64 \(5,\), expected float64 \(4, 2\)"),
            ({"w": np.ones(2)}, r"float64 \(2,\), expected float64 \(4, 2\); return a change"),
            ({"w": RowSparse([0], np.ones((1, 2)), (5, 2))}, r"\(5, 2\).*\(4, 2\)"),
            ({"i": np.ones(3)}, r"'i' does not fit: got float64 \(3,\), expected int64 \(3,\)"),
            ({"f": np.ones(3, "c16")}, r"got complex128 \(3,\), expected float32"),
            ({"n": np.ones(3)}, r"'n' does not fit: got a ndarray for a int"),
            ({"n": 1, "w": np.ones(2)}, r"expected float64 \(4, 2\)"),
            ({"w": np.full((4, 2), np.nan)}, r"update\['w'\] has NaN or infinite .*unchanged"),
            ({"f": np.array([0, np.inf, 0], "f4")}, r"update\['f'\] has NaN or infinite"),
            ({"n": float("nan")}, r"update\['n'\] has NaN or infinite"),
            ({"w": RowSparse([1], np.full((1, 2), np.inf), (4, 2))}, r"update\['w'\] has NaN"),
            ({"w": np.array([1, "a"], object)}, r"update\['w'\]: an array of dtype object cannot"),
            ({"w": threading.Event}, r"update\['w'\] is a type, which cannot be sent; expected"),
            ({2.5: np.ones(3)}, r"key 2.5 of type float; expected str or int"),
        ],
        ids=lambda value: re.sub(r"\W+", " ", str(value))[:30],
    )
    def test_update_that_does_not_fit(self, bad: Any, message: str) -> None:
        with ZmqDist(model()) as dd:
            with pytest.raises(UpdateError, match=message) as caught:
                dd.train(PARTITIONS, rejecting(bad))
            assert (caught.value.partition, caught.value.step) == (1, 1)
            check_usable(dd)

    def test_update_that_does_not_fit_a_descent(self) -> None:
        """A descent may take updates of any form, so its own error says what is wrong."""

        def descent(model: Any, update: Any) -> None:
            model["w"] += update["w"]
            model["n"] += 1

        def gradient(model: Any, items: Any) -> Any:
            for item in items:
                yield {"w": np.zeros((5, 2) if item == 5 else (4, 2))}

        with ZmqDist(model()) as dd:
            with pytest.raises(DescentError, match=r"ValueError: .*broadcast.*\(5,2\)") as caught:
                dd.train(PARTITIONS, gradient, descent)
            assert isinstance(caught.value.__cause__, ValueError)
            assert (caught.value.partition, caught.value.step) == (1, 1)
            check_usable(dd)

    def test_nan_is_kept_from_descent(self) -> None:
        calls: list[Any] = []
        with ZmqDist(model()) as dd:
            with pytest.raises(UpdateError, match="NaN"):
                dd.train([[1]], lambda m, i: {"w": np.nan}, lambda m, u: calls.append(u))
            check_usable(dd)
        assert calls == []

    @pytest.mark.parametrize("rule", [Mean(), Sum(), TouchedMean(), RowTrustRegion()])
    def test_infinity_from_merging_is_kept_from_descent(self, rule: Any) -> None:
        """Each update is finite; their sum is not."""
        calls: list[Any] = []

        def gradient(model: Any, items: Any) -> Any:
            for _ in items:
                yield {"w": np.full((2, 2), 3e38, "f4")}

        message = r"update\['w'\] has NaN or infinite values once 2 updates are merged; .*unchanged"
        with ZmqDist({"w": np.zeros((2, 2), "f4")}, staleness=FedBuff(2, 60), merge=rule) as dd:
            with pytest.raises(UpdateError, match=message):
                dd.train([range(9)], gradient, lambda m, u: calls.append(u))
            assert not dd.model["w"].any()
        assert calls == []

    def test_infinity_from_a_weight_is_kept_from_descent(self) -> None:
        class Heavy(Asynchronous):
            def decide(self, update: Any) -> Decision:
                return Decision(Verdict.APPLY, 10.0)

        calls: list[Any] = []
        with ZmqDist({"w": np.zeros(2)}, staleness=Heavy()) as dd:
            with pytest.raises(UpdateError, match=r"has NaN or infinite values with weight 10;"):
                dd.train([[1]], lambda m, i: {"w": np.full(2, 1e308)}, lambda m, u: calls.append(u))
        assert calls == []

    @pytest.mark.parametrize(
        ("metrics", "message"),
        [
            ({"loss": "low"}, r"UpdateError: .*expected a count and a dict"),
            ({"x" * 200: 1.0}, r"UpdateError: .*the name 'xx.* is too long; expected at most 100"),
        ],
    )
    def test_metrics_have_short_names_and_numbers(self, metrics: Any, message: str) -> None:
        def gradient(model: Any, items: Any) -> Any:
            return Update({"n": 1}, metrics=metrics)

        with ZmqDist(model()) as dd:
            with pytest.raises(GradientError, match=message):
                dd.train([[1]], gradient)
            check_usable(dd)

    def test_refresh_without_tiers(self) -> None:
        with ZmqDist(model()) as dd:
            with pytest.raises(ConfigError, match=r"yielded REFRESH.* pass tiers=Tiers\(\.\.\.\)"):
                dd.train(PARTITIONS, lambda model, data: iter([REFRESH]))
            check_usable(dd)

    def test_generator_with_batch_size(self) -> None:
        with ZmqDist(model()) as dd:
            with pytest.raises(
                ConfigError, match=r"generator although batch_size=.*one update per"
            ):
                dd.train(PARTITIONS, count, batch_size=2)
            check_usable(dd)


# ---- functions that raise ------------------------------------------------------------------


class Odd(Exception):
    """An exception that cannot be pickled back."""

    def __init__(self, one: int, two: int) -> None:
        super().__init__(f"{one} and {two}")


@pytest.mark.usefixtures("threads")
class TestFunctions:
    def test_gradient_raises(self) -> None:
        def gradient(model: Any, items: Any) -> Any:
            for item in items:
                if item == 5:
                    raise Odd(item, 7)
                yield {"n": 1}

        with ZmqDist(model()) as dd:
            with pytest.raises(GradientError, match=r"partition 1, step 1: Odd: 5 and 7") as caught:
                dd.train(PARTITIONS, gradient)
            assert (caught.value.partition, caught.value.step) == (1, 1)
            assert "raise Odd(item, 7)" in caught.value.traceback
            assert "raise Odd(item, 7)" in str(caught.value)
            assert dd.stats()["failed"] == 1
            check_usable(dd)

    def test_gradient_forgets_to_return(self, caplog: pytest.LogCaptureFixture) -> None:
        def gradient(model: Any, items: Any) -> Any:
            model["w"] += 1

        message = "gradient returned nothing in all 10 steps: a missing return?"
        with ZmqDist(model()) as dd:
            assert dd.train(PARTITIONS, gradient, batch_size=1, epochs=2).skipped == 10
            assert caplog.messages.count(message) == 1
            caplog.clear()
            dd.train(PARTITIONS, lambda m, items: {"n": 1} if 5 in items else None, batch_size=1)
            assert not caplog.messages
            check_usable(dd)

    def test_gradient_raises_at_length(self) -> None:
        def gradient(model: Any, items: Any) -> Any:
            raise ValueError("x" * 3_000_000)

        with ZmqDist(model()) as dd:
            with pytest.raises(GradientError, match=r"ValueError: x+\n\[\.\.\.\]"):
                dd.train(PARTITIONS, gradient)
            check_usable(dd)

    @pytest.mark.parametrize("batch_size", [None, 1])
    def test_gradient_exits(self, batch_size: int | None) -> None:
        def gradient(model: Any, items: Any) -> Any:
            if 5 in items:
                sys.exit(3)
            return {"n": 1}

        with ZmqDist(model()) as dd:
            message = r"failed on partition 1, step [01]: SystemExit: 3; raise an exception to end"
            with pytest.raises(GradientError, match=message) as caught:
                dd.train(PARTITIONS, gradient, batch_size=batch_size)
            assert caught.value.partition == 1
            assert "sys.exit(3)" in caught.value.traceback

    def test_descent_raises(self) -> None:
        def descent(model: Any, update: Any) -> None:
            if model["n"] == 3:
                raise Odd(1, 2)
            model["n"] += 1

        with ZmqDist(model()) as dd:
            with pytest.raises(DescentError, match="Odd: 1 and 2") as caught:
                dd.train(PARTITIONS, count, descent)
            assert isinstance(caught.value.__cause__, Odd)
            assert "raise Odd(1, 2)" in caught.value.traceback
            assert caught.value.partition in (0, 1)
            assert dd.version == dd.model["n"] == 3
            check_usable(dd)

    def test_descent_raises_at_length(self) -> None:
        def descent(model: Any, update: Any) -> None:
            raise ValueError("y" * 3_000_000)

        with ZmqDist(model()) as dd:
            with pytest.raises(DescentError, match=r"ValueError: y+\n\[\.\.\.\]"):
                dd.train(PARTITIONS, count, descent)
            check_usable(dd)

    @pytest.mark.parametrize(
        ("name", "value", "message"),
        [
            ("w", np.zeros((5, 2)), r"array 'w' of the model changed: was float64 \(4, 2\)"),
            ("w", [1, 2], r"array 'w' of the model changed: .* is a list"),
            ("n", "text", r"number 'n' of the model changed: was a number, is a str"),
            ("n", np.zeros(3), r"number 'n' of the model changed"),
        ],
    )
    @pytest.mark.parametrize("pace", [1, 1000])
    def test_descent_spoils_the_model(self, name: str, value: Any, message: str, pace: int) -> None:
        def descent(model: Any, update: Any) -> None:
            model["n"] += 1
            if model["n"] == 3:
                model[name] = value

        with ZmqDist(model(), publish_every=pace) as dd:
            with pytest.raises((DescentError, ModelError), match=message):
                dd.train(PARTITIONS, count, descent)
            with pytest.raises(ModelError, match=message):
                dd.train(PARTITIONS, count)

    def test_program_spoils_the_model_in_mid_training(self) -> None:
        HALFWAY.clear()
        SPOILT.clear()
        with ZmqDist(model(), publish_every=1) as dd:
            run = Running(lambda: dd.train(PARTITIONS, waiting))
            assert HALFWAY.wait(20)
            dd.model["w"] = None
            SPOILT.set()
            with pytest.raises((ModelError, DescentError), match="array 'w' of the model"):
                run.join()

    def test_gradient_that_cannot_be_pickled(self) -> None:
        lock = threading.Lock()

        def gradient(model: Any, items: Any) -> Any:
            with lock:
                return {"n": 1}

        with ZmqDist(model()) as dd:
            with pytest.raises(ConfigError, match=r"'gradient' cannot be sent .* 'lock'.*inside"):
                dd.train(PARTITIONS, gradient)
            check_usable(dd)


def test_gradient_error_from_a_process_ends_the_others() -> None:
    def gradient(model: Any, items: Any) -> Any:
        for item in items:
            if item is None:
                threading.Event().wait(60)
            raise Odd(1, 2)
        return None

    with ZmqDist(model()) as dd:
        with pytest.raises(GradientError, match="Odd: 1 and 2"):
            dd.train([[1], [None]], gradient, workers=2)
        assert dd.stats()["seconds"] < 15


# ---- data and options -------------------------------------------------------------------------


class TestData:
    @pytest.mark.parametrize(
        ("data", "message"),
        [
            ([], r"empty list; expected at least one partition"),
            ([[], [], ()], r"data is empty: none of the partitions holds an item; check the input"),
            ([1, 2], r"partition 0 is a int; expected an iterable .*list of partitions"),
            ([["a"], "text"], r"partition 1 is a str; expected an iterable"),
            (
                [[1], pd.DataFrame({"a": [1.0], "b": [2.0]})],
                r"partition 1 is a DataFrame, .* columns; pass its rows, .*\.values",
            ),
            (None, r"got a NoneType; expected an RDD or a list of partitions"),
            ("text", r"got a str; expected an RDD or a list"),
            ({"a": 1}, r"got a dict; expected an RDD or a list"),
            ([(i for i in [1])], r"partition 0 cannot be sent to a worker process: .*generator"),
        ],
        ids=str,
    )
    def test_data(self, data: Any, message: str) -> None:
        with ZmqDist(model()) as dd:
            with pytest.raises(ConfigError, match=message):
                dd.train(data, count, workers=1)
            assert dd.model["n"] == dd.version == 0

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"epochs": 0}, "epochs is 0; expected an integer >= 1"),
            ({"epochs": 1.5}, "epochs is 1.5; expected an integer >= 1"),
            ({"batch_size": -1}, "batch_size is -1; expected"),
            ({"max_updates": 0}, "max_updates is 0; expected"),
            ({"timeout_s": 0}, "timeout_s is 0; expected seconds > 0"),
            ({"workers": 0}, "workers is 0; expected an integer >= 1"),
            ({"tiers": Tiers(), "batch_size": 5}, "give tiers= or batch_size=, not both"),
        ],
        ids=str,
    )
    def test_options_of_train(self, options: dict[str, Any], message: str) -> None:
        with ZmqDist(model()) as dd, pytest.raises(ConfigError, match=message):
            dd.train(PARTITIONS, count, **options)

    @pytest.mark.parametrize(
        ("policy", "reason"),
        [
            (SoftSync(), "makes versions of several updates"),
            (BulkSynchronous(), "makes versions of several updates"),
            ([Ringmaster(8), StaleSynchronous(3)], "drops updates, and with them"),
            (BoundedStaleness(8), "drops updates, and with them"),
            (DelayCompensated(lr=0.1), "changes updates, whose workers"),
        ],
        ids=repr,
    )
    def test_tiers_need_a_policy_that_keeps_updates(self, policy: Any, reason: str) -> None:
        message = rf"tiers= does not go with .*, which {reason}.*; use Asynchronous\(\), a bound"
        with ZmqDist(model(), staleness=policy) as dd, pytest.raises(ConfigError, match=message):
            dd.train(PARTITIONS, count, tiers=Tiers())

    def test_a_policy_for_gradients_needs_a_descent(self) -> None:
        message = r"DelayCompensated\(.*\) takes updates for gradients, but without a descent they"
        with ZmqDist(model(), staleness=DelayCompensated()) as dd:
            with pytest.raises(ConfigError, match=message):
                dd.train(PARTITIONS, count)

    def test_gradient_is_no_function(self) -> None:
        with (
            ZmqDist(model()) as dd,
            pytest.raises(ConfigError, match="gradient is 5; expected a f"),
        ):
            dd.train(PARTITIONS, 5)  # type: ignore[arg-type]

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"security": "tls"}, "security is 'tls'; expected 'curve' or 'none'"),
            ({"codec": "zip"}, "codec is 'zip'; expected one of auto, raw, lz4, zstd"),
            ({"staleness": 8}, r"staleness is a int; expected a policy .* BoundedStaleness\(8\)"),
            (
                {"merge": "mean"},
                r"merge is a str; expected a rule of zmqdist.merge, such as RowTru",
            ),
            ({"merge": TouchedMean()}, r"merge=TouchedMean\(\) merges several"),
            ({"merge": Mean()}, r"merge=Mean\(\) merges several .*; use staleness=SoftSync\(n\)"),
            (
                {"merge": Adasum(), "staleness": Asynchronous()},
                r"but Asynchronous\(\) applies them",
            ),
            ({"keys": "file"}, "keys= is the key file for master=; one started here makes"),
            ({"port": 70_000}, "port is 70000; expected an integer from 0 to 65535"),
            ({"publish_port": -1}, "publish_port is -1; expected"),
            ({"port": "5000"}, "port is '5000'; expected an integer"),
            ({"max_in_flight": 0}, "max_in_flight is 0; expected an integer >= 1"),
            ({"lease_s": 0}, "lease_s is 0; expected seconds > 0"),
            ({"lease_s": float("nan")}, "lease_s is nan; expected seconds > 0"),
            (
                {"staleness": Learns()},
                r"Learns\(seen=0\) cannot be made anew: .*'seen'; .* begin with an underscore",
            ),
            ({"publish_every": 0}, "publish_every is 0; expected an integer >= 1"),
            ({"publish_interval_s": -1}, "publish_interval_s is -1; expected seconds >= 0"),
            ({"publish_bytes_per_s": 0}, "publish_bytes_per_s is 0; expected bytes > 0"),
            (
                {"master": "tcp://h:1", "publish_bytes_per_s": 1e6},
                "start zmqdist-master with --publish-bytes-per-s",
            ),
            ({"master": "somewhere"}, "address 'somewhere' is not understood; expected tcp://"),
            ({"master": "tcp://host:0"}, "expected tcp://HOST:PORT"),
            ({"master": "udp://host:5000"}, "expected tcp://HOST:PORT"),
        ],
        ids=str,
    )
    def test_options(self, options: dict[str, Any], message: str) -> None:
        with pytest.raises(ConfigError, match=message):
            ZmqDist(model(), **options)

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"port": True}, "port is True; expected an integer from 0 to 65535"),
            ({"max_in_flight": True}, "max_in_flight is True; expected an integer >= 1"),
            ({"publish_every": "2"}, "publish_every is '2'; expected an integer >= 1, or None"),
            ({"publish_every": 1.5}, "publish_every is 1.5; expected an integer >= 1, or None"),
            ({"publish_interval_s": "1"}, "publish_interval_s is '1'; expected seconds >= 0, or"),
            ({"publish_bytes_per_s": "1MB"}, "publish_bytes_per_s is '1MB'; expected bytes > 0"),
            ({"max_norm": "1"}, "max_norm is '1'; expected a number > 0, or None"),
            ({"max_norm": True}, "max_norm is True; expected a number > 0, or None"),
            ({"lease_s": "30"}, "lease_s is '30'; expected seconds > 0"),
            ({"lease_s": float("inf")}, "lease_s is inf; expected seconds > 0 and finite"),
            ({"checkpoint_every_s": "60"}, "checkpoint_every_s is '60'; expected seconds > 0"),
            ({"checkpoint": 5}, "checkpoint is 5; expected a path, or None"),
            ({"record": 5}, "record is 5; expected a path, or None"),
            ({"keys": 5, "master": "h:1"}, "keys is 5; expected a path, or None"),
            ({"host": 5}, "host is 5; expected an address of this machine, or None"),
            ({"master": 5}, "address 5 is not understood; expected tcp://HOST:PORT"),
            ({"progress": 5}, "progress is 5; expected True, False, a unit such as 'words', or N"),
            ({"staleness": "bounded:x"}, r"'bounded:x': invalid .*'x'; expected bounded:N"),
        ],
        ids=str,
    )
    def test_options_of_another_type(self, options: dict[str, Any], message: str) -> None:
        with pytest.raises(ConfigError, match=message):
            ZmqDist(model(), **options)

    @pytest.mark.parametrize(
        ("options", "flag"),
        [
            ({"staleness": "auto"}, "with --staleness"),
            ({"merge": RowTrustRegion()}, "with --merge"),
            ({"port": 5000}, "with --port"),
            ({"lease_s": 60}, "with --lease"),
            ({"max_norm": 1.0}, "with --max-norm"),
            ({"publish_bytes_per_s": 1e6}, "with --publish-bytes-per-s"),
            ({"checkpoint": "run7"}, "with --checkpoint"),
            ({"checkpoint_every_s": 5}, "with --checkpoint-every"),
            ({"record": "run.csv"}, "with --record"),
            ({"publish_every": 8}, "which publishes as often as costs allow"),
            ({"publish_interval_s": 1}, "which publishes as often as costs allow"),
        ],
        ids=str,
    )
    def test_options_of_a_master_elsewhere(self, options: dict[str, Any], flag: str) -> None:
        (name,) = options
        message = f"{name}= is for a master started here; .* zmqdist-master,? {flag}$"
        with pytest.raises(ConfigError, match=message):
            ZmqDist(model(), master="tcp://h:1", **options)

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"epochs": True}, "epochs is True; expected an integer >= 1$"),
            ({"epochs": None}, "epochs is None; expected an integer >= 1$"),
            ({"batch_size": "50"}, "batch_size is '50'; expected an integer >= 1, or None"),
            ({"timeout_s": "x"}, "timeout_s is 'x'; expected seconds > 0, or None"),
            ({"evaluate": len, "evaluate_every_s": "x"}, "evaluate_every_s is 'x'; expected sec"),
            ({"tiers": 64}, r"tiers is 64; expected Tiers\(\.\.\.\) of zmqdist.models.tiers, or"),
            ({"workers": "2"}, "workers is '2'; expected an integer >= 1, or None"),
            ({"workers": 1.5}, "workers is 1.5; expected an integer >= 1, or None"),
            ({"callbacks": print}, "callbacks is <built-in function print>; expected a list of f"),
            ({"callbacks": [5]}, r"callbacks is \[5\]; expected a list of functions"),
            ({"descent": 5}, r"descent is 5; expected a function .* or an optimizer, as Adam\(0"),
            ({"descent": "adam"}, "descent is 'adam'; expected a function"),
            ({"descent": SGD}, r"descent is the class SGD; expected .*: SGD\(\.\.\.\)"),
            ({"gradient": Tiers}, r"gradient is the class Tiers; .*: Tiers\(\.\.\.\)"),
        ],
        ids=str,
    )
    def test_options_of_train_of_another_type(self, options: dict[str, Any], message: str) -> None:
        with ZmqDist(model()) as dd, pytest.raises(ConfigError, match=message):
            dd.train(PARTITIONS, **{"gradient": count, **options})

    @pytest.mark.parametrize(
        ("make", "message"),
        [
            (lambda: BoundedStaleness(-1), "max_staleness is -1; expected an integer >= 0"),
            (lambda: BoundedStaleness(1, "drop"), "on_stale is 'drop'; expected 'reject'"),
            (lambda: StaleSynchronous(0, "never"), "refresh is 'never'; expected 'eager'"),
        ],
    )
    def test_policies(self, make: Any, message: str) -> None:
        with pytest.raises(ConfigError, match=message):
            make()

    @pytest.mark.parametrize(
        "nothing", [{}, [], "text", None, {"a": "b"}, object(), (1, 2)], ids=repr
    )
    def test_model_with_nothing_to_learn(self, nothing: Any) -> None:
        with pytest.raises(
            ModelError, match=r"nothing to learn in this model: got a .* expected a"
        ):
            ZmqDist(nothing)

    def test_train_outside_of_with(self) -> None:
        dd = ZmqDist(model())
        with pytest.raises(ConfigError, match=r"the master is not running; use `with ZmqDist"):
            dd.train(PARTITIONS, count)

    @pytest.mark.usefixtures("threads")
    def test_train_twice_at_once(self) -> None:
        begun, go = threading.Event(), threading.Event()

        def hold(stats: Any) -> None:
            begun.set()
            assert go.wait(20)

        with ZmqDist(model()) as dd:
            run = Running(lambda: dd.train(PARTITIONS, count, callbacks=[hold]))
            assert begun.wait(20)
            with pytest.raises(ConfigError, match=r"train\(\) is running already on this ZmqDist"):
                dd.train(PARTITIONS, count)
            go.set()
            assert run.join().applied == 5
            check_usable(dd)

    @pytest.mark.usefixtures("threads")
    def test_callback_raises(self) -> None:
        def callback(stats: Any) -> None:
            raise Odd(1, 2)

        with ZmqDist(model()) as dd:
            with pytest.raises(Odd):
                dd.train(PARTITIONS, count, callbacks=[callback])
            check_usable(dd)


# ---- addresses and keys -------------------------------------------------------------------------


class TestAddresses:
    @pytest.mark.parametrize("option", ["port", "publish_port"])
    def test_port_in_use(self, option: str) -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            message = f"port {port} on 127.0.0.1 is in use .* pass another {option}="
            with pytest.raises(AddressInUse, match=message), ZmqDist(model(), **{option: port}):
                pass

    def test_host_of_another_machine(self) -> None:
        with (
            pytest.raises(ConfigError, match=r"cannot bind .*192.0.2.1"),
            serving(model(), bind_host="192.0.2.1"),
        ):
            pass

    @pytest.mark.parametrize("spark_host", [None, "10.1.2.3"])
    def test_host_that_nobody_here_knows(
        self, spark_host: str | None, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A Spark that runs beside local workers is none of their business."""
        monkeypatch.setattr("zmqdist.engines.reach.spark_driver_host", lambda: spark_host)
        message = r"machine, .*, does not know the host 'no\.such\.host\.invalid': .*; leave host= "
        with ZmqDist(model(), host="no.such.host.invalid") as dd:
            with pytest.raises(ConfigError, match=message):
                dd.train(PARTITIONS, count)

    def test_worker_is_told_a_wrong_address(self) -> None:
        with ZmqDist(model(), security="none", host="127.0.0.1") as dd:
            where = whereabouts(dd._remote, dd._host)
        address = f"tcp://127.0.0.1:{free_port()}"
        schema = {"w": ("<f8", (3,))}
        there = Assignment(address, "run", 0, schema, connect_s=0.3, where=where)
        with pytest.raises(MasterUnreachable) as caught:
            work(there, {"w": np.zeros(3)}, count, [1])
        text = str(caught.value)
        assert f"no answer from the master at {address} within" in text
        assert "no TCP connection could be made" in text
        assert "spark.driver.host is" in text
        assert "host=ADDRESS" in text

    def test_master_that_is_not_there(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("zmqdist.training.Driver", partial(Driver, connect_s=0.3))
        dd = ZmqDist(model(), master="tcp://127.0.0.1:1", security="none")
        with dd, pytest.raises(MasterUnreachable) as caught:
            dd.train(PARTITIONS, count)
        assert "no answer from the master at tcp://127.0.0.1:1 within" in str(caught.value)
        assert "no TCP connection could be made" in str(caught.value)
        assert "Check that zmqdist-master runs there" in str(caught.value)

    def test_a_listener_that_says_nothing(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as silent:
            there = f"tcp://127.0.0.1:{silent.getsockname()[1]}"
            peer = Driver(there, None, connect_s=0.5)
            with pytest.raises(MasterUnreachable, match="nobody answered the handshake"):
                peer.begin(1, "")
            peer.close()

    @pytest.mark.parametrize("wrong", ["client key", "server key", "no key", "key for nothing"])
    def test_wrong_keys(self, wrong: str) -> None:
        server, driver, other = (KeyPair.generate() for _ in range(3))
        held = {
            "client key": ClientKeys(other, server.public),
            "server key": ClientKeys(driver, other.public),
            "no key": None,
            "key for nothing": ClientKeys(driver, server.public),
        }[wrong]
        keys = None if wrong == "key for nothing" else MasterKeys(server, driver.public)
        with serving(model(), keys=keys) as master:
            peer = Driver(master.address, held, connect_s=0.5)
            with pytest.raises(MasterUnreachable, match="handshake failed: wrong or missing keys"):
                peer.begin(1, "")
            peer.close()
            right = Driver(master.address, ClientKeys(driver, server.public) if keys else None)
            assert right.begin(1, "").epoch == 0
            right.close()

    def test_worker_with_wrong_keys(self) -> None:
        server, driver, other = (KeyPair.generate() for _ in range(3))
        with serving(model(), keys=MasterKeys(server, driver.public)) as master:
            schema = master.parameters.schema()
            for held in (ClientKeys(other, server.public), None):
                there = Assignment(master.address, "run", 0, schema, keys=held, connect_s=0.5)
                with pytest.raises(MasterUnreachable, match="wrong or missing keys"):
                    work(there, model(), count, [1])

    def test_a_workers_key_opens_no_epoch(self) -> None:
        server, driver, worker = (KeyPair.generate() for _ in range(3))
        with serving(model(), keys=MasterKeys(server, driver.public)) as master:
            right = Driver(master.address, ClientKeys(driver, server.public))
            begun = right.begin(1, worker.public)  # from here on the workers' key is let in
            cheat = Driver(master.address, ClientKeys(worker, server.public))
            with contextlib.closing(right), contextlib.closing(cheat):
                with pytest.raises(RemoteProtocolError, match="a worker may not send 'begin'"):
                    cheat.begin(1, "")
                with pytest.raises(RemoteProtocolError, match="a worker may not send 'status'"):
                    cheat.status(begun.epoch)
                with pytest.raises(RemoteProtocolError, match="a worker may not send 'end'"):
                    cheat.end(begun.epoch)
                assert right.status(begun.epoch).missing == [0]

    def test_a_workers_key_is_withdrawn_a_lease_after_the_end(self) -> None:
        server, driver, worker = (KeyPair.generate() for _ in range(3))
        with serving(model(), keys=MasterKeys(server, driver.public), lease_s=0.5) as master:
            right = Driver(master.address, ClientKeys(driver, server.public))
            with contextlib.closing(right):
                begun = right.begin(1, worker.public)
                right.end(begun.epoch)

                def refused() -> bool:
                    keys = ClientKeys(worker, server.public)
                    late = Driver(master.address, keys, connect_s=0.3)
                    with contextlib.closing(late):
                        try:
                            late.status(begun.epoch)
                        except RemoteProtocolError:
                            return False  # it was let in, and told its role
                        except MasterUnreachable:
                            return True
                    return False

                eventually(refused, "the key is withdrawn")

    def test_key_files(self, tmp_path: Path) -> None:
        file = tmp_path / "keys"
        with pytest.raises(ConfigError, match=r"cannot read key file .*; make one with `zmqdist-m"):
            ZmqDist(model(), master="tcp://127.0.0.1:1", keys=file).__enter__()
        write_key_files(file)
        file.chmod(0o640)
        with pytest.raises(
            ConfigError, match=r"can be read by others \(mode 640\); run: chmod 600"
        ):
            ZmqDist(model(), master="tcp://127.0.0.1:1", keys=file).__enter__()
        file.chmod(0o600)
        file.write_text("{}")
        with pytest.raises(ConfigError, match="is no zmqdist key file; make one with"):
            ZmqDist(model(), master="tcp://127.0.0.1:1", keys=file).__enter__()


class Forgetful:
    """Leaves an array behind when it is sent."""

    def __init__(self) -> None:
        self.w, self.cache = np.zeros(3), np.zeros(5)

    def __getstate__(self) -> Any:
        return {"w": self.w}


class TestMasterElsewhere:
    def test_other_model(self) -> None:
        with serving(model()) as master:
            dd = ZmqDist({"w": np.zeros(3)}, master=master.address, security="none")
            message = r"differ at array 'w': got float64 \(3,\), expected float64 \(4, 2\)"
            with dd, pytest.raises(ModelMismatch, match=message):
                dd.train(PARTITIONS, count)

    def test_descent_belongs_to_the_master(self) -> None:
        dd = ZmqDist(model(), master="tcp://127.0.0.1:1", security="none")
        with dd, pytest.raises(ConfigError, match="start zmqdist-master with --descent"):
            dd.train(PARTITIONS, count, lambda model, update: None)

    def test_state_that_leaves_an_array_out(self) -> None:
        message = r"differ at array 'cache': got no such array, .*; a __getstate__ must keep it, or"
        with ZmqDist(Forgetful()) as dd, pytest.raises(ModelMismatch, match=message):
            dd.train(PARTITIONS, count)

    def test_worker_with_another_model(self) -> None:
        with serving(model()) as master, epoch(master) as there:
            with pytest.raises(ModelMismatch, match="'w'"):
                work(there, {"w": np.zeros(3)}, count, [1])

    @pytest.mark.usefixtures("threads")
    def test_stopped_while_training(self) -> None:
        def gradient(model: Any, items: Any) -> Any:
            while True:
                yield {"n": 1}

        with ZmqDist(model(), lease_s=1) as dd:
            run = Running(lambda: dd.train(PARTITIONS, gradient))
            eventually(lambda: dd.version > 3, "an update")
            dd.stop()
            with pytest.raises(MasterLost, match=r"stopped while train\(\) was running"):
                run.join()
