"""The static text encoder: what its states are, that nothing else moves them, and that it reads what nobody trained."""

import copy
import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

from ip2p_lightning.errors import DamagedError, UserError
from ip2p_lightning.networks.projected_text import StaticText

ROOT = Path(__file__).parents[2]
TABLE = ROOT / "ip2p_lightning" / "builtin" / "token_table"
INSTRUCTIR = ROOT.parent / "shared" / "data" / "text" / "instructir_sample_prompts.json"
PINNED = {
    "table.safetensors": "0ebe060bba2591d5f1e89b4b661c190a95a0b8fc6d1e70e4d6892afea1408108",
    "tokenizer.json": "5fd1c882abbd30517dced455a2c9768945ec726b96727927e4959348d9de550b",
}
TASKS = ("cartoon", "derain", "denoise", "lowlight")
PROMPTS = [
    "Remove the rain from this photo",
    "toon it up",
    "",
    "way too dark",
    "Could you get rid of the grain, please?",
]
FOREIGN = [
    "\u96e8\u3092\u6d88\u3057\u3066",
    "\U0001f327\ufe0f\u274c",
    "\u0443\u0431\u0435\u0440\u0438 \u0434\u043e\u0436\u0434\u044c",
    "e\u0301" * 20,
    "x" * 300,
]


@pytest.fixture(scope="module")
def encoder():
    return StaticText()


def sentences(name, part):
    """(sentence, number of its task) of a file of pools."""
    pools = yaml.safe_load((ROOT / "conf" / "prompts" / f"{name}.yaml").read_text())
    return [(sentence, i) for i, task in enumerate(TASKS) for sentence in pools[task][part]]


def mean_of(encoder, sentence):
    return encoder.features(sentence)[-1]


# -- the shipped files -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PINNED)
def test_the_shipped_file_is_the_pinned_one(name):
    assert hashlib.sha256((TABLE / name).read_bytes()).hexdigest() == PINNED[name]


def test_the_shipped_folder_is_small_and_says_whose_work_it_is():
    assert sum(file.stat().st_size for file in TABLE.iterdir()) <= 8_000_000
    notice = (TABLE / "README.md").read_text()
    assert "sentence-transformers/all-MiniLM-L6-v2" in notice and "Apache License, Version 2.0" in notice


# -- states ------------------------------------------------------------------------------------------------------------


def test_states_are_the_tokens_and_then_their_mean(encoder):
    prompt = "remove the rain"
    states = encoder.encode([prompt]).detach()[0]
    assert states.shape == (encoder.length, encoder.width) == (64, 64) and states.dtype == torch.float32
    assert encoder.count(prompt) == 4
    vocabulary = encoder.tokenizer.get_vocab()
    rows = encoder.table[[vocabulary[word] for word in prompt.split()]] * encoder.scale
    assert torch.allclose(states[:3], rows @ encoder.model.weight.detach().T, atol=1e-5)
    assert torch.allclose(states[3], states[:3].mean(0), atol=1e-5)
    assert (states[3:] == states[3]).all()


def test_the_null_text_is_zero(encoder):
    assert not encoder.encode([""]).any()
    assert encoder.count("") == 1


def test_what_else_is_in_the_batch_changes_no_bit(encoder):
    alone = torch.cat([encoder.encode([prompt]) for prompt in PROMPTS])
    assert torch.equal(encoder.encode(PROMPTS), alone)
    assert torch.equal(encoder.encode(PROMPTS[::-1] * 8)[: len(PROMPTS)].flip(0), alone)


def test_the_number_of_threads_changes_no_bit(encoder):
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 4):
            torch.set_num_threads(threads)
            found.append(encoder.encode(PROMPTS))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(found[0], found[1]) and torch.equal(found[0], found[2])


def test_the_mean_does_not_depend_on_the_order_of_the_words(encoder):
    words = ["could", "you", "please", "take", "all", "of", "the", "grain", "out", "of", "this", "photograph"]
    for turned in (words[::-1], sorted(words), words[5:] + words[:5]):
        assert torch.equal(mean_of(encoder, " ".join(turned)), mean_of(encoder, " ".join(words)))


def test_another_order_of_floats_gives_the_same_features(encoder):
    """A fresh process without this processor's vector instructions; and transformers is not imported for it."""
    code = (
        "import sys, hashlib, json; from ip2p_lightning.networks.projected_text import StaticText; e = StaticText();"
        "print([hashlib.sha256(e.features(p).numpy().tobytes()).hexdigest() for p in json.loads(sys.argv[1])],"
        "'transformers' in sys.modules)"
    )
    environment = os.environ | {"ATEN_CPU_CAPABILITY": "default"}
    told = subprocess.run(
        [sys.executable, "-c", code, json.dumps(PROMPTS)], env=environment, capture_output=True, text=True, check=True
    )
    here = [hashlib.sha256(encoder.features(prompt).numpy().tobytes()).hexdigest() for prompt in PROMPTS]
    assert told.stdout.strip() == f"{here} False"


@pytest.mark.parametrize("prompt", FOREIGN)
def test_any_text_has_finite_states(encoder, prompt):
    assert encoder.features(prompt).isfinite().all()


def test_a_long_prompt_is_cut_and_warned_about_once():
    short = StaticText(length=4)
    with pytest.warns(UserWarning, match="prompt of 6 tokens loses all but 4") as caught:
        states = short.encode(["please make the picture bright"] * 2)
    assert len(caught) == 1 and states.shape == (2, 4, 64)
    assert torch.equal(short.features("please make the picture bright"), short.features("please make the"))


