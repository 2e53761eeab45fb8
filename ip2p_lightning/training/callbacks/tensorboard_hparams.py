"""TensorBoard's HPARAMS tab, charts per task, and the prompts in the projector."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import Tensor

from ip2p_lightning.config.overrides import Scalar, hyperparameters
from ip2p_lightning.runs.folder import STATUS, read_status

POINTS = 300  # prompts in the projector


class TensorBoardSummary(Callback):
    """Writes the hyperparameters of the run in `folder`, chart layout and embeddings of the prompts of `pools` (one of
    each task) from rank 0."""

    def __init__(self, folder: Path, pools: Mapping[str, Any]) -> None:
        self.folder, self.pools = Path(folder), dict(pools)

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        tasks = pl_module.tasks or ["all"]
        for writer in _writers(trainer):
            _write_session(writer, self.folder, metric_tags(tasks))
            writer.add_custom_scalars(chart_layout(tasks))

    def on_train_end(self, trainer: Trainer, pl_module: Any) -> None:
        for writer in _writers(trainer):
            prompts = list(prompt_sample(self.pools, POINTS))
            if prompts and not isinstance(trainer.strategy, ModelParallelStrategy):  # rank 0 has no whole weights
                states = pooled(pl_module, [row[2] for row in prompts])
                words = {"metadata": [list(row) for row in prompts], "metadata_header": ["task", "pool", "prompt"]}
                writer.add_embedding(states, **words, tag="prompts", global_step=trainer.global_step)
            _write_end(writer)


def siblings(folder: Path) -> list[Path]:
    """The runs in the same parent folder, itself included, by name."""
    return sorted(path.parent for path in Path(folder).absolute().parent.glob(f"*/{STATUS}"))


def metric_tags(tasks: Sequence[str]) -> list[str]:
    """The columns of the HPARAMS tab; it shows only the first few by default."""
    each = [f"val/{name}/{task}" for name in ("psnr", "ssim") for task in tasks]
    costs = ["train/images_per_s", "train/peak_memory_mb"]
    return ["val/psnr", *each[: len(tasks)], *costs, "val/ssim", *each[len(tasks) :]]


def chart_layout(tasks: Sequence[str]) -> dict[str, Any]:
    """Custom scalars: per task its loss, and its PSNR and SSIM beside those of the identity baseline."""

    def charts(loss: str, ending: str) -> dict[str, Any]:  # tags are patterns that match a prefix, hence the $
        scores = {
            f"{name.upper()}, model and identity": [f"val/{name}{ending}$", f"val/{name}_identity{ending}$"]
            for name in ("psnr", "ssim")
        }
        return {title: ["Multiline", tags] for title, tags in {"training loss": [f"{loss}$"], **scores}.items()}

    each = {task: charts(f"train/loss/task/{task}", f"/{task}") for task in tasks}
    return {"all tasks": charts("train/loss", ""), **each}


def prompt_sample(pools: Mapping[str, Any], limit: int) -> Iterator[tuple[str, str, str]]:
    """(task, seen or held out, prompt): at most `limit`, equally many per task, at most half of them held out."""
    each = max(2, limit // max(1, len(pools)))
    for task, pool in pools.items():
        held_out = list(pool.held_out)[: each // 2]
        yield from ((task, "seen", prompt) for prompt in list(pool.prompts)[: each - len(held_out)])
        yield from ((task, "held out", prompt) for prompt in held_out)


@torch.no_grad()
def pooled(module: Any, prompts: Sequence[str]) -> Tensor:  # -> [N D]
    """The last state of each prompt, CLIP's end token or the tokens' mean; under the averaged weights."""
    encoder, rows = module.text_encoder, []
    with module.averaged():
        for prompt in prompts:  # one at a time: memory stays small, and it happens once a run
            last = min(encoder.count(prompt), encoder.length) - 1
            rows.append(encoder.encode([prompt])[0, last].float().cpu())
    return torch.stack(rows)


def _writers(trainer: Trainer) -> list[Any]:
    if not trainer.is_global_zero:
        return []
    return [logger.experiment for logger in trainer.loggers if isinstance(logger, TensorBoardLogger)]


def _write_session(writer: Any, folder: Path, metrics: Sequence[str]) -> None:
    """Declare a run to the HPARAMS tab at its start, so that a run that dies is listed too.

    TensorBoard takes the columns from the first run it finds: hence those of all runs so far in this folder. No domains
    are declared: a later run's value outside its domain would be hidden.
    """
    from tensorboard.plugins.hparams import summary_v2
    from torch.utils.tensorboard.summary import hparams

    chosen = hyperparameters(read_status(folder))
    known = {key: v for run in siblings(folder) for key, v in hyperparameters(read_status(run)).items()} | chosen
    columns, _, _ = hparams(_typed(known), dict.fromkeys(metrics, 0.0))
    file = writer._get_file_writer()
    file.add_summary(columns)
    file.add_summary(summary_v2.hparams_pb(_typed(chosen), trial_id=folder.name))  # its name: a row for each run


def _typed(values: Mapping[str, Scalar]) -> dict[str, Any]:
    """Booleans as text: TensorBoard plots them as 0 and 1."""
    return {key: str(value).lower() if isinstance(value, bool) else value for key, value in values.items()}


def _write_end(writer: Any) -> None:
    """Mark the session as successful; a failed run gets no mark, as it may continue and TensorBoard keeps the first."""
    from torch.utils.tensorboard.summary import hparams

    _, _, success = hparams({}, {})
    writer._get_file_writer().add_summary(success)
    writer.flush()
