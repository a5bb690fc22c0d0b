"""How a study is made and how one that exists is opened."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from zmqdist.errors import StorageError
from zmqdist.tuning.pruners import Pruner
from zmqdist.tuning.samplers import GridSampler
from zmqdist.tuning.storage import Storage
from zmqdist.tuning.study import Study


def create_study(
    *,
    storage: str | Path | None = None,
    sampler: GridSampler | None = None,
    pruner: Pruner | None = None,
    study_name: str = "study",
    load_if_exists: bool = False,
    settings: dict[str, Any] | None = None,
) -> Study:
    """Make a new study; it minimises.

    Parameters
    ----------
    storage : path, optional
        An SQLite file, also as ``sqlite:///FILE``. Default: in memory.
    sampler, pruner : optional
        As of `Study`.
    study_name : str, default="study"
    load_if_exists : bool, default=False
        Go on with the study if the storage has it.
    settings : dict, optional
        Kept with the study, `Study.settings`; what JSON can hold.

    Raises
    ------
    StorageError
        The storage cannot be used, or has the study already.
    """
    kept = Storage(storage)
    try:
        if kept.study(study_name) is None:
            kept.create_study(study_name, settings or {})
        elif not load_if_exists:
            raise StorageError(
                f"study {study_name!r} is in {storage} already; load_if_exists=True goes on with it"
            )
        return Study(study_name, kept, sampler=sampler, pruner=pruner)
    except BaseException:
        kept.close()
        raise


def load_study(
    *,
    storage: str | Path,
    study_name: str | None = None,
    sampler: GridSampler | None = None,
    pruner: Pruner | None = None,
) -> Study:
    """Open a study that exists.

    Parameters
    ----------
    storage : path
        An SQLite file, also as ``sqlite:///FILE``.
    study_name : str, optional
        Not needed if the storage has one study.
    sampler, pruner : optional
        As of `Study`; without a sampler the study can be looked at, not go on.

    Raises
    ------
    StorageError
        There is no such storage or study, or it cannot be read.
    """
    kept = Storage(storage, must_exist=True)
    try:
        names = kept.names()
        if study_name is None and len(names) != 1:
            raise StorageError(f"{storage} has {len(names)} studies, {names}; name one of them")
        name = names[0] if study_name is None else study_name
        return Study(name, kept, sampler=sampler, pruner=pruner)
    except BaseException:
        kept.close()
        raise
