"""A recommendation in sentences: what to use, how sure that is, and what makes no difference."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

from zmqdist.tuning.analysis import FEW_SEEDS, Cell, Interval, bound_of, in_common, ratio
from zmqdist.tuning.recommend import Recommendation
from zmqdist.tuning.report.findings import Findings, bound_text, label
from zmqdist.tuning.rule import MARGIN, is_gate_of
from zmqdist.tuning.setting import shown
from zmqdist.tuning.theory import knee

UNCLEAR = "no clear difference"


def explain(findings: Findings) -> list[str]:
    """Return the sentences, the recommendation itself first."""
    advice = findings.advice
    if advice is None:
        return [findings.why_not[0].upper() + findings.why_not[1:] + "."]
    return [
        _use(findings, advice),
        *_missing(findings, advice),
        *_bound(findings, advice),
        *_certainty(advice),
        *_others(findings, advice),
        *_workers(findings, advice),
    ]


def _use(findings: Findings, advice: Recommendation) -> str:
    params = advice.cell.params
    policy = shown(str(params["policy"]), params.get("bound"))
    rest = ", ".join(
        f"{name} {params[key]}"
        for name, key in (
            ("learning rate", "lr"),
            ("chunk", "chunk"),
            ("workers", "workers"),
            ("merge", "merge"),
        )
        if params.get(key) is not None
    )
    seeds = len(advice.cell.trials)
    return f"Use {policy} with {rest}: {findings.value_name} {_interval(advice.interval)}, " + (
        "one seed." if seeds == 1 else f"median of {seeds} seeds."
    )


def _missing(findings: Findings, advice: Recommendation) -> Iterator[str]:
    missing = findings.missing(advice.cell)
    if missing:
        yield (
            f"{missing} of its {len(findings.settings['seeds'])} seeds "
            f"{'is' if missing == 1 else 'are'} missing, which may change this: 'zmqdist-tune run "
            "--resume' tries what was not run, was interrupted or failed."
        )


def _bound(findings: Findings, advice: Recommendation) -> Iterator[str]:
    if len(advice.curve) < 2:
        return
    bounds = [bound_text(bound_of(cell)) for cell in advice.curve]
    medians = [cell.median for cell in advice.curve]
    gate = is_gate_of(advice.cell)
    rule = "largest" if gate else "smallest"
    why = "least waiting" if gate else "the least that late updates can do"
    if advice.flat:
        spread = max(medians) - min(medians)
        apart = f"{spread / min(medians):.0%}" if min(medians) > 0 else f"{spread:.3g}"
        taken = f"because it costs nothing ({why})" if _is_free(advice) else f"({why})"
        yield (
            f"No effect here: the bounds {', '.join(bounds)} are all shown to be within "
            f"{MARGIN:.0%} of the best (medians differ by {apart}, mean staleness "
            f"{_staleness(advice.curve)}). The {rule} is taken {taken}{_price(advice)}."
        )
        return
    seeds = min(len(cell.trials) for cell in advice.curve)
    if advice.flat is None and seeds > 1:
        needed = "more" if seeds >= FEW_SEEDS else f"{FEW_SEEDS} or more"
        yield (
            f"Whether the bound matters cannot be told from {seeds} seeds: {needed} are needed"
            f"{_price(advice) if findings.target is None else ''}."
        )
    yield from _rule(advice, rule, why)
    if advice.flat_from is not None:
        what = "loss" if findings.target is None else "time"
        tail = [cell for cell in advice.curve if bound_of(cell) >= advice.flat_from]
        yield (
            f"Flat from bound {bound_text(advice.flat_from)}: larger ones change the {what} by "
            f"less than {MARGIN:.0%} (mean staleness there {_staleness(tail)}, workers less one "
            f"{int(advice.cell.params['workers']) - 1})."
        )


def _rule(advice: Recommendation, rule: str, why: str) -> Iterator[str]:
    """Say why it is not the best bound, if it is another."""
    best, ours = advice.best, bound_text(bound_of(advice.cell))
    if best is advice.cell:
        return
    text = f"Bound {bound_text(bound_of(best))} is the best, with a median of {best.median:.4g}"
    own, base = (sum(map(math.isinf, values)) for values in in_common(advice.cell, best))
    if own < base:
        yield (
            f"{text}, but fails on {base} of its {len(best.trials)} seeds; {ours} is near it and "
            f"fails on {own or 'none'} of them."
        )
    else:
        yield f"{text}; {ours} is the {rule} within one standard error of it ({why})."


def _is_free(advice: Recommendation) -> bool:
    """Whether the recommended bound is shown to take no longer than any other."""
    ours = advice.cell.by_seed_of("seconds")
    for cell in advice.curve:
        theirs = cell.by_seed_of("seconds")
        common = [seed for seed in ours if theirs.get(seed, 0.0) > 0]
        if len(common) < FEW_SEEDS:
            return False
        longer = ratio([ours[seed] for seed in common], [theirs[seed] for seed in common])
        if longer.high > 1 + MARGIN:
            return False
    return True


def _price(advice: Recommendation) -> str:
    """Say how much longer the recommended bound takes, where the value is not the time."""
    fastest = min(advice.curve, key=lambda cell: cell.median_of("seconds"))
    ours_s, least_s = advice.cell.median_of("seconds"), fastest.median_of("seconds")
    ours, other = (bound_text(bound_of(cell)) for cell in (advice.cell, fastest))
    if not ours_s > (1 + MARGIN) * least_s:
        return ""
    return (
        f"; bound {ours} takes {ours_s:.3g} s, bound {other} {least_s:.3g} s: with a target, time "
        "decides"
    )


def _certainty(advice: Recommendation) -> Iterator[str]:
    seeds = len(advice.cell.trials)
    if seeds < 2:
        yield "One seed says nothing about chance: run at least 5 (seeds = 5 in [grid])."
        return
    if advice.flat:
        return
    if not math.isnan(advice.chosen) and len(advice.curve) > 1:
        yield (
            f"The rule picks this bound in {advice.chosen:.0%} of resampled sets of seeds"
            + (
                f"; with {seeds} seeds that is rough, 5 or more say more."
                if seeds < FEW_SEEDS
                else "."
            )
        )


def _others(findings: Findings, advice: Recommendation) -> Iterator[str]:
    worse, better = ("worse", "better") if findings.target is None else ("slower", "faster")
    own = {cell.key for cell in advice.curve}
    against = []
    for rival in advice.rivals:
        if rival.cell.key in own or math.isnan(rival.difference.median):
            continue
        by_ratio = not math.isnan(rival.ratio.median)
        found, even = (rival.ratio, 1.0) if by_ratio else (rival.difference, 0.0)
        if not found.tells:
            verdict = f"too few seeds to tell ({FEW_SEEDS} or more)"
        else:
            verdict = worse if found.low > even else better if found.high < even else UNCLEAR
        text = f"{_times(found)} the value" if by_ratio else f"the value {_more(found)}"
        against.append(f"{label(rival.cell.params)}: {text}, {verdict}")
    if against:
        yield ("Others, each at its best bound and learning rate: " + "; ".join(against) + ".")


def _workers(findings: Findings, advice: Recommendation) -> Iterator[str]:
    outcome = findings.middle(advice.cell)
    if outcome is not None and outcome.service_s and outcome.cycle_s:
        at = knee(outcome.cycle_s, outcome.service_s)
        yield (
            f"The master is busy {outcome.service_s:.3g} {findings.seconds} for each update and a "
            f"worker's cycle takes {outcome.cycle_s:.3g}: beyond about {at:,.0f} workers it could "
            "not keep up."
        )
    scaling = advice.scaling
    if scaling is None:
        yield f"How many workers are worth paying for needs {_lacking(findings)}."
        return
    if not scaling.slope:
        yield (
            "More workers did not need more updates in the range that was tried, so there is no "
            f"sign yet of too many; the master alone allows {scaling.worth:,} at a speed-up of one "
            "half for each."
        )
        return
    yield (
        f"Worth paying for: about {scaling.worth:,} workers; beyond that the speed-up is below "
        f"one half for each. There it is {scaling.speed_up(scaling.worth):.3g} times one worker "
        f"(fitted noise scale {scaling.noise:.3g} updates; a model, not a measurement)."
    )


def _lacking(findings: Findings) -> str:
    """Say what the model of time against workers was not made for want of."""
    if findings.target is None:
        return "a target: without one nobody knows how many updates are enough"
    if len({cell.params["workers"] for cell in findings.cells}) < 2:
        return "several numbers of them in the grid (workers = [4, 8, 16])"
    if not findings.timed:
        return "the master's time per update, which is unknown or 0 (apply in [cluster])"
    return "several numbers of them that reach the target: raise it, or raise budget_s"


def _staleness(cells: list[Cell]) -> str:
    means = [cell.median_of("staleness") for cell in cells]
    low, high = min(means), max(means)
    return f"{low:.1f}" if high - low < 0.05 else f"{low:.1f} to {high:.1f}"


def _interval(found: Interval) -> str:
    return _with_ends(found, lambda value: "never" if math.isinf(value) else f"{value:.4g}")


def _times(found: Interval) -> str:
    def text(value: float) -> str:
        return "infinitely many" if math.isinf(value) else f"{value:.2f}"

    return _with_ends(found, text, " times")


def _more(found: Interval) -> str:
    def text(value: float) -> str:
        return f"{value:+.3g}".replace("inf", "∞")

    return _with_ends(found, text)


def _with_ends(found: Interval, text: Callable[[float], str], unit: str = "") -> str:
    ends = "" if found.kind is None else f" ({found.kind} {text(found.low)} to {text(found.high)})"
    return f"{text(found.median)}{unit}{ends}"
