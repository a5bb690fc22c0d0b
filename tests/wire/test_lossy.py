"""Codecs that round, by their names and on the wire."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from zmqdist.errors import ConfigError, RemoteProtocolError
from zmqdist.wire.lossy import BitRound, Float16, Half, parse_codec
from zmqdist.wire.rows import RowSparse
from zmqdist.wire.tree import decode_tree, encode_tree


@pytest.mark.parametrize(
    ("codec", "parsed"),
    [
        ("auto", ("auto", None)),
        ("zstd", ("zstd", None)),
        ("float16", ("auto", Float16())),
        ("bitround:7", ("auto", BitRound(7))),
    ],
)
def test_names(codec: str, parsed: Any) -> None:
    assert parse_codec(codec) == parsed


@pytest.mark.parametrize("codec", ["", "bitround", "bitround:0", "bitround:52", "half", 7, None])
def test_other_names_are_refused(codec: Any) -> None:
    with pytest.raises(ConfigError, match="expected one of auto, raw, lz4, zstd, or to lose"):
        parse_codec(codec)


@pytest.mark.parametrize("dtype", ["<f4", "<f8"])
def test_half_the_bytes_or_less(dtype: str) -> None:
    values = np.random.default_rng(0).normal(size=10_000).astype(np.float16)
    encoded = encode_tree({"w": Half(values, dtype)}, "raw")
    assert encoded.encoded_bytes == 20_000
    assert encoded.decoded_bytes == 10_000 * np.dtype(dtype).itemsize
    there = decode_tree(encoded.spec, encoded.frames, max_bytes=1 << 20)["w"]
    assert there.dtype == dtype
    assert (there == values).all()


@pytest.mark.parametrize("dtype", ["<f4", "<f8"])
def test_rows_count_as_the_rows_that_they_are(dtype: str) -> None:
    """As they do in full: by this it is seen whether compressing is worth while."""
    rows = RowSparse(np.arange(10), np.ones((10, 4), np.float16), (1_000_000, 4))
    full = RowSparse(rows.rows, rows.values.astype(dtype), rows.shape)
    assert encode_tree(Half(rows, dtype)).decoded_bytes == encode_tree(full).decoded_bytes


def test_sizes_are_those_of_what_arrives() -> None:
    encoded = encode_tree(Half(np.zeros(1000, np.float16), "<f8"))
    with pytest.raises(RemoteProtocolError, match="expected at most 7999"):
        decode_tree(encoded.spec, encoded.frames, max_bytes=7999)


def lies() -> list[Any]:
    body = encode_tree(np.zeros(2, np.float16)).spec
    rows = encode_tree(RowSparse([0], np.zeros((1, 2), np.float16), (2, 2))).spec
    return [
        {"half": ["<f2", body]},
        {"half": ["<i4", body]},
        {"half": [4, body]},
        {"half": [["<f4"], body]},
        {"half": ["<f4"]},
        {"half": "<f4"},
        {"half": ["<f4", {"half": ["<f4", body]}]},
        {"half": ["<f4", {"dict": [["w", body]]}]},
        {"half": ["<f4", {**body, **rows}]},
        {"half": ["<f4", 3]},
        {"half": ["<f4", [body]]},
    ]


@pytest.mark.parametrize("spec", lies(), ids=str)
def test_malformed_halves_are_refused(spec: Any) -> None:
    with pytest.raises(RemoteProtocolError):
        decode_tree(spec, [bytes(4)], max_bytes=1 << 20)


@pytest.mark.parametrize("leaf", [np.zeros(2, np.float32), RowSparse([0], np.ones((1, 1)), (1, 1))])
def test_halves_of_something_else_are_refused(leaf: Any) -> None:
    encoded = encode_tree(leaf)
    spec = {"half": ["<f4", encoded.spec]}
    with pytest.raises(RemoteProtocolError, match="half of float"):
        decode_tree(spec, encoded.frames, max_bytes=1 << 20)
