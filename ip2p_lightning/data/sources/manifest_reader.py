"""The lines of a CSV or JSON-lines file, and the checks a path in one must pass."""

from __future__ import annotations

import csv
import json
import os
import re
import stat
import unicodedata
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, NoReturn

from ip2p_lightning.errors import DataError, SecurityError, StorageError, UserError, suggest

MOST_NAMES = 4_000_000  # of files that are remembered while a manifest is read; beyond it, each is looked up
LONGEST_LINE = 1 << 20  # characters; a line beyond it is no list of paths
_ESCAPED = re.compile("[\udc80-\udcff]")  # bytes that are not UTF-8, as "surrogateescape" reads them
_SURROGATE = re.compile("[\ud800-\udfff]")  # half a character, as JSON can write it
_SHA256 = re.compile("[0-9a-fA-F]{64}")


def records(path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """Line number (from 1) and fields of every line that is not empty.

    Raises UserError: no such file, or neither ``.csv`` nor ``.jsonl``; DataError: a line that cannot be read.
    """
    readers = {".csv": _csv, ".jsonl": _jsonl}
    if path.suffix.lower() not in readers:
        raise UserError(f"manifest {path}: give a .csv or .jsonl file")
    if not path.is_file():
        raise UserError(f"manifest {path}: no such file")
    try:
        yield from readers[path.suffix.lower()](path)
    except OSError as error:
        raise StorageError(f"{path}: {error.strerror}") from None


def _lines(path: Path, newline: str | None) -> Iterator[tuple[int, str]]:
    """Number and text of every line. Raises DataError: not UTF-8, or longer than any line of paths."""
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline=newline) as file:
        for number, line in enumerate(iter(lambda: file.readline(LONGEST_LINE + 1), ""), 1):
            if len(line) > LONGEST_LINE:
                raise DataError(f"{path}, line {number}: longer than {LONGEST_LINE} characters")
            if not line.isascii() and _ESCAPED.search(line):
                raise DataError(f"{path}, line {number}: not UTF-8")
            yield number, line


