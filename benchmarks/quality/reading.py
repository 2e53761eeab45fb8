"""The text by itself: a classifier of the task on the embedded model's text encoder, held-out instructions to judge it.

``python -m benchmarks.quality.reading [--shares 0 0.5] [--seeds 6] [--steps 1000]``: how many of the held-out
instructions it takes for another task's, by the share of words that are misspelt in training (``loader.misspell``). A
quick look: the whole model takes minutes a run.
"""

import math

import numpy as np
import torch
from torch import nn

from benchmarks.support.command import config_of, options
from ip2p_lightning.data.prompt_augmentation import Misspelling
from ip2p_lightning.networks.pixel_unet import InstructionEmbedding
from ip2p_lightning.networks.text_encoder import TinyText
from ip2p_lightning.rng import numpy_rng, seed_of

BATCH, WIDTH, EMBEDDING, QUERIES, RATE = 12, 64, 128, 4, 2e-3  # the embedded model's


def main() -> None:
    """Train and count, a line for each seed."""
    asked = options(__doc__, shares=[0.0, 0.5], seeds=6, steps=1000)
    torch.set_num_threads(1)
    config = config_of([])
    tasks = list(config["task"]["tasks"])
    for share in asked.shares:
        found = [misread(config["prompts"], tasks, share, seed, asked.steps) for seed in range(asked.seeds)]
        print(f"share {share:g}: misread {sum(map(len, found))} in {asked.seeds} runs, {list(map(len, found))}")
        print(*sorted({prompt for run in found for prompt in run}), sep="\n", end="\n\n", flush=True)


def misread(pools: dict, tasks: list[str], share: float, seed: int, steps: int) -> list[str]:
    """The held-out instructions that a classifier takes for another task's."""
    prompts = [pools[task]["prompts"] for task in tasks]
    said, rng = Misspelling([prompt for pool in prompts for prompt in pool], share), numpy_rng("reading", seed)
    torch.manual_seed(seed_of("reading", seed))
    encoder = TinyText(pools, width=WIDTH, length=64, seed=seed)
    net = nn.ModuleList([InstructionEmbedding(WIDTH, EMBEDDING, QUERIES), nn.Linear(EMBEDDING, len(tasks))])
    weights = [*encoder.model.parameters(), *net.parameters()]
    optimizer = torch.optim.AdamW(weights, lr=RATE, weight_decay=1e-4, fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda n: 0.5 * (1 + math.cos(math.pi * n / steps)))

    def scores(words: list[str]) -> torch.Tensor:  # [B tasks]
        return net[1](net[0](torch.zeros(len(words)), encoder.encode(words)))

    for _ in range(steps):
        task = rng.integers(len(tasks), size=BATCH)
        words = [said(str(rng.choice(np.array(prompts[i], dtype=object))), rng) for i in task]
        nn.functional.cross_entropy(scores(words), torch.from_numpy(task)).backward()
        nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    with torch.no_grad():
        held_out = [(prompt, i) for i, task in enumerate(tasks) for prompt in pools[task]["held_out"]]
        chosen = scores([prompt for prompt, _ in held_out]).argmax(1).tolist()
    return [prompt for (prompt, right), taken in zip(held_out, chosen, strict=True) if taken != right]


if __name__ == "__main__":
    main()
