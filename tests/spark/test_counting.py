"""Each batch counts once: the model is a number, each update adds one to it."""

import itertools
import math
import re
import sys
import threading

import cloudpickle
import numpy as np
import pytest

from zmqdist import ZmqDist
from zmqdist.errors import (
    ConfigError,
    GradientError,
    MasterUnreachable,
    TrainError,
    TrainTimeout,
)

pytestmark = pytest.mark.spark


def counter():
    return {"n": np.zeros(1)}


def one_per_batch(size):
    """Return a gradient that yields 1 for each `size` items."""

    def gradient(model, items):
        while list(itertools.islice(items, size)):
            yield {"n": 1}

    return gradient


def one(model, items):
    for _ in items:
        pass
    return {"n": 1}


def one_of_its_shape(model, items):
    for _ in items:
        pass
    return {"n": np.ones(1)}


def add(model, update):
    model["n"] += update["n"]


def batches(rdd, size):
    return sum(math.ceil(n / size) for n in rdd.glom().map(len).collect())


def check(dd, result, count):
    """Assert that exactly `count` updates were computed, applied and summed up."""
    assert dd.model["n"].tolist() == [count]
    assert dd.version == result.version == result.applied == count
    assert sum(result.staleness.values()) == count
    assert (result.rejected, result.failed, result.evicted) == (0, 0, 0)


@pytest.fixture(autouse=True)
def _by_value():
    """Send this module's functions along: workers cannot import a test module."""
    module = sys.modules[__name__]
    cloudpickle.register_pickle_by_value(module)
    yield
    cloudpickle.unregister_pickle_by_value(module)


@pytest.mark.parametrize("epochs", [1, 3])
def test_counts_each_yield(sc, epochs):
    rdd = sc.parallelize(range(1003), 7)
    with ZmqDist(counter()) as dd:
        result = dd.train(rdd, one_per_batch(10), add, epochs=epochs)
        check(dd, result, epochs * batches(rdd, 10))
        assert result.examples == epochs * 1003
        assert result.sessions == epochs * 7
        assert result.duplicates == 0


@pytest.mark.parametrize("epochs", [1, 3])
def test_counts_each_batch_of_batch_size(sc, epochs):
    rdd = sc.parallelize(range(1003), 7)
    with ZmqDist(counter()) as dd:
        result = dd.train(rdd, one, add, epochs=epochs, batch_size=10)
        check(dd, result, epochs * batches(rdd, 10))
        assert result.examples == epochs * 1003


def test_counts_one_update_per_partition_and_the_default_descent(sc):
    with ZmqDist(counter()) as dd:
        result = dd.train(sc.parallelize(range(50), 6), one_of_its_shape)
        check(dd, result, 6)
        result = dd.train(sc.parallelize(range(50), 5), one_of_its_shape)
        assert (result.applied, result.version, dd.version) == (5, 11, 11)
        assert dd.model["n"].tolist() == [11]


def test_skips_empty_partitions(sc):
    rdd = sc.parallelize(range(3), 8)  # five of them hold nothing
    assert rdd.glom().map(len).collect().count(0) == 5
    with ZmqDist(counter()) as dd:
        check(dd, dd.train(rdd, one, add), 3)


def test_counts_what_a_file_holds(sc, tmp_path):
    (tmp_path / "lines.txt").write_text("".join(f"line {n}\n" for n in range(500)))
    rdd = sc.textFile((tmp_path / "lines.txt").as_uri(), 4)
    with ZmqDist(counter()) as dd:
        result = dd.train(rdd, one, add, batch_size=7)
        check(dd, result, batches(rdd, 7))
        assert result.examples == 500


def test_a_broadcast_variable_reaches_the_gradient(sc):
    weights = sc.broadcast({"a": 2, "b": 3})

    def gradient(model, items):
        return {"n": np.array([sum(weights.value[item] for item in items)], float)}

    with ZmqDist(counter()) as dd:
        result = dd.train(sc.parallelize("abba", 2), gradient, evaluate=lambda model: model["n"][0])
        assert dd.model["n"] == result.evaluations[-1]["score"] == 10


@pytest.mark.parametrize("batch_size", [None, 10])
def test_says_that_the_data_is_empty(sc, batch_size):
    with ZmqDist(counter()) as dd:
        with pytest.raises(ConfigError, match="the RDD is empty: it has no partitions"):
            dd.train(sc.emptyRDD(), one, add, batch_size=batch_size)
        with pytest.raises(ConfigError, match="none of the partitions holds an item"):
            dd.train(sc.parallelize([], 4), one, add, batch_size=batch_size)
        with pytest.raises(ConfigError, match="none of the partitions holds an item"):
            dd.train(
                sc.parallelize(range(9), 3).filter(lambda n: n > 9), one, add, batch_size=batch_size
            )
        assert dd.version == 0
        check(dd, dd.train(sc.parallelize([1], 1), one, add), 1)


