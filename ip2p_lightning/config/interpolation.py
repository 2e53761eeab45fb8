"""Interpolations: a config that somebody else wrote may refer to its own nodes, and to nothing else.

OmegaConf's resolvers can read the environment (``oc.env``) and, where what they return is instantiated, run code
(``oc.create``).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from ip2p_lightning.config.walk import walk
from ip2p_lightning.errors import SecurityError

_NODE = r"\$\{\.*[A-Za-z_][\w.\-\[\]]*\}"
_HYDRAS = r"\$\{(?:now:[%A-Za-z0-9_:.\- ]*|hydra:[\w.]+|run_name:(?:\$\{hydra\.(?:job|overrides)\.\w+\}|'')?)\}"


def refuse_resolvers(raw: Mapping[str, Any], hydras: bool = False) -> None:
    """Raise SecurityError for an interpolation that is not the plain path of a node, e.g. ``${seed}``.

    `raw` is an unresolved config; `hydras` also allows the resolvers of Hydra's own node that only format names.
    """
    allowed = re.compile(f"{_NODE}|{_HYDRAS}" if hydras else _NODE)
    for path, value in walk(raw):
        if isinstance(value, str) and "${" in allowed.sub("", value):
            raise SecurityError(f"{path}={value} is an interpolation that may read or run something; write the value")


def refuse_interpolations(stored: Any) -> None:
    """Raise SecurityError where resolved data hold a ``${``: stored configs are data, with nothing left to resolve."""
    for path, value in walk(stored):
        if "${" in path or (isinstance(value, str) and "${" in value):
            raise SecurityError(f"{path}={value} holds an interpolation, which a stored config may not; remove it")