def test_one_string_is_not_a_list_of_letters(encoder):
    with pytest.raises(TypeError, match="list"):
        encoder.encode("ab")


# -- training ----------------------------------------------------------------------------------------------------------


def test_the_projection_is_what_is_trained_and_stored():
    encoder = StaticText(width=8)
    assert encoder.trainable
    assert {name: tuple(w.shape) for name, w in encoder.model.state_dict().items()} == {"weight": (8, 240)}
    encoder.encode(["remove the rain"]).square().sum().backward()
    assert encoder.model.weight.grad.any()
    before = encoder.encode(["remove the rain"]).detach()
    with torch.no_grad():
        encoder.model.weight.mul_(2)
    assert torch.equal(encoder.encode(["remove the rain"]).detach(), 2 * before)


def test_the_projection_is_a_function_of_the_seed_alone():
    state = torch.get_rng_state()
    first, second, other = (StaticText(seed=seed).model.weight for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first, second) and not torch.equal(first, other)
    assert first.square().sum(1).mean().item() == pytest.approx(1, abs=0.1)


def test_a_copy_of_a_trained_one_has_a_projection_of_its_own_and_the_same_words(encoder):
    twin = copy.deepcopy(encoder)
    assert twin.model is not encoder.model and twin.table is encoder.table
    assert torch.equal(twin.encode(PROMPTS), encoder.encode(PROMPTS))


def test_a_frozen_one_has_the_same_states_and_remembers_them(encoder):
    frozen = StaticText(trainable=False)
    assert not any(w.requires_grad for w in frozen.model.parameters())
    assert torch.equal(frozen.encode(PROMPTS), encoder.encode(PROMPTS).detach())
    assert set(frozen._memory) == set(PROMPTS) and not encoder._memory
    assert copy.deepcopy(frozen) is frozen


# -- reading -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def reader(encoder):
    """Logistic regression on the mean, fitted to what is trained on: (sentence, task) pairs -> how many it reads."""
    train = sentences("paraphrase", "prompts")
    x, y = torch.stack([mean_of(encoder, s) for s, _ in train]).double(), torch.tensor([i for _, i in train])
    weight = torch.zeros(x.shape[1] + 1, len(TASKS), dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([weight], max_iter=200, line_search_fn="strong_wolfe")

    def closure():
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(x @ weight[1:] + weight[0], y) + 5e-4 * weight[1:].square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)

    def read(pairs):
        logits = torch.stack([mean_of(encoder, s) for s, _ in pairs]).double() @ weight[1:] + weight[0]
        return int((logits.argmax(1) == torch.tensor([i for _, i in pairs])).sum())

    return read


def test_it_reads_every_held_out_sentence(reader):
    assert reader(sentences("parts/held_out", "held_out")) == 48


def test_it_reads_most_of_what_people_type(reader):
    assert reader(sentences("parts/colloquial", "held_out")) >= 107


def test_it_reads_instructions_of_others(reader):
    if not INSTRUCTIR.exists():
        pytest.skip("InstructIR's prompts are not here")
    theirs = json.loads(INSTRUCTIR.read_text())
    tasks = {"denoising": "denoise", "deraining": "derain", "lol": "lowlight"}
    pairs = [(s, TASKS.index(task)) for name, task in tasks.items() for s in theirs[name]]
    assert len(pairs) == 14 and reader(pairs) >= 12


@pytest.mark.parametrize(
    ("misspelt", "meant"),
    [
        ("remvoe the rain from this photo", "derain"),
        ("plese brihgten this dark foto", "lowlight"),
        ("turn tihs pciture into a cartooon", "cartoon"),
        ("get rid of the grainn and the nioise", "denoise"),
    ],
)
def test_a_misspelt_sentence_keeps_its_task(reader, misspelt, meant):
    assert reader([(misspelt, TASKS.index(meant))]) == 1


# -- refusals ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sizes", [{"width": 0}, {"length": 1}])
def test_sizes_that_do_not_fit_are_refused(sizes):
    with pytest.raises(UserError, match=r"width=\d+ must be at least 1 and length=\d+ at least 2"):
        StaticText(**sizes)


@pytest.mark.parametrize("name", PINNED)
def test_a_folder_without_a_table_is_named(tmp_path, name):
    folder = shutil.copytree(TABLE, tmp_path / "table")
    (folder / name).unlink()
    with pytest.raises(UserError, match=f"no token table at {folder}: {name} is missing"):
        StaticText(str(folder))


@pytest.mark.parametrize("name", PINNED)
def test_half_a_file_is_damage(tmp_path, name):
    folder = shutil.copytree(TABLE, tmp_path / "table")
    whole = (folder / name).read_bytes()
    (folder / name).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DamagedError, match=f"cannot read the token table in {folder}") as caught:
        StaticText(str(folder))
    assert "\n" not in str(caught.value)


def test_a_table_of_another_tokenizer_is_damage(tmp_path):
    from safetensors.torch import save_file

    folder = shutil.copytree(TABLE, tmp_path / "table")
    save_file({"table": torch.zeros(7, 240).to(torch.int8), "scale": torch.ones(240)}, folder / "table.safetensors")
    with pytest.raises(DamagedError, match="30522 tokens, but a table of shape"):
        StaticText(str(folder))
