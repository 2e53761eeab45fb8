"""The parts of a small CLIP: a tokenizer learnt from a corpus (same class, files, splitting rules), random weights.

Merges are learnt here because the trainer of the tokenizers library breaks ties by the order of a hash table: with an
end-of-word suffix two processes learn different merges from one corpus (seen with 0.23), and a run could not continue.
"""

from __future__ import annotations

import heapq
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import nn

from ip2p_lightning.errors import UserError
from ip2p_lightning.rng import seed_of

START, END, SUFFIX = "<|startoftext|>", "<|endoftext|>", "</w>"
SMALLEST = 2 * 256 + 2  # each byte, alone and at the end of a word; start and end

Pair = tuple[str, str]


def collect_prompts(corpus: Any) -> Iterator[str]:
    """The strings of a corpus in their order; of a pool, as mapping or as object, those of its ``prompts`` alone."""
    if isinstance(corpus, str):
        yield corpus
    elif isinstance(corpus, Mapping):
        parts = [corpus["prompts"]] if "prompts" in corpus else [v for k, v in corpus.items() if k != "_target_"]
        for part in parts:
            yield from collect_prompts(part)
    elif isinstance(corpus, Sequence):
        for part in corpus:
            yield from collect_prompts(part)
    elif hasattr(corpus, "prompts"):
        yield from collect_prompts(corpus.prompts)


def train_tokenizer(texts: Iterable[str], vocab_size: int, length: int) -> Any:
    """A ``transformers.CLIPTokenizer`` with byte-level BPE learnt from `texts`, at most `vocab_size` tokens.

    All 256 bytes are tokens, so that no text is unknown. A function of the texts and the size alone.

    Args:
        texts: the corpus; lower-cased, as CLIP does.
        vocab_size: at least 514.
        length: ``model_max_length``: tokens of a padded or cut prompt, start and end included.

    Raises:
        UserError: `vocab_size` has no room for the bytes.
    """
    from tokenizers import pre_tokenizers
    from transformers import CLIPTokenizer

    if vocab_size < SMALLEST:
        raise UserError(f"text_encoder.vocab_size={vocab_size} has no room for the 256 bytes; give at least {SMALLEST}")
    backend = CLIPTokenizer().backend_tokenizer  # no vocabulary yet: taken for its normaliser and its splitting
    words: Counter[str] = Counter()
    for text in texts:
        pieces = backend.pre_tokenizer.pre_tokenize_str(backend.normalizer.normalize_str(text))
        words.update(piece for piece, _span in pieces)
    merges = learn_merges(words, vocab_size - SMALLEST)
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = [*letters, *(letter + SUFFIX for letter in letters), *(a + b for a, b in merges)]
    vocab = {token: i for i, token in enumerate([*dict.fromkeys(tokens), START, END])}
    return CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=length)


def random_model(tokenizer: Any, vocab_size: int, sizes: dict[str, int], seed: int) -> nn.Module:
    """A ``transformers.CLIPTextModel`` of `sizes` (keys of CLIPTextConfig), its weights a function of `seed`."""
    from transformers import CLIPTextConfig, CLIPTextModel

    special = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")}
    with torch.random.fork_rng(devices=[]):
        # Not torch.manual_seed, which would seed the GPUs as well, and those are not forked.
        torch.default_generator.manual_seed(seed_of("tiny text", seed))
        return CLIPTextModel(CLIPTextConfig(vocab_size=vocab_size, **sizes, **special))


def learn_merges(words: Counter[str], most: int) -> list[Pair]:
    """Byte-pair merges of a word count (Sennrich et al. 2016, arXiv:1508.07909), ties broken by the alphabet.

    Ends after `most` merges, or where no pair occurs twice.
    """
    splits = [[*word[:-1], word[-1] + SUFFIX] for word in words]
    weights = list(words.values())
    counts: Counter[Pair] = Counter()
    homes: defaultdict[Pair, set[int]] = defaultdict(set)
    for i, split in enumerate(splits):
        for pair in pairwise(split):
            counts[pair] += weights[i]
            homes[pair].add(i)
    queue = [(-n, pair) for pair, n in counts.items()]
    heapq.heapify(queue)
    merges: list[Pair] = []
    while queue and len(merges) < most:
        n, pair = heapq.heappop(queue)
        if n > -2:
            break
        if -n != counts[pair]:  # an entry from before some other merge
            continue
        merges.append(pair)
        for changed in _apply(pair, splits, weights, counts, homes):
            heapq.heappush(queue, (-counts[changed], changed))
    return merges


def _apply(
    pair: Pair, splits: list[list[str]], weights: Sequence[int], counts: Counter[Pair], homes: dict[Pair, set[int]]
) -> set[Pair]:
    """Merge `pair` in the words that hold it; the pairs whose counts changed."""
    changed: set[Pair] = set()
    for i in homes.pop(pair):
        old = splits[i]
        splits[i] = new = _merged(old, pair)
        for gone in pairwise(old):
            counts[gone] -= weights[i]
        for come in pairwise(new):
            counts[come] += weights[i]
            homes[come].add(i)
        changed.update(pairwise(old), pairwise(new))
    return changed


def _merged(split: list[str], pair: Pair) -> list[str]:
    new: list[str] = []
    for symbol in split:
        if new and (new[-1], symbol) == pair:
            new[-1] += symbol
        else:
            new.append(symbol)
    return new
