"""Runs a benchmark: ours and the limit in turn, medians, a table, a plot, one JSON object.

A benchmark is a module with a docstring, a function ``cases(options)`` that returns the
`Case` objects of its table row, and if it wants further options ``arguments(add)``.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

from benchmarks._machine import load, machine


@dataclass
class Case:
    """One line of a benchmark's table.

    Parameters
    ----------
    name : str
    ours, limit : callable returning float
        Each measures once. They run in turn, so that both meet the same machine.
    unit : str
    target : str
        ``"ratio >= 0.8"`` or ``"ours >= 10000"``, with >= or <=; empty if there is none.
    repeats : int or None
        Measurements of each; None takes ``--repeats``.
    """

    name: str
    ours: Callable[[], float]
    limit: Callable[[], float]
    unit: str
    target: str = ""
    repeats: int | None = None


def main(name, module):
    """Run the benchmark in `module` by the command line."""
    options = _arguments(name, module)
    result = {"name": name, "machine": machine(), "load_before": load(), "rows": []}
    started = time.perf_counter()
    for case in module.cases(options):
        if options.only in case.name:
            row = measured(case, case.repeats or options.repeats)
            result["rows"].append(row)
            print(_line(row), flush=True)
    result |= {"load_after": load(), "seconds": round(time.perf_counter() - started, 1)}
    if options.compare:
        result["compared"] = compared(result, options.compare)
    print(table(result))
    if options.plot:
        plot(result, options.plot)
    if options.json:
        print(json.dumps(result))


def measured(case, repeats):
    """Measure a case; return its row with the medians and the range of all runs."""
    ours, limit = [], []
    for _ in range(repeats):
        ours.append(float(case.ours()))
        limit.append(float(case.limit()))
    row = {
        "case": case.name,
        "ours": _rounded(statistics.median(ours)),
        "limit": _rounded(statistics.median(limit)),
        "unit": case.unit,
        "target": case.target,
        "ours_range": [_rounded(min(ours)), _rounded(max(ours))],
        "limit_range": [_rounded(min(limit)), _rounded(max(limit))],
        "runs": repeats,
    }
    row["ratio"] = _rounded(row["ours"] / row["limit"]) if row["limit"] else None
    row["met"] = met(row)
    return row


def met(row):
    """Say whether a row reaches its target; None if it has none."""
    if not row["target"]:
        return None
    figure, relation, value = row["target"].split()
    if row[figure] is None:
        return False
    return row[figure] >= float(value) if relation == ">=" else row[figure] <= float(value)


def compared(result, path):
    """Return how the ratios moved since the run in the file at `path`, case by case."""
    with open(path) as file:  # what was printed with --json, perhaps with the table before it
        old = json.loads(file.read().strip().splitlines()[-1])
    if old["name"] != result["name"]:
        sys.exit(f"{path} is of {old['name']!r}, not of {result['name']!r}")
    before = {row["case"]: row for row in old["rows"]}
    return [
        {
            "case": row["case"],
            "ours": [before[row["case"]]["ours"], row["ours"]],
            "ratio": [before[row["case"]]["ratio"], row["ratio"]],
            "same_machine": old["machine"]["cpu"] == result["machine"]["cpu"],
        }
        for row in result["rows"]
        if row["case"] in before
    ]


def table(result):
    """Return the result for people."""
    head = ["case", "ours", "limit", "ratio", "target", ""]
    lines = [
        [
            row["case"],
            f"{row['ours']:,} {row['unit']} {_spread(row['ours_range'])}",
            f"{row['limit']:,} {_spread(row['limit_range'])}",
            f"{row['ratio']}",
            row["target"],
            {True: "met", False: "missed", None: ""}[row["met"]],
        ]
        for row in result["rows"]
    ]
    text = f"\n{result['name']}: medians [range], {result['seconds']} s in all\n"
    text += aligned([head, *lines])
    for change in result.get("compared", []):
        (ours_old, ours), (old, new) = change["ours"], change["ratio"]
        text += f"\n{change['case']}: ours {ours_old:,} -> {ours:,}, ratio {old} -> {new}"
    return f"{text}\n{result['machine']}\nload {result['load_before']} -> {result['load_after']}"


def aligned(lines):
    """Return lines of cells as text in columns."""
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    cells = ("  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)) for line in lines)
    return "\n".join(line.rstrip() for line in cells)


def plot(result, path):
    """Draw ours as a multiple of the limit, case by case, with the targets as marks."""
    from matplotlib.figure import Figure

    rows = [row for row in result["rows"] if row["ratio"] is not None]
    figure = Figure(figsize=(8, 1 + 0.4 * len(rows)), layout="constrained")
    axis = figure.subplots()
    colours = {True: "tab:green", False: "tab:red", None: "tab:gray"}
    axis.barh(
        [row["case"] for row in rows],
        [row["ratio"] for row in rows],
        color=[colours[row["met"]] for row in rows],
    )
    for place, row in enumerate(rows):
        if row["target"].startswith("ratio"):
            value = float(row["target"].split()[-1])
            axis.plot([value, value], [place - 0.45, place + 0.45], color="black")
    axis.invert_yaxis()
    axis.set(title=f"{result['name']}: ours / limit; the line is the target")
    figure.savefig(path, dpi=150)


def _arguments(name, module):
    made = argparse.ArgumentParser(
        prog=f"python -m benchmarks {name}",
        description=module.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = made.add_argument
    add("--json", action="store_true", help="print one JSON object as the last line")
    add("--plot", metavar="FILE", help="draw the ratios into an image")
    add("--compare", metavar="OLD", help="a file that holds the JSON of an earlier run")
    add("--repeats", type=int, default=5, help="runs of each, in turn (default: %(default)s)")
    add("--only", default="", metavar="TEXT", help="only the cases whose name holds this")
    getattr(module, "arguments", lambda add: None)(add)
    return made.parse_args()


def _line(row):
    return f"{row['case']}: {row['ours']:,} against {row['limit']:,} {row['unit']}"


def _spread(bounds):
    return f"[{bounds[0]:,} .. {bounds[1]:,}]"


def _rounded(number):
    return float(f"{number:.4g}")
