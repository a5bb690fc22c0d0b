"""Every error zmqdist raises, in one tree.

Errors cross process borders (Spark pickles what a task raises), so each class
keeps its message as its only positional argument and carries extra facts as
keyword attributes that survive pickling.
"""

from __future__ import annotations

from typing import Any


class ZmqdistError(Exception):
    """Base of all errors raised by zmqdist.

    Parameters
    ----------
    message : str
        What happened, what was got and expected, and what to do.
    **facts
        Named facts, kept as attributes (``error.partition``, ``error.step``).
    """

    def __init__(self, message: str = "", **facts: Any) -> None:
        super().__init__(message)
        self.__dict__.update(facts)

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.args, dict(self.__dict__))


def _rebuild(cls: type[ZmqdistError], args: tuple[Any, ...], facts: dict[str, Any]) -> ZmqdistError:
    return cls(*args, **facts)


class ConfigError(ZmqdistError, ValueError):
    """An option has a value that cannot work."""


class ModelError(ZmqdistError, ValueError):
    """The model has nothing to learn, or its parameters changed shape."""


class ModelMismatch(ModelError):
    """The worker's or driver's model has other parameters than the master's."""


class UpdateError(ZmqdistError, ValueError):
    """An update cannot be sent or applied: wrong type, shape, dtype or a NaN."""


class CheckpointError(ZmqdistError):
    """A checkpoint directory cannot be used, or holds nothing to go on from."""


class ProtocolError(ZmqdistError):
    """Base of protocol errors; see the two subclasses for whose fault it is."""


class LocalProtocolError(ProtocolError):
    """The protocol was used wrongly by this process: a bug on our side."""


class RemoteProtocolError(ProtocolError):
    """The peer sent something that the protocol does not allow."""


class TransportError(ZmqdistError):
    """Base of errors about sockets and addresses."""


class AddressInUse(TransportError):
    """The address to bind is taken by another process."""


class MasterUnreachable(TransportError):
    """No answer to the handshake within its deadline."""


class MasterLost(TransportError):
    """The master answered once and then fell silent for longer than the lease."""


class TrainError(ZmqdistError):
    """Training ended without reaching its end."""


class GradientError(TrainError):
    """The user's ``gradient`` raised; ``partition``, ``step`` and ``traceback`` say where."""


class DescentError(TrainError):
    """The user's ``descent`` raised; ``partition``, ``step`` and ``traceback`` say where."""


class EvaluationError(TrainError):
    """The user's ``evaluate`` raised at first; ``version`` says on which model."""


class TrainTimeout(TrainError):
    """``timeout_s`` passed before the data was used up."""


class Stopped(TrainError):
    """The master told this worker to stop: the epoch was closed or cancelled."""


class StudyError(ZmqdistError):
    """A tuning study cannot begin, go on or be judged; finished trials are kept."""


class StorageError(StudyError):
    """The file of a study cannot be used: missing, another program's, another version, taken."""


class TrialPruned(ZmqdistError):
    """Raised by an objective to end a trial that its study sees no hope for."""