def test_says_that_spark_was_stopped(sc, monkeypatch):
    rdd = sc.parallelize(range(9), 3)
    monkeypatch.setattr(sc, "_jsc", None)  # as stop() leaves it
    with ZmqDist(counter()) as dd, pytest.raises(ConfigError, match="Spark was stopped, and the R"):
        dd.train(rdd, one, add)


def test_names_what_cannot_be_sent_to_the_workers(sc):
    lock = threading.Lock()

    def locked(model, items):
        with lock:
            return {"n": 1}

    def nested(model, items):
        return {"n": sc.parallelize(items).count()}

    with ZmqDist(counter()) as dd:
        with pytest.raises(ConfigError, match=r"function 'locked' cannot be sent.*'lock'"):
            dd.train(sc.parallelize(range(4), 2), locked, add)
        with pytest.raises(ConfigError, match=r"function 'nested' cannot be sent.*'sc'"):
            dd.train(sc.parallelize(range(4), 2), nested, add)
        check(dd, dd.train(sc.parallelize(range(4), 2), one, add), 2)


def test_workers_is_no_option_of_an_rdd(sc):
    with ZmqDist(counter()) as dd, pytest.raises(ConfigError, match=r"local\[N\]"):
        dd.train(sc.parallelize([1]), one, add, workers=3)


def test_tells_where_gradient_raised_and_works_afterwards(sc):
    def fragile(model, items):
        if 33 in items:
            raise KeyError("no such word")
        return {"n": 1}

    rdd = sc.parallelize(range(40), 4)  # 33 is in the last partition's fourth item
    with ZmqDist(counter()) as dd:
        with pytest.raises(GradientError) as caught:
            dd.train(rdd, fragile, add, batch_size=2)
        error = caught.value
        assert (error.partition, error.step) == (3, 1)
        assert "partition 3, step 1: KeyError: 'no such word'" in str(error)
        assert "in fragile" in error.traceback
        assert error.traceback.splitlines()[-1].strip() in str(error)
        assert "Py4JJavaError" not in str(error)
        before = dd.version
        assert dd.model["n"].tolist() == [before]
        result = dd.train(rdd, one, add, batch_size=2)
        assert (result.applied, result.version) == (20, before + 20)
        assert dd.model["n"].tolist() == [before + 20]


