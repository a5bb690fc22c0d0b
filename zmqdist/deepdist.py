"""`DeepDist`: `ZmqDist` for programs that were written for DeepDist."""

from __future__ import annotations

import logging
from typing import Any

from zmqdist.api import ZmqDist
from zmqdist.net.address import parse_address
from zmqdist.staleness import BoundedStaleness

log = logging.getLogger(__name__)

ADDRESS = "127.0.0.1:5000"
"""Default address; stands for a host that `ZmqDist` chooses, and this port."""


class DeepDist(ZmqDist):
    """`ZmqDist` under the signature of DeepDist (2014), for programs that exist.

    Parameters
    ----------
    model : object
        As for `ZmqDist`.
    master : str, default="127.0.0.1:5000"
        ``host:port`` that this process binds and tells its workers. The default takes
        port 5000 and the host that `ZmqDist` chooses: with Spark its driver's address.
    min_updates : int, default=0
        Publish a new model only after so many updates.
    max_updates : int, default=4096
        Largest staleness of an applied update; a staler one is computed again.

    Notes
    -----
    DeepDist alternated between serving models and receiving updates, and the two
    counts bounded the phases. zmqdist does both at all times; what is left of the
    counts is how often a model goes out and how old the model of an update may be. A
    `max_updates` below `min_updates` had a meaning there and has none here.
    """

    def __init__(
        self,
        model: Any,
        master: str = ADDRESS,
        min_updates: int = 0,
        max_updates: int = 4096,
    ) -> None:
        host, port = _host_and_port(master)
        if min_updates or max_updates != 4096:
            log.warning(
                "DeepDist(min_updates=%s, max_updates=%s): there are no serving and receiving "
                "phases any more; publishing each %s updates, applying updates up to %s versions "
                "old",
                min_updates,
                max_updates,
                max(1, min_updates),
                max_updates,
            )
        super().__init__(
            model,
            host=host,
            port=port,
            publish_every=min_updates if min_updates > 1 else None,
            staleness=BoundedStaleness(max(max_updates, min_updates), on_stale="requeue"),
        )


def _host_and_port(master: str) -> tuple[str | None, int]:
    host, port = parse_address(master if ":" in master else f"{master}:5000")
    return (None if master == ADDRESS else host), port
