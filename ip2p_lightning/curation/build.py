"""Build a dataset, or one machine's share of it; the same command continues either."""

from __future__ import annotations

import json
import shlex
import shutil
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ip2p_lightning.config.quoting import typed
from ip2p_lightning.curation.audit import token_count
from ip2p_lightning.curation.plan import BuildSettings, make_plan, select_candidates
from ip2p_lightning.curation.shards.assemble import assemble, publish
from ip2p_lightning.curation.shards.chunks import Chunk, find_outcome, make_chunks, process_chunk, report_file
from ip2p_lightning.curation.workers import Process, run_chunks
from ip2p_lightning.data.sources.built import METADATA, WORK, read_metadata
from ip2p_lightning.errors import StorageError, UserError
from ip2p_lightning.system.files import probe, storage_errors, sweep_temporaries, write_json
from ip2p_lightning.system.locks import try_lock


def build(settings: BuildSettings, out: Path, shard: int = 0, shards: int = 1) -> int:
    """Process a share of the chunks; if that is all of them, assemble the dataset.

    Raises:
        UserError: `out` holds another build, or a source is missing.
        DataError: a candidate was rejected and on_bad is "fail", or none was accepted.
        SecurityError: a path leads out of a source.
        StorageError: `out` cannot be written.
    """
    listings = [select_candidates(part) for part in settings.parts]
    counted, count = token_count.counter(settings.tokenizer)
    chunks = make_chunks([listing.candidates for listing in listings])
    plan = make_plan(settings, listings, counted, len(chunks))
    work = out / WORK
    if (out / METADATA).is_file():
        if read_metadata(out).get("plan") != plan["digest"]:
            raise UserError(f"out={out} holds a dataset of other settings or another source; give another folder")
        return _already_complete(out)
    probe(work)
    _store_plan(work, plan)
    mine = [chunk for chunk in chunks if chunk.number % shards == shard]
    process = partial(process_chunk, work, settings.parts, settings.audit, count)
    label = f"shard {shard} of {shards}" if shards > 1 else "building"
    _process_missing(process, work, mine, settings.workers, label)
    if shards > 1:
        print(f"shard {shard} of {shards} is done; when all are: ip2p-data merge {shlex.quote(str(out))}")
        return 0
    return finish(out, settings.on_bad)


def _already_complete(out: Path) -> int:
    shutil.rmtree(out / WORK, ignore_errors=True)
    print(f"already complete: {out}")
    return 0


def _store_plan(work: Path, plan: Mapping[str, Any]) -> None:
    path = work / "plan.json"
    if not path.is_file():
        write_json(path, plan)
    elif json.loads(path.read_text())["digest"] != plan["digest"]:
        what = "an unfinished build of other settings or another source"
        raise UserError(f"{work} holds {what}; remove it to start again")


def _process_missing(process: Process, work: Path, chunks: Sequence[Chunk], workers: int, label: str) -> None:
    """Process the chunks that have no result yet, with a progress bar."""
    before = {chunk.number: find_outcome(work, chunk) for chunk in chunks}
    missing = [chunk for chunk in chunks if before[chunk.number] is None]
    if missing:
        shutil.rmtree(work / "final", ignore_errors=True)  # made of chunks that are about to change
        sweep_temporaries(work)
    accepted = sum(outcome.accepted for outcome in before.values() if outcome)
    total, start = sum(len(c.candidates) for c in chunks), sum(outcome.total for outcome in before.values() if outcome)
    every = 0.5 if sys.stderr.isatty() else 30
    with tqdm(total=total, initial=start, unit="pair", desc=label, mininterval=every) as bar:
        for outcome in run_chunks(process, missing, workers):
            accepted += outcome.accepted
            bar.update(outcome.total)
            bar.set_postfix(rejected=bar.n - accepted, refresh=False)


def finish(out: Path, on_bad: str) -> int:
    """Assemble the dataset from finished chunks and publish it. Raises as `build` does."""
    work = out / WORK
    if (out / METADATA).is_file():
        read_metadata(out)
        return _already_complete(out)
    try:
        plan = json.loads((work / "plan.json").read_text())
    except FileNotFoundError:
        raise UserError(f"{out}: nothing to merge; start with ip2p-data build {typed('out', str(out))}") from None
    missing = sum(not report_file(work, i).is_file() for i in range(plan["chunks"]))
    if missing:
        raise UserError(f"{out}: {missing} of {plan['chunks']} chunks are not done; run the missing shards first")
    lock = try_lock(work / "lock")
    if lock is None:
        raise StorageError(f"{work}: another process is assembling this dataset")
    with storage_errors(work), lock:
        if not (work / "final" / METADATA).is_file() and not (out / "data").exists():
            assemble(work, plan, on_bad, progress=plan["chunks"] > 8)
        publish(work, out)
    metadata = read_metadata(out)
    shutil.rmtree(work, ignore_errors=True)
    splits = ", ".join(f"{split} {count}" for split, count in metadata["splits"].items())
    print(f"complete: {out} ({splits}; {metadata['rejected']} rejected: {out / 'report.jsonl'})")
    return 0
