"""Faults on purpose: what happens to your training when messages are lost and workers die."""

from zmqdist.testing.faults import Faults, faults

__all__ = ["Faults", "faults"]
