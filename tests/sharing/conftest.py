from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.sharing.elsewhere import parent


@pytest.fixture(scope="session", autouse=True)
def _others(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with parent(str(tmp_path_factory.mktemp("elsewhere") / "socket")):
        yield


@pytest.fixture(autouse=True)
def _signposts_of_this_test(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Other processes inherit it."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
