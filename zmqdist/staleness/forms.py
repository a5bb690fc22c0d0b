"""Policies by the words of the command line, by default, and from whatever names one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from zmqdist.core.staleness import Policy
from zmqdist.errors import ConfigError
from zmqdist.staleness.bounds import Asynchronous, BoundedStaleness, Ringmaster
from zmqdist.staleness.buffers import BackupWorkers, BulkSynchronous, FedBuff, Rennala, SoftSync
from zmqdist.staleness.compensation import DelayCompensated, GapAware
from zmqdist.staleness.composed import Composed
from zmqdist.staleness.gates import DynamicStaleSynchronous, StaleSynchronous
from zmqdist.staleness.weights import RateRescaled, StalenessAware


class _Form(NamedTuple):
    """How a policy is written: what makes it, its options by place, how many it must have."""

    make: Callable[..., Policy]
    options: tuple[tuple[str, Callable[[str], Any]], ...] = ()
    required: int = 0

    def usage(self, name: str) -> str:
        parts = [
            f":{option}" if i < self.required else f"[:{option}]"
            for i, (option, _) in enumerate(self.options)
        ]
        return name + "".join(parts)


def _threshold(text: str) -> int | str:
    return text if text == "auto" else int(text)


def _aware(weight: str, *numbers: str) -> Policy:
    expected: list[tuple[str, Callable[[str], Any]]] = []
    if weight == "polynomial":
        expected = [("exponent", float)]
    elif weight == "hinge":
        expected = [("knee", int), ("slope", float)]
    if len(numbers) > len(expected):
        raise ConfigError(f"{weight!r} has {len(expected)} numbers; got {len(numbers)}")
    pairs = zip(expected, numbers, strict=False)
    return StalenessAware(weight, **{name: read(text) for (name, read), text in pairs})


def _compensated(strength: float | None = None, lr: float | None = None) -> Policy:
    return DelayCompensated(strength, lr=lr)


def _adaptive(strength: float | None = None, lr: float | None = None) -> Policy:
    return DelayCompensated(strength, adaptive=True, lr=lr)


def _automatic() -> Policy:
    return Ringmaster("auto", on_stale="requeue")


_FORMS: dict[str, _Form] = {
    "auto": _Form(_automatic),
    "async": _Form(Asynchronous),
    "bounded": _Form(BoundedStaleness, (("N", int), ("reject|requeue|scale", str)), 1),
    "ringmaster": _Form(Ringmaster, (("R|auto", _threshold), ("reject|requeue", str))),
    "ssp": _Form(StaleSynchronous, (("N", int), ("eager|lazy", str)), 1),
    "dssp": _Form(
        DynamicStaleSynchronous, (("LOWER", int), ("UPPER", int), ("eager|lazy", str)), 2
    ),
    "bsp": _Form(BulkSynchronous),
    "backup": _Form(BackupWorkers, (("N", int), ("reject|requeue", str)), 1),
    "softsync": _Form(SoftSync, (("N", int), ("SECONDS", float)), 1),
    "fedbuff": _Form(FedBuff, (("N", int), ("SECONDS", float)), 1),
    "rennala": _Form(Rennala, (("N", int), ("reject|requeue", str)), 1),
    "aware": _Form(_aware, (("WEIGHT", str), ("NUMBER", str), ("NUMBER", str)), 1),
    "dc": _Form(_compensated, (("STRENGTH", float), ("LR", float))),
    "dc-adaptive": _Form(_adaptive, (("STRENGTH", float), ("LR", float))),
    "gap": _Form(GapAware, (("element|array|row", str),)),
    "rescaled": _Form(RateRescaled, (("N", int), ("CAP", float))),
}

POLICY_FORMS = ", ".join(form.usage(name) for name, form in _FORMS.items())
"""All forms of `parse_policy`, for people."""


def default_policy() -> Policy:
    """Return the policy of ``ZmqDist(model)`` without ``staleness=``.

    ``BoundedStaleness(64, on_stale="requeue")``: with up to about 30 workers nothing
    but a straggler ever meets the bound, so the plain program applies each update
    exactly as it was computed; an update from a worker that hung or was suspended is
    computed again rather than applied long after its time, and no data is lost.
    """
    return BoundedStaleness(64, on_stale="requeue")


def parse_policy(text: str) -> Policy:
    """Read a policy from the command line's form ``name[:option...]``.

    Parameters
    ----------
    text : str
        One of `POLICY_FORMS`, as ``bounded:8:requeue`` or ``auto``, or several
        joined by ``+``, as ``ssp:3+aware:inverse``.

    Raises
    ------
    ConfigError
        If the text is none of these.
    """
    policies = [_parse_one(part.strip(), text) for part in text.split("+")]
    return policies[0] if len(policies) == 1 else Composed(*policies)


def _parse_one(part: str, text: str) -> Policy:
    name, *words = part.split(":")
    form = _FORMS.get(name)
    if form is None or not form.required <= len(words) <= len(form.options):
        expected = POLICY_FORMS if form is None else form.usage(name)
        raise ConfigError(f"unknown staleness policy {text!r}; expected {expected}")
    try:
        return form.make(*(read(w) for w, (_, read) in zip(words, form.options, strict=False)))
    except ValueError as error:  # ConfigError is one, too, and says what is expected
        expected = "" if isinstance(error, ConfigError) else f"; expected {form.usage(name)}"
        raise ConfigError(f"staleness policy {text!r}: {error}{expected}") from None


def as_policy(staleness: Policy | str | Sequence[Policy | str] | None) -> Policy:
    """Return the policy that the option ``staleness=`` stands for.

    Parameters
    ----------
    staleness : Policy, str, sequence of these, or None
        A policy, its form on the command line (``"auto"``, ``"bounded:8"``), several
        of them that work together, or None for the default.

    Raises
    ------
    ConfigError
        It is none of these.
    """
    if staleness is None:
        return default_policy()
    if isinstance(staleness, Policy):
        return staleness
    if isinstance(staleness, str):
        return parse_policy(staleness)
    if isinstance(staleness, (list, tuple)) and staleness:
        return Composed(*(as_policy(part) for part in staleness))
    raise ConfigError(
        f"staleness is a {type(staleness).__name__}; expected a policy of zmqdist.staleness, such "
        "as BoundedStaleness(8), several in a list, or one in words, such as 'auto'"
    )
