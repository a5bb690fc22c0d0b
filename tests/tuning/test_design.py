"""Study files: what they mean, and that each mistake is named."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import pytest

from zmqdist.errors import ConfigError
from zmqdist.staleness import Asynchronous, BoundedStaleness, StaleSynchronous
from zmqdist.tuning import HalvingSampler, LateTrialPruner, SuccessiveHalvingPruner
from zmqdist.tuning.design import Design
from zmqdist.tuning.setting import Setting

GOOD: dict[str, Any] = {
    "problem": "digits",
    "target": 0.3,
    "budget_s": 100,
    "grid": {
        "policy": ["bounded:{bound}", "ssp:{bound}:lazy", "async"],
        "bound": [0, 4, "inf"],
        "lr": [0.1, 0.2],
        "chunk": 8,
        "workers": 16,
        "seeds": 3,
    },
    "cluster": {"compute": 1.0},
}


def changed(path: str, value: Any) -> dict[str, Any]:
    """Return the good design with one key changed; None takes it away."""
    values = copy.deepcopy(GOOD)
    *tables, key = path.split(".")
    inner = values
    for name in tables:
        inner = inner.setdefault(name, {})
    if value is None:
        inner.pop(key)
    else:
        inner[key] = value
    return values


def test_the_grid() -> None:
    design = Design.of(GOOD)
    assert len(design.settings) == (2 * 3 + 1) * 2
    assert design.seeds == (0, 1, 2)
    made = [Setting.of({**setting, "seed": 1}) for setting in design.settings]
    assert made[0] == Setting(BoundedStaleness(0), lr=0.1, chunk=8, workers=16, seed=1)
    assert {type(setting.policy) for setting in made} == {
        BoundedStaleness,
        StaleSynchronous,
        Asynchronous,
    }
    unbounded = [s for s in design.settings if s["bound"] == math.inf]
    assert Setting.of({**unbounded[0], "seed": 0}).policy == BoundedStaleness(2**31 - 1)
    assert [s["bound"] for s in design.settings if s["policy"] == "async"] == [None, None]


def test_defaults() -> None:
    design = Design.of(GOOD)
    assert (design.evaluate_every_s, design.diverged, design.backend) == (0.5, 10.0, "simulate")
    assert (design.search, design.over) == ("grid", ("lr",))
    assert isinstance(design.pruner(), LateTrialPruner)
    assert type(Design.of(changed("target", None)).pruner()).__name__ == "Pruner"


def test_halving() -> None:
    design = Design.of(changed("search", {"method": "halving", "over": ["lr", "bound"], "eta": 4}))
    sampler, pruner = design.sampler(), design.pruner()
    assert isinstance(sampler, HalvingSampler)
    assert isinstance(pruner, SuccessiveHalvingPruner)
    assert (sampler.over, sampler.eta) == (("lr", "bound"), 4) == (pruner.over, pruner.eta)


def test_rates_in_geometric_steps_and_seeds_by_name() -> None:
    values = changed("grid.lr", {"from": 0.01, "to": 1, "steps": 3})
    values["grid"]["seeds"] = [3, 5]
    design = Design.of(values)
    assert sorted({setting["lr"] for setting in design.settings}) == [0.01, 0.1, 1.0]
    assert design.seeds == (3, 5)


def test_a_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(
        'problem = "quadratic"\nbudget_s = 10\n[grid]\npolicy = "async"\nlr = 0.1\nchunk = 1\n'
        "workers = 2\n[problem]\n"
    )
    with pytest.raises(ConfigError, match=r"mine\.toml is no TOML: Cannot"):
        Design.load(path)
    path.write_text(
        'budget_s = 10\n[problem]\nname = "quadratic"\nnoise = 2\n[grid]\npolicy = "async"\n'
        "lr = 0.1\nchunk = 1\nworkers = 2\n"
    )
    design = Design.load(path, backend="local")
    assert (design.name, design.backend, design.target) == ("mine", "local", None)
    assert (design.problem, design.problem_options) == ("quadratic", {"noise": 2})
    with pytest.raises(ConfigError, match=r"cannot read the study .*: No such file"):
        Design.load(tmp_path / "none.toml")


def test_pruning_by_time_needs_a_target() -> None:
    """Without one, late would be what takes three times a rival's loss."""
    values = changed("target", None)
    values["search"] = {"prune": True}
    with pytest.raises(ConfigError, match=r"prune is true.*no target.*give one.*'halving'.*leave"):
        Design.of(values)
    values["search"]["method"] = "halving"
    assert isinstance(Design.of(values).pruner(), SuccessiveHalvingPruner)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("budget", 5, r"design: unknown key 'budget' \(value 5 \(int\)\); expected .*budget_s"),
        ("budget", 5, "did you mean 'budget_s'"),
        ("budget_s", None, "design: budget_s is missing; expected a number > 0"),
        ("budget_s", "long", r"budget_s is 'long' \(str\); expected a number > 0"),
        ("budget_s", -1, r"budget_s is -1 \(int\); expected a number > 0"),
        ("budget_s", True, r"budget_s is True \(bool\)"),
        ("target", "low", "target is 'low'"),
        ("evaluate_every_s", 80, "evaluate_every_s is 80; expected at most half"),
        ("diverged", 1, "diverged is 1 .*expected a number > 1"),
        ("backend", "cloud", r"backend is 'cloud' \(str\); expected one of 'simulate', 'local'"),
        ("problem", None, "problem is missing"),
        ("problem", {"examples": 5}, r"design \[problem\]: name is missing"),
        ("grid", None, r"grid is missing; expected a table"),
        ("grid", [1], r"design \[grid\] is \[1\] \(list\); expected a table"),
        ("grid.policies", "async", r"\[grid\]: unknown key 'policies' .*did you mean 'policy'"),
        ("grid.policy", "bound:{bound}", "impossible setting, policy=bound:.*unknown staleness"),
        ("grid.policy", "bounded:{bound}:maybe", "impossible setting.*on_stale is 'maybe'"),
        ("grid.policy", "async", "policy is .*'async'.* expected {bound} in at least one"),
        ("grid.bound", None, "policy is 'bounded:{bound}'.*expected no {bound}, since there is no"),
        ("grid.bound", [1.5], 'bound is .*expected an integer >= 0 or "inf", or a list of such'),
        ("grid.bound", [2, 2], r"bound has a value twice: \[2, 2\]"),
        ("grid.lr", [], r"lr is \[\] \(list\); expected a number > 0, or a list"),
        ("grid.lr", [0.1, 0], "lr is .*expected a number > 0"),
        ("grid.lr", {"from": 1, "to": 0.1, "steps": 3}, "from is 1, to is 0.1; expected a rise"),
        ("grid.lr", {"from": 0.1, "to": 1}, "lr: steps is missing"),
        ("grid.lr", {"from": 0.1, "to": 1, "steps": 3, "by": 2}, "lr: unknown key 'by'"),
        ("grid.workers", 0, "workers is 0 .*expected an integer >= 1"),
        ("grid.chunk", 2.5, "chunk is 2.5"),
        ("grid.seeds", 0, "seeds is 0 .*expected a count of seeds >= 1, or a list"),
        ("grid.merge", "adasum", "impossible setting.*merge=adasum.*one by one"),
        ("grid.merge", "sums", "impossible setting.*unknown merge"),
        ("search.method", "random", "method is 'random'"),
        ("search.over", ["bound"], r"over is \['bound'\]; expected 'lr' in it"),
        ("search.over", ["seeds"], "over is .*expected one of 'policy', 'bound'"),
        ("search.eta", 1, "eta is 1 .*expected an integer >= 2"),
        ("search.prune", "yes", r"prune is 'yes' \(str\); expected true or false"),
        ("options.max_in_flight", 0, r"\[options\]: max_in_flight is 0"),
        ("options.lease", 3, r"\[options\]: unknown key 'lease'"),
    ],
)
def test_mistakes_are_named(path: str, value: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Design.of(changed(path, value))
