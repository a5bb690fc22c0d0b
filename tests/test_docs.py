"""README.md, ARCHITECTURE.md and docs/protocol.md say what the code does."""

from __future__ import annotations

import functools
import importlib
import inspect
import json
import math
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import zmqdist.staleness
from zmqdist import DeepDist, TrainResult, ZmqDist, cli
from zmqdist.core import messages
from zmqdist.core.worker_state import Phase
from zmqdist.net.security import write_key_files
from zmqdist.staleness import BoundedStaleness, Policy, default_policy, parse_policy
from zmqdist.wire import plan, tree
from zmqdist.wire.frames import unpack

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
ARCHITECTURE = (ROOT / "ARCHITECTURE.md").read_text()
PROTOCOL = (ROOT / "docs" / "protocol.md").read_text()
RELIABILITY = (ROOT / "docs" / "reliability.md").read_text()
PAGES = {
    "README.md": README,
    "ARCHITECTURE.md": ARCHITECTURE,
    "docs/protocol.md": PROTOCOL,
    "docs/staleness.md": (ROOT / "docs" / "staleness.md").read_text(),
    "docs/reliability.md": RELIABILITY,
}

KINDS = {cls.kind: cls for cls in messages.Message.__subclasses__()}
MODULES = sorted(
    str(path.relative_to(ROOT / "zmqdist"))
    for path in (ROOT / "zmqdist").rglob("*.py")
    if path.name != "__init__.py"
)
# Rooms all of whose constants matter to somebody who writes another peer or debugs one.
ON_THE_WIRE = ("core", "net", "wire", "connection", "driver", "master", "turn", "worker", "task")


def section(page: str, title: str) -> str:
    """Return what stands under a heading, down to the next one of its level."""
    level = title.partition(" ")[0]
    _, found, rest = page.partition(f"\n{title}\n")
    assert found, f"no heading {title!r}"
    return re.split(rf"^{level} ", rest, maxsplit=1, flags=re.M)[0]


def marked(page: str, mark: str) -> str:
    """Return what stands between a marking comment and the end mark."""
    found = re.search(rf"<!-- {re.escape(mark)} -->\n(.*?)<!-- end -->", page, re.S)
    assert found, f"no mark {mark!r}"
    return found[1]


def table(text: str) -> list[list[str]]:
    """Return the cells of all table rows, heads and rules left out."""
    rows = [
        [cell.strip() for cell in line.strip().strip("|").split(" | ")]
        for line in text.splitlines()
        if line.startswith("|") and not set(line) <= set("|- ")
    ]
    heads = [
        before.strip().strip("|").split(" | ")
        for before, rule in zip(text.splitlines(), text.splitlines()[1:], strict=False)
        if rule.startswith("|") and set(rule) <= set("|- ")
    ]
    return [row for row in rows if row not in [[cell.strip() for cell in head] for head in heads]]


def ticked(text: str) -> list[str]:
    return re.findall(r"`([^`\n]+)`", text)


def module_of(path: str) -> str:
    return "zmqdist." + path.removesuffix(".py").replace("/", ".")


# ---- docs/protocol.md ----------------------------------------------------------------------


def test_messages_are_listed_with_their_fields() -> None:
    rows = [row for row in table(section(PROTOCOL, "## Messages")) if row[0].startswith("`")]
    listed = {row[0].strip("`"): ticked(row[1]) for row in rows}
    assert len(listed) == len(rows), "a message stands in two tables"
    assert listed == {kind: [f.name for f in fields(cls)] for kind, cls in KINDS.items()}


def test_answers_are_messages() -> None:
    for who in ("### Worker to master", "### Driver to master"):
        for row in table(section(PROTOCOL, who)):
            assert ticked(row[3]), row
            assert set(ticked(row[3])) <= KINDS.keys()


def test_the_example_is_a_message() -> None:
    (example,) = re.findall(r"```json\n(.*?)```", PROTOCOL, re.S)
    received = unpack([example.encode()])
    assert received.message.kind == "push"
    array = received.tree["dict"][0][1]["array"]
    assert plan.check_entry(array) == (1, 300 * 100 * 4)
    assert set(json.loads(example)) - {"zmqdist", "kind", "tree"} == {
        entry.name for entry in fields(messages.Push)
    }


def test_phases() -> None:
    rows = table(section(PROTOCOL, "## A worker's phases"))
    assert [row[0].strip("`") for row in rows] == [phase.value for phase in Phase]


def test_kinds_of_tree_entries() -> None:
    rows = table(section(PROTOCOL, "## Arrays and trees"))
    keys = [row[0].strip("`") for row in rows if not row[0].startswith("`{")]
    assert sorted(keys) == sorted(tree._Reader().kinds)


