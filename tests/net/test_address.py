# ruff: noqa: S104
"""Addresses: what users write, what is bound and what workers are told."""

from __future__ import annotations

import pytest

from zmqdist.errors import ConfigError
from zmqdist.net.address import WILDCARDS, choose_hosts, endpoint, is_loopback, parse_address


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("tcp://10.0.0.1:5000", "10.0.0.1", 5000),
        ("driver.example:1", "driver.example", 1),
        ("tcp://[::1]:65535", "::1", 65535),
    ],
)
def test_parse(text: str, host: str, port: int) -> None:
    assert parse_address(text) == (host, port)
    assert parse_address(endpoint(host, port)) == (host, port)


@pytest.mark.parametrize(
    "text",
    ["", "host", "host:", ":5000", "tcp://:1", "host:0", "host:65536", "host:-1", "ipc://x:1"],
)
def test_parse_refuses(text: str) -> None:
    with pytest.raises(ConfigError, match=r"is not understood; expected tcp://HOST:PORT"):
        parse_address(text)


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("localhost", True),
        ("127.0.0.1", True),
        ("127.1.2.3", True),
        ("::1", True),
        ("[::1]", True),
        ("10.0.0.1", False),
        ("driver", False),
        ("0.0.0.0", False),
    ],
)
def test_loopback(host: str, loopback: bool) -> None:
    assert is_loopback(host) is loopback


@pytest.mark.parametrize(
    ("named", "environment", "spark", "expected"),
    [
        (None, None, None, ("127.0.0.1", "127.0.0.1")),
        (None, None, "10.1.1.1", ("0.0.0.0", "10.1.1.1")),
        (None, None, "localhost", ("127.0.0.1", "localhost")),
        (None, "10.2.2.2", "10.1.1.1", ("0.0.0.0", "10.2.2.2")),
        ("10.3.3.3", "10.2.2.2", "10.1.1.1", ("0.0.0.0", "10.3.3.3")),
        ("127.0.0.1", None, "10.1.1.1", ("127.0.0.1", "127.0.0.1")),
        ("0.0.0.0", None, "10.1.1.1", ("0.0.0.0", "10.1.1.1")),
        ("::1", None, None, ("::1", "::1")),
        ("[::1]", None, None, ("::1", "::1")),
        ("fd00::5", None, "10.1.1.1", ("::", "fd00::5")),
        (None, "[fd00::5]", None, ("::", "fd00::5")),
        (None, None, "[fd00::5]", ("::", "fd00::5")),
        ("0.0.0.0", None, "[fd00::5]", ("::", "fd00::5")),
        ("::", None, "10.1.1.1", ("::", "10.1.1.1")),
        ("[::]", None, "fd00::5", ("::", "fd00::5")),
    ],
)
def test_choice(
    named: str | None,
    environment: str | None,
    spark: str | None,
    expected: tuple[str, str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("ZMQDIST_HOST", raising=False)
    if environment is not None:
        monkeypatch.setenv("ZMQDIST_HOST", environment)
    assert choose_hosts(named, spark) == expected


@pytest.mark.parametrize("wildcard", ["0.0.0.0", "::"])
def test_wildcard_without_spark_is_told_as_an_address(
    wildcard: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ZMQDIST_HOST", raising=False)
    bound, told = choose_hosts(wildcard, None)
    assert bound == wildcard
    assert told not in WILDCARDS
