from __future__ import annotations

import json
from dataclasses import MISSING, fields
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zmqdist.core import headers
from zmqdist.core import messages as m
from zmqdist.core.headers import from_header, to_header
from zmqdist.core.messages import Message
from zmqdist.errors import RemoteProtocolError

EXAMPLES: list[Message] = [
    m.Hello("run", 1, 2, 3, "host:1", 4),
    m.Push(1, 2, 3, 4, 5, True, {"loss": 0.5, "words": 7}, incarnation=1),
    m.Pull(1, -1, 3),
    m.Heartbeat(1),
    m.Finish(1, 2),
    m.Fail(1, 2, "gradient", "ValueError: no", "Traceback"),
    m.Begin(4, "key", "program", 1, 2, "batch_size=3", True),
    m.Status("run", 1),
    m.End("run", 1, "done", True),
    m.Leave("run", "program"),
    m.Welcome(1, 2, 5001, 3, [5, 6], False, 4, None, 2, 30.0, incarnation=1),
    m.Ack(1, 2, "applied", 3, 2, 9, True),
    m.Finished(1, True, 2),
    m.Go(1, None),
    m.Pong(1, 3),
    m.Rejoin(1),
    m.Stop(0, "closed"),
    m.Refused("no"),
    m.Version("run", -1, 2, 0, 1, 1),
    m.Begun("run", 1, 2, {"w": ["<f4", [2, 3]]}, 30, "program", {"totals": {}}, 1),
    m.Report(
        version=1,
        published=1,
        workers=2,
        missing=[0, 3],
        totals={"applied": 1, "seconds": 0.5},
        staleness=[[0, 1]],
        metrics={"loss": [0.5, 2]},
        failures=[{"what": "x"}],
        fatal={"what": "y"},
        incarnation=1,
        changes=3,
        saved=2,
        trouble="no space left",
    ),
]
FIELDS = [(message, entry) for message in EXAMPLES for entry in fields(message)]
BY_FIELD = pytest.mark.parametrize(
    ("message", "entry"), FIELDS, ids=[f"{message.kind}.{entry.name}" for message, entry in FIELDS]
)


def header(message: Message, **changed: Any) -> dict[str, Any]:
    return json.loads(json.dumps(to_header(message) | changed))


def refused(value: object) -> None:
    with pytest.raises(RemoteProtocolError):
        from_header(value)


def test_all_kinds_have_an_example() -> None:
    assert {type(message) for message in EXAMPLES} == set(headers._KINDS.values())
    assert len({message.kind for message in EXAMPLES}) == len(EXAMPLES)


@pytest.mark.parametrize("message", EXAMPLES, ids=lambda message: message.kind)
def test_round_trip(message: Message) -> None:
    assert from_header(header(message)) == message
    assert from_header(header(message, unknown={"new": 1})) == message


@BY_FIELD
def test_a_field_of_another_type_is_refused(message: Message, entry: Any) -> None:
    wrong: list[Any] = [{"a": [[]]}, [{"a": 1}], [["a"]]]
    if "bool" not in entry.type:
        wrong += [True, [True], {"a": True}]
    if "str" != entry.type:
        wrong.append("text")
    if "None" not in entry.type:
        wrong.append(None)
    if entry.type.startswith("int"):
        wrong += [1.0, 2**63, -(2**63), 10**400, float("nan")]
    if entry.type == "float":
        wrong.append(10**400)
    if "Any" in entry.type:  # the values inside may be anything
        wrong = ["text", 1, True, [1]]
    for value in wrong:
        with pytest.raises(RemoteProtocolError, match=f"{message.kind}.{entry.name} is"):
            from_header(to_header(message) | {entry.name: value})


WITH_FLOATS: dict[str, Any] = {
    "float": lambda value: value,
    "float | None": lambda value: value,
    "dict[str, float]": lambda value: {"a": 0.5, "b": value},
    "dict[str, list[float]]": lambda value: {"a": [0.5, value]},
}


@pytest.mark.parametrize("text", ["1e999", "-1e999", "NaN"])
@pytest.mark.parametrize(
    ("message", "entry"),
    [(message, entry) for message, entry in FIELDS if "float" in entry.type],
    ids=lambda value: getattr(value, "kind", None) or getattr(value, "name", None),
)
def test_a_float_that_is_not_finite_is_refused(message: Message, entry: Any, text: str) -> None:
    value = WITH_FLOATS[entry.type](json.loads(text))
    with pytest.raises(RemoteProtocolError, match=f"{message.kind}.{entry.name} is"):
        from_header(to_header(message) | {entry.name: value})


@BY_FIELD
def test_a_missing_field_is_refused_or_has_its_default(message: Message, entry: Any) -> None:
    lacking = header(message)
    lacking.pop(entry.name, None)  # left out already if it is as declared
    if entry.default is MISSING and entry.default_factory is MISSING:
        with pytest.raises(RemoteProtocolError, match=f"{message.kind} lacks {entry.name}"):
            from_header(lacking)
    else:
        default = entry.default if entry.default is not MISSING else entry.default_factory()
        assert getattr(from_header(lacking), entry.name) == default


@pytest.mark.parametrize("value", [None, [], "hello", 1, {}, {"kind": "hello"}])
def test_what_is_no_header_is_refused(value: object) -> None:
    refused(value)


@pytest.mark.parametrize("kind", [None, "", "Hello", "message", 1, ["hello"], {"a": 1}])
def test_unknown_kind_is_refused(kind: object) -> None:
    refused({"zmqdist": m.PROTOCOL, "kind": kind})


@pytest.mark.parametrize("protocol", [None, 0, m.PROTOCOL + 1, "1", [1]])
def test_another_protocol_version_says_what_to_do(protocol: object) -> None:
    with pytest.raises(RemoteProtocolError, match="install the same version"):
        from_header(header(m.Heartbeat(1), zmqdist=protocol))


def test_deep_nesting_is_refused_not_a_recursion_error() -> None:
    deep: Any = []
    for _ in range(100_000):
        deep = [deep]
    refused(header(m.Heartbeat(1)) | {"session": deep})
    refused(header(m.Heartbeat(1)) | {"kind": deep})
    refused(header(m.Heartbeat(1)) | {"zmqdist": deep})


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(JSON)
def test_random_json_is_refused(value: object) -> None:
    refused(value)


@given(st.sampled_from(EXAMPLES), st.data())
def test_random_fields_never_raise_anything_else(message: Message, data: st.DataObject) -> None:
    names = [entry.name for entry in fields(message)]
    changed = data.draw(st.dictionaries(st.sampled_from([*names, "kind", "zmqdist"]), JSON))
    try:
        got = from_header(header(message, **changed))
    except RemoteProtocolError:
        return
    assert from_header(to_header(got)) == got or "nan" in repr(got)