def test_two_trainings_at_once_in_two_driver_threads(sc):
    counts, errors = {}, []

    def drive(name, partitions):
        try:
            rdd = sc.parallelize(range(400), partitions)
            with ZmqDist(counter()) as dd:
                result = dd.train(rdd, one_per_batch(4), add, epochs=2)
                counts[name] = (result.applied, dd.version, dd.model["n"].tolist())
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=drive, args=(n, n), daemon=True) for n in (4, 5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert errors == []
    assert counts == {4: (200, 200, [200]), 5: (200, 200, [200])}


def test_leaves_the_job_group_of_the_caller_alone(sc):
    sc.setJobGroup("mine", "of the caller")
    try:
        with ZmqDist(counter()) as dd:
            check(dd, dd.train(sc.parallelize(range(4), 2), one, add), 2)
        assert sc.getLocalProperty("spark.jobGroup.id") == "mine"
    finally:
        sc.setLocalProperty("spark.jobGroup.id", None)
        sc.setLocalProperty("spark.job.description", None)


def test_staleness_is_near_the_number_of_the_other_workers(sc, tmp_path, say):
    """With n workers at one pace, n - 1 updates come between reading and applying.

    Up to n, as a worker may start its next step before it has the version that its own
    last update made; and less while workers join and leave.
    """
    folder, n_workers, steps = str(tmp_path), 4, 60

    def paced(model, items):
        import pathlib
        import time

        first = items[0] % steps == 0
        until = time.monotonic() + 20
        if first:  # nobody starts before all are there
            pathlib.Path(folder, f"here-{items[0]}").touch()
        while first and len(list(pathlib.Path(folder).iterdir())) < n_workers:
            assert time.monotonic() < until
            threading.Event().wait(0.001)
        threading.Event().wait(0.01)
        return {"n": 1}

    with ZmqDist(counter(), max_in_flight=1, publish_every=1) as dd:
        rdd = sc.parallelize(range(n_workers * steps), n_workers)
        result = dd.train(rdd, paced, add, batch_size=1)
        check(dd, result, n_workers * steps)
    say(f"mean staleness of 4 workers {result.staleness_mean:.2f}: {result.staleness}")
    assert n_workers - 2 < result.staleness_mean < n_workers + 0.5


def test_cancelling_the_job_from_outside_is_one_clear_error(sc, until):
    def endless(model, items):
        for _ in items:
            threading.Event().wait(0.01)
            yield {"n": 1}

    with ZmqDist(counter()) as dd:

        def cancel():
            until(lambda: dd.version > 20, "updates")
            group = f"zmqdist-{dd._master.state.run}-0"
            assert len(sc.statusTracker().getJobIdsForGroup(group)) == 1
            sc.cancelJobGroup(group)

        thread = threading.Thread(target=cancel, daemon=True)
        thread.start()
        with pytest.raises(TrainError, match="cancel") as caught:
            dd.train(sc.parallelize(range(1_000_000), 9), endless, add)
        thread.join(30)
        message = str(caught.value)
        assert "cancelled part of cancelled job group" in message
        assert len(message.splitlines()) < 6
        counted = dd.version
        assert dd.model["n"].tolist() == [counted]
        until(lambda: not sc.statusTracker().getActiveJobsIds(), "the job to end")
        # what was under way came after the end of the epoch, and did not count
        result = dd.train(sc.parallelize(range(8), 4), one, add, batch_size=1)
        assert result.applied == 8
        assert dd.model["n"].tolist() == [counted + 8] == [dd.version]


def test_what_zombies_send_after_the_end_does_not_count(sc, tmp_path, until):
    """Four tasks compute while their epoch is closed; each sends its update afterwards."""
    folder = str(tmp_path)

    def slow(model, items):
        import pathlib
        import time

        here = pathlib.Path(folder)
        (here / f"computing-{items[0]}").touch()
        deadline = time.monotonic() + 30
        while not (here / "closed").exists():
            assert time.monotonic() < deadline
            threading.Event().wait(0.005)
        (here / f"sending-{items[0]}").touch()
        return {"n": 1}

    def seen(pattern):
        return len(list(tmp_path.glob(pattern))) == 4

    with ZmqDist(counter()) as dd:

        def release():
            until(lambda: seen("computing-*"), "the tasks to compute")
            until(lambda: not dd._master.state.ledger.is_open(0), "the epoch to be closed")
            (tmp_path / "closed").touch()

        thread = threading.Thread(target=release, daemon=True)
        thread.start()
        with pytest.raises(TrainTimeout):
            dd.train(sc.parallelize(range(4), 4), slow, add, batch_size=1, timeout_s=4)
        thread.join(30)
        assert seen("computing-*")
        until(lambda: seen("sending-*"), "the tasks to send")
        until(lambda: not sc.statusTracker().getActiveJobsIds(), "the tasks to end")
        assert (dd.version, dd.model["n"].tolist()) == (0, [0.0])
        check(dd, dd.train(sc.parallelize(range(4), 4), one, add), 4)


def test_ends_soon_after_max_updates_with_partitions_waiting(sc):
    def paced(model, items):
        threading.Event().wait(0.01)
        return {"n": 1}

    with ZmqDist(counter()) as dd:
        dd.train(sc.parallelize(range(4), 4), one, add)
        result = dd.train(sc.parallelize(range(4000), 40), paced, add, batch_size=1, max_updates=30)
        assert 30 <= result.applied < 400
        assert dd.model["n"].tolist() == [dd.version] == [4 + result.applied]
        assert result.seconds < 5
        assert sc.statusTracker().getActiveJobsIds() == []


def test_names_the_address_that_the_tasks_cannot_reach(sc, monkeypatch):
    """The driver reaches its own master where it is bound; the tasks try 127.0.0.9."""
    monkeypatch.setattr("zmqdist.api.choose_hosts", lambda *_: ("127.0.0.1", "127.0.0.9"))
    with ZmqDist(counter()) as dd:
        with pytest.raises(MasterUnreachable) as caught:
            dd.train(sc.parallelize(range(4), 4), one, add)
        message = str(caught.value)
        assert re.search(r"no answer from the master at tcp://127\.0\.0\.9:\d+ within 10", message)
        assert "spark.driver.host is '127.0.0.1'" in message
        assert "host=" in message
        assert dd.version == 0
