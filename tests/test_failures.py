"""What failed elsewhere, as the error that the user sees."""

from __future__ import annotations

from typing import Any

import pytest

from zmqdist.core.messages import Report
from zmqdist.core.report import failure
from zmqdist.errors import GradientError, MasterLost, TrainError, UpdateError
from zmqdist.failures import job_error

CALLING = (
    "An error occurred while calling z:org.apache.spark.api.python.PythonRDD.runJob.\n"
    ": org.apache.spark.SparkException: "
)
FAILED = CALLING + (
    "Job aborted due to stage failure: Task 0 in stage 0.0 failed 4 times, most recent failure: "
    "Lost task 0.3 in stage 0.0 (TID 9): org.apache.spark.api.python.PythonException: Traceback "
    "(most recent call last):\n  File ...\n"
)
CANCELLED = CALLING + "Job 0 cancelled as part of cancellation of all jobs\n\tat org.apache..."


def report(*failures: dict[str, Any]) -> Report:
    return Report(0, 0, 0, [], {}, [], {}, failures=list(failures), fatal=None)


GRADIENT = report(failure("gradient", "KeyError: 7", 3, 12, "in the user's code"))
UPDATE = report(failure("update", "NaN in 'w'", 3, 12))


@pytest.mark.parametrize(
    ("error", "reported", "kind", "text"),
    [
        (
            RuntimeError(f"{FAILED}zmqdist.errors.GradientError: gradient raised on partition 3"),
            GRADIENT,
            GradientError,
            "gradient failed on partition 3, step 12: KeyError: 7\n    in the user's code",
        ),
        (
            GradientError("gradient raised on partition 3, step 12: KeyError: 7"),
            GRADIENT,
            GradientError,
            "in the user's code",
        ),
        (UpdateError("partition 3, step 12: NaN"), UPDATE, UpdateError, "update failed on part"),
        (RuntimeError(CANCELLED), GRADIENT, TrainError, "the job failed: .*Job 0 cancelled"),
        (RuntimeError(FAILED + "OSError: the disk"), UPDATE, TrainError, "failed: .*the disk"),
        (RuntimeError(FAILED + "zmqdist.errors.MasterLost: gone"), GRADIENT, MasterLost, "^gone$"),
        (MasterLost("gone"), GRADIENT, MasterLost, "^gone$"),
        (RuntimeError(f"{FAILED}zmqdist.errors.GradientError: no"), report(), GradientError, "no"),
    ],
)
def test_a_failure_that_was_mended_is_not_the_end(
    error: Exception, reported: Report, kind: type[Exception], text: str
) -> None:
    """A task may have failed, and its retry not: what ended the job is something else."""
    found = job_error(error, reported)
    assert type(found) is kind
    with pytest.raises(kind, match=f"(?s){text}"):
        raise found
