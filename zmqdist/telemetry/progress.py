"""The live line: partitions done, updates, version, examples/s, staleness, bytes."""

from __future__ import annotations

import importlib
import sys
from types import TracebackType
from typing import Any

from zmqdist.core.messages import Report
from zmqdist.errors import ConfigError
from zmqdist.result import TrainResult


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
        rate = so_far.examples / max(so_far.seconds, 1e-9)
        self._bar.n = done
        self._bar.set_postfix_str(
            f"{so_far.applied:,} updates, version {report.version:,}, "
            f"{rate:,.0f} {self._unit}/s, staleness {so_far.staleness_mean:.1f}, "
            f"{so_far.bytes_received / 1e6:,.0f} MB in {so_far.bytes_published / 1e6:,.0f} MB out, "
            f"{report.workers} workers"
        )
