"""Scores: pure functions from arrays to numbers; no disk, no printing."""
