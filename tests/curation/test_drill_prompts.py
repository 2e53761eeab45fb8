"""Drill 29: prompts of every kind, through a build and through training."""

import json
import unicodedata

import pytest

from tests.support.material import pairs_folder, read_report, read_rows
from tests.support.trained import train_run

STRANGE = {
    "77 tokens": "a" * 75,
    "78 tokens": "a" * 76,
    "500 tokens": "b" * 498,
    "100,000 tokens": "word " * 25_000,
    "emoji": "🎨🖌️ paint it 👩‍🎨",
    "right to left": "اجعل الصورة كرتونا",
    "combining": "cafe\u0301 a\u0300\u0301\u0302\u0303",
    "braces": "{braces} {0} {x!r} {",
    "percent": "%s %d %(name)s 100%",
    "jinja": "{{ config }} {% for x in y %}{# no #}",
    "markup": "<b>bold</b> & \"quoted\" 'text' \\n \\x00",
    "interpolation": "${oc.env:HOME} $(id) `id`",
}
REFUSED = {"NUL": "a\0b", "newline": "a\nb", "tab": "a\tb", "escape": "a\x1b[31mb"}


@pytest.fixture(scope="module")
def built(tmp_path_factory, sd_folder):
    """Two builds of twenty pairs: prompts of the pool alone, and strange ones on most of them."""
    from ip2p_lightning.cli.data import main

    folder = tmp_path_factory.mktemp("prompts")
    root, given = pairs_folder(folder / "in", 20), [*STRANGE.items(), *REFUSED.items()]
    for name in ("pool", "strange"):
        with (root / f"{name}.jsonl").open("w") as file:
            for i in range(20):
                more = {"prompt": given[i][1]} if name == "strange" and i < len(given) else {}
                pair = {"original": f"input/p{i:05d}.png", "edited": f"target/p{i:05d}.png", "id": f"{i:02d}"}
                file.write(json.dumps(pair | more) + "\n")
        words = ["task=derain", "source=manifest", f"source.path={root / name}.jsonl", f"out={folder / name}"]
        assert main(["build", *words, "on_bad=skip", f"tokenizer={sd_folder / 'tokenizer'}"]) == 0
    return folder


def rows(folder):
    return {int(row["id"].rpartition("/")[2]): row["edit_prompt"] for row in read_rows(folder)}


def report(folder):
    return {int(line["id"].rpartition("/")[2]): line for line in read_report(folder)}


def test_prompts_are_stored_as_they_are_and_control_characters_refused(built):
    stored = rows(built / "strange")
    for i, prompt in enumerate(STRANGE.values()):
        assert stored[i] == unicodedata.normalize("NFC", prompt).strip()
    said = report(built / "strange")
    for i in range(len(STRANGE), len(STRANGE) + len(REFUSED)):
        assert said[i]["verdict"] == "rejected" and said[i]["stage"] == "prompt"
        assert "control character" in said[i]["reason"]


def test_no_prompt_changes_what_another_pair_gets(built):
    pool, strange = rows(built / "pool"), rows(built / "strange")
    others = range(len(STRANGE) + len(REFUSED), 20)
    assert [pool[i] for i in others] == [strange[i] for i in others] and len(set(pool.values())) > 5


def test_the_share_that_is_cut_off_is_exact(built, sd_folder):
    from transformers import CLIPTokenizer

    count = CLIPTokenizer.from_pretrained(str(sd_folder / "tokenizer"))
    lengths = {i: len(count(prompt).input_ids) for i, prompt in rows(built / "strange").items()}
    tokens = json.loads((built / "strange" / "dataset.json").read_text())["tokens"]
    over = sum(length > 77 for length in lengths.values())
    assert over >= 3 and tokens["prompts_cut_off"] == over and tokens["longest"] == max(lengths.values()) > 100_000
    assert {i: line["tokens"] for i, line in report(built / "strange").items() if "tokens" in line} == lengths
    assert f"{over} are longer than 77" in (built / "strange" / "README.md").read_text()


def test_a_sheet_shows_them_and_the_summary_what_was_refused(built, tmp_path, capsys):
    from ip2p_lightning.cli.data import main

    assert main(["show", str(built / "strange"), "--out", str(tmp_path), "--pairs", "20"]) == 0
    assert "rejected: 4 at stage prompt" in capsys.readouterr().out
    assert (tmp_path / "derain.png").stat().st_size < 10_000_000


def test_a_run_trains_on_them_and_says_first_which_share_is_cut_off(built, sd_folder, capsys, tmp_path):
    from transformers import CLIPTokenizer

    words = ["model=tiny", "data=built", f"data.root={built / 'strange'}", "task=own", "trainer.max_steps=3"]
    train_run(tmp_path / "own", *words, "loader.batch_size=4")
    capsys.readouterr()
    pool = [p.replace("\\", "").replace("$", "").replace('"', "") for p in STRANGE.values()]  # Hydra's own signs
    words = [f"model.path={sd_folder}", f"prompts.denoise.prompts={json.dumps(pool, ensure_ascii=False)}"]
    train_run(tmp_path / "pool", "model=local", "task=denoise", "loader.resize=null", *words)
    pool += json.loads((tmp_path / "pool" / "config.json").read_text())["prompts"]["denoise"]["held_out"]
    count = CLIPTokenizer.from_pretrained(str(sd_folder / "tokenizer"))
    over = sum(len(count(prompt).input_ids) > 77 for prompt in pool)
    assert over >= 3 and f"prompts of denoise: {over} of {len(pool)} prompts" in capsys.readouterr().out
