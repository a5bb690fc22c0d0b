"""The options of one `train()`, checked."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from zmqdist.errors import ConfigError
from zmqdist.models.tiers import Tiers
from zmqdist.task import Gradient

Callback = Callable[[dict[str, Any]], object]


@dataclass(frozen=True)
class TrainOptions:
    """Options of one `train()`; `zmqdist.api.ZmqDist.train` describes them."""

    gradient: Gradient
    epochs: int
    batch_size: int | None
    tiers: Tiers | None
    callbacks: tuple[Callback, ...]
    max_updates: int | None
    timeout_s: float | None
    max_in_flight: int
    codec: str
    progress: bool | str | None
    where: str

    def __post_init__(self) -> None:
        if not callable(self.gradient):
            raise ConfigError(f"gradient is {self.gradient!r:.80}; expected a function")
        for name in ("epochs", "batch_size", "max_updates"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, int) or value < 1):
                raise ConfigError(f"{name} is {value!r}; expected an integer >= 1")
        if self.tiers is not None and self.batch_size is not None:
            raise ConfigError(
                "give tiers= or batch_size=, not both: with tiers the gradient yields"
            )
        if self.timeout_s is not None and not self.timeout_s > 0:
            raise ConfigError(f"timeout_s is {self.timeout_s!r}; expected seconds > 0")
