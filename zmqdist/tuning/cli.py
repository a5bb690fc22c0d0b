"""The command line: `zmqdist-tune` and its commands."""

from __future__ import annotations

import argparse
import logging
import os
import sys
import threading
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from zmqdist import __version__
from zmqdist.errors import ConfigError, ZmqdistError
from zmqdist.tuning.analysis import Interval
from zmqdist.tuning.cli_calibrate import add_calibrate
from zmqdist.tuning.cli_simulator import add_simulate
from zmqdist.tuning.design import BACKENDS, Design
from zmqdist.tuning.export import write_csv, write_curves, write_json
from zmqdist.tuning.live import LiveTable, console, headline, status_table
from zmqdist.tuning.opening import load_study
from zmqdist.tuning.report.findings import Findings
from zmqdist.tuning.report.page import write_report
from zmqdist.tuning.running import open_study, run_study
from zmqdist.tuning.study import Callback, Study
from zmqdist.tuning.trial import TrialState
from zmqdist.tuning.words import explain

DESCRIPTION = """\
Find out how much staleness your training bears: try policies, bounds and learning
rates, and get a recommendation that says how sure it is.

A study file says what is learned, what counts as done, and what is tried:

    problem = "digits"            # or quadratic, or pkg.mod:factory
    target = 0.3                  # loss to reach
    budget_s = 200                # time that a trial may take

    [grid]                        # all combinations, each with every seed
    policy = ["bounded:{bound}:requeue", "ssp:{bound}:lazy", "async"]
    bound = [0, 2, 8, 32]
    lr = [0.1, 0.2, 0.4]          # policies are compared at the best rate of each
    chunk = 8                     # items per update
    workers = 16
    seeds = 5

    [cluster]                     # the simulator's machines
    compute = { name = "exponential", mean_s = 1.0 }
"""

EPILOG = """\
examples:
  zmqdist-tune run digits.toml                  in the simulator, into digits.db
  zmqdist-tune run digits.toml --resume         go on after Ctrl-C, a crash, or a wider grid
  zmqdist-tune run digits.toml --backend local  the same with real processes on this machine
  zmqdist-tune status digits.toml --watch       from another terminal, while it runs
  zmqdist-tune report digits.toml               digits.html and its figures as PNG files
  zmqdist-tune recommend digits.toml
  zmqdist-tune calibrate run.csv                the simulator's cluster of a real run

Ctrl-C ends the trial under way; finished trials are kept. Commands that look at a study
take its file or its storage (digits.db). 'zmqdist-tune COMMAND --help' says more.
"""


