"""Errors a user can fix: each is one line (what, where, remedy) and a distinct exit code."""

from __future__ import annotations

import difflib
import errno
import os
import select
import sys
from collections.abc import Callable, Iterable, Iterator


class UserError(Exception):
    """Wrong configuration or usage."""

    code = 2


class DataError(UserError):
    """Unusable data: unreadable image, unmatched pair, empty folder or prompt pool."""

    code = 3


class NonFiniteError(UserError):
    """A loss or gradient that is not finite."""

    code = 4


class StorageError(UserError):
    """Input/output, disk space or permission."""

    code = 5


class DamagedError(UserError):
    """A stored checkpoint or cache entry whose checksum does not match."""

    code = 6


class SecurityError(UserError):
    """Input that would run code or reach files it must not."""

    code = 7


class SweepError(UserError):
    """A sweep with incomplete jobs."""

    code = 8


class PrunedError(UserError):
    """A trial that the study's pruner stopped."""

    code = 9


class PreemptedError(UserError):
    """A run that was asked to stop and can be continued: 128 + SIGTERM."""

    code = 143


def suggest(word: str, known: Iterable[str]) -> str:
    """``"; did you mean 'x'?"`` for the known word nearest to `word`, or ``""``."""
    near = difflib.get_close_matches(str(word), [str(k) for k in known], n=1, cutoff=0.5)
    return f"; did you mean '{near[0]}'?" if near else ""


INTERRUPTED, BROKEN_PIPE = 130, 141  # 128 + SIGINT, + SIGPIPE
INTERRUPTED_LINE = "interrupted; the same command continues from the last checkpoint"
_STORAGE = (errno.EACCES, errno.EEXIST, errno.ENOTDIR, errno.ENOSPC, errno.EROFS, errno.EDQUOT)


def exit_code(action: Callable[[], int]) -> int:
    """Run `action`; a UserError becomes one line and its code, an interrupt 130; a bug keeps its traceback.

    Libraries wrap what was raised: the cause counts. A closed stdout (``| head``) gives 141.
    """
    try:
        try:
            return action()
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        if not _stdout_closed():
            raise
        return BROKEN_PIPE
    except KeyboardInterrupt:
        print(INTERRUPTED_LINE, file=sys.stderr)
        return INTERRUPTED
    except Exception as error:
        known = user_error(error)
        if known is None or os.environ.get("IP2P_TRACEBACK") == "1":
            raise
        print(f"error: {' '.join(map(str.strip, str(known).splitlines()))}", file=sys.stderr)
        return known.code


def _stdout_closed() -> bool:
    """Whether stdout's reader is gone (not another pipe's); further output is then discarded."""
    out = sys.stdout.fileno()
    poll = select.poll()
    poll.register(out, 0)
    closed = any(event & select.POLLERR for _, event in poll.poll(0))
    if closed:
        os.dup2(os.open(os.devnull, os.O_WRONLY), out)
    return closed


def outcome(error: BaseException) -> tuple[int, str]:
    """Exit code and one line for what ended a run: a UserError that a library may have wrapped, else the exception."""
    cause = user_error(error) or error
    code = INTERRUPTED if isinstance(cause, KeyboardInterrupt) else getattr(cause, "code", 1)
    return code if isinstance(code, int) else 1, f"{type(cause).__name__}: {cause}".splitlines()[0]


def user_error(error: BaseException | None) -> UserError | None:
    """The UserError in a chain of exceptions; a storage failure such as a full disk counts as one."""
    for one in chain(error):
        if isinstance(one, UserError):
            return one
        if isinstance(one, OSError) and one.errno in _STORAGE:
            return StorageError(f"{one.filename or 'file'}: {one.strerror}")
        if isinstance(one, OSError) and one.errno == errno.ENAMETOOLONG:
            return UserError(f"'{str(one.filename)[:60]}...': the name is too long; give one of at most 255 bytes")
    return None


def chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error, its cause or context, and so on."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__
