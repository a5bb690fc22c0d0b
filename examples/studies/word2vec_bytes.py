"""Draw accuracy over bytes per word, from the tables of docs/word2vec.md.

python examples/studies/word2vec_bytes.py
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path

from matplotlib.figure import Figure

PAGE = Path(__file__).parents[2] / "docs" / "word2vec.md"
ROW_BYTES = 120
"""What a row of 100 numbers takes up the wire with 4 bits of mantissa."""


def rows(page: str, title: str) -> list[list[str]]:
    """Return the cells of the tables under a heading, without their heads."""
    _, _, text = page.partition(f"\n## {title}\n")
    lines = [line for line in text.partition("\n## ")[0].splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return [row for row in cells if re.search(r"\d %", " ".join(row))]


def number(cell: str) -> float:
    """Return the first number of a cell."""
    found = re.search(r"\d[\d,.]*", cell)
    if found is None:
        raise SystemExit(f"{PAGE.name}: no number in {cell!r}")
    return float(found[0].replace(",", ""))


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--figure", default="docs/word2vec-bytes.png")
    given = options.parse_args()
    page = PAGE.read_text()
    figure = Figure(figsize=(11, 4.5), layout="constrained")
    real, simulated = figure.subplots(1, 2)

    yardstick = 0.0
    for job, system, _, analogies, _, _, _, traffic in rows(page, "Measured"):
        if system.startswith("gensim"):
            yardstick, title = number(analogies), job.rpartition(",")[0]
        elif system.startswith("zmqdist"):
            share = number(analogies) / yardstick
            real.plot(number(traffic), share, "o", label=f"{title}, {system.partition(', ')[2]}")
    real.axhline(1.0, color="grey", linestyle=":")
    real.set(
        title="measured",
        xlabel="bytes per word up",
        ylabel="analogies, as a share of one process's",
        xlim=(0, None),
        ylim=(0, 1.3),
    )

    for workers, style in (("2", "^"), ("8", "o"), ("32", "s")):
        points = [
            (ROW_BYTES * number(row[-1]), number(row[4]))
            for row in rows(page, "Simulated")
            if len(row) == 9 and row[0] == workers
        ]
        simulated.plot(*zip(*points, strict=True), style, label=f"{workers} workers")
    simulated.axhline(9.5, color="grey", linestyle=":")
    simulated.set(
        title="simulated, a quarter of the text",
        xlabel="bytes per word up",
        ylabel="analogies, % (dotted: one process)",
        ylim=(0, None),
    )
    for axes in (real, simulated):
        axes.legend(fontsize=8)
    figure.savefig(given.figure, dpi=100)


if __name__ == "__main__":
    main()
