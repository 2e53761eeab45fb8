"""A build from beginning to end, or one machine's share of it; the same command continues either."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ip2p_lightning.curation import plan as plans
from ip2p_lightning.curation.audit import token_count
from ip2p_lightning.curation.plan import Order
from ip2p_lightning.curation.shards.assemble import MARK, assemble, publish
from ip2p_lightning.curation.shards.chunks import Chunk, cut, done
from ip2p_lightning.curation.verify import WORK, read_mark
from ip2p_lightning.curation.workers import Task, outcomes
from ip2p_lightning.errors import StorageError, UserError
from ip2p_lightning.system.files import probe, storage_errors, sweep_temporaries, write_json
from ip2p_lightning.system.locks import try_lock


def build(order: Order, out: Path, shard: int = 0, shards: int = 1) -> int:
    """Do a share of the chunks; if that is all of them, assemble the dataset.

    Raises:
        UserError: `out` holds another build, or a source is not there.
        DataError: something was refused and on_bad is "fail", or nothing was accepted.
        SecurityError: a path leads out of a source.
        StorageError: `out` cannot be written.
    """
    offers = [plans.listed(order, i) for i in range(len(order.parts))]
    label, count = token_count.counter(order.tokenizer)
    chunks = cut([offer.candidates for offer in offers])
    plan = plans.written(order, offers, label, len(chunks))
    work = out / WORK
    if _complete(out, plan):
        shutil.rmtree(work, ignore_errors=True)
        print(f"already complete: {out}")
        return 0
    probe(work)
    _claim(work, plan)
    mine = [chunk for chunk in chunks if chunk.number % shards == shard]
    _work(order, work, mine, count, f"shard {shard} of {shards}" if shards > 1 else "building")
    if shards > 1:
        print(f"shard {shard} of {shards} is done; when all are: ip2p-data merge {out}")
        return 0
    return finish(out, order.on_bad)


def _complete(out: Path, plan: Mapping[str, Any]) -> bool:
    if not (out / MARK).is_file():
        return False
    if read_mark(out).get("plan") != plan["digest"]:
        raise UserError(f"out={out} holds a dataset of other settings or another source; give another folder")
    return True


def _claim(work: Path, plan: Mapping[str, Any]) -> None:
    """Remember the plan, or see that it is the one being worked on."""
    path = work / "plan.json"
    if path.is_file() and json.loads(path.read_text())["digest"] != plan["digest"]:
        what = "an unfinished build of other settings or another source"
        raise UserError(f"{work} holds {what}; remove it to begin anew")
    if not path.is_file():
        write_json(path, plan)


def _work(order: Order, work: Path, chunks: Sequence[Chunk], count: Callable[[str], int], label: str) -> None:
    """Do the chunks that are not done, with a bar that knows how long it will take."""
    before = {chunk.number: done(work, chunk) for chunk in chunks}
    todo = [chunk for chunk in chunks if before[chunk.number] is None]
    if todo:
        shutil.rmtree(work / "final", ignore_errors=True)  # made of chunks that are about to change
        sweep_temporaries(work)
    accepted = sum(outcome.accepted for outcome in before.values() if outcome)
    total, start = sum(len(c.candidates) for c in chunks), sum(outcome.total for outcome in before.values() if outcome)
    every = 0.5 if sys.stderr.isatty() else 30
    with tqdm(total=total, initial=start, unit="pair", desc=label, mininterval=every) as bar:
        for outcome in outcomes(Task(work, order.parts, order.audit, count), todo, order.workers):
            accepted += outcome.accepted
            bar.update(outcome.total)
            bar.set_postfix(refused=bar.n - accepted, refresh=False)


def finish(out: Path, on_bad: str) -> int:
    """Assemble the dataset from finished chunks and publish it. Raises as `build` does."""
    work = out / WORK
    if (out / MARK).is_file():
        read_mark(out)
        shutil.rmtree(work, ignore_errors=True)
        print(f"already complete: {out}")
        return 0
    try:
        plan = json.loads((work / "plan.json").read_text())
    except FileNotFoundError:
        raise UserError(f"{out}: nothing to merge; begin with ip2p-data build out={out}") from None
    missing = [i for i in range(plan["chunks"]) if not (work / f"chunk-{i:06d}.jsonl").is_file()]
    if missing:
        raise UserError(f"{out}: {len(missing)} of {plan['chunks']} chunks are not done; run the missing shards first")
    with _alone(work):
        if not (work / "final" / MARK).is_file() and not (out / "data").exists():
            assemble(work, plan, on_bad, progress=plan["chunks"] > 8)
        publish(work, out)
    mark = read_mark(out)
    shutil.rmtree(work, ignore_errors=True)
    splits = ", ".join(f"{split} {count}" for split, count in mark["splits"].items())
    print(f"complete: {out} ({splits}; {mark['rejected']} rejected: {out / 'report.jsonl'})")
    return 0


@contextmanager
def _alone(work: Path) -> Iterator[None]:
    """One process assembles; the lock falls with the process. Raises StorageError if another has it."""
    lock = try_lock(work / "lock")
    if lock is None:
        raise StorageError(f"{work}: another process is assembling this dataset")
    with storage_errors(work), lock:
        yield
