"""The problem of workers.toml: handwritten digits, with a gradient that takes its time.

It waits, as one of a larger model would compute, so that more workers than cores tell
something. The time of a step is lognormal.
"""

import random
import threading
from dataclasses import replace

from zmqdist.tuning.catalogue import digits

SIGMA = 0.3


def problem(step_s=0.1, **options):
    """Return the digits with steps of a median of `step_s` seconds; see `catalogue.digits`."""
    plain = digits(**options)

    def gradient(model, batch):
        threading.Event().wait(step_s * random.lognormvariate(0.0, SIGMA))
        return plain.gradient(model, batch)

    return replace(plain, gradient=gradient)
