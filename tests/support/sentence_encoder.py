"""A tiny sentence encoder on disk: a BERT with random weights and the tokenizer in the package."""

from pathlib import Path

import torch

TOKENIZER = Path(__file__).parents[2] / "ip2p_lightning" / "builtin" / "token_table" / "tokenizer.json"


def write_sentence_encoder(folder: Path, positions: int = 48, pooler: bool = True) -> Path:
    """Write config, weights and tokenizer to `folder`; 2 MB."""
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = BertModel(BertConfig(max_position_embeddings=positions, initializer_range=0.5, **sizes), pooler)
    model.save_pretrained(folder)
    names = {f"{name}_token": f"[{name.upper()}]" for name in ("cls", "sep", "pad", "unk", "mask")}
    PreTrainedTokenizerFast(tokenizer_file=str(TOKENIZER), model_max_length=512, **names).save_pretrained(folder)
    return folder
