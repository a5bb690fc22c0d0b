"""The design of a study: what a study file says, checked before anything runs.

A file is TOML; `Design.of` takes the same as a dict::

    target = 0.3                  # loss to reach
    budget_s = 200                # time that a trial may take
    problem = "digits"            # or [problem] with name and options

    [grid]                        # all combinations are tried
    policy = ["bounded:{bound}", "ssp:{bound}:lazy", "async"]
    bound = [0, 1, 2, 4, 8, 16, "inf"]
    lr = { from = 0.05, to = 0.8, steps = 5 }
    chunk = 8                     # items per update
    workers = 16
    seeds = 5

    [cluster]                     # for the simulator
    compute = { name = "exponential", mean = 1.0 }
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from zmqdist.errors import ConfigError
from zmqdist.options import MasterOptions
from zmqdist.tuning import fields
from zmqdist.tuning.fields import Table
from zmqdist.tuning.pruners import LateTrialPruner, Pruner, SuccessiveHalvingPruner
from zmqdist.tuning.samplers import GridSampler, HalvingSampler, product_of
from zmqdist.tuning.setting import HOLE, Setting
from zmqdist.tuning.trial import Params

BACKENDS = ("simulate", "local", "spark")


@dataclass(frozen=True)
class Design:
    """What is to be found out, and how; made by `Design.load` or `Design.of`.

    Attributes
    ----------
    name : str
    problem : str
        As of `zmqdist.tuning.load_problem`.
    problem_options : dict
    backend : {"simulate", "local", "spark"}
    target : float or None
        Loss to reach; None compares the losses at the end of the budget.
    budget_s, evaluate_every_s : float
        Virtual or wall seconds.
    diverged : float
        Times the first loss that counts as diverged, if that is above 0.
    settings : list of dict
        What is tried, without seeds.
    seeds : tuple of int
    search : {"grid", "halving"}
    over : tuple of str
        Parameters whose values compete. The learning rate is always among them: which rates
        are stable depends on the staleness, so a comparison of policies at one shared
        rate measures the rate.
    eta : int
    prune : bool
    options : dict
        Of `zmqdist.ZmqDist`: ``max_in_flight``, ``publish_every``, ``publish_interval_s``.
    tables : dict
        Options of the backends: ``cluster``, ``local``, ``spark``.
    """

    name: str
    problem: str
    problem_options: dict[str, Any]
    backend: str
    target: float | None
    budget_s: float
    evaluate_every_s: float
    diverged: float
    settings: list[Params]
    seeds: tuple[int, ...]
    search: str
    over: tuple[str, ...]
    eta: int
    prune: bool
    options: dict[str, Any] = field(default_factory=dict)
    tables: dict[str, dict[str, Any]] = field(default_factory=dict)

    @classmethod
    def load(cls, path: str | Path, *, backend: str | None = None) -> Design:
        """Read a study file.

        Parameters
        ----------
        path : path
        backend : str, optional
            Used in place of the file's.

        Raises
        ------
        ConfigError
            The file cannot be read, or says something that cannot be.
        """
        path = Path(path)
        try:
            values = tomllib.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise ConfigError(f"cannot read the study {path}: {error.strerror}") from None
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ConfigError(f"{path} is no TOML: {error}") from None
        given = {**values, "backend": backend} if backend else values
        return cls.of({"name": path.stem, **given}, where=str(path))

    @classmethod
    def of(cls, values: Mapping[str, Any], *, where: str = "design") -> Design:
        """Check a design given as a dict.

        Raises
        ------
        ConfigError
            Naming the key, what was got and what is expected.
        """
        top = Table(values, where)
        problem, problem_options = _problem(top, values)
        search = top.table("search", {})
        budget_s = top.take("budget_s", fields.POSITIVE)
        target = top.take("target", fields.NUMBER, None)
        design = cls(
            name=top.take("name", fields.TEXT, "study"),
            problem=problem,
            problem_options=problem_options,
            backend=top.take("backend", fields.one_of(*BACKENDS), "simulate"),
            target=target,
            budget_s=budget_s,
            evaluate_every_s=top.take("evaluate_every_s", fields.POSITIVE, budget_s / 200),
            diverged=top.take("diverged", fields.Kind("a number > 1", _above_one), 10.0),
            **_grid(top.table("grid")),
            search=search.take("method", fields.one_of("grid", "halving"), "grid"),
            over=tuple(search.take_list("over", fields.one_of(*_AXES), ["lr"])),
            eta=search.take("eta", fields.SEVERAL, 3),
            prune=search.take("prune", fields.FLAG, target is not None),
            options=_options(top.table("options", {})),
            tables={name: top.table(name, {}).rest() for name in ("cluster", "local", "spark")},
        )
        search.close()
        top.close()
        if design.evaluate_every_s > budget_s / 2:
            raise ConfigError(
                f"{where}: evaluate_every_s is {design.evaluate_every_s:g}; expected at most half "
                f"of budget_s, {budget_s:g}"
            )
        if "lr" not in design.over:
            raise ConfigError(
                f"{where} [search]: over is {list(design.over)}; expected 'lr' in it: policies are "
                "compared at the learning rate that is best for each"
            )
        if design.prune and design.search == "grid" and target is None:
            raise ConfigError(
                f"{where} [search]: prune is true with method 'grid' and no target; expected a "
                "target, since what is late is judged by a rival's time to it: give one, or method "
                "'halving', which ranks losses, or leave prune out"
            )
        design.sampler()  # whether it is possible
        return design

    def sampler(self) -> GridSampler:
        """Return what says which setting is next."""
        if self.search == "halving":
            return HalvingSampler(self.settings, self.seeds, over=self.over, eta=self.eta)
        return GridSampler(self.settings, self.seeds)

    def pruner(self) -> Pruner:
        """Return what says which trial to give up."""
        if not self.prune:
            return Pruner()
        if self.search == "halving":
            return SuccessiveHalvingPruner(self.budget_s, over=self.over, eta=self.eta)
        return LateTrialPruner(self.budget_s, over=self.over)

    def fixed(self) -> dict[str, Any]:
        """Return what must not change when a study goes on, as JSON holds it.

        The grid and the search may: more bounds, rates or seeds go on with the trials there are.
        """
        names = ("problem", "problem_options", "backend", "target", "budget_s", "diverged")
        kept = {name: getattr(self, name) for name in (*names, "evaluate_every_s", "options")}
        table = {"simulate": "cluster"}.get(self.backend, self.backend)
        return {**kept, table: self.tables.get(table, {})}


_AXES = ("policy", "bound", "workers", "chunk", "merge", "lr")


def _above_one(value: Any) -> bool:
    return fields.POSITIVE.fits(value) and value > 1


def _problem(top: Table, values: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    if not isinstance(values.get("problem"), Mapping):
        return top.take("problem", fields.TEXT), {}
    table = top.table("problem")
    return table.take("name", fields.TEXT), table.rest()


def _options(table: Table) -> dict[str, Any]:
    kinds = {
        "max_in_flight": fields.COUNT,
        "publish_every": fields.COUNT,
        "publish_interval_s": fields.POSITIVE,
    }
    given = {name: table.take(name, kind, None) for name, kind in kinds.items()}
    table.close()
    return {name: value for name, value in given.items() if value is not None}


def _grid(table: Table) -> dict[str, Any]:
    """Return the settings and the seeds of a grid, each setting known to be possible."""
    policies = table.take_list("policy", fields.TEXT)
    bounds = [float(b) if b == "inf" else b for b in table.take_list("bound", fields.BOUND, [])]
    axes = {
        "workers": table.take_list("workers", fields.COUNT),
        "chunk": table.take_list("chunk", fields.COUNT),
        "merge": table.take_list("merge", fields.TEXT, []),
        "lr": table.take_axis("lr", fields.POSITIVE),
    }
    seeds = table.take_seeds("seeds")
    table.close()
    with_hole = [policy for policy in policies if HOLE in policy]
    if with_hole and not bounds:
        raise table.error("policy", with_hole[0], f"no {HOLE}, since there is no key bound")
    if bounds and not with_hole:
        raise table.error("policy", policies, f"{HOLE} in at least one, since bound is given")
    settings = [
        {"policy": policy, "bound": bound, **rest}
        for policy in policies
        for bound in (bounds if HOLE in policy else [None])
        for rest in product_of({name: values for name, values in axes.items() if values})
    ]
    for setting in settings:
        try:
            made = Setting.of({**setting, "seed": 0})
            MasterOptions(policy=made.policy, merge=made.merge)
        except ConfigError as error:
            shown = ", ".join(f"{name}={value}" for name, value in setting.items())
            raise table.impossible(shown, error) from None
    return {"settings": settings, "seeds": tuple(seeds)}
