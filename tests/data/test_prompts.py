"""Pools of instructions: what they refuse, how they draw, and that the shipped ones say what they should."""

import re
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import yaml
from hydra.utils import instantiate

from ip2p_lightning.config import compose
from ip2p_lightning.data.prompts import PromptPool, cleaned_prompt, mentions_side, token_report
from ip2p_lightning.errors import DataError, UserError
from ip2p_lightning.rng import numpy_rng

POOLS = compose.CONF / "prompts"
COLLOQUIAL = POOLS / "parts" / "colloquial.yaml"
TASKS = ("cartoon", "derain", "denoise", "lowlight", "deblur")
TRAINING_PROMPTS = {"name": 1, "single": 1, "template": 24, "paraphrase": 160}
WORDS = {  # what a prompt of a task must say, and one of any other task must not
    "cartoon": r"cartoon|\btoon",
    "derain": r"\b(de)?rain|drizzle|downpour|\bshower",
    "denoise": r"nois[eiy]|\bgrain|speckle",
    "lowlight": r"low.?light|\bdark|\blight|daylight|bright|\blit\b|\bdim\b|gloom|illumin|expos|\brelight",
    "deblur": r"blur|sharp|crisp|focus",
}


def composed(pool, *overrides):
    return compose.composed([f"+prompts={pool}", *overrides], None).prompts


@pytest.fixture(scope="module")
def pools():
    """Every shipped pool: name -> task -> PromptPool."""
    configs = {name: composed(name) for name in TRAINING_PROMPTS}
    return {n: {t: instantiate(c[t], _convert_="all") for t in c if t != "limit"} for n, c in configs.items()}


def bare(prompt):
    """Its words alone."""
    return " ".join(re.findall(r"\w+", prompt.casefold()))


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ({"prompts": []}, "empty"),
        ({"prompts": ["a", "  \t "]}, r"prompts\[1\] is blank"),
        ({"prompts": ["\u200b"]}, "blank"),
        ({"prompts": ["a", 3]}, r"prompts\[1\] is int 3, not text"),
        ({"prompts": [None]}, "NoneType"),
        ({"prompts": "derain the image"}, "not a list"),
        *[({"prompts": [f"a{letter}b"]}, rf"U\+{ord(letter):04X}") for letter in "\0\n\ud800\u2028"],
        ({"prompts": ["b", "Remove  the RAIN"], "held_out": ["remove the rain "]}, r"held_out\[0\].*also prompts\[1\]"),
        ({"prompts": ["caf\u00e9"], "held_out": ["cafe\u0301"]}, "also"),
        ({"prompts": ["b", "a"], "held_out": ["a"], "limit": 1}, "also"),
    ],
)
def test_refusals_are_one_line_and_exit_code_3(arguments, line):
    with pytest.raises(DataError, match=line) as caught:
        PromptPool(**arguments)
    assert caught.value.code == 3 and "\n" not in str(caught.value) and str(caught.value).isascii()


@pytest.mark.parametrize("limit", [0, -1, 1.5, True, "3"])
def test_a_limit_that_is_no_positive_integer_is_a_config_error(limit):
    with pytest.raises(UserError, match=r"prompts\.limit") as caught:
        PromptPool(["a"], limit=limit)
    assert caught.value.code == 2


def test_limit_keeps_the_first_training_prompts_and_all_held_out_ones():
    pool = PromptPool(["a", "b", "c"], ["d", "e"], limit=2)
    assert len(pool) == 2 and pool.prompts == ("a", "b") and pool.all == ("a", "b", "d", "e")
    assert len(PromptPool(["a"], limit=9)) == 1


def test_in_order_shows_each_prompt_once_before_any_comes_again_and_text_is_normalised():
    pool = PromptPool([" cafe\u0301 ", "b", "c"], ["x"])
    first, again = ([pool.in_order(i, numpy_rng(0)) for i in range(at, at + 3)] for at in (0, 3))
    assert sorted(first) == ["b", "c", "caf\u00e9"] and again == first
    assert pool.in_order(7, numpy_rng(0), held_out=True) == "x"


def test_a_pool_without_held_out_prompts_says_so():
    pool = PromptPool(["derain the image"])
    for ask in (lambda: pool.in_order(0, numpy_rng(0), held_out=True), lambda: pool.draw(numpy_rng(0), held_out=True)):
        with pytest.raises(DataError, match="has no held-out prompts"):
            ask()


@pytest.mark.parametrize("held_out", [False, True])
def test_keyed_draws_are_uniform(held_out):
    pool = PromptPool(list("abcde"), list("vwxyz"))
    drawn = [pool.draw(numpy_rng(0, epoch, f"{i}.jpg"), held_out) for epoch in range(5) for i in range(1000)]
    counts = np.array([drawn.count(p) for p in (pool.held_out if held_out else pool.prompts)])
    assert counts.sum() == 5000
    assert ((counts - 1000) ** 2 / 1000).sum() < 23.5  # chi-squared, 4 degrees of freedom, p = 1e-4


