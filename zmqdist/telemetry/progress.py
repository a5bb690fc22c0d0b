"""The live line: partitions done, updates, version, examples/s, staleness, bytes."""

from __future__ import annotations

import importlib
import sys
import time
from types import TracebackType
from typing import Any

from zmqdist.core.messages import Report
from zmqdist.errors import ConfigError
from zmqdist.result import TrainResult, judged

SILENCE_S = 5.0
"""How long nothing may happen before the line says so, in seconds."""


class Progress:
    """Context manager around one `train()`; draws with tqdm.

    Parameters
    ----------
    show : bool, str or None
        None shows the line if tqdm is installed and stderr is a terminal; a string
        does as True and names the unit of the examples (``"words"``).
    total : int
        Partitions over all epochs.

    Raises
    ------
    ConfigError
        If the line is asked for and tqdm is not installed.
    """

    def __init__(self, show: bool | str | None, total: int) -> None:
        self._unit = show if isinstance(show, str) else "examples"
        self._figures = ""
        self._settled = -1
        self._settled_at = time.monotonic()
        self._bar: Any = None
        if show is False or (show is None and not sys.stderr.isatty()):
            return
        try:
            tqdm = importlib.import_module("tqdm")
        except ImportError:
            if show is None:
                return
            raise ConfigError("progress= needs tqdm: pip install 'zmqdist[progress]'") from None
        self._bar = tqdm.tqdm(
            total=total,
            unit="part",
            file=sys.stderr,
            dynamic_ncols=True,
            bar_format="{percentage:3.0f}%|{bar:12}| {n:g}/{total} parts{postfix} "
            "[{elapsed}, {remaining} left]",
        )

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.close()

    def update(self, done: int, report: Report, so_far: TrainResult) -> None:
        """Draw the line anew.

        Parameters
        ----------
        done : int
            Partitions completed over all epochs so far.
        report : Report
            The newest report.
        so_far : TrainResult
            What happened since `train()` began.
        """
        if self._bar is None:
            return
        now, settled = time.monotonic(), so_far.applied + so_far.rejected + so_far.skipped
        if settled != self._settled:
            self._settled, self._settled_at = settled, now
        rate = so_far.examples / max(so_far.seconds, 1e-9)
        self._bar.n = done
        self._figures = (
            f"{so_far.applied:,} updates, version {report.version:,}, "
            f"{rate:,.0f} {self._unit}/s, staleness {so_far.staleness_mean:.1f}, "
            f"{so_far.bytes_received / 1e6:,.0f} MB in {so_far.bytes_published / 1e6:,.0f} MB out, "
            f"{report.workers} workers" + self._judgement(so_far)
        )
        idle_s = now - self._settled_at
        idle = f", no update for {idle_s:.0f} s" if idle_s >= SILENCE_S else ""
        self._bar.set_postfix_str(self._figures + idle)

    def silence(self, seconds: float) -> None:
        """Say that the master has not answered for so long; the figures stand still."""
        if self._bar is not None and seconds >= SILENCE_S:
            figures = f"{self._figures}, " if self._figures else ""
            self._bar.set_postfix_str(f"{figures}no answer from the master for {seconds:.0f} s")

    @staticmethod
    def _judgement(so_far: TrainResult) -> str:
        """Return the figures of the last evaluation."""
        figures = judged(so_far.evaluations[-1]) if so_far.evaluations else {}
        return "".join(f", {name} {value:.4g}" for name, value in figures.items())
