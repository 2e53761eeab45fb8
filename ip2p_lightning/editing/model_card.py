"""The model card of an exported run."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tabulate import tabulate

from ip2p_lightning.config.build import task_prompts
from ip2p_lightning.diffusion.samplers import SCHEDULERS
from ip2p_lightning.evaluation import score_table
from ip2p_lightning.networks.pretrained import is_hub_id
from ip2p_lightning.runs.folder import read_status
from ip2p_lightning.system.escaping import markdown_text

PAGE = """---
library_name: diffusers
pipeline_tag: image-to-image
tags: [instruct-pix2pix, image-editing]
{origin}---

# {name}

Follows editing instructions on photos. Trained with ip2p-lightning.

```python
import torch
from diffusers import {parts}

{load}
edit = pipeline({prompt}, photo, {settings}, generator=torch.Generator().manual_seed(0)).images[0]
```

| | |
|---|---|
| base model | {base} |
| tasks | {tasks} |
| step | {step} |
| weights | {weights} |
| sha256 of the weights | `{digest}` |
| code | {commit} |
| written by | `{typed}` |

The terms of the base model apply to these weights. The safety checker is not part of this folder.

## Scores

{table}

## Prompts

{prompts}

## Config

```json
{config}
```
"""

LICENCES = {  # of bases that the configs name
    "stable-diffusion-v1-5/stable-diffusion-v1-5": "creativeml-openrail-m",
    "timbrooks/instruct-pix2pix": "mit",
}
PIPELINE = "StableDiffusionInstructPix2PixPipeline"


def _loading(opened: Any) -> tuple[list[str], str]:
    """The classes and the lines that load what was exported: adapters need all that their base does not bring."""
    config, module = opened.config, opened.module
    if not getattr(module.unet, "lora", None):
        return [PIPELINE], f'pipeline = {PIPELINE}.from_pretrained("DIR")'
    base, scheduler, vae = config["model"]["path"], SCHEDULERS[module.sampler.scheduler], config["autoencoder"]
    parts = [PIPELINE, scheduler]
    lines = [
        f"pipeline = {PIPELINE}.from_pretrained({_quoted(base)})",
        'pipeline.load_lora_weights("DIR")  # needs peft',
    ]
    lines.append(f'pipeline.scheduler = {scheduler}.from_pretrained("DIR", subfolder="scheduler")')
    if vae["path"] != base:
        parts.append(type(module.autoencoder.model).__name__)
        subfolder = f", subfolder={_quoted(vae['subfolder'])}" if vae.get("subfolder") else ""
        lines.append(f"pipeline.vae = {parts[-1]}.from_pretrained({_quoted(vae['path'])}{subfolder})")
    return parts, "\n".join(lines)


def model_card(opened: Any, digest: Mapping[str, Any], typed: str) -> str:
    """The card of an opened run, as Markdown."""
    config, sampler = opened.config, opened.module.sampler
    settings = {"num_inference_steps": sampler.steps, "guidance_scale": sampler.text_scale}
    settings |= {"image_guidance_scale": sampler.image_scale}
    pools = task_prompts(config)
    scored = score_table.read(opened.folder / "scores.csv")
    rows = score_table.current(scored, step=opened.step, weights=opened.weights)
    rows = [{name: row[name] for name in (*score_table.WHAT, "sampler", "psnr", "ssim", "n")} for row in rows]
    parts, load = _loading(opened)
    return PAGE.format(
        origin="".join(f"{key}: {value}\n" for key, value in origin(config["model"].get("path")).items()),
        parts=", ".join(parts),
        load=load,
        name=markdown_text(opened.folder.resolve().name),
        prompt=_quoted(next((pool[0] for pool in pools.values() if pool), "INSTRUCTION")),
        settings=", ".join(f"{k}={v:g}" for k, v in settings.items()),
        base=markdown_text(config["model"].get("path") or "none: random weights"),
        tasks=", ".join(pools),
        step=opened.step,
        weights={"ema": "averaged (EMA)", "raw": "raw"}[opened.weights],
        digest=digest["sha256"],
        commit=read_status(opened.folder).get("commit") or "unknown",
        typed=typed,
        table=tabulate(rows, "keys", tablefmt="pipe", disable_numparse=True)
        or f"Not evaluated at step {opened.step} with {opened.weights} weights: `ip2p-evaluate RUN`.",
        prompts="\n".join(
            f"- {name}: {markdown_text('; '.join(pool[:10])) or '(none)'}" for name, pool in pools.items()
        ),
        config=json.dumps(_without_prompts(config, list(pools)), indent=2, ensure_ascii=False),
    )


def origin(path: str | None) -> dict[str, str]:
    """``base_model`` and ``license`` of the weights that a run started from, as far as they are known."""
    place = Path(path).expanduser() if path else Path("/nowhere")
    stated = place / "README.md", place / "model_index.json"  # what a folder says of itself
    text = "".join(file.read_text(errors="replace") for file in stated if file.is_file())
    name = re.search(r'^base_model: *"?([\w.-]+/[\w.-]+)"?$|"_name_or_path": "([\w.-]+/[\w.-]+)"', text, flags=re.M)
    licence = re.search(r'^license: *"?([\w.-]+)"?$', text, flags=re.M)
    base = (name[1] or name[2]) if name else path if path and is_hub_id(path) and not place.exists() else None
    found = {"base_model": base, "license": licence[1] if licence else LICENCES.get(base or "")}
    return {key: value for key, value in found.items() if value}


def _quoted(text: str) -> str:
    """`text` as Python reads it."""
    return json.dumps(text, ensure_ascii=False)


def _without_prompts(config: Mapping[str, Any], tasks: Sequence[str]) -> dict[str, Any]:
    """The config without the pools of other tasks, and with the sizes of its own: the card lists their first ones."""

    def shortened(node: Any) -> Any:
        if not isinstance(node, Mapping):
            return node
        sizes = {key: len(node[key] or ()) for key in ("prompts", "held_out") if isinstance(node.get(key), list)}
        return {key: f"{sizes[key]} of them" if key in sizes else shortened(value) for key, value in node.items()}

    task = config["task"]
    if "tasks" in task:
        task = {**task, "tasks": {name: task["tasks"][name] for name in tasks}}
    return shortened({key: task if key == "task" else value for key, value in config.items() if key != "prompts"})
