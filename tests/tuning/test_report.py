"""The report: complete, readable without a network, and drawn by a real browser."""

from __future__ import annotations

import base64
import math
import re
import shutil
import subprocess
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

from tests.tuning.fake import FakeBackend
from zmqdist.tuning import Study
from zmqdist.tuning.analysis import Cell, bound_of
from zmqdist.tuning.design import Design
from zmqdist.tuning.report.bounds import draw_curve, draw_map
from zmqdist.tuning.report.findings import Findings
from zmqdist.tuning.report.page import SECTIONS, write_report
from zmqdist.tuning.running import open_study, run_study
from zmqdist.tuning.words import explain

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")

GRID = {
    "policy": ["bounded:{bound}", "ssp:{bound}", "async"],
    "bound": [0, 4, "inf"],
    "lr": [0.1, 0.2, 1.5],
    "chunk": 8,
    "workers": [4, 16],
    "seeds": 2,
}


def study_of(
    path: Path,
    grid: dict[str, Any],
    n_trials: int | None = None,
    backend: FakeBackend | None = None,
    **changes: Any,
) -> Study:
    design = Design.of(
        {
            "name": "a <study>",
            "problem": "tests.tuning.fake:bowl",
            "target": 0.3,
            "budget_s": 60,
            "evaluate_every_s": 2,
            "grid": grid,
            **changes,
        }
    )
    study = open_study(design, path / "s.db")
    run_study(design, study, backend=backend or FakeBackend(), n_trials=n_trials)
    return study


