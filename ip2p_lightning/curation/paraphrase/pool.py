"""``ip2p-data prompts``: a pool of paraphrases, by a language model or from a file, filtered and split."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from ip2p_lightning.config.compose import CONF
from ip2p_lightning.curation.audit import token_count
from ip2p_lightning.curation.paraphrase import language_models as sources
from ip2p_lightning.curation.paraphrase.filters import Filter, embedding_test, keyword_test, sentences, split
from ip2p_lightning.curation.paraphrase.settings import Settings, read_yaml
from ip2p_lightning.data.prompts import PromptPool
from ip2p_lightning.errors import DataError, UserError, suggest
from ip2p_lightning.rng import seed_of


def sentence_source(settings: Settings) -> sources.Ask:
    """The source of replies to a request; a file gives its whole text as every reply."""
    if settings.source == "file":
        text = sources.text_file(str(settings.file))
        return lambda _request, _turn: text
    decoding = {key: getattr(settings, key) for key in ("temperature", "top_p", "max_new_tokens")}
    return sources.endpoint(str(settings.url), str(settings.model), settings.seed, decoding, settings.key)


def task_pool(name: str, settings: Settings, ask: sources.Ask) -> tuple[PromptPool, str]:
    """The pool of one task, and a summary of the rejected prompts. Raises DataError if too few are left."""
    about, keywords = _description(name, settings)
    tokenizer = settings.tokenizer and Path(settings.tokenizer).expanduser()
    if tokenizer and (tokenizer / "tokenizer").is_dir():
        tokenizer /= "tokenizer"
    counted, count = token_count.counter(str(tokenizer) if tokenizer else None)
    keeps = embedding_test(settings.encoder, about, settings.min_cosine) if settings.encoder else keyword_test(keywords)
    held_out_file = read_yaml(CONF / "prompts" / "parts" / "held_out.yaml")  # no pool may train on these
    shared = list((held_out_file.get(name) or {}).get("held_out", []))
    prompts = Filter(count, keeps, shared, settings.near, settings.max_tokens, settings.min_words)
    own = 0 if settings.held_out == "shared" else int(settings.held_out)
    offered = 0
    for sentence in _offers(about, settings, ask):
        offered += 1
        prompts.offer(sentence)
        if settings.n is not None and len(prompts.kept) == settings.n + own:
            break
    note = ", ".join(f"{n} {reason}" for reason, n in sorted(prompts.reasons.items())) or "none"
    note = f"of {offered} offered; rejected: {note}; tokens {counted}"
    least = (settings.n or 1) + own
    if len(prompts.kept) < least:
        raise DataError(f"{name}: too few prompts survived: {len(prompts.kept)} of the {least} needed, {note}")
    train, held_out = split(prompts.kept, own, lambda key: seed_of("held out", settings.seed, key))
    return PromptPool(train, shared if settings.held_out == "shared" else held_out), note


def _offers(about: str, settings: Settings, ask: sources.Ask) -> Iterator[str]:
    values = {"n": settings.per_round, "about": about, "style": f"{settings.style} " if settings.style else ""}
    values |= {"example": about.capitalize()}  # a model without a chat template continues the text
    request = settings.template
    for key, value in values.items():  # not str.format: a template from a file could reach attributes
        request = request.replace(f"{{{key}}}", str(value))
    for turn in range(1 if settings.source == "file" else settings.rounds):
        yield from sentences(ask(request, turn))


def _description(name: str, settings: Settings) -> tuple[str, list[str]]:
    task = settings.tasks.get(name, {})
    about = settings.about or task.get("about")
    if not about:
        hint = suggest(name, settings.tasks)
        raise UserError(f"task={name} is not one of {', '.join(settings.tasks)}{hint}; or give about=TEXT keywords=A,B")
    return about, settings.keywords.split(",") if settings.keywords else list(task.get("keywords", []))


def pool_file(pools: Mapping[str, tuple[PromptPool, str]], settings: Settings) -> str:
    """A member of conf/prompts: a function of the settings and the sentences, without date or path."""
    origin = settings.model if settings.source != "file" else Path(str(settings.file)).name
    lines = ["# Written by ip2p-data prompts. Read it before training on it.", f"# origin: {settings.source}: {origin}"]
    how = ", ".join(f"{key}={getattr(settings, key)}" for key in ("temperature", "top_p", "seed"))
    lines += [f"# {how}" if settings.source != "file" else f"# seed={settings.seed}"]
    lines += [f"# style: {settings.style}"] * bool(settings.style)
    lines += [f"# {name}: {note}" for name, (_, note) in pools.items()]
    head = "".join(" ".join(ascii(line)[1:-1].split()) + "\n" for line in lines)
    content: dict[str, Any] = {"limit": None}
    for name, (pool, _) in pools.items():
        held_out = {"held_out": list(pool.held_out)} if pool.held_out else {}
        target = "ip2p_lightning.data.prompts.PromptPool"
        content[name] = {"_target_": target, "limit": "${prompts.limit}", "prompts": list(pool.prompts)} | held_out
    return head + "\n" + yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=10_000)
