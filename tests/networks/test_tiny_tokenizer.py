"""The tiny text encoder: a function of its corpus and seed, trainable, blind to held-out sentences."""

import copy
import os
import subprocess
import sys
from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import OmegaConf

from ip2p_lightning.data.prompts import PromptPool, token_report
from ip2p_lightning.errors import StorageError, UserError
from ip2p_lightning.networks.text_encoder import ClipText, TinyText
from ip2p_lightning.networks.tiny_tokenizer import learn_merges
from tests.support.models import strings_encoded

ROOT = Path(__file__).parents[2]
PROMPTS = ["derain the image", "", "Déjà  VU 🎨"]
CORPUS = {"limit": None, "derain": {"prompts": ["Remove the rain", "derain it"], "held_out": ["zzyzx zzyzx"]}}


def test_tiny_is_a_function_of_corpus_and_seed():
    state = torch.random.get_rng_state()
    a, b, c = TinyText(CORPUS), TinyText(CORPUS), TinyText(CORPUS, seed=1)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert a.tokenizer.get_vocab() == b.tokenizer.get_vocab() and torch.equal(a.encode(PROMPTS), b.encode(PROMPTS))
    assert not torch.equal(a.encode(["x"]), c.encode(["x"]))


def test_merges_are_the_same_in_every_process():
    code = (
        "import yaml; from collections import Counter; from ip2p_lightning.networks.tiny_tokenizer import *;"
        "c = yaml.safe_load(open('conf/prompts/paraphrase.yaml')); c.pop('defaults');"
        "merges = learn_merges(Counter(w for p in collect_prompts(c) for w in p.split()), 500);"
        "print(len(merges), merges)"
    )
    environments = (os.environ | {"PYTHONHASHSEED": seed} for seed in "12")
    one, other = (subprocess.check_output([sys.executable, "-c", code], cwd=ROOT, env=env) for env in environments)
    assert one == other and one.startswith(b"500 ")


def test_merges_are_those_of_the_plain_algorithm():
    words = Counter({"low": 5, "lower": 2, "newest": 6, "widest": 3, "aaaa": 4})
    splits = {word: [*word[:-1], word[-1] + "</w>"] for word in words}
    expected = []
    while len(expected) < 12:
        counts = Counter()
        for word, split in splits.items():
            for pair in pairwise(split):
                counts[pair] += words[word]
        best = min(counts, key=lambda pair: (-counts[pair], pair))
        expected.append(best)
        for word, split in splits.items():
            merged = []
            while split:
                size = 2 if tuple(split[:2]) == best else 1
                merged.append("".join(split[:size]))
                split = split[size:]
            splits[word] = merged
    assert learn_merges(words, 12) == expected


def test_tiny_learns_from_training_prompts_alone():
    pool = {"derain": PromptPool(["Remove the rain", "derain it"], ["zzyzx zzyzx"])}
    corpora = (CORPUS, ["remove the rain", "DERAIN it"], pool)
    with_held_out, without, of_pool = (TinyText(corpus).tokenizer.get_vocab() for corpus in corpora)
    assert with_held_out == without == of_pool and "rain</w>" in without


def test_tiny_knows_every_byte():
    tokenizer, text = TinyText(["derain the image"]).tokenizer, "žluťoučký 🎨 日本 ~ zzyzx <> '"
    ids = tokenizer(text, add_special_tokens=False).input_ids
    assert tokenizer.unk_token_id not in ids and tokenizer.decode(ids).replace(" ", "") == text.replace(" ", "")
    assert tokenizer.decode(tokenizer("Derain IT", add_special_tokens=False).input_ids) == "derain it"


def test_tiny_trains_where_trainable_and_only_there():
    encoder = TinyText(CORPUS)
    calls = strings_encoded(encoder)
    encoder.encode(["a", "b", "a"]).pow(2).sum().backward()
    encoder.encode(["a"])
    assert calls == [3, 1]
    assert encoder.model.embeddings.token_embedding.weight.grad.abs().sum() > 0
    frozen = TinyText(CORPUS, trainable=False)
    assert not frozen.encode(["a"]).requires_grad and copy.deepcopy(frozen) is frozen
    assert torch.allclose(frozen.encode(["a", "b"]), encoder.encode(["a", "b"]).detach(), atol=1e-5)


def test_a_copied_module_speaks_through_its_own_copy():
    class Module(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.encoder = TinyText(CORPUS)
            self.text = self.encoder.model

    module = Module()
    twin = copy.deepcopy(module)
    assert twin.encoder.model is twin.text is not module.text
    assert module.encoder.to(dtype=torch.bfloat16).model.dtype == torch.float32  # its trainer's business


def test_tiny_shapes_do_not_depend_on_the_corpus():
    shapes = [{k: v.shape for k, v in TinyText(c, width=32).model.state_dict().items()} for c in (CORPUS, ["x"])]
    assert shapes[0] == shapes[1]
    encoder = TinyText(CORPUS, width=32, length=16)
    assert (encoder.width, encoder.length) == (32, 16)
    assert encoder.encode(["", "derain"]).shape == (2, 16, 32)


def test_tiny_refuses_sizes_that_do_not_fit_and_an_empty_corpus():
    for sizes in ({"width": 10, "heads": 4}, {"vocab_size": 100}, {"length": 2}, {"layers": 0}):
        with pytest.raises(UserError):
            TinyText(CORPUS, **sizes)
    for corpus in ([], {"derain": {"held_out": ["a"], "prompts": []}}):
        with pytest.raises(UserError, match="no prompt"):
            TinyText(corpus)


@pytest.mark.parametrize("name", ["name", "single", "template", "paraphrase"])
def test_shipped_prompts_fit_the_tiny_encoder_of_each_arm(name):
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        config = compose(overrides=[f"+prompts={name}", "+text_encoder=tiny", "+seed=3"])
    plain = OmegaConf.to_container(config, resolve=True)
    settings = {k: v for k, v in plain["text_encoder"].items() if k not in ("_target_", "corpus")}
    pools = {task: pool for task, pool in plain["prompts"].items() if task != "limit"}
    built = TinyText(corpus=instantiate(plain["text_encoder"]["corpus"], _convert_="all"), **settings)
    assert built.tokenizer.get_vocab() == TinyText(corpus=pools, **settings).tokenizer.get_vocab()
    for pool in pools.values():
        assert token_report([*pool["prompts"], *pool["held_out"]], built.count, built.length) is None


def test_saved_folders_are_read_back(tmp_path):
    tiny = TinyText(CORPUS, trainable=False)
    tiny.save(tmp_path)
    names = {p.name for p in tmp_path.rglob("*")}
    assert {"vocab.json", "merges.txt", "tokenizer_config.json", "config.json", "model.safetensors"} <= names
    back = ClipText(str(tmp_path))
    assert (back.width, back.length) == (tiny.width, tiny.length)
    assert torch.equal(back.encode(PROMPTS), tiny.encode(PROMPTS))
    (tmp_path / "tokenizer" / "tokenizer.json").unlink()  # transformers before 5 reads vocab.json and merges.txt
    assert torch.equal(ClipText(str(tmp_path)).encode(PROMPTS), tiny.encode(PROMPTS))


def test_a_folder_that_cannot_be_written_is_a_storage_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot write"):
        TinyText(CORPUS).save(tmp_path / "file")
