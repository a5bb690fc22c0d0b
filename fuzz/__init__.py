"""Fuzzing: `scripts/fuzz SECONDS` feeds every decoder with what no peer should send."""
