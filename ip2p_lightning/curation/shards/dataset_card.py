"""The dataset card: what is in it, where from, under which terms, and how to load it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ip2p_lightning.system.escaping import markdown_text

_COLUMNS = """| column | what |
|---|---|
| `original_image` | before the edit |
| `edit_prompt` | the instruction |
| `edited_image` | after it, of the same size |
| `task` | name of the edit |
| `id` | unique; `report.jsonl` has a line for it, and for every candidate that was rejected |
| `source_id` | the photo behind the pair: rows that share it are in one split |
| `split` | train, val or test |
"""


def text(metadata: Mapping[str, Any], plan: Mapping[str, Any]) -> str:
    """The README.md; its header maps splits to files for `datasets`."""
    head = ["---", "configs:", "- config_name: default", "  data_files:"]
    for split in metadata["splits"]:
        head += [f"  - split: {split}", f"    path: data/{split}-*.parquet"]
    tasks = ", ".join(f"{task} {count:,}" for task, count in metadata["tasks"].items())
    splits = ", ".join(f"{split} {count:,}" for split, count in metadata["splits"].items())
    head += ["task_categories:", "- image-to-image", "---"]
    body = [
        "# Instructed image edits",
        f"{metadata['accepted']:,} pairs: {tasks}. Splits: {splits}; of {metadata['source_images']:,} source images, "
        "none of which is in two splits.",
        _COLUMNS,
        "## Use",
        "```python\nfrom datasets import load_dataset\n\npairs = load_dataset('FOLDER')['train']\n```",
        "`ip2p-train data=built data.root=FOLDER`, or the script of diffusers: `train_instruct_pix2pix.py "
        "--dataset_name FOLDER --original_image_column original_image --edit_prompt_column edit_prompt "
        "--edited_image_column edited_image`",
        "## Where from",
        *(_part(part) for part in plan["parts"]),
        "## Audit",
        _audit(metadata),
        "`dataset.json` has the sha256 of every file; `ip2p-data verify FOLDER` checks them.",
    ]
    return "\n".join(head) + "\n\n" + "\n\n".join(block.strip() for block in body) + "\n"


def _part(part: Mapping[str, Any]) -> str:
    facts = part["facts"]
    lines = [f"**{part['task']}**: {part['source']}, {part['candidates']:,} candidates"]
    if part["made_by"]:
        lines[0] += f"; one side made by `{part['made_by']}`"
    for key, label in {"home": "home", "licence": "licence", "citation": "cite", "overlaps": "known overlaps"}.items():
        if facts.get(key):
            lines.append(f"- {label}: {markdown_text(facts[key])}")
    return "\n".join(lines)


def _audit(metadata: Mapping[str, Any]) -> str:
    stages = ", ".join(f"{stage} {count}" for stage, count in metadata["rejected_at"].items()) or "none"
    tokens = metadata["tokens"]
    return (
        f"Accepted {metadata['accepted']:,}, rejected {metadata['rejected']:,} ({stages}); "
        f"identical pairs kept: {metadata['identical_pairs']}; photos that look like another: "
        f"{metadata['lookalikes']}. Prompts: the longest has {tokens['longest']} tokens ({tokens['counted']}); "
        f"{tokens['prompts_cut_off']} are longer than {tokens['most']} and truncated in training."
    )