class Page(HTMLParser):
    """Collects what a page is made of."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.sections: list[str] = []
        self.links: list[str] = []
        self.images: dict[str, str] = {}
        self.rows = 0
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        if tag not in ("img", "meta", "link", "br"):
            self.open.append(tag)
        if tag == "section":
            self.sections.append(found["id"] or "")
        if tag == "img":
            self.images[self.sections[-1]] = found["src"] or ""
        self.rows += tag == "tr"
        self.links += [value or "" for name, value in attrs if name in ("href", "src")]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Study, Path, list[Path]]]:
    folder = tmp_path_factory.mktemp("report")
    with study_of(folder, GRID) as study:
        files = write_report(study, folder / "page.html", folder / "figures")
        yield study, folder / "page.html", files


def test_the_page_is_whole_and_needs_no_network(written: tuple[Study, Path, list[Path]]) -> None:
    study, path, _ = written
    text = path.read_text()
    page = Page(text)
    assert page.open == []
    assert page.sections == ["advice", *(section.name for section in SECTIONS), "settings"]
    assert set(page.images) == {section.name for section in SECTIONS}
    assert all(link.startswith("data:image/svg+xml;base64,") for link in page.links)
    assert not re.search(r"@import|url\(|<script", text)
    assert page.rows == 1 + len(Findings(study).cells)
    assert "<h1>a &lt;study&gt;</h1>" in text
    assert path.stat().st_size < 5_000_000


def test_figures_are_pictures(written: tuple[Study, Path, list[Path]]) -> None:
    _, path, files = written
    for name, source in Page(path.read_text()).images.items():
        root = ElementTree.fromstring(base64.b64decode(source.partition(",")[2]))  # noqa: S314
        paths = [element for element in root.iter() if element.tag.endswith("}path")]
        assert len(paths) > 20, name
    assert [file.name for file in files[1:]] == [f"{section.name}.png" for section in SECTIONS]
    for file in files[1:]:
        assert file.read_bytes().startswith(b"\x89PNG")
        assert file.stat().st_size > 5_000


def test_the_same_study_gives_the_same_page(
    written: tuple[Study, Path, list[Path]], tmp_path: Path
) -> None:
    study, path, _ = written
    write_report(study, tmp_path / "again.html")
    assert (tmp_path / "again.html").read_text() == path.read_text()


def test_the_recommended_setting_stands_out(written: tuple[Study, Path, list[Path]]) -> None:
    study, path, _ = written
    (row,) = re.findall(r'<tr class="chosen">(.*?)</tr>', path.read_text())
    cells = re.findall(r"<td>(.*?)</td>", row)
    advice = Findings(study).advice
    assert advice is not None
    assert cells[0] == "bounded"
    assert cells[1] == f"{advice.cell.params['bound']:g}"
    assert re.fullmatch(r"range [\d.]+ - [\d.]+", cells[8])
    assert float(cells[7]) == pytest.approx(advice.interval.median, rel=0.01)


def test_words(written: tuple[Study, Path, list[Path]]) -> None:
    study, _, _ = written
    first, *rest = explain(Findings(study))
    assert re.match(r"Use bounded:4 with learning rate 0\.\d, chunk 8, workers 16: time to", first)
    text = " ".join(rest)
    assert "with 2 seeds that is rough" in text
    assert re.search(r"time to the target \(virtual s\) [\d.]+ \(range [\d.]+ to [\d.]+\)", first)
    ends = r"\(range \d\.\d\d to \d\.\d\d\)"
    assert re.search(rf"async, .*: \d\.\d\d times {ends} the value, too few seeds to tell", text)
    assert not re.search("95 %|slower|faster", first + text)
    assert "beyond about 101 workers it could not keep up" in text
    assert "2147483647" not in text


def test_words_of_enough_seeds(tmp_path: Path) -> None:
    grid = {**GRID, "policy": ["bounded:{bound}", "async"], "workers": 16, "seeds": 5}
    with study_of(tmp_path, grid) as study:
        text = " ".join(explain(Findings(study)))
    ends = r"\(95 % interval \d+\.?\d* to \d+\.?\d*\)"
    assert re.search(rf"time to the target \(virtual s\) [\d.]+ {ends}, median of 5 seeds", text)
    assert re.search(rf"async, [^;]*: \d\.\d\d times {ends} the value, slower", text)
    assert "range" not in text


def test_words_about_seeds_that_are_missing(tmp_path: Path) -> None:
    """Of two rates the better one has one seed of two: it is recommended, and that is said."""
    grid = {"policy": "async", "lr": [0.02, 0.1], "chunk": 8, "workers": 4, "seeds": 2}
    with study_of(tmp_path, grid, 3, budget_s=400) as study:
        first, second, *_ = explain(Findings(study))
    assert first.startswith("Use async with learning rate 0.1,")
    assert first.endswith(", one seed.")
    assert second.startswith("1 of its 2 seeds is missing, which may change this: ")
    assert "--resume" in second


@pytest.mark.parametrize(
    ("changes", "workers", "service_s", "said"),
    [
        ({}, [4, 16], 0.01, "workers; beyond that"),
        ({"target": None}, [4, 16], 0.01, "needs a target: "),
        ({}, 4, 0.01, "needs several numbers of them in the grid (workers = [4, 8, 16])."),
        ({}, [4, 16], None, "needs the master's time per update, "),
        ({"budget_s": 40}, [4, 16], 0.01, "needs several numbers of them that reach the target: "),
    ],
    ids=["all", "no target", "one number", "no times", "one reaches it"],
)
def test_what_the_number_of_workers_needs(
    tmp_path: Path, changes: dict[str, Any], workers: Any, service_s: float | None, said: str
) -> None:
    grid = {"policy": "async", "lr": 0.1, "chunk": 8, "workers": workers, "seeds": 2}
    backend = FakeBackend(service_s=service_s)
    with study_of(tmp_path, grid, backend=backend, **changes) as study:
        findings = Findings(study)
        assert (findings.scaling is None) is ("needs" in said)
        assert said in explain(findings)[-1]


def test_words_about_no_effect(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    grid = {**GRID, "policy": "bounded:{bound}:requeue", "lr": 0.1, "workers": 4, "seeds": 5}
    design = {"name": "flat", "problem": "tests.tuning.fake:bowl", "target": 0.3}
    made = Design.of({**design, "budget_s": 60, "evaluate_every_s": 0.5, "grid": grid})
    with open_study(made, tmp_path / "s.db") as study:
        run_study(made, study, backend=FakeBackend(effect=0.0))
        first, second, *_ = explain(Findings(study))
        text = {}
        for more_s in ([2.0] * 5, [-3, -3, 0, 0, 2]):
            monkeypatch.setattr(
                Cell,
                "by_seed_of",
                lambda cell, fact, more_s=more_s: {
                    seed: 7.0 + (more if bound_of(cell) == 0 else 0.0)
                    for seed, more in enumerate(more_s)
                },
            )
            text[more_s[0]] = explain(Findings(study))[1]
        slow, unknown = text.values()
    assert first.startswith("Use bounded:0:requeue")
    assert "is taken because it costs nothing" in second
    assert "can do); bound 0 takes 9 s, bound 4 7 s: with a target, time decides" in slow
    assert unknown.endswith("The smallest is taken (the least that late updates can do).")
    assert second.startswith(
        "No effect here: the bounds 0, 4, ∞ are all shown to be within 5% of the best ("
    )


@pytest.mark.parametrize(
    ("seeds", "said"),
    [
        (1, None),
        (3, "cannot be told from 3 seeds: 5 or more are needed."),
        (5, "cannot be told from 5 seeds: more are needed."),
    ],
)
def test_words_about_an_effect_that_cannot_be_told(
    tmp_path: Path, seeds: int, said: str | None
) -> None:
    """The seeds' noise differs from bound to bound, and is all there is."""
    grid = {**GRID, "policy": "bounded:{bound}:requeue", "lr": 0.1, "workers": 4, "seeds": seeds}
    with study_of(tmp_path, grid, backend=FakeBackend(effect=0.0, own_noise=0.3)) as study:
        findings = Findings(study)
        sentences = explain(findings)
    assert findings.advice is not None
    assert findings.advice.flat is None
    assert "No effect" not in " ".join(sentences)
    assert (sentences[1] == f"Whether the bound matters {said}") is (said is not None)


