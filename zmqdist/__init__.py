"""Asynchronous SGD of any Python model on data in Spark, over ZeroMQ.

>>> with ZmqDist(model) as dd:
...     result = dd.train(rdd, gradient, descent)
"""

from zmqdist.api import ZmqDist
from zmqdist.deepdist import DeepDist
from zmqdist.errors import ZmqdistError
from zmqdist.models.delta import delta
from zmqdist.models.halves import in_halves
from zmqdist.models.update import Update
from zmqdist.record import read_record
from zmqdist.result import TrainResult
from zmqdist.wire.rows import RowSparse

__version__ = "0.1.0"
__all__ = [
    "DeepDist",
    "RowSparse",
    "TrainResult",
    "Update",
    "ZmqDist",
    "ZmqdistError",
    "delta",
    "in_halves",
    "read_record",
]
