"""`zmqdist-tune` as its users run it, in the simulator and with real processes."""

from __future__ import annotations

import csv
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support import eventually
from zmqdist.tuning import GridSampler, TrialState, create_study, load_study
from zmqdist.tuning.cli import DESCRIPTION, main
from zmqdist.tuning.design import Design
from zmqdist.tuning.running import backend_of, problem_of

COMMAND = [sys.executable, "-m", "zmqdist.tuning.cli"]

STUDY = """
problem = "quadratic"
target = 0.2
budget_s = 60
evaluate_every_s = 1

[grid]
policy = ["bounded:{bound}:requeue", "async"]
bound = [0, 8]
lr = [0.1, 0.4]
chunk = 4
workers = 4
seeds = 2

[options]
max_in_flight = 1

[cluster]
compute = { name = "exponential", mean_s = 1.0 }
apply = 0.01

[local]
delay = { name = "exponential", mean_s = 0.02 }
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Be where the study file is."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / "bowl.toml").write_text(STUDY)
    return tmp_path


def test_run_look_and_export(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "bowl.toml"]) == 0
    out, err = capsys.readouterr()
    assert "bowl: 0 of 12 trials done" in err
    lines = re.findall(r"^trial (\d+), .*state complete \((\w+)\), value ([\d.]+|never)", err, re.M)
    assert [int(number) for number, _, _ in lines] == list(range(12))
    assert {end for _, end, _ in lines} <= {"target", "budget"}
    assert re.match(r"Use (bounded:\d|async)", out)

    assert main(["status", "bowl.toml"]) == 0
    assert re.search(r"bowl: 12 of 12 trials done.*; best \d", capsys.readouterr().out)

    assert main(["recommend", "bowl.db", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["recommended"]["workers"] == 4
    assert (found["value"]["seeds"], found["value"]["kind"]) == (2, "range")
    assert found["flat"] is None
    assert found["text"][0].replace("\n", " ") in " ".join(out.split())

    assert main(["export", "bowl.toml"]) == 0
    rows = list(csv.DictReader(capsys.readouterr().out.splitlines()))
    assert [row["number"] for row in rows] == [str(n) for n in range(12)]
    assert main(["export", "bowl.db", "--curves", "-o", "curves.csv"]) == 0
    with open("curves.csv") as stream:
        points = list(csv.DictReader(stream))
    assert {point["number"] for point in points} == {str(n) for n in range(12)}
    for row in rows:
        last = [p for p in points if p["number"] == row["number"]][-1]
        assert row["value"] in (last["seconds"], "inf")
        assert int(last["computed"]) >= int(last["examples"])
    capsys.readouterr()

    assert main(["report", "bowl.toml"]) == 0
    assert "bowl.html\n" in capsys.readouterr().out
    assert (Path("bowl.html").exists(), Path("bowl-figures/bounds.png").exists()) == (True, True)


def strict(text: str) -> Any:
    """Read JSON as the standard has it, without NaN and Infinity."""

    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is no JSON")

    return json.loads(text, parse_constant=refuse)


def test_strict_parsers_read_what_is_for_programs(capsys: pytest.CaptureFixture[str]) -> None:
    text = Path("bowl.toml").read_text().replace("seeds = 2", "seeds = 1")
    text = text.replace('policy = ["bounded:{bound}:requeue", "async"]', 'policy = "ssp:{bound}"')
    text = text.replace("apply = 0.01", "").replace("lr = [0.1, 0.4]", "lr = 0.4")
    Path("bowl.toml").write_text(text.replace("bound = [0, 8]", 'bound = [0, "inf"]'))
    assert main(["run", "bowl.toml"]) == 0
    capsys.readouterr()
    assert main(["recommend", "bowl.db", "--json"]) == 0
    found = strict(capsys.readouterr().out)
    assert (found["seeds"], found["chosen"]) == (1, None)
    assert found["value"].keys() == {"median", "low", "high", "error", "seeds", "kind"}
    assert (found["value"]["seeds"], found["value"]["kind"]) == (1, None)
    assert found["value"]["median"] > 0
    assert found["value"]["low"] is None
    bounds = [found["recommended"]["bound"], *(r["params"]["bound"] for r in found["rivals"])]
    assert set(bounds) == {0, "inf"}

    assert main(["simulate", "bowl.toml", "--updates", "30", "--workers", "2", "--json"]) == 0
    assert strict(capsys.readouterr().out)["workers that keep the master busy"] == "inf"


def test_the_simulator_repeats_itself_and_delays_are_common() -> None:
    assert main(["run", "bowl.toml", "--storage", "a.db"]) == 0
    assert main(["run", "bowl.toml", "--storage", "b.db"]) == 0
    with load_study(storage="a.db") as a, load_study(storage="b.db") as b:
        assert [t.intermediate_values for t in a.trials] == [
            t.intermediate_values for t in b.trials
        ]
        assert a.outcome(3) == b.outcome(3)
        # nothing of 8 versions is late with 4 workers of this kind, so it is the same run
        by_key = {(t.params["bound"], t.params["lr"], t.params["seed"]): t for t in a.trials}
        outcome = a.outcome(by_key[8, 0.1, 0].number) or {}
        if not outcome["requeued"]:
            same = by_key[None, 0.1, 0]
            assert same.intermediate_values == by_key[8, 0.1, 0].intermediate_values


def test_a_policy_that_adapts_itself_shows_what_it_did(capsys: pytest.CaptureFixture[str]) -> None:
    text = Path("bowl.toml").read_text().replace('"async"]', '"auto"]')
    Path("bowl.toml").write_text(text.replace("lr = [0.1, 0.4]", "lr = 0.2"))
    assert main(["run", "bowl.toml"]) == 0
    capsys.readouterr()
    assert main(["export", "bowl.toml"]) == 0
    rows = list(csv.DictReader(capsys.readouterr().out.splitlines()))
    for row in rows:
        shown = row["user_attrs_policy_bound"]
        assert bool(shown) == (row["params_policy"] == "auto")
        assert not shown or 1 <= float(shown) <= 16 * 4


def test_local_processes(capsys: pytest.CaptureFixture[str]) -> None:
    text = Path("bowl.toml").read_text().replace("workers = 4", "workers = 2")
    text = text.replace("lr = [0.1, 0.4]", "lr = 0.2").replace("seeds = 2", "seeds = 1")
    Path("bowl.toml").write_text(text.replace("evaluate_every_s = 1", "evaluate_every_s = 0.2"))
    assert main(["run", "bowl.toml", "--backend", "local", "--trials", "1"]) == 0
    with load_study(storage="bowl.db") as study:
        (trial,) = study.trials
        outcome = study.outcome(0) or {}
        assert trial.user_attrs["ended"] == "target"
        assert trial.value is not None
        assert 0 < trial.value < 60
        assert outcome["applied"] > 10
        assert trial.user_attrs["updates_per_s"] < 2 / 0.02 * 1.5, "the delay was not kept"
        assert dict(outcome["staleness"]).keys() == {0}, "the bound was not kept"


@pytest.mark.skipif(not hasattr(os, "setsid"), reason="needs process groups")
def test_ctrl_c_keeps_what_is_done_and_resume_goes_on(folder: Path) -> None:
    text = (folder / "bowl.toml").read_text()
    (folder / "bowl.toml").write_text(text.replace("target = 0.2", "target = 0.0001"))
    log = folder / "log"
    with log.open("w") as stream:
        process = subprocess.Popen(
            [*COMMAND, "run", "bowl.toml"], stderr=stream, stdout=stream, start_new_session=True
        )
    try:
        eventually(lambda: "trial 1," in log.read_text(), lambda: f"trials: {log.read_text()}")
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=60) == 130
    finally:
        process.kill()
        process.wait()
    said = log.read_text()
    assert "Traceback" not in said
    done = int(re.findall(r"interrupted: (\d+) finished trials are kept; .* --resume", said)[0])
    with load_study(storage="bowl.db") as study:
        kept = {t.number: t for t in study.trials if t.state is TrialState.COMPLETE}
        assert len(kept) == done
        assert 2 <= done < 12
    assert main(["run", "bowl.toml"]) == 2
    assert main(["run", "bowl.toml", "--resume"]) == 0
    with load_study(storage="bowl.db") as study:
        assert {n: study.trials[n] for n in kept} == kept
        finished = [t.key() for t in study.trials if t.state is TrialState.COMPLETE]
        assert len(finished) == len(set(finished)) == 12


def test_a_study_of_another_kind(capsys: pytest.CaptureFixture[str]) -> None:
    with create_study(storage="other.db", sampler=GridSampler([{"x": 1}])) as study:
        study.optimize(lambda trial: 1.0)
    assert main(["status", "other.db"]) == 0
    assert main(["recommend", "other.db"]) == 2
    assert "study 'study' was not made from a design" in capsys.readouterr().err


def test_simulate(capsys: pytest.CaptureFixture[str]) -> None:
    command = ["simulate", "bowl.toml", "--updates", "3000", "--json"]
    assert main([*command, "--workers", "16"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["updates applied"] == 3000
    assert found["staleness mean"] == pytest.approx(15, abs=0.5)
    assert found["updates applied per s"] == pytest.approx(16 / 1.01, rel=0.05)
    assert found["workers that keep the master busy"] == pytest.approx(101, rel=0.05)
    assert main([*command, "--workers", "16", "--staleness", "bounded:15"]) == 0
    bounded = json.loads(capsys.readouterr().out)
    assert bounded["part applied"] < 0.8
    assert bounded["staleness max"] == 15
    Path("cluster.json").write_text('{"workers": 3, "compute": 1.0}')
    assert main(["simulate", "cluster.json", "--updates", "30"]) == 0
    assert re.search(r"^workers +3$", capsys.readouterr().out, re.M)


def test_nothing_to_recommend(capsys: pytest.CaptureFixture[str]) -> None:
    text = Path("bowl.toml").read_text()
    Path("bowl.toml").write_text(text.replace("lr = [0.1, 0.4]", "lr = [40, 80]"))
    assert main(["run", "bowl.toml"]) == 0
    assert "All 12 trials diverged" in capsys.readouterr().out
    assert main(["recommend", "bowl.toml"]) == 1


def test_help_teaches(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["--help"])
    text = capsys.readouterr().out
    for word in ("[grid]", "target = 0.3", "--resume", "recommend", "Ctrl-C", "--backend local"):
        assert word in text
    commands = ("run", "status", "report", "recommend", "export", "simulate", "calibrate")
    for command in commands:
        with pytest.raises(SystemExit, match="0"):
            main([command, "--help"])
        assert len(capsys.readouterr().out.splitlines()) > 6


def test_the_study_file_of_the_help_is_one(folder: Path) -> None:
    lines = [line[4:] for line in DESCRIPTION.splitlines() if line.startswith("    ")]
    (folder / "help.toml").write_text("\n".join(lines))
    backend_of(Design.load(folder / "help.toml")).close()


ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "examples" / "studies").glob("*.toml"))
BLOCKS = re.findall(r"```toml\n(.*?)```", (ROOT / "README.md").read_text(), re.S)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_studies_of_the_examples(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(path.parent))
    design = Design.load(path)
    backend_of(design).close()
    assert problem_of(design.fixed()).evaluate is not None


@pytest.mark.parametrize("block", BLOCKS, ids=range(len(BLOCKS)))
def test_studies_of_the_readme(block: str, folder: Path) -> None:
    (folder / "readme.toml").write_text(block)
    backend_of(Design.load(folder / "readme.toml")).close()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "the following arguments are required: COMMAND"),
        (["run", "none.toml"], "cannot read the study none.toml: No such file"),
        (["run", "bowl.toml", "--backend", "cloud"], "invalid choice: 'cloud'"),
        (["status", "bowl.toml"], "there is no storage bowl.db; run the study first"),
        (["status", "none.db"], "there is no storage none.db"),
        (["report", "bowl.toml", "--name", "x"], "--name is for a storage"),
        (["run", "bad.toml"], r"bad.toml \[grid\]: unknown key 'seed' .*did you mean 'seeds'"),
        (["run", "nocluster.toml"], r"\[cluster\] has no compute"),
        (["run", "noproblem.toml"], "problem is 'bowls'; expected digits, quadratic, or pkg.mod"),
        (["simulate", "bowl.toml"], "bowl.toml does not say how many workers; add --workers"),
        (["simulate", "nocluster.toml"], r"nocluster.toml has no table \[cluster\]"),
        (["simulate", "none.json"], "cannot read the cluster none.json: No such file"),
        (["run", "options.toml"], "problem quadratic: got an unexpected keyword argument 'size'"),
    ],
    ids=lambda value: " ".join(value)[-30:] if isinstance(value, list) else "",
)
def test_mistakes(
    arguments: list[str], message: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "bad.toml").write_text(STUDY.replace("seeds =", "seed ="))
    (folder / "nocluster.toml").write_text(STUDY.replace("[cluster]", "[spark]"))
    (folder / "noproblem.toml").write_text(STUDY.replace("quadratic", "bowls"))
    options = 'problem = { name = "quadratic", size = 3 }'
    (folder / "options.toml").write_text(STUDY.replace('problem = "quadratic"', options))
    try:
        status = main(arguments)
    except SystemExit as end:
        status = int(end.code or 0)
    assert status == 2
    assert re.search(message, capsys.readouterr().err.replace("\n", " "))
