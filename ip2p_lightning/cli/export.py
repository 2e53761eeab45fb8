"""``ip2p-export``: a run as a folder that diffusers' ``StableDiffusionInstructPix2PixPipeline`` loads, or as a LoRA."""

from __future__ import annotations

import argparse
import os
import platform
import shlex
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ip2p_lightning.cli.parser import Parser, add_weights_option, run, shown
from ip2p_lightning.editing.pipeline import ADAPTER, INDEX, PIPELINE, weights_of, write_adapter, write_pipeline
from ip2p_lightning.errors import UserError
from ip2p_lightning.system.imports import quiet_libraries

EXAMPLES = f"""
writes OUT/: {INDEX}, unet, vae, text_encoder, tokenizer, scheduler as safetensors and JSON; README.md, the model card;
weights.json, a digest of all weights; SHA256SUMS, of all files (ip2p-inspect verify OUT). OUT is complete or absent.
A run with unet=sd_lora is merged into a whole model; --adapter writes its adapters alone: {ADAPTER}, scheduler,
README.md, weights.json.

examples:
  ip2p-export runs/cartoon exported/cartoon
  ip2p-export runs/cartoon exported/cartoon --weights raw --overwrite
  ip2p-export runs/lora exported/lora --adapter

  from diffusers import {PIPELINE}
  pipeline = {PIPELINE}.from_pretrained("exported/cartoon")
  pipeline("make it a cartoon", photo, generator=torch.Generator().manual_seed(0)).images[0]
  pipeline.load_lora_weights("exported/lora")          # onto the model that the run started from

A run that this pipeline cannot sample (objective=bridge, the embedded pixel model) is an error: use ip2p-edit RUN.
Exit codes: 0 done, 2 usage, 5 disk or permission, 6 damaged checkpoint, 7 unsafe.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """The console command."""
    page = Parser("ip2p-export", "Write a run as a stock diffusers pipeline.", EXAMPLES)
    page.add_argument("run", metavar="RUN", type=Path, help="the run's folder")
    page.add_argument("out", metavar="OUT", type=Path, help="the folder to write")
    add_weights_option(page)
    page.add_argument("--adapter", action="store_true", help="only the low-rank adapters of a run with unet=sd_lora")
    page.add_argument("--overwrite", action="store_true", help="replace an earlier export at OUT")
    return run(page, _export, argv)


def _export(args: argparse.Namespace) -> None:
    from ip2p_lightning.editing.model_card import model_card
    from ip2p_lightning.runs.trained_run import model_config, open_run
    from ip2p_lightning.system.checksums import write_sums
    from ip2p_lightning.system.files import require_space, write_atomic

    config = model_config(args.run)
    _check_exportable(config, args.run)
    if args.adapter and not config["unet"].get("lora"):
        raise UserError(f"{args.run} has no adapters, its whole unet was trained; export it without --adapter")
    _check_out(args.out, args.overwrite)
    quiet_libraries()
    opened = open_run(args.run, args.weights, merged=not args.adapter)
    require_space(args.out, sum(w.numel() * w.element_size() for w in weights_of(opened.module).values()))
    with new_folder(args.out) as folder:
        digest = (write_adapter if args.adapter else write_pipeline)(opened.module, folder)
        write_atomic(folder / "README.md", model_card(opened, digest, args.typed).encode())
        write_sums(folder)
    print(f"wrote {shown(args.out)}: step {opened.step}, {args.weights} weights, sha256 {digest['sha256'][:16]}")


def _check_exportable(config: Mapping[str, Any], path: Path) -> None:
    """Raise UserError for a config that diffusers' pipeline cannot sample, before any weights are read."""
    kinds = {part: config[part]["_target_"].rpartition(".")[2] for part in ("objective", "autoencoder", "text_encoder")}
    reason = None
    if kinds["objective"] != "DiffusionObjective":
        reason = f"its objective ({kinds['objective']}) starts from the photo, diffusers' pipeline from noise"
    elif kinds["autoencoder"] not in ("KLAutoencoder", "TAESD"):
        reason = f"diffusers' pipeline has no {kinds['autoencoder']} autoencoder"
    elif config["autoencoder"].get("latent_scale") is not None:
        reason = "diffusers' pipeline would show the unet other latents than autoencoder.latent_scale did"
    elif kinds["text_encoder"] != "ClipText":
        reason = f"diffusers' pipeline has no {kinds['text_encoder']} text encoder"
    if reason:
        raise UserError(
            f"{path} cannot be exported: {reason}; use it with: ip2p-edit {shlex.quote(str(path))} IMAGE PROMPT"
        )


def _check_out(out: Path, overwrite: bool) -> None:
    from ip2p_lightning.system.files import require_name

    require_name(out)
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not overwrite:
        raise UserError(f"{out} exists; give --overwrite or another folder")
    if not (out / INDEX).is_file() and not (out / ADAPTER).is_file():
        raise UserError(f"{out} is not a diffusers folder (it has no {INDEX}): not replaced; give another folder")


@contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """A folder beside `out` that replaces it when the block is done; on failure `out` stays. Raises StorageError.

    What killed exports on this machine left beside `out` is removed first.
    """
    from ip2p_lightning.system.files import TEMPORARY, shortened, storage_errors, sync_folder

    out = out.resolve()  # replaces a link's target, not the link
    tail = shortened(f"{platform.node()}-{out.name}")
    folder, old = (out.with_name(f"{TEMPORARY}{os.getpid()}-{kind}-{tail}") for kind in ("new", "old"))
    try:
        with storage_errors(out):
            out.parent.mkdir(parents=True, exist_ok=True)
            _remove_dead(out, tail)
            folder.mkdir()
            yield folder
            if out.exists():
                out.rename(old)
            try:
                folder.rename(out)
            except OSError:
                if old.exists():
                    old.rename(out)
                raise
            sync_folder(out.parent)
    finally:
        for leftover in (folder, old):
            shutil.rmtree(leftover, ignore_errors=True)


def _remove_dead(out: Path, tail: str) -> None:
    """Remove what killed exports left; an old export that was moved away and not replaced is put back."""
    from ip2p_lightning.system.files import dead_temporaries

    for path in dead_temporaries(out.parent):
        kind, _, rest = path.name.split("-", 2)[-1].partition("-")
        if kind == "old" and rest == tail and not out.exists():
            path.rename(out)
        elif (kind == "new" and rest.startswith(f"{platform.node()}-")) or (kind in ("new", "old") and rest == tail):
            shutil.rmtree(path, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