def _csv(path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    reader = csv.reader((line for _, line in _lines(path, newline="")), strict=True)
    start = 1  # the line that a record begins on: a quote that is left open swallows the lines behind it
    try:
        header = next(reader, [])
        if len(set(header)) < len(header):
            raise DataError(f"{path}, line 1: two columns have one name, of {', '.join(header)}")
        start = reader.line_num + 1
        for cells in reader:
            if cells and len(cells) != len(header):
                raise DataError(f"{path}, line {start}: {len(cells)} fields, the header has {len(header)}")
            if cells:
                yield start, dict(zip(header, cells, strict=True))
            start = reader.line_num + 1
    except csv.Error as error:
        raise DataError(f"{path}, line {start}: {error}; is a quote left open?") from None


def _jsonl(path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    for number, line in _lines(path, newline=None):
        if line.strip():
            yield number, _object(line, f"{path}, line {number}")


def _refuse(word: str) -> NoReturn:
    raise ValueError(f"{word} is not JSON")


_DECODER = json.JSONDecoder(parse_constant=_refuse)  # json.loads with options would make one for every line


def _object(line: str, where: str) -> Mapping[str, Any]:
    try:
        record = _DECODER.decode(line)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: not JSON: {str(error).splitlines()[0]}") from None
    if not isinstance(record, dict):
        raise DataError(f'{where}: not an object such as {{"original": "a.png", "edited": "b.png"}}')
    return record


def cell(record: Mapping[str, Any], name: str, where: str) -> str:
    """The text in field `name`. Raises DataError: no such field (it lists those there are), or it holds no text."""
    value = record.get(name)
    if type(value) is str and value.isascii() and value and not value.isspace():  # nearly every cell of a million lines
        return value
    if name not in record:
        raise DataError(f"{where}: no field '{name}', it has {', '.join(map(str, record))}{suggest(name, record)}")
    if isinstance(value, int) and not isinstance(value, bool):  # an id may be a number
        value = str(value)
    if not isinstance(value, str) or not value.strip() or _SURROGATE.search(value):
        raise DataError(f"{where}: field '{name}' is {'empty' if value in ('', None) else 'not text'}")
    return value


def digest(record: Mapping[str, Any], name: str, where: str) -> str | None:
    """The sha256 in field `name`, None where it is not given. Raises DataError: something else is there."""
    if record.get(name) in (None, ""):
        return None
    value = cell(record, name, where)
    if not _SHA256.fullmatch(value):
        raise DataError(f"{where}: field '{name}' is no sha256: 64 hexadecimal digits")
    return value


def same_name(name: str) -> str:
    """Equal for names that look the same, however their accents are encoded (Unicode NFC)."""
    return name if name.isascii() else unicodedata.normalize("NFC", name)


def names_by_form(folder: str) -> dict[str, str]:
    """The names in a folder that are not ASCII, by `same_name`; none where it cannot be read."""
    try:
        return {same_name(name): name for name in sorted(os.listdir(folder)) if not name.isascii()}  # noqa: PTH208
    except OSError:
        return {}


def as_on_disk(root: str, value: str, names: Callable[[str], dict[str, str]] = names_by_form) -> str:
    """The path `value` below `root` with each part as it is spelt there (NFC or NFD), if it is there at all."""
    parts = value.split("/") if not value.isascii() and "\0" not in value else []
    for i, part in enumerate(parts):
        folder = "/".join((root, *parts[:i]))
        if not os.path.lexists(f"{folder}/{part}"):
            parts[i] = names(folder).get(same_name(part), part)
    return "/".join(parts) or value


class PathCheck:
    """Turns a path written in a manifest into a file below `root`, or refuses it."""

    def __init__(self, root: str | Path) -> None:
        self.root = os.path.realpath(root)
        self._inside = self.root.rstrip("/") + "/"
        self._real_folder = lru_cache(maxsize=4096)(os.path.realpath)  # links are followed once per folder
        self._alike = lru_cache(maxsize=4096)(names_by_form)
        self._plain: dict[str, frozenset[str]] = {}
        self._room = MOST_NAMES

    def __call__(self, value: str, where: str) -> str:
        """The file, with links resolved.

        Raises DataError: no such file; SecurityError: absolute, ``..``, a link out of the root, or no regular file.
        """
        if "\0" in value or "\\" in value or value.startswith(("/", "~")) or value[1:2] == ":":
            raise SecurityError(f"{where}: {value!r}: paths are relative to {self.root}, with forward slashes")
        if ".." in value.split("/"):
            raise SecurityError(f"{where}: '{value}' climbs out of its folder with '..'")
        folder, _, name = f"{self.root}/{value}".rpartition("/")
        path = f"{self._real_folder(folder)}/{name}"
        if name in self._plain_files(folder):
            return path
        try:
            mode = os.lstat(path).st_mode  # strings and one system call: a manifest may have a million lines
            if stat.S_ISLNK(mode):
                path = os.path.realpath(path)
                mode = os.lstat(path).st_mode
        except OSError as error:
            missing = isinstance(error, FileNotFoundError)
            if missing and (other := self.on_disk(value)) != value:
                return self(other, where)
            raise DataError(f"{where}: '{value}': {'no such file' if missing else error.strerror}") from None
        if not path.startswith(self._inside):
            raise SecurityError(f"{where}: '{value}' is a link out of {self.root}")
        if stat.S_ISDIR(mode):
            raise DataError(f"{where}: '{value}' is a folder")
        if not stat.S_ISREG(mode):
            raise SecurityError(f"{where}: '{value}' is a device, pipe or socket")
        return path

    def on_disk(self, value: str) -> str:
        """A path below the root as it is spelt there, where the Unicode form of its accents differs."""
        return as_on_disk(self.root, value, self._alike)

    def _plain_files(self, folder: str) -> frozenset[str]:
        """Regular files of a folder within the root, listed once: a system call per folder, not per line."""
        if folder in self._plain:
            return self._plain[folder]
        real, names = self._real_folder(folder), frozenset[str]()
        if self._room > 0 and f"{real}/".startswith(self._inside):
            try:
                with os.scandir(real) as entries:
                    names = frozenset(entry.name for entry in entries if entry.is_file(follow_symlinks=False))
            except OSError:
                pass  # the slow way says what is wrong
        self._room -= len(names)
        self._plain[folder] = names
        return names
