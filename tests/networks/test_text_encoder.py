"""Text states: transformers' own computation to the bit, remembered per string."""

import copy
import gzip
import warnings
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from torch.overrides import TorchFunctionMode
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from ip2p_lightning.data.prompts import token_report
from ip2p_lightning.errors import DamagedError, UserError
from ip2p_lightning.networks import text_encoder
from ip2p_lightning.networks.text_encoder import ClipText
from tests.support.models import strings_encoded
from tests.support.sd_checkpoint import _vocabulary, write_sd_checkpoint

ROOT = Path(__file__).parents[2]
CLIP_VOCABULARY = ROOT.parent / "shared" / "data" / "text" / "clip" / "bpe_simple_vocab_16e6.txt.gz"
PROMPTS = ["derain the image", "", "Cartoonize  the FOLLOWING image, s'il vous plaît 🎨", "very " * 90]


@pytest.fixture
def encoder(sd_folder):
    return ClipText(str(sd_folder))


@pytest.fixture(scope="module")
def clip_tokenizer():
    """CLIP's own tokenizer, from the vocabulary that OpenAI published (simple_tokenizer.py of openai/CLIP)."""
    if not CLIP_VOCABULARY.exists():
        pytest.skip("CLIP's vocabulary is not here")

    lines = gzip.decompress(CLIP_VOCABULARY.read_bytes()).decode().split("\n")
    merges = [tuple(line.split()) for line in lines[1 : 49152 - 256 - 2 + 1]]
    letters = list(_vocabulary())[:512]
    words = [*letters, *("".join(m) for m in merges), "<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(vocab={w: i for i, w in enumerate(words)}, merges=merges, model_max_length=77)


def diffusers_states(path, prompts):
    """As tokenize_captions and the training loop of diffusers' train_instruct_pix2pix.py."""
    tokenizer = CLIPTokenizer.from_pretrained(path, subfolder="tokenizer")
    model = CLIPTextModel.from_pretrained(path, subfolder="text_encoder").eval()
    assert tokenizer.model_max_length == 77
    inputs = tokenizer(prompts, max_length=77, padding="max_length", truncation=True, return_tensors="pt")
    with torch.no_grad():
        return model(inputs.input_ids)[0]


def check_against_diffusers(path):
    with pytest.warns(UserWarning, match="loses all but 77"):
        ours = ClipText(str(path)).encode(PROMPTS)
    assert ours.dtype == torch.float32 and ours.shape[:2] == (4, 77)
    assert torch.equal(ours, torch.cat([diffusers_states(path, [p]) for p in PROMPTS]))
    assert torch.allclose(ours, diffusers_states(path, PROMPTS), atol=1e-5)


def test_states_are_those_of_diffusers_script(sd_folder):
    check_against_diffusers(sd_folder)


def test_states_are_those_of_diffusers_script_with_clips_vocabulary(clip_tokenizer, tmp_path):
    assert clip_tokenizer("a photo of a cat").input_ids == [49406, 320, 1125, 539, 320, 2368, 49407]  # as openai/CLIP
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    CLIPTextModel(CLIPTextConfig(**sizes)).save_pretrained(tmp_path / "text_encoder")
    clip_tokenizer.save_pretrained(tmp_path / "tokenizer")
    check_against_diffusers(tmp_path)
    assert ClipText(str(tmp_path)).count("a photo of a cat") == 7


def test_shipped_prompts_fit_clip(clip_tokenizer):
    shipped = [p for name in ("single", "template", "paraphrase") for p in shipped_prompts(name)]
    shipped += shipped_prompts("parts/held_out", "held_out")
    assert token_report(shipped, lambda p: len(clip_tokenizer(p).input_ids), max_length=40) is None


def shipped_prompts(name, part="prompts"):
    pools = yaml.safe_load((ROOT / "conf" / "prompts" / f"{name}.yaml").read_text())
    return [prompt for pool in pools.values() if isinstance(pool, dict) for prompt in pool[part]]


def test_each_string_is_encoded_once_while_frozen(encoder):
    calls = strings_encoded(encoder)
    first = encoder.encode(["a", "b", "a", ""])
    assert calls == [1, 1, 1]
    first.zero_()  # the caller's own
    again = encoder.encode(["b", "a", "c"])
    assert calls == [1, 1, 1, 1]
    assert (again.abs().sum(dim=(1, 2)) > 0).all()


def test_a_state_depends_on_no_neighbour_and_no_history(encoder, sd_folder):
    alone = ClipText(str(sd_folder)).encode(["derain the image"])[0]
    encoder.encode(["x", "y"])
    assert torch.equal(encoder.encode(["z", "derain the image", "w"])[1], alone)


def test_tokens_are_sent_without_waiting_for_the_device(encoder):
    sent = []

    class Sent(TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            if func is torch.Tensor.to and any(isinstance(x, torch.device) for x in args):
                sent.append((kwargs or {}).get("non_blocking"))
            return func(*args, **(kwargs or {}))

    with Sent():
        encoder.encode(["a", "b"])
    assert sent == [True, True]


def test_memory_is_bounded_and_forgets_the_oldest(encoder, monkeypatch):
    monkeypatch.setattr(text_encoder, "REMEMBERED", 2)
    calls = strings_encoded(encoder)
    assert encoder.encode(["a", "b", "a", "c", "a"]).shape[0] == 5 and len(calls) == 3
    encoder.encode(["b"])
    assert len(calls) == 4


def test_states_met_in_validation_serve_training(encoder):
    with torch.inference_mode():
        encoder.encode(["a"])
    weight = torch.ones(32, requires_grad=True)
    (encoder.encode(["a"]) * weight).sum().backward()
    assert weight.grad is not None


def test_autocast_does_not_leak_into_what_is_remembered(encoder, sd_folder):
    with torch.autocast("cpu", torch.bfloat16):
        inside = encoder.encode(["a"])
    assert torch.equal(inside, ClipText(str(sd_folder)).encode(["a"]))


def test_a_frozen_encoder_is_a_plain_shared_object(encoder):
    assert not isinstance(encoder, torch.nn.Module) and copy.deepcopy(encoder) is encoder
    assert not encoder.trainable and not encoder.model.training
    assert not any(p.requires_grad for p in encoder.model.parameters())
    assert (encoder.width, encoder.length) == (32, 77)


def test_precision_changes_in_place_and_forgets(encoder, sd_folder):
    full = encoder.encode(["a"])
    assert encoder.to("cpu") is encoder and encoder._memory
    half = encoder.to(dtype=torch.bfloat16).encode(["a"])
    assert half.dtype == torch.float32 and not torch.equal(full, half) and torch.allclose(full, half, atol=0.1)
    assert next(ClipText(str(sd_folder), dtype="bfloat16").model.parameters()).dtype == torch.bfloat16


def test_a_long_prompt_is_counted_and_warned_about_once(encoder):
    assert encoder.count("a") == 3 and encoder.count("a " * 100) == 102
    with pytest.warns(UserWarning, match="102 tokens") as caught:
        encoder.encode(["a " * 100])
    assert len(caught) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        encoder.to(dtype=torch.bfloat16).encode(["a " * 100, "a"])


def test_one_string_is_not_a_list_of_letters(encoder):
    with pytest.raises(TypeError, match="list"):
        encoder.encode("ab")


def test_missing_weights_say_how_to_get_them(tmp_path):
    with pytest.raises(UserError, match=r"hf download .* --local-dir DIR.*model=local model\.path=DIR") as caught:
        ClipText(str(tmp_path / "nowhere"))
    assert caught.value.code == 2 and "\n" not in str(caught.value)


def test_a_tokenizer_without_vocabulary_is_refused(tmp_path):
    folder = write_sd_checkpoint(tmp_path)
    for name in ("vocab.json", "merges.txt"):
        (folder / "tokenizer" / name).unlink()
    with pytest.raises((DamagedError, UserError), match="tokenizer"):
        ClipText(str(folder))


def test_a_checkpoint_that_lacks_a_weight_is_damaged(tmp_path):
    file = write_sd_checkpoint(tmp_path) / "text_encoder" / "model.safetensors"
    tensors = load_file(file)
    del tensors[next(k for k in tensors if "final_layer_norm.weight" in k)]
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(DamagedError, match="final_layer_norm"):
        ClipText(str(tmp_path))