def parser() -> argparse.ArgumentParser:
    """Return the parser of `zmqdist-tune`."""
    made = argparse.ArgumentParser(
        prog="zmqdist-tune",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("--version", action="version", version=f"zmqdist {__version__}")
    commands = made.add_subparsers(title="commands", metavar="COMMAND", required=True)
    _add_run(commands)
    _add_status(commands)
    _add_report(commands)
    _add_recommend(commands)
    _add_export(commands)
    add_simulate(commands)
    add_calibrate(commands)
    return made


def _command(commands: Any, name: str, run: Any, text: str, more: str = "") -> Any:
    made = commands.add_parser(
        name,
        help=text,
        description=text[0].upper() + text[1:] + "." + more,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.set_defaults(run=run)
    return made


def _add_run(commands: Any) -> None:
    more = (
        "\n\nShows a table while it runs (a line per trial if stderr is no terminal), then the"
        "\nrecommendation. Nothing that is finished is ever run again."
    )
    made = _command(commands, "run", _run, "run the trials of a study file", more)
    add = made.add_argument
    add("study", type=Path, metavar="STUDY.toml")
    add("--backend", choices=BACKENDS, help="run elsewhere than the file says")
    add("--storage", metavar="FILE", help="SQLite file of the trials (default: NAME.db, here)")
    add("--resume", action="store_true", help="go on with a study that is in the storage")
    add("--trials", type=int, metavar="N", help="at most so many now")
    add("--mlflow", metavar="URI", help="log each trial as a run of this MLflow tracking server")
    add(
        "--log-level",
        default="warning",
        choices=("debug", "info", "warning", "error"),
        help="(default: %(default)s)",
    )


def _add_look(made: Any) -> None:
    made.add_argument("study", type=Path, metavar="STUDY", help="study file, or its storage")
    made.add_argument("--storage", metavar="FILE", help="default: NAME.db, here")
    made.add_argument("--name", help="the study, if the storage has several")


def _add_status(commands: Any) -> None:
    made = _command(commands, "status", _status, "show how far a study is")
    _add_look(made)
    made.add_argument("--watch", action="store_true", help="draw anew each second, until Ctrl-C")


def _add_report(commands: Any) -> None:
    more = " The page needs no network: its figures are in it."
    made = _command(commands, "report", _report, "draw a study: one HTML page, and PNG files", more)
    _add_look(made)
    made.add_argument("-o", "--output", type=Path, metavar="FILE", help="default: NAME.html, here")
    made.add_argument(
        "--figures", type=Path, metavar="DIR", help="for the PNG files (default: NAME-figures)"
    )


def _add_recommend(commands: Any) -> None:
    made = _command(commands, "recommend", _recommend, "say which setting to use, and how sure")
    _add_look(made)
    made.add_argument("--json", action="store_true", help="for programs")


def _add_export(commands: Any) -> None:
    more = " In Python, study.trials_dataframe() is the same as a pandas data frame."
    made = _command(commands, "export", _export, "write the trials as CSV", more)
    _add_look(made)
    made.add_argument("-o", "--output", type=Path, metavar="FILE", help="default: standard output")
    made.add_argument("--curves", action="store_true", help="the evaluations, a row for each")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `zmqdist-tune`; return the exit status."""
    options = parser().parse_args(arguments)
    sys.path[:0] = [os.getcwd(), str(options.study.absolute().parent)]  # for pkg.mod:factory
    try:
        status: int = options.run(options)
        return status
    except ZmqdistError as error:
        sys.stderr.write(f"zmqdist-tune: {error}\n")
        return 2
    except BrokenPipeError:  # export into a program that has read enough
        sys.stdout = open(os.devnull, "w")
        return 0


# ---- run -----------------------------------------------------------------------------------


def _run(options: argparse.Namespace) -> int:
    logging.basicConfig(
        level=options.log_level.upper(), format="%(levelname)s %(name)s: %(message)s"
    )
    design = Design.load(options.study, backend=options.backend)
    storage = options.storage or f"{design.name}.db"
    callbacks: list[Callback] = []
    if options.mlflow is not None:
        from zmqdist.tuning.mlflow import MlflowLog

        callbacks.append(MlflowLog(options.mlflow, design.name))
    with open_study(design, storage, resume=options.resume) as study:
        with LiveTable(study, sys.stderr) as table:
            table.show(headline(study, study.trials))
            try:
                run_study(
                    design,
                    study,
                    n_trials=options.trials,
                    callbacks=[table.trial_done, *callbacks],
                    on_point=table.draw,
                )
            except KeyboardInterrupt:
                interrupted = True
            else:
                interrupted = False
        if interrupted:
            return _say_interrupted(options, study)
        _say(explain(Findings(study)))
        sys.stdout.write(f"\nzmqdist-tune report {storage} draws it.\n")
    return 0


def _say_interrupted(options: argparse.Namespace, study: Study) -> int:
    done = sum(t.state in (TrialState.COMPLETE, TrialState.PRUNED) for t in study.trials)
    sys.stderr.write(
        f"interrupted: {done} finished trials are kept; zmqdist-tune run {options.study} --resume "
        "goes on\n"
    )
    return 130


# ---- look ------------------------------------------------------------------------------------


def _open(options: argparse.Namespace) -> Study:
    """Open the study that a command looks at."""
    if options.study.suffix != ".toml":
        return load_study(storage=options.study, study_name=options.name)
    if options.name is not None:
        raise ConfigError("--name is for a storage; a study file has its name in it")
    design = Design.load(options.study)
    storage = options.storage or f"{design.name}.db"
    return load_study(storage=storage, study_name=design.name)


def _status(options: argparse.Namespace) -> int:
    with _open(options) as study:
        shown = console()
        if not options.watch:
            shown.print(status_table(study))
            return 0
        from rich.live import Live

        try:
            with Live(status_table(study), console=shown, auto_refresh=False) as live:
                while True:
                    threading.Event().wait(1.0)
                    live.update(status_table(study), refresh=True)
        except KeyboardInterrupt:
            return 0


def _report(options: argparse.Namespace) -> int:
    with _open(options) as study:
        page = options.output or Path(f"{study.name}.html")
        figures = options.figures or page.with_name(f"{page.stem}-figures")
        for path in write_report(study, page, figures):
            sys.stdout.write(f"{path}\n")
    return 0


def _recommend(options: argparse.Namespace) -> int:
    with _open(options) as study:
        findings = Findings(study)
        if options.json:
            write_json(_as_json(findings), sys.stdout)
        else:
            _say(explain(findings))
    return 0 if findings.advice is not None else 1


def _as_json(findings: Findings) -> dict[str, Any]:
    advice = findings.advice
    if advice is None:
        return {"recommended": None, "why": findings.why_not}
    return {
        "recommended": advice.cell.params,
        "value": _figures(advice.interval),
        "seeds": len(advice.cell.trials),
        "flat": advice.flat,
        "flat_from": advice.flat_from,
        "chosen": advice.chosen,
        "rivals": [
            {
                "params": rival.cell.params,
                "ratio": _figures(rival.ratio),
                "difference": _figures(rival.difference),
            }
            for rival in advice.rivals
        ],
        "workers_worth": None if advice.scaling is None else advice.scaling.worth,
        "text": explain(findings),
    }


def _figures(interval: Interval) -> dict[str, Any]:
    return {**asdict(interval), "kind": interval.kind}


def _export(options: argparse.Namespace) -> int:
    with _open(options) as study:
        write = write_curves if options.curves else write_csv
        if options.output is None:
            write(study, sys.stdout)
            return 0
        with options.output.open("w", newline="", encoding="utf-8") as stream:
            write(study, stream)
        sys.stdout.write(f"{options.output}\n")
    return 0


def _say(sentences: Sequence[str]) -> None:
    import textwrap

    for sentence in sentences:
        sys.stdout.write(textwrap.fill(sentence, 92, subsequent_indent="  ") + "\n")


if __name__ == "__main__":
    sys.exit(main())
