"""The code and the libraries that decide a stored entry, as digests that change with them."""

from __future__ import annotations

import ast
import hashlib
import inspect
from collections.abc import Iterator
from functools import lru_cache
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ip2p_lightning import rng
from ip2p_lightning.data import image, transforms
from ip2p_lightning.data.dataset import to_tensor
from ip2p_lightning.errors import UserError

_READ = ("pillow", "numpy", "diffusers", "torch")  # what every entry comes through
_DRAWN = ("scipy",)  # what a degradation comes through besides
_WORDS = ("errors", "system.files")  # of this package: they decide no pixel


def code_version(autoencoder: Any) -> str:
    """Of the code between a file's bytes and its moments, ours and the libraries'."""
    parts = [image, transforms, rng, to_tensor, inspect.getmodule(type(autoencoder))]
    return _digest([*map(_released, _READ), *(inspect.getsource(part) for part in parts if part is not None)])


def code_of(kind: type) -> str:
    """Of the code behind a degradation or teacher: its module, and all of that module's own package that it imports.

    Raises:
        UserError: there is no source to look at.
    """
    return _behind(kind.__module__)


@lru_cache
def _behind(name: str) -> str:
    package, found, left = name.split(".")[0], dict[str, str](), [name]
    while left:
        module = left.pop()
        if module not in found and module.removeprefix(f"{package}.") not in _WORDS:
            found[module] = _source(module)
            left += _imported(found[module], package)
    return _digest([*map(_released, _DRAWN), *(f"{module}\n{found[module]}" for module in sorted(found))])


def _source(module: str) -> str:
    try:
        return Path(str(find_spec(module).origin)).read_text()
    except (AttributeError, ValueError, OSError, ImportError):
        raise UserError(f"cache_draws: no source of {module} to tell its changes by; use cache_draws=0") from None


def _imported(source: str, package: str) -> Iterator[str]:
    """The modules of a package that a source imports by their full names, however late."""
    for node in ast.walk(ast.parse(source)):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import | ast.ImportFrom) else []
        if isinstance(node, ast.ImportFrom):
            whole = node.module if node.module and not node.level else ""
            names = [whole, *(f"{whole}.{name}" for name in names)]
        yield from (name for name in names if name.split(".")[0] == package and _is_module(name))


def _is_module(name: str) -> bool:
    try:
        return find_spec(name) is not None
    except ImportError:  # its parent is no package
        return False


def _released(library: str) -> str:
    """Name and version, without what a wheel was built for: a cache made on a CPU serves a GPU."""
    return f"{library} {version(library).partition('+')[0]}"


def _digest(parts: list[str]) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]