def test_a_draw_depends_on_its_key_alone():
    pool = PromptPool([f"p{i}" for i in range(50)])
    alone = pool.draw(numpy_rng(1, "x"))
    for i in range(10):
        pool.draw(numpy_rng(1, i))
    assert pool.draw(numpy_rng(1, "x")) == alone


def test_token_report_names_share_and_worst():
    pool = PromptPool(["one two", "one two three four"], ["one"])
    words = lambda prompt: len(prompt.split())  # noqa: E731
    assert token_report(pool, words, max_length=4) is None
    assert token_report(pool, words, max_length=3) == (
        "1 of 3 prompts (33%) exceed 3 tokens and lose their ends; the longest has 4: 'one two three four'"
    )
    assert token_report(["a b"], words, max_length=1).startswith("1 of 1 prompts (100%)")


def test_sides_are_whole_words():
    yes = ["Brighten the LEFT half", "the right-hand lamp", "move it right.", "the leftmost tree", "lean rightwards"]
    no = ["make it bright", "the copyright", "leftovers", "derain the image", "", "brightly lit"]
    assert all(map(mentions_side, yes)) and not any(map(mentions_side, no))


def test_parts_are_not_offered_as_a_pool():
    assert {path.stem for path in POOLS.glob("*.yaml")} == {*TRAINING_PROMPTS, "itsd"}


@pytest.mark.parametrize("name", TRAINING_PROMPTS)
def test_every_pool_composes_with_all_tasks(pools, name):
    assert set(pools[name]) == set(TASKS)
    for pool in pools[name].values():
        assert len(pool) >= TRAINING_PROMPTS[name] and len(pool.held_out) >= 12
        assert len({p.casefold() for p in pool.all}) == len(pool.all)


def test_arms_are_judged_by_the_same_sentences(pools):
    for task in TASKS:
        assert len({pools[name][task].held_out for name in pools}) == 1
        trained = {bare(p) for name in pools for p in pools[name][task].prompts}
        assert not trained & {bare(p) for p in pools["name"][task].held_out}


def test_limit_comes_from_the_command_line():
    config = composed("paraphrase", "prompts.limit=7")
    assert len(instantiate(config.derain)) == 7 and config.deblur.limit == 7


def test_the_original_experiments_sentences(pools):
    single = {task: pool.prompts[0] for task, pool in pools["single"].items()}
    assert (single["derain"], single["denoise"]) == ("derain the image", "denoise the noisy image")
    assert single["lowlight"] == "enhance the low-light image"


@pytest.mark.parametrize("task", TASKS)
def test_prompts_say_their_task_and_no_other(pools, task):
    for pool in (pools["single"][task], pools["template"][task], pools["paraphrase"][task]):
        for prompt in pool.all:
            said = {t for t, words in WORDS.items() if re.search(words, prompt, re.IGNORECASE)}
            assert not said - {task} and not mentions_side(prompt), prompt
    for prompt in (*pools["template"][task].all, *pools["paraphrase"][task].prompts[:55]):  # the others may only hint
        assert re.search(WORDS[task], prompt, re.IGNORECASE), prompt


@pytest.mark.parametrize("task", TASKS)
def test_paraphrases_differ(pools, task):
    pool = pools["paraphrase"][task]
    bags = {p: frozenset(bare(p).split()) for p in pool.all}
    for (p, a), (q, b) in combinations(bags.items(), 2):
        assert len(a & b) / len(a | b) < 0.75, (p, q)
    lengths = [len(p.split()) for p in pool.prompts]
    assert 2 <= min(lengths) <= 3 and 10 <= max(lengths) <= 20
    assert len({p.split()[0] for p in pool.prompts}) >= 25


def test_cartoon_sentences_are_our_own(pools):
    published = Path(__file__).parents[3] / "shared" / "data" / "text" / "instructions_cartoon_50.txt"
    if not published.exists():
        pytest.skip("the published list is not here")
    theirs = {bare(line) for line in published.read_text().splitlines()}
    assert not theirs & {bare(p) for p in pools["paraphrase"]["cartoon"].all + pools["template"]["cartoon"].prompts}


# ---- the colloquial test sentences ----


def sentences(path):
    """task -> everything a file trains on or holds out."""
    content = yaml.safe_load(path.read_text()).items()
    return {t: [*p.get("prompts", []), *p.get("held_out", [])] for t, p in content if isinstance(p, dict)}


@pytest.mark.parametrize("task", TASKS[:4])
def test_colloquial_sentences_are_thirty_prompts_that_mirroring_keeps_true(task):
    found = sentences(COLLOQUIAL)[task]
    assert len(found) == 30 and not any(map(mentions_side, found))
    assert [cleaned_prompt(sentence, task) for sentence in found] == found


def test_colloquial_sentences_differ_and_stand_in_no_pool():
    found = [bare(s) for part in sentences(COLLOQUIAL).values() for s in part]
    assert len(set(found)) == len(found) == 120
    others = [path for path in POOLS.rglob("*.yaml") if path != COLLOQUIAL]
    known = {bare(s) for path in others for part in sentences(path).values() for s in part}
    assert len(known) > 300 and not known & set(found)
