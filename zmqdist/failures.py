"""What went wrong elsewhere, as the error that the user should see."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from zmqdist import errors
from zmqdist.core.messages import Report
from zmqdist.errors import (
    DescentError,
    GradientError,
    ModelError,
    TrainError,
    UpdateError,
    ZmqdistError,
)

_KINDS: dict[str, type[ZmqdistError]] = {
    "descent": DescentError,
    "gradient": GradientError,
    "model": ModelError,
    "update": UpdateError,
}

_OF_USER = re.compile(r"zmqdist\.errors\.(Gradient|Update)Error: ")


def fatal_error(failure: Mapping[str, Any]) -> ZmqdistError:
    """Return the error for what the master could not apply.

    Parameters
    ----------
    failure : mapping
        ``Report.fatal``.
    """
    where = f"{failure['what']} of partition {failure['partition']}, step {failure['step']}: "
    return _KINDS.get(failure["what"], TrainError)(
        (where if failure["partition"] >= 0 else "")
        + failure["error"]
        + _indented(failure["traceback"]),
        partition=failure["partition"],
        step=failure["step"],
        traceback=failure["traceback"],
    )


def job_error(error: BaseException, report: Report) -> BaseException:
    """Return the error for a job that failed.

    If the user's code ended it, what the workers reported to the master is clearest. Else
    that is of tasks whose retries went well, and Spark's text holds the message of our own
    error, if one ended the task.
    """
    of_user = isinstance(error, (GradientError, UpdateError)) or _OF_USER.search(str(error))
    if report.failures and of_user:
        failure = report.failures[-1]
        reported = GradientError if failure["what"] == "gradient" else UpdateError
        return reported(
            f"{failure['what']} failed on partition {failure['partition']}, step "
            f"{failure['step']}: {failure['error']}" + _indented(failure["traceback"]),
            partition=failure["partition"],
            step=failure["step"],
            traceback=failure["traceback"],
        )
    if isinstance(error, ZmqdistError):
        return error
    found: re.Match[str] | None = re.search(r"zmqdist\.errors\.(\w+): (.+)", str(error))
    if found is None:
        lines = str(error).splitlines()
        short = "\n".join(line for line in lines if not line.startswith("\tat "))
        return TrainError(f"the job failed: {short}")
    kind: type[ZmqdistError] = getattr(errors, found.group(1), TrainError)
    return kind(found.group(2))


def _indented(text: str) -> str:
    return "\n" + "\n".join(f"    {line}" for line in text.splitlines()) if text else ""
