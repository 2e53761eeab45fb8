"""From a composed config to checked build settings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from ip2p_lightning.config.build import build
from ip2p_lightning.config.validate import check
from ip2p_lightning.curation.audit.examine import Part
from ip2p_lightning.curation.plan import BuildSettings
from ip2p_lightning.errors import UserError


def build_settings(config: dict[str, Any]) -> BuildSettings:
    """The settings in ``conf/build.yaml``, composed and plain.

    Raises UserError: a wrong key or value, or a task without a source; DataError: an empty prompt pool; SecurityError:
    a class that a config may not name.
    """
    parts = _parts(config)
    for part in parts.values():
        check({"source": part["source"], **part["task"]}, _part_signature)
        check({key: value for key, value in part.items() if key not in ("source", "task")}, _part_signature)
    checked_elsewhere = ("data", "loader", "prompts", "parts", "task", "source")
    check({key: value for key, value in config.items() if key not in checked_elsewhere}, _signature)
    machine = config["build"]
    if not 0 <= machine["shard"] < machine["shards"] or machine["workers"] < 0:
        last = machine["shards"] - 1
        raise UserError(f"build.shard={machine['shard']}: give 0 to {last}, and build.workers 0 or more")
    return BuildSettings(
        parts=[_part(name, part, config) for name, part in parts.items()],
        audit=build(config["audit"]),
        shard_bytes=config["shard_bytes"],
        tokenizer=config["tokenizer"],
        on_bad=config["on_bad"],
        workers=machine["workers"],
    )


def _part_signature(
    source: Any = None, make: Any = None, prompts: Any = None, limit: int | None = None, splits: list[str] | None = None
) -> None:
    """The keys of a part."""


def _signature(
    out: str,
    build: Mapping[str, int],
    audit: Any,
    on_bad: Literal["fail", "skip"] = "fail",
    seed: int = 0,
    limit: int | None = None,
    splits: list[str] | None = None,
    short_side: int | None = 720,
    shard_bytes: int = 500_000_000,
    tokenizer: str | None = None,
) -> None:
    """The keys of the top level."""


def _parts(config: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The tasks to build by name, each with its source; keys that only training needs are removed."""
    parts = config["parts"]
    if not parts:
        if not config["task"] or not config["source"]:
            raise UserError("give task=NAME and source=NAME, or recipe=NAME; see ip2p-data --help")
        parts = {config["task"].get("name", "edit"): {"task": config["task"], "source": config["source"]}}
    for name, part in parts.items():
        if not part.get("task") or not part.get("source"):
            raise UserError(f"parts.{name} needs a task and a source")
        if "tasks" in part["task"]:
            raise UserError("task=mixture has several tasks, each with a source of its own: give recipe=NAME")
        for key in ("_target_", "source", "loader", "flip", "seed", "name"):  # of the data module
            part["task"].pop(key, None)
    return parts


def _part(name: str, part: Mapping[str, Any], config: Mapping[str, Any]) -> Part:
    own = {key: part.get(key, config[key]) for key in ("limit", "splits")}
    own |= {key: config[key] for key in ("short_side", "seed")}
    node = part["task"].get("make")
    make = build(node) if node else None
    return Part(name, build(part["source"]), build(part["task"]["prompts"]), make, make_config=node, **own)