def test_roles_and_key_files(tmp_path: Path) -> None:
    text = section(PROTOCOL, "## Keys and roles")
    write_key_files(tmp_path / "keys")
    assert set(json.loads((tmp_path / "keys").read_text())) <= set(ticked(text))
    (only_driver,) = (row[2] for row in table(text) if row[0] == "workers'")
    driver = section(PROTOCOL, "### Driver to master")
    assert set(ticked(only_driver)) == {row[0].strip("`") for row in table(driver)}


def constants() -> dict[str, tuple[str, str]]:
    rows = table(section(PROTOCOL, "## Timers and limits"))
    return {f"{row[1].strip('`')}.{row[0].strip('`')}": (row[2], row[3]) for row in rows}


@pytest.mark.parametrize("name", constants())
def test_constant(name: str) -> None:
    module, _, constant = name.rpartition(".")
    value = getattr(importlib.import_module(f"zmqdist.{module}"), constant)
    assert float(constants()[name][0]) == value


def test_no_constant_of_the_wire_is_left_out() -> None:
    found = set()
    for path in MODULES:
        if path.removesuffix(".py").partition("/")[0] not in ON_THE_WIRE:
            continue
        text = (ROOT / "zmqdist" / path).read_text()
        for name in re.findall(r"^([A-Z][A-Z_]+)(?:: \w+)? = [(\d]", text, re.M):
            if isinstance(getattr(importlib.import_module(module_of(path)), name), int | float):
                found.add(f"{module_of(path).removeprefix('zmqdist.')}.{name}")
    assert found - constants().keys() == set()


# ---- ARCHITECTURE.md -----------------------------------------------------------------------


def test_every_module_has_its_layer() -> None:
    rows = table(section(ARCHITECTURE, "## Layers"))
    listed = {name for row in rows for name in ticked(row[1])}
    assert set(MODULES) - listed == set(), "these modules have no layer in ARCHITECTURE.md"
    assert listed - set(MODULES) == set(), "these modules of ARCHITECTURE.md do not exist"


def test_layers_are_in_the_order_of_pyproject() -> None:
    layers = re.search(r"^layers = \[(.*?)^\]", (ROOT / "pyproject.toml").read_text(), re.S | re.M)
    assert layers is not None
    order = {
        name: number
        for number, line in enumerate(layers[1].strip().splitlines())
        for name in re.findall(r"\w+", line)
    }
    rows = table(section(ARCHITECTURE, "## Layers"))
    shown = [order[re.split(r"[/.]", ticked(row[1])[0])[0]] for row in rows]
    assert shown == sorted(shown)


def references(page: str) -> Iterator[tuple[str, str]]:
    yield from re.findall(r"`([\w/]+\.py):([\w.]+)`", page)


@pytest.mark.parametrize(("path", "name"), sorted(set(references(ARCHITECTURE))))
def test_functions_of_the_walks_exist(path: str, name: str) -> None:
    functools.reduce(getattr, name.split("."), importlib.import_module(module_of(path)))


@pytest.mark.parametrize("page", PAGES)
def test_files_exist(page: str) -> None:
    text = re.sub(r"```.*?```", "", PAGES[page], flags=re.S)
    for name in re.findall(r"`([\w./]*\.py|(?:tests|docs|scripts|examples)/[\w./]+)(?=[`:])", text):
        found = [ROOT / name, ROOT / "zmqdist" / name]
        assert any(path.exists() for path in found), name
    for target in re.findall(r"\]\(([^)#]+)\)", text):
        assert ((ROOT / page).parent / target).exists(), target
    for anchor in re.findall(r"\]\(#([^)]+)\)", text):
        heads = re.findall(r"^#+ (.+)$", text, re.M)
        assert anchor in [head.lower().replace(" ", "-") for head in heads]


@pytest.mark.parametrize("page", PAGES)
def test_tests_exist(page: str) -> None:
    for path, name in re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", PAGES[page]):
        assert re.search(rf"^ *def {name}\(", (ROOT / path).read_text(), re.M), f"{path}::{name}"


def test_invariants_are_numbered_and_checked() -> None:
    rows = table(section(ARCHITECTURE, "## Invariants"))
    assert [row[0] for row in rows] == [f"I{n}" for n in range(1, len(rows) + 1)]
    assert all("::" in row[2] or "scripts/lint" in row[2] for row in rows)


# ---- docs/reliability.md -------------------------------------------------------------------


def test_guarantees_are_numbered_and_held() -> None:
    rows = table(section(RELIABILITY, "## Guarantees"))
    assert [row[0] for row in rows] == [f"R{n}" for n in range(1, len(rows) + 1)]
    assert all("::" in row[2] for row in rows)