def test_words_about_a_bound_that_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    values = {0: [10.0, 10.0, 10.0, math.inf, math.inf], 4: [10.1] * 5, math.inf: [30.0] * 5}
    monkeypatch.setattr(Cell, "values", property(lambda cell: values[bound_of(cell)]))
    grid = {**GRID, "policy": "ssp:{bound}", "lr": 0.1, "workers": 4, "seeds": 5}
    with study_of(tmp_path, grid) as study:
        first, *rest = explain(Findings(study))
    assert first.startswith("Use ssp:4")
    assert (
        "Bound 0 is the best, with a median of 10, but fails on 2 of its 5 seeds; 4 is near it "
        "and fails on none of them."
    ) in rest


def test_negative_losses(tmp_path: Path) -> None:
    """Differences in the text; figures that show all of them, as no ratio or logarithm would."""
    backend = FakeBackend(lowest=-5.0)
    grid = {**GRID, "workers": 4, "seeds": 5}
    with study_of(tmp_path, grid, backend=backend, target=None) as study:
        findings = Findings(study)
        text = " ".join(explain(findings))
        chart = draw_map(findings)
    assert re.search(r"loss at the end -\d", text)
    ends = r"\(95 % interval -\d\S* to -\d\S*\)"
    assert re.search(rf"async, [^;]*: the value -\d\S* {ends}, better", text)
    assert re.search(r"medians differ by 0\.\d+, ", text)
    assert chart is not None
    shown = chart.axes[0].images[0]
    assert not np.ma.getmaskarray(shown.norm(shown.get_array()))[
        np.isfinite(shown.get_array())
    ].any()
    assert shown.norm.vmin == min(cell.median for cell in findings.cells if bound_of(cell) < 9)


def test_never_is_above_negative_losses(tmp_path: Path) -> None:
    grid = {**GRID, "policy": "bounded:{bound}", "lr": 1.5, "workers": 4}
    backend = FakeBackend(lowest=-5.0)
    with study_of(tmp_path, grid, backend=backend, target=None) as study:
        findings = Findings(study)
        figure = draw_curve(findings)
    lines = figure.axes[0].lines
    (never,) = {float(line.get_ydata()[0]) for line in lines if line.get_marker() == "^"}
    assert never > max(v for cell in findings.cells for v in cell.values if v < np.inf)


@pytest.mark.parametrize(
    ("grid", "missing"),
    [
        ({**GRID, "policy": "async", "bound": None}, {"bounds", "rates"}),
        ({**GRID, "lr": 50.0}, set()),
        ({**GRID, "lr": 0.1, "workers": 4, "seeds": 1}, {"rates"}),
    ],
    ids=["no bound", "all diverged", "one seed and rate"],
)
def test_reports_of_less(tmp_path: Path, grid: dict[str, Any], missing: set[str]) -> None:
    """What cannot be drawn is left out; all else is there, without a warning."""
    with study_of(tmp_path, grid) as study:
        write_report(study, tmp_path / "page.html")
        text = (tmp_path / "page.html").read_text()
        page = Page(text)
    if grid["lr"] == 50.0:
        assert "All 28 trials diverged: no setting can be recommended." in text
    names = {section.name for section in SECTIONS}
    assert names - set(page.images) >= missing
    assert {"learning", "staleness"} <= set(page.images)


def test_a_study_without_trials(tmp_path: Path) -> None:
    design = Design.of(
        {"problem": "tests.tuning.fake:bowl", "budget_s": 5, "target": 1, "grid": GRID}
    )
    with open_study(design, tmp_path / "s.db") as study:
        write_report(study, tmp_path / "page.html")
    assert "No trial has come to an end yet" in (tmp_path / "page.html").read_text()


@pytest.mark.slow
@pytest.mark.skipif(
    CHROMIUM is None, reason="no Chromium to look at the report: apt-get install chromium"
)
def test_a_browser_draws_every_figure(
    written: tuple[Study, Path, list[Path]], tmp_path: Path
) -> None:
    _, page, _ = written
    shot = tmp_path / "shot.png"
    profile = tmp_path / "profile"
    options = (
        "--headless --no-sandbox --disable-gpu --no-first-run --disable-sync --hide-scrollbars"
    )
    options += " --disable-background-networking --disable-component-update"
    command = [str(CHROMIUM), *options.split(), f"--user-data-dir={profile}"]
    subprocess.run(
        [*command, "--window-size=1180,5200", f"--screenshot={shot}", page.as_uri()],
        check=True,
        capture_output=True,
        timeout=100,
    )
    from matplotlib.image import imread

    picture = imread(shot)[:, :, :3]
    rows = np.ptp(picture, axis=(1, 2)) > 0.3  # not the background alone
    assert picture.shape[:2] == (5200, 1180)
    colourful = np.ptp(picture, axis=2) > 0.25
    assert rows.mean() > 0.6, "most of the page is empty"
    assert colourful.mean() > 0.01, "figures have colours"
