"""Addresses: which host to bind, which to advertise, and how users write them."""

from __future__ import annotations

import contextlib
import ipaddress
import os
import socket

from zmqdist.errors import ConfigError

WILDCARDS = frozenset({"", "*", "0.0.0.0", "::"})  # noqa: S104 - names, not a bind

_OUTSIDE = ((socket.AF_INET, "192.0.2.1"), (socket.AF_INET6, "2001:db8::1"))
"""Addresses of no machine: documents use them. What leads there leads outside."""


def parse_address(text: str) -> tuple[str, int]:
    """Split ``tcp://host:port`` or ``host:port`` into host and port.

    Raises
    ------
    ConfigError
        If there is no host or the port is no number from 1 to 65535.
    """
    scheme, _, rest = str(text).rpartition("://")
    host, _, port = rest.rpartition(":")
    host = host.strip("[]")
    if scheme not in ("", "tcp") or not host or not port.isdigit() or not 0 < int(port) < 65536:
        raise ConfigError(f"address {text!r} is not understood; expected tcp://HOST:PORT")
    return host, int(port)


def endpoint(host: str, port: int | str) -> str:
    """Return zmq's form of an address; IPv6 hosts get their brackets."""
    return f"tcp://[{host}]:{port}" if ":" in host else f"tcp://{host}:{port}"


def is_loopback(host: str) -> bool:
    """Whether `host` is reachable from this machine only."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def choose_hosts(host: str | None, spark_driver_host: str | None) -> tuple[str, str]:
    """Return the host to bind and the host that workers are told.

    Parameters
    ----------
    host : str or None
        The user's ``host=``: an address of this machine, or a wildcard to bind all. Those
        of IPv6 may stand in brackets, here as in Spark's.
    spark_driver_host : str or None
        ``spark.driver.host`` of the running session, None without one.

    Notes
    -----
    Precedence: `host`, the environment's ``ZMQDIST_HOST``, `spark_driver_host`,
    loopback. A loopback address is bound as it is. Any other is bound on all
    interfaces, since the address that workers reach (a service name, the outer side
    of a NAT) need not be one that can be bound here; CURVE guards the door. All are
    those of IPv4, and of IPv6 too if one of the addresses is of that.
    """
    given = host if host is not None else os.environ.get("ZMQDIST_HOST")
    named, spark = (text and text.strip("[]") for text in (given, spark_driver_host))
    advertised = named if named is not None and named not in WILDCARDS else spark
    if advertised is None or advertised in WILDCARDS:
        advertised = "127.0.0.1" if named is None else _own_address()
    if is_loopback(advertised) and named not in WILDCARDS - {""}:
        return ("127.0.0.1" if advertised == "localhost" else advertised), advertised
    everything = "::" if named == "::" or ":" in advertised else "0.0.0.0"  # noqa: S104 - see Notes
    return everything, advertised


def _own_address() -> str:
    """Address of the interface that leads outside; loopback if there is none."""
    for family, outside in _OUTSIDE:
        with contextlib.suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((outside, 9))  # connecting UDP sends nothing
            return str(probe.getsockname()[0])
    return "127.0.0.1"