def test_the_reader_reads_a_checkpoint(tmp_path: Path) -> None:
    (reader,) = re.findall(r"<!-- reader -->\n```python\n(.*?)```", RELIABILITY, re.S)
    assert "zmqdist" not in reader
    names: dict[str, Any] = {}
    exec(reader, names)  # noqa: S102 - our own page
    model = {"w": np.zeros(3), "n": 0, "best": math.inf}
    with ZmqDist(model, checkpoint=tmp_path, security="none") as dd:
        dd.train([[1, 2], [3]], add_one, batch_size=1, workers=1)
    version, model = names["read_model"](tmp_path)
    assert (version, model["w"].tolist(), model["n"]) == (3, [3.0] * 3, 3)
    assert model["best"] == math.inf


def add_one(model: Any, items: Any) -> Any:
    return {"w": np.ones(3), "n": 1}


# ---- README.md -----------------------------------------------------------------------------

BLOCKS = re.findall(r"(<!-- run -->\n)?```python\n(.*?)```", README, re.S)


def test_marked_blocks_run(tmp_path: Path) -> None:
    program = tmp_path / "start.py"
    program.write_text("\n".join(block for mark, block in BLOCKS if mark))
    done = subprocess.run(
        [sys.executable, "-W", "error", str(program)], capture_output=True, text=True, timeout=110
    )
    assert done.returncode == 0, done.stderr
    numbers = [float(number) for number in re.findall(r"-?[\d.]+", done.stdout)]
    # As near as stale updates on a busy machine come
    assert numbers == pytest.approx([1, -2, 3], abs=0.1)


@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_blocks_compile(number: int) -> None:
    compile(BLOCKS[number][1], f"block {number}", "exec")


def test_names_imported_from_zmqdist_exist() -> None:
    for names in re.findall(r"^from zmqdist import (.+)$", README, re.M):
        for name in names.split(", "):
            assert name in zmqdist.__all__


@pytest.mark.parametrize("of", [ZmqDist, ZmqDist.train], ids=lambda of: of.__qualname__)
def test_options_are_those_of_the_signature(of: Any) -> None:
    shown = {row[0].strip("`"): row[1].strip("`") for row in table(marked(README, options(of)))}
    parameters = inspect.signature(of).parameters.values()
    real = {p.name: repr(p.default) for p in parameters if p.kind is p.KEYWORD_ONLY}
    assert list(shown.items()) == list(real.items())


def options(of: Any) -> str:
    return f"options: {of.__qualname__}"


def test_options_are_in_the_docstring() -> None:
    for of in (ZmqDist, ZmqDist.train):
        described = re.findall(r"^ +([\w, ]+) : ", of.__doc__ or "", re.M)
        names = {name for line in described for name in line.split(", ")}
        assert names == {name for name in inspect.signature(of).parameters if name != "self"}


def test_flags_of_the_master() -> None:
    rows = table(section(README, "## A master of its own"))
    shown = [flag for row in rows for flag in ticked(row[0])]
    flags = {flag: action for action in cli.parser()._actions for flag in action.option_strings}
    assert set(shown) == flags.keys() - {"-h", "--help", "--version"}
    for row in rows:
        for flag, default in zip(ticked(row[0]), ticked(row[1]), strict=False):
            real = flags[flag].default
            assert real is None or str(real) == default, flag
    (policy,) = (ticked(row[1])[0] for row in rows if row[0] == "`--staleness`")
    assert parse_policy(policy) == default_policy()


def test_policies() -> None:
    rows = table(marked(README, "policies"))
    words = [word for row in rows for word in ticked(row[3])]
    made = {type(parse_policy(word)).__name__ for word in words}
    policies = {
        name
        for name in zmqdist.staleness.__all__
        if isinstance(cls := getattr(zmqdist.staleness, name), type)
        and issubclass(cls, Policy)
        and cls is not Policy
    }
    assert made == policies == {row[0].strip("`").partition("(")[0] for row in rows}
    assert eval(ticked(rows[0][0])[0]) == default_policy()  # noqa: S307 - our own page
    assert parse_policy(ticked(rows[0][3])[0]) == default_policy()
    assert parse_policy(ticked(rows[1][3])[0]) == BoundedStaleness(8)


def test_all_fields_of_the_result() -> None:
    rows = table(section(README, "## What comes back"))
    shown = [name for row in rows for name in ticked(row[0])]
    derived = ["staleness_mean", "evaluations"]
    assert sorted(shown) == sorted([*(f.name for f in fields(TrainResult)), *derived])


def test_figures_quoted_in_prose() -> None:
    assert inspect.signature(DeepDist).parameters["max_updates"].default == 4096
    assert "`max_updates` (4096)" in README
    assert inspect.signature(ZmqDist).parameters["lease_s"].default == 30
    assert "`lease_s` is 30 s unless set" in PROTOCOL


@pytest.mark.parametrize("page", PAGES)
def test_no_line_is_too_long(page: str) -> None:
    prose = re.sub(r"```.*?```", "", PAGES[page], flags=re.S).splitlines()
    assert [line for line in prose if len(line) > 100 and not line.startswith("|")] == []
