"""Where partitions run: Spark tasks or local processes."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

from zmqdist.engines.job import Engine, Job
from zmqdist.errors import ConfigError

__all__ = ["Engine", "Job", "engine_for", "spark_driver_host", "start_spark"]


def engine_for(data: Any, workers: int | None) -> Engine:
    """Choose the engine by the type of the data.

    Parameters
    ----------
    data : RDD or sequence of iterables
    workers : int or None
        Local processes, for a sequence of partitions.

    Raises
    ------
    ConfigError
        If the data is neither, or holds no partition.
    """
    if hasattr(data, "mapPartitionsWithIndex") and hasattr(data, "context"):
        from zmqdist.engines.spark_rdd import RddEngine

        if workers is not None:
            raise ConfigError(
                "workers= is for a list of partitions; for an RDD, Spark's slots decide how many "
                "tasks run at once (spark.executor.cores, local[N])"
            )
        return RddEngine(data)
    if isinstance(data, Sequence) and not isinstance(data, (str, bytes)):
        from zmqdist.engines.local import LocalEngine

        return LocalEngine(data, workers)
    if hasattr(data, "selectExpr"):
        raise ConfigError(
            "train() got a DataFrame; pass its rows as an RDD, such as "
            "df.rdd.map(lambda row: row.text.split()). Spark then runs them through Python, "
            "which costs as much as any RDD of Python objects; Spark Connect has no RDDs"
        )
    raise ConfigError(
        f"train() got a {type(data).__name__}; expected an RDD or a list of partitions "
        "(each an iterable of items)"
    )


def spark_driver_host() -> str | None:
    """Return the address of the running Spark driver; None when no session runs here."""
    if "pyspark" not in sys.modules:
        return None
    from zmqdist.engines.spark_rdd import driver_host

    return driver_host()


def start_spark(master: str, conf: Mapping[str, str]) -> Any:
    """Return the running Spark session, or start one; see `zmqdist.engines.spark_session`.

    Raises
    ------
    ConfigError
        If pyspark is not installed.
    """
    try:
        from zmqdist.engines.spark_session import session
    except ImportError:
        raise ConfigError("Spark needs pyspark: pip install 'zmqdist[spark]'") from None
    return session(master, conf)
