"""The text by itself: which task the embedded model's reader of instructions takes a sentence for.

``python -m benchmarks.quality.reading [--seeds 6] [--steps 1000] [--drop 0.0]``: a classifier of the task on
`text_encoder=static` and the network's `InstructionEmbedding`, trained on the pools' sentences; how many held-out and
colloquial ones it takes for another task's. A quick look: the whole model takes minutes a run.
"""

import math

import torch
import yaml
from torch import nn

from benchmarks.support.command import config_of, options
from ip2p_lightning.config.compose import CONF
from ip2p_lightning.networks.pixel_unet import InstructionEmbedding
from ip2p_lightning.networks.projected_text import StaticText
from ip2p_lightning.rng import numpy_rng, seed_of

BATCH, WIDTH, EMBEDDING, QUERIES, RATE = 12, 64, 128, 4, 2e-3  # the embedded model's


def main() -> None:
    """Train and count, a line for each list of sentences."""
    asked = options(__doc__, seeds=6, steps=1000, drop=0.0)
    torch.set_num_threads(1)
    config = config_of([])
    tasks = list(config["task"]["tasks"])
    colloquial = yaml.safe_load((CONF / "prompts" / "parts" / "colloquial.yaml").read_text())
    lists = {
        "held-out": {task: config["prompts"][task]["held_out"] for task in tasks},
        "colloquial": {task: colloquial[task]["held_out"] for task in tasks},
    }
    pools = [config["prompts"][task]["prompts"] for task in tasks]
    readers = [trained(pools, seed, asked.steps, asked.drop) for seed in range(asked.seeds)]
    for name, sentences in lists.items():
        wrong = [misread(reader, sentences) for reader in readers]
        print(f"{name}: misread {[len(found) for found in wrong]} of {sum(map(len, sentences.values()))}")
        print(*sorted({prompt for found in wrong for prompt in found}), sep="\n", end="\n\n", flush=True)


class Reader(nn.Module):
    """Sentences to scores of the tasks."""

    def __init__(self, tasks: int, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed_of("reading", seed))
        self.encoder = StaticText(width=WIDTH, seed=seed)
        self.text = self.encoder.model
        self.embedding, self.head = InstructionEmbedding(WIDTH, EMBEDDING, QUERIES), nn.Linear(EMBEDDING, tasks)

    def forward(self, words: list[str]) -> torch.Tensor:  # B sentences -> [B tasks]
        return self.head(self.embedding(torch.zeros(len(words)), self.encoder.encode(words)))


def trained(pools: list[list[str]], seed: int, steps: int, drop: float) -> Reader:
    """A reader of the pools; each word is left out with probability `drop`."""
    rng, reader = numpy_rng("reading", seed), Reader(len(pools), seed)
    optimizer = torch.optim.AdamW(reader.parameters(), lr=RATE, weight_decay=1e-4, fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda n: 0.5 * (1 + math.cos(math.pi * n / steps)))
    for _ in range(steps):
        task = rng.integers(len(pools), size=BATCH)
        said = [pools[i][int(rng.integers(len(pools[i])))] for i in task]
        said = [" ".join(w for w in s.split() if rng.random() >= drop) or s for s in said]
        nn.functional.cross_entropy(reader(said), torch.from_numpy(task)).backward()
        nn.utils.clip_grad_norm_(reader.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    return reader


def misread(reader: Reader, sentences: dict[str, list[str]]) -> list[str]:
    """The sentences that are taken for another task's."""
    said = [(prompt, i) for i, of_task in enumerate(sentences.values()) for prompt in of_task]
    with torch.no_grad():
        taken = reader([prompt for prompt, _ in said]).argmax(1).tolist()
    return [prompt for (prompt, right), task in zip(said, taken, strict=True) if task != right]


if __name__ == "__main__":
    main()
