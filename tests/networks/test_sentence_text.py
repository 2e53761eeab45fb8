"""The sentence text encoder: sentence-transformers' mean pooling, frozen and remembered, under a learned map."""

import copy
import json

import pytest
import torch

from ip2p_lightning.errors import DamagedError, UserError
from ip2p_lightning.networks.projected_text import SentenceText
from tests.support.sentence_encoder import write_sentence_encoder

PROMPTS = ["Remove the rain from this photo", "", "way too dark", "Could you get rid of the grain, please?"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_sentence_encoder(tmp_path_factory.mktemp("sentence") / "encoder")


@pytest.fixture(scope="module")
def encoder(folder):
    return SentenceText(str(folder), width=8, length=32)


def read_together(folder, prompts):  # -> states [B n T], mask [B n 1], means [B T]
    """As sentence-transformers does: all in one batch, padded, the mean over what the mask shows."""
    from transformers import AutoModel, AutoTokenizer

    tokens = AutoTokenizer.from_pretrained(folder)(prompts, padding=True, return_tensors="pt")
    with torch.no_grad():
        states = AutoModel.from_pretrained(folder).eval()(**tokens).last_hidden_state
    mask = tokens.attention_mask[..., None].float()
    return states, mask, (states * mask).sum(1) / mask.sum(1)


def test_the_last_state_is_the_masked_mean_of_the_batch(folder, encoder):
    states, mask, means = read_together(folder, PROMPTS)
    for prompt, rows, seen, mean in zip(PROMPTS, states, mask, means, strict=True):
        count, unit = int(seen.sum()), mean.square().mean().sqrt()
        features = encoder.features(prompt)
        assert features.shape == (count + 1, 16) and encoder.count(prompt) == count + 1
        torch.testing.assert_close(features[:count], rows[:count] / unit, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(features[count], mean / unit, rtol=1e-4, atol=1e-4)


def test_neighbours_change_no_bit(encoder):
    alone = torch.cat([encoder.encode([prompt]) for prompt in PROMPTS])
    assert alone.shape == (4, 32, 8)
    assert torch.equal(encoder.encode(PROMPTS[::-1] * 2)[:4].flip(0), alone)


def test_each_string_is_read_once_and_outside_autocast(folder, encoder):
    fresh, calls = SentenceText(str(folder), width=8, length=32), []
    fresh.reader.model.register_forward_pre_hook(lambda *_: calls.append(1))
    with torch.autocast("cpu", torch.bfloat16):
        fresh.encode(["a", "b", "a"])
    assert len(calls) == 2
    assert torch.equal(fresh.features("a"), encoder.features("a")) and len(calls) == 2


def test_the_map_alone_is_trained(folder):
    encoder = SentenceText(str(folder), width=8, length=32)
    encoder.encode(PROMPTS).square().sum().backward()
    assert encoder.model.weight.grad.any() and list(encoder.model.state_dict()) == ["weight"]
    assert not any(w.requires_grad for w in encoder.reader.model.parameters())
    twin = copy.deepcopy(encoder)
    assert twin.model is not encoder.model and twin.reader is encoder.reader


def test_precision_reaches_the_frozen_encoder(folder):
    encoder = SentenceText(str(folder), width=8, length=32)
    full = encoder.features("a")
    half = encoder.to(dtype=torch.bfloat16).features("a")
    assert half.dtype == torch.float32 and not torch.equal(full, half) and torch.allclose(full, half, atol=0.2)


def test_a_prompt_is_cut_where_the_encoder_has_no_more_places(folder):
    encoder = SentenceText(str(folder), length=100)
    assert encoder.length == 49
    with pytest.warns(UserWarning, match="prompt of 63 tokens loses all but 49"):
        assert encoder.encode(["rain " * 60]).shape == (1, 49, 64)


def test_a_pooler_that_nobody_reads_may_be_absent(tmp_path):
    folder = write_sentence_encoder(tmp_path, pooler=False)
    assert SentenceText(str(folder)).encode(["a"]).isfinite().all()


# -- refusals ----------------------------------------------------------------------------------------------------------


def test_a_folder_that_is_not_there_says_how_to_fetch_one():
    with pytest.raises(UserError, match=r"no weights at /nowhere; .*`hf download .* DIR as the path"):
        SentenceText("/nowhere")


def test_a_folder_without_a_tokenizer_is_named(tmp_path):
    folder = write_sentence_encoder(tmp_path)
    for file in folder.glob("tokenizer*"):
        file.unlink()
    with pytest.raises((UserError, DamagedError), match="tokenizer"):
        SentenceText(str(folder))


def test_half_the_weights_are_damage(tmp_path):
    file = write_sentence_encoder(tmp_path) / "model.safetensors"
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(DamagedError, match="cannot read the weights"):
        SentenceText(str(tmp_path))


def test_code_of_a_folder_is_not_run(tmp_path):
    config = write_sentence_encoder(tmp_path) / "config.json"
    own = {"model_type": "own", "auto_map": {"AutoConfig": "own.Own", "AutoModel": "own.Own"}}
    config.write_text(json.dumps(json.loads(config.read_text()) | own))
    (tmp_path / "own.py").write_text("raise SystemExit('run')")
    with pytest.raises(DamagedError, match="contains custom code"):
        SentenceText(str(tmp_path))


def test_an_encoder_with_a_decoder_is_refused(tmp_path):
    from transformers import T5Config, T5Model

    sizes = {"d_model": 8, "d_kv": 4, "d_ff": 8, "num_layers": 1, "num_heads": 2, "vocab_size": 40}
    T5Model(T5Config(**sizes)).save_pretrained(tmp_path)
    with pytest.raises(UserError, match="is a T5Model: give a text encoder"):
        SentenceText(str(tmp_path))
