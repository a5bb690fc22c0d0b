"""A Spark session for programs that bring none of their own."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from typing import Any

from pyspark.sql import SparkSession


def session(master: str, conf: Mapping[str, str]) -> Any:
    """Return the running session, or start one that is quiet.

    Parameters
    ----------
    master : str
        As ``spark.master``.
    conf : mapping of str to str
        Further options of Spark.
    """
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    builder = (
        SparkSession.builder.master(master)
        .appName("zmqdist-tune")
        .config("spark.ui.enabled", "false")
        .config("spark.ui.showConsoleProgress", "false")
    )
    for name, value in conf.items():
        builder = builder.config(name, value)
    found = builder.getOrCreate()
    found.sparkContext.setLogLevel("ERROR")
    return found
