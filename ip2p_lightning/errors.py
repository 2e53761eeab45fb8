"""Failures a user can mend: each is one line (what, where, how to fix it) and a distinct exit code."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """Wrong configuration or usage."""

    code = 2


class DataError(UserError):
    """Data that is refused: unreadable image, unmatched pair, empty folder or prompt pool."""

    code = 3


class NonFiniteError(UserError):
    """A loss or gradient that is not finite."""

    code = 4


class StorageError(UserError):
    """Input/output, disk space or permission."""

    code = 5


class DamagedError(UserError):
    """A stored checkpoint or cache entry that does not verify."""

    code = 6


class SecurityError(UserError):
    """Something that would run code or reach files it must not."""

    code = 7


class SweepError(UserError):
    """A sweep some of whose jobs are not complete."""

    code = 8


class PrunedError(UserError):
    """A trial of a study that was stopped because others do better."""

    code = 9


class PreemptedError(UserError):
    """A run that was asked to stop and can be continued: 128 + SIGTERM."""

    code = 143


def suggest(word: str, known: Iterable[str]) -> str:
    """``"; did you mean 'x'?"`` for the known word nearest to `word`, or ``""``."""
    near = difflib.get_close_matches(str(word), [str(k) for k in known], n=1, cutoff=0.5)
    return f"; did you mean '{near[0]}'?" if near else ""
