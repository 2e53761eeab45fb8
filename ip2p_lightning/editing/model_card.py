"""The model card of an exported run."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from tabulate import tabulate

from ip2p_lightning.config.build import task_prompts
from ip2p_lightning.diffusion.samplers import SCHEDULERS
from ip2p_lightning.evaluation import score_table
from ip2p_lightning.runs.folder import read_status
from ip2p_lightning.system.escaping import markdown_text

PAGE = """---
library_name: diffusers
pipeline_tag: image-to-image
tags: [instruct-pix2pix, image-editing]
---

# {name}

Follows editing instructions on photos. Trained with ip2p-lightning.

```python
import torch
from diffusers import {parts}

{load}
edit = pipeline("{prompt}", photo, {settings}, generator=torch.Generator().manual_seed(0)).images[0]
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

PIPELINE = "StableDiffusionInstructPix2PixPipeline"


def _loading(opened: Any) -> tuple[list[str], str]:
    """The classes and the lines that load what was exported: adapters need all that their base does not bring."""
    config, module = opened.config, opened.module
    if not getattr(module.unet, "lora", None):
        return [PIPELINE], f'pipeline = {PIPELINE}.from_pretrained("DIR")'
    base, scheduler, vae = config["model"]["path"], SCHEDULERS[module.sampler.scheduler], config["autoencoder"]
    parts = [PIPELINE, scheduler]
    lines = [f'pipeline = {PIPELINE}.from_pretrained("{base}")', 'pipeline.load_lora_weights("DIR")  # needs peft']
    lines.append(f'pipeline.scheduler = {scheduler}.from_pretrained("DIR", subfolder="scheduler")')
    if vae["path"] != base:
        parts.append(type(module.autoencoder.model).__name__)
        subfolder = f', subfolder="{vae["subfolder"]}"' if vae.get("subfolder") else ""
        lines.append(f'pipeline.vae = {parts[-1]}.from_pretrained("{vae["path"]}"{subfolder})')
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
        parts=", ".join(parts),
        load=load,
        name=markdown_text(opened.folder.resolve().name),
        prompt=next((pool[0] for pool in pools.values() if pool), "INSTRUCTION").replace('"', "'"),
        settings=", ".join(f"{k}={v:g}" for k, v in settings.items()),
        base=config["model"].get("path") or "none: random weights",
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
        config=json.dumps(config, indent=2),
    )
