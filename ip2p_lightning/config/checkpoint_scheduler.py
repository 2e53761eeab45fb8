"""What a checkpoint's own scheduler file says: the default of the objective and of the sampler that start from it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ip2p_lightning.config.walk import get
from ip2p_lightning.errors import DamagedError, UserError

FILE = "scheduler/scheduler_config.json"
# Objective's key: the file's key, and what diffusers' schedulers take where the file leaves it out.
_NAMES: dict[str, tuple[str, Any]] = {
    "prediction": ("prediction_type", "epsilon"),
    "timesteps": ("num_train_timesteps", 1000),
    "beta_start": ("beta_start", 0.0001),
    "beta_end": ("beta_end", 0.02),
    "beta_schedule": ("beta_schedule", "linear"),
    "zero_terminal_snr": ("rescale_betas_zero_snr", False),
}
# Stable Diffusion 1.x's: what a config does not name, and what an objective is that starts from no checkpoint.
_USUAL = {"prediction": "epsilon", "timesteps": 1000, "beta_start": 0.00085, "beta_end": 0.012}
_USUAL |= {"beta_schedule": "scaled_linear", "zero_terminal_snr": False}
_USUAL_STEPS = {"clip_sample": False, "set_alpha_to_one": False, "steps_offset": 1, "timestep_spacing": None}


def honoured(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config with the scheduler of its checkpoint as the objective's and the sampler's default.

    The objective's nulls become plain values; keys that a config does not name are added where they differ from Stable
    Diffusion 1.x's. Raises UserError for a value that contradicts what the file says, or a file of an unknown kind.
    """
    objective, sampler = dict(config.get("objective") or {}), dict(config.get("sampler") or {})
    if not str(objective.get("_target_")).endswith(".DiffusionObjective"):
        return dict(config)
    path, file = get(config, "unet.path"), None
    if isinstance(path, str):
        file = read(path, get(config, "unet.revision"), fetch=objective.get("prediction", "") is None)
    theirs = objective_settings(file, path) if file else _USUAL
    for key, value in theirs.items():
        given = objective.get(key)
        if file and given is not None and _NAMES[key][0] in file and given != value:
            raise UserError(
                f"objective.{key}={given}, but {path} was trained with {value} ({FILE}: {_NAMES[key][0]}); leave it "
                "out, with objective=checkpoint, or correct that file"
            )
        if given is None and (key in objective or value != _USUAL[key]):
            objective[key] = value
    own = {key: (file or {})[key] for key, usual in _USUAL_STEPS.items() if (file or {}).get(key, usual) != usual}
    if own and str(sampler.get("_target_")).endswith(".DiffusionSampler"):
        sampler.setdefault("checkpoint", own)
    return {**config, "objective": objective, "sampler": sampler}


def objective_settings(file: Mapping[str, Any], path: str) -> dict[str, Any]:
    """What a scheduler file says, in the objective's words. Raises UserError for one that has no words for it."""
    kind = str(file.get("_class_name"))
    if file.get("trained_betas") is not None or "FlowMatch" in kind or "EDM" in kind:
        what = "trained_betas" if file.get("trained_betas") is not None else kind
        raise UserError(f"{path}: {FILE} has {what}, which is not supported; choose a checkpoint with a beta_schedule")
    return {ours: file.get(theirs, usual) for ours, (theirs, usual) in _NAMES.items()}


def read(path: str, revision: str | None = None, fetch: bool = False) -> dict[str, Any] | None:
    """The scheduler file of a folder, or of a hub repository: `fetch` it where it is not here yet. None: no such file.

    Raises UserError where it cannot be fetched, DamagedError where it is no JSON object.
    """
    place = Path(path).expanduser()
    file: Any = place / FILE
    if not place.exists() and path.count("/") == 1 and not path.startswith((".", "/", "~")):
        file = _of_the_hub(path, revision, fetch)
    if not isinstance(file, str | Path) or not Path(file).is_file():
        return None
    try:
        content = json.loads(Path(file).read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise DamagedError(f"cannot read {file}: {error}") from None
    if not isinstance(content, dict):
        raise DamagedError(f"{file} holds no JSON object")
    return content


def _of_the_hub(path: str, revision: str | None, fetch: bool) -> Any:
    from huggingface_hub import hf_hub_download, try_to_load_from_cache

    try:
        found = try_to_load_from_cache(path, FILE, revision=revision)
        return hf_hub_download(path, FILE, revision=revision) if fetch and found is None else found
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0][:200]
        raise UserError(
            f"objective=checkpoint: no {FILE} of {path} is here or can be fetched ({reason}); "
            "say what it was trained with: objective=eps or objective=v"
        ) from None
