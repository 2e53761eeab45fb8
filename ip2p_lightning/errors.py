"""Failures a user can mend: each is one line (what, where, how to fix it) and a distinct exit code."""

from __future__ import annotations

import difflib
import os
import select
import sys
from collections.abc import Callable, Iterable


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


INTERRUPTED, UNREAD = 130, 141  # 128 + SIGINT, + SIGPIPE


INTERRUPTED_LINE = "interrupted; the same command continues from the last checkpoint"


_DISK = (13, 17, 20, 28, 30, 122)  # permission, a file in a folder's place (2), no space, read-only, quota


def exit_code(action: Callable[[], int]) -> int:
    """Run `action`; a UserError becomes one line and its code, an interrupt 130; a bug keeps its traceback.

    Hydra's instantiate wraps what a constructor raised: the cause is what counts. Where nobody reads on, as behind
    ``| head``, there is nothing to say, and the code is a shell's for that.
    """
    try:
        try:
            return action()
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        if not _reader_left():
            raise
        return UNREAD
    except KeyboardInterrupt:
        print(INTERRUPTED_LINE, file=sys.stderr)
        return INTERRUPTED
    except Exception as error:
        known = _known(error)
        if known is None or os.environ.get("IP2P_TRACEBACK") == "1":
            raise
        print(f"error: {' '.join(str(known).split())}", file=sys.stderr)
        return known.code


def _reader_left() -> bool:
    """Whether it is stdout that nobody reads (and no pipe between processes); then let the rest of it go nowhere."""
    out = sys.stdout.fileno()
    poll = select.poll()
    poll.register(out, 0)
    left = any(told & select.POLLERR for _, told in poll.poll(0))
    if left:
        os.dup2(os.open(os.devnull, os.O_WRONLY), out)
    return left


def outcome(error: BaseException) -> tuple[int, str]:
    """Exit code and one line for what ended a run: the refusal that a library may have wrapped, else the exception."""
    cause = root(error)
    code = INTERRUPTED if isinstance(cause, KeyboardInterrupt) else getattr(cause, "code", 1)
    return code if isinstance(code, int) else 1, f"{type(cause).__name__}: {cause}".splitlines()[0]


def root(error: BaseException) -> BaseException:
    """The refusal that a library has wrapped (Hydra what a constructor raised), or else the exception itself."""
    return _known(error) or error


def _known(error: BaseException | None) -> UserError | None:
    """The UserError in a chain of exceptions; a full disk counts as one wherever it shows."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        if isinstance(error, UserError):
            return error
        if isinstance(error, OSError) and error.errno in _DISK:
            return StorageError(f"{error.filename or 'file'}: {error.strerror}")
        error = error.__cause__ or error.__context__
    return None
