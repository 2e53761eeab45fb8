"""Loading the parts of a checkpoint in diffusers' folder layout, with failures a user can mend."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

from ip2p_lightning.errors import DamagedError, UserError


def load_part(cls: Any, path: str, subfolder: str | None = None, **options: Any) -> Any:
    """``cls.from_pretrained`` of a diffusers model, float32, in eval mode, from a folder or a hub repository.

    Weights from the hub must be safetensors; a folder of the user's may hold a ``.bin``, read with ``weights_only``.
    Raises UserError for missing weights (and says how to get them), DamagedError for unreadable or incomplete ones.
    """
    import torch

    place, local = Path(path).expanduser(), is_local(path, subfolder)
    options |= {"torch_dtype": torch.float32, "use_safetensors": None if local else True, "output_loading_info": True}
    options |= {"subfolder": subfolder} if subfolder else {}  # transformers' Auto classes take no None
    try:
        model, info = cls.from_pretrained(str(place) if local else path, **options)
    except Exception as error:  # network, hub, I/O and format errors come as a dozen unrelated classes
        if local and (place / (subfolder or "")).is_dir() and any((place / (subfolder or "")).glob("*model*")):
            raise DamagedError(f"cannot read the weights in {place / (subfolder or '')}: {_head(error)}") from error
        raise UserError(f"{missing(path, subfolder)} ({_head(error)})") from error
    absent = [*info["missing_keys"], *(m[0] if isinstance(m, tuple) else m for m in info["mismatched_keys"])]
    if absent := [name for name in absent if not name.startswith("pooler.")]:  # which nobody here reads
        raise DamagedError(f"{path}: {subfolder or 'model'} lacks {len(absent)} weights, the first is {absent[0]}")
    return model.eval()


def is_local(path: str, subfolder: str | None = None) -> bool:
    """Whether `path` is a folder here; otherwise it is a hub repository's name. Raises UserError if it is neither."""
    place = Path(path).expanduser()
    if not place.is_dir() and not is_hub_id(str(path)):
        raise UserError(missing(path, subfolder))
    return place.is_dir()


def missing(path: str, subfolder: str | None, what: str = "weights") -> str:
    """The line for weights, or a tokenizer, that are not there."""
    part = f" (subfolder {subfolder})" if subfolder else ""
    name = path if is_hub_id(str(path)) else "ID"
    fetch = f"`hf download {shlex.quote(name)} --local-dir DIR`"
    then = "model=local model.path=DIR" if subfolder else "DIR as the path"
    return f"no {what} at {path}{part}; to fetch them for offline use: {fetch}, then {then}"


def _head(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__


def is_hub_id(path: str) -> bool:
    """``owner/name``; a path that begins with a dot, a slash or ``~`` is none."""
    return path.count("/") == 1 and not path.startswith((".", "/", "~")) and not path.endswith("/")
