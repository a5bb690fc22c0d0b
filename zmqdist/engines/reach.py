"""How tasks reach the master: what to say when they do not, and what cannot work."""

from __future__ import annotations

import socket

from zmqdist.engines import spark_driver_host
from zmqdist.errors import ConfigError
from zmqdist.net.address import is_loopback, parse_address


def whereabouts(remote: str | None, host: str | None) -> str:
    """Say how the address came about, for a worker that gets no answer there.

    Parameters
    ----------
    remote, host : str or None
        The ``master=`` and ``host=`` of `zmqdist.api.ZmqDist`.
    """
    if remote is not None:
        return f"The driver was told master={remote!r}; executors must reach it too"
    return (
        f"spark.driver.host is {spark_driver_host()!r} and host= was {host!r}. Pass "
        "ZmqDist(..., host=ADDRESS) with an address of the driver that executors can reach, "
        "and port=, publish_port= with ports that the firewall lets through"
    )


def check_reach(address: str, host: str | None, *, local: bool) -> None:
    """Refuse to send tasks elsewhere with an address that means themselves.

    Parameters
    ----------
    address : str
        Of a master in this process.
    host : str or None
        The ``host=`` of `zmqdist.api.ZmqDist`.
    local : bool
        The tasks run here, whether there is a Spark or not.

    Raises
    ------
    ConfigError
        The tasks run elsewhere, and the master listens on loopback; or they run here, where
        nobody knows the host.
    """
    own, _ = parse_address(address)
    spark_host = None if local else spark_driver_host()
    if spark_host is None:
        try:
            socket.getaddrinfo(own, None)  # as the workers will, which run here
        except OSError as error:
            raise ConfigError(
                f"this machine, where the workers run, does not know the host {own!r}: {error}; "
                "leave host= and $ZMQDIST_HOST out, or give an address"
            ) from None
    if spark_host is None or is_loopback(spark_host):
        return
    if is_loopback(own) and host is None:
        raise ConfigError(
            f"the master listens on {own} only, but Spark's driver is {spark_host}: create "
            "the SparkSession before ZmqDist, or pass host="
        )
