"""Tasks of Spark live on while the master is killed and started again."""

import sys
import threading

import cloudpickle
import numpy as np
import pytest

from benchmarks import _chaos_master as chaos
from zmqdist import ZmqDist

pytestmark = [pytest.mark.spark, pytest.mark.slow]


@pytest.fixture(autouse=True)
def _by_value():
    cloudpickle.register_pickle_by_value(chaos)
    yield
    cloudpickle.unregister_pickle_by_value(chaos)


@pytest.mark.parametrize("kind", ["batch_size", "generator", "tiers"])
def test_no_task_fails_and_the_count_is_exact(kind, sc, tmp_path, until):
    gradient, options, of_master = chaos.KINDS[kind]
    data = [[(p, step) for step in range(chaos.STEPS)] for p in range(chaos.PARTITIONS)]
    rdd = sc.parallelize(data, chaos.PARTITIONS).flatMap(lambda part: part)
    served = chaos.Supervised(tmp_path, *of_master)
    served.wait()
    applied = []
    try:
        model = chaos.make_model()
        with ZmqDist(model, master=served.address, keys=f"{served.keys}.client") as dd:

            def harm():
                until(lambda: applied and applied[-1] > 10, "updates", 60)
                served.kill()

            thread = threading.Thread(target=harm, daemon=True)
            thread.start()
            result = dd.train(
                rdd,
                gradient,
                epochs=2,
                timeout_s=100,
                callbacks=[lambda stats: applied.append(stats["applied"])],
                **options,
            )
            thread.join(60)
        np.testing.assert_array_equal(model["count"], 2)
        assert result.failed == 0
        assert served.lives == 2
    finally:
        assert served.close() == 0
        sys.stdout.flush()
