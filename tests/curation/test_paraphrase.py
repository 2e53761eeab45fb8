"""``ip2p-data prompts``: gibberish is refused, a good reply becomes a pool, and the key stays where it is."""

import json
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
import yaml

from ip2p_lightning.cli.paraphrase import main
from ip2p_lightning.config.build import build
from ip2p_lightning.config.compose import composed, plain
from ip2p_lightning.curation.paraphrase.filters import Filter, embedding_test, keyword_test, sentences, split
from ip2p_lightning.rng import seed_of

GOOD = """Sure, here are some instructions:
1. Redraw the photo as a cartoon
2. "Could you make a cartoon out of this picture?"
- Cartoon look, please
3) redraw the photo, as a CARTOON!
Paint the sky green
Make this holiday snap a comic strip
Cartoon
4. I would love to see my dog in an animated film
Recast the picture as a cartoon panel
Ink the outlines and fill them with flat cartoon colours
"""
EXPECTED = {"too short": 1, "another meaning": 1, "duplicate": 1, "shared held-out prompt": 1}


class Scripted(BaseHTTPRequestHandler):
    """An OpenAI-compatible endpoint with prepared answers that records its requests."""

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked.append((self.path, self.headers, body))
        code, text = self.server.answers.pop(0) if self.server.answers else (200, "")
        reply = text if code != 200 else json.dumps({"choices": [{"message": {"content": text}}]})
        self.send_response(code)
        self.send_header("Location", "http://127.0.0.1:9/elsewhere")  # of a redirection alone
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(reply.encode())

    def log_message(self, *args):
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    http = HTTPServer(("127.0.0.1", 0), Scripted)
    http.asked, http.answers = [], []
    http.url = f"http://127.0.0.1:{http.server_port}/v1"
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield http
    http.shutdown()
    thread.join()
    http.server_close()


def test_an_endpoints_reply_becomes_a_pool(server, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "not asked for")
    more = "Turn me into a cartoon hero\nA caricature of everyone here, thanks"
    server.answers = [(200, GOOD), (200, GOOD), (200, more)]
    out = tmp_path / "pool.yaml"
    words = ["task=cartoon", "n=6", "held_out=2", "source=endpoint", f"url={server.url}", "model=scripted"]
    assert main([*words, f"out={out}", "style=Be brief."]) == 0
    printed = capsys.readouterr().out
    pool = yaml.safe_load(out.read_text())["cartoon"]
    assert len(pool["prompts"]) == 6 and len(pool["held_out"]) == 2 and not set(pool["prompts"]) & set(pool["held_out"])
    assert "Could you make a cartoon out of this picture?" in pool["prompts"] + pool["held_out"]
    assert "Paint the sky green" not in out.read_text() and "near-duplicate" not in printed
    head = [line for line in out.read_text().splitlines() if line.startswith("#")]
    assert any("endpoint: scripted" in line for line in head) and any("style: Be brief." in line for line in head)
    assert any("2 another meaning" in line and "estimated" in line for line in head)
    path, headers, body = server.asked[0]
    assert path == "/v1/chat/completions" and headers["Authorization"] == "Bearer none"
    request = body["messages"][0]["content"]
    assert "turn the photo into a cartoon" in request and "Be brief. " in request and "{" not in request
    assert body["temperature"] == 0.9 and body["seed"] != server.asked[1][2]["seed"]


def test_the_pool_is_a_choice_for_training(server, tmp_path):
    server.answers = [(200, GOOD)]
    out = tmp_path / "prompts" / "mine.yaml"
    out.parent.mkdir()
    words = ["source=endpoint", f"url={server.url}/chat/completions/", "model=m", f"out={out}"]
    assert main(["task=cartoon", "n=4", "held_out=2", *words]) == 0
    search = f"hydra.searchpath=[file://{tmp_path}]"
    config = plain(composed(["task=cartoon", "prompts=mine", "prompts.limit=3", search]))
    pool = build(config["task"]["prompts"])
    assert len(pool) == 3 and len(pool.held_out) == 2


def test_the_key_comes_from_the_environment_and_is_never_shown(server, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("MY_KEY", "s3cret")
    words = ["task=cartoon", "n=3", "held_out=0", "source=endpoint", f"url={server.url}", "model=m", "key=MY_KEY"]
    server.answers = [(200, GOOD), (401, "denied s3cret")]
    assert main([*words, f"out={tmp_path}/a.yaml"]) == 0
    assert server.asked[0][1]["Authorization"] == "Bearer s3cret"
    assert main([*words, f"out={tmp_path}/b.yaml"]) == 2
    out, err = capsys.readouterr()
    assert "401" in err and "s3cret" not in out + err + (tmp_path / "a.yaml").read_text()


GIBBERISH = "qzx vv\nblorp the fnord, gently\n{}[]#"


@pytest.mark.parametrize(
    ("status", "text"), [(200, GIBBERISH), (200, ""), (200, None), (302, ""), (307, ""), (404, "x")]
)
def test_an_endpoint_that_fails_or_gibbers_is_one_line(server, refused, tmp_path, status, text):
    server.answers = [(status, text)]
    words = ["task=cartoon", "n=5", f"url={server.url}", "model=m", "rounds=1", f"out={tmp_path}/p.yaml"]
    code, line = refused(main, *words)
    wanted = (3, "too few prompts survived: 0 of the 17 needed") if status == 200 else (2, str(status))
    assert code == wanted[0] and wanted[1] in line and not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("url", "more", "code"),
    [
        ("file:///etc/passwd", [], 7),
        ("ftp://host/v1", [], 7),
        ("http://me:pw@host/v1", [], 7),
        ("ftp://me:pw@host/v1", [], 7),
        ("http://example.org/v1", ["key=HOME"], 7),
        ("https:///v1", [], 2),
        ("http://[::1", [], 2),
        ("http://127.0.0.1:9/v1", ["key=NOT_SET_ANYWHERE"], 2),
        ("http://127.0.0.1:9/v1", [], 2),
    ],
)
def test_odd_urls_are_refused(refused, url, more, code):
    got, line = refused(main, "task=cartoon", "source=endpoint", f"url={url}", "model=m", *more)
    assert got == code and "pw@" not in line


def test_a_text_file_is_filtered_and_split_the_same_every_time(tmp_path, capsys):
    text = tmp_path / "lines.txt"
    text.write_text("\ufeff" + GOOD, encoding="utf-8")
    words = ["task=cartoon", "source=file", f"file={text}", "held_out=2"]
    assert main([*words, f"out={tmp_path}/a.yaml"]) == 0 and main([*words, f"out={tmp_path}/b.yaml"]) == 0
    assert (tmp_path / "a.yaml").read_bytes() == (tmp_path / "b.yaml").read_bytes()
    pool = yaml.safe_load((tmp_path / "a.yaml").read_text())["cartoon"]
    assert len(pool["prompts"]) == 4 and len(pool["held_out"]) == 2
    printed = capsys.readouterr().out
    assert all(f"{n} {reason}" in printed for reason, n in EXPECTED.items())
    assert main([*words[:3], "held_out=shared", f"out={tmp_path}/c.yaml"]) == 0
    pool = yaml.safe_load((tmp_path / "c.yaml").read_text())["cartoon"]
    assert "Put a cartoon spin on this picture" in pool["held_out"]


def test_the_filter_counts_each_reason():
    prompts = Filter(str.__len__, keyword_test(["cartoon", "comic", "animated"]), max_tokens=60)
    for line in sentences(GOOD):
        prompts.offer(line)
    prompts.offer("Redraw the photos as a cartoon")
    prompts.offer("A cartoon of " + "very " * 20 + "long words")
    prompts.offer("cartoon {}[]#$%^ 0123456789")
    reasons = ["too short", "another meaning", "duplicate", "near-duplicate", "too long", "not a sentence"]
    assert prompts.reasons == Counter(reasons)


def test_keywords_match_the_beginnings_of_words():
    keeps = keyword_test(["rain", "nois"])
    assert all(map(keeps, ["De-rain it", "derain it", "Denoise!", "a noisy one"]))
    assert not keeps("train a strained brain")


def test_the_held_out_part_depends_on_the_sentences_alone():
    prompts = [f"prompt number {i}" for i in range(20)]
    forwards, backwards = ([sorted(part) for part in split(p, 5, seed_of)] for p in (prompts, prompts[::-1]))
    assert forwards == backwards and len(forwards[1]) == 5


def test_an_encoder_decides_where_one_is_given(sd_folder, tmp_path):
    keeps = embedding_test(str(sd_folder), "turn it into a cartoon", 0.999)
    assert keeps("Turn it into a cartoon") and not keeps("remove the rain, please, from this one here")
    text = tmp_path / "lines.txt"
    text.write_text("Turn the photo into a cartoon\nA wholly different request about rain\n")
    words = ["task=cartoon", "source=file", f"file={text}", "held_out=0", f"tokenizer={sd_folder}", "min_cosine=0.999"]
    assert main([*words, f"encoder={sd_folder}", f"out={tmp_path}/p.yaml"]) == 0
    content = (tmp_path / "p.yaml").read_text()
    assert "1 another meaning" in content and "by the tokenizer given" in content and "wholly" not in content


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["task=cartoon"], "url has no value"),
        (["url=x", "model=x"], "task has no value"),
        (["task=cartoon", "tsk=x"], "did you mean 'task'"),
        (["task=cartoon", "source=file", "file=x", "n=0"], "n=0"),
        (["task=cartoon", "source=file", "file=x", "n=many"], "n=many"),
        (["task=cartoon", "source=file", "file=x", "held_out=some"], "held_out=some"),
        (["task=cartoon", "source=file", "file=x", "top_p=2"], "top_p=2"),
        (["task=cartoon", "source=web"], "endpoint or file"),
        (["task=cartoon", "config=/nowhere.yaml"], "config=/nowhere.yaml"),
    ],
)
def test_wrong_settings_are_one_line(refused, words, line):
    code, said = refused(main, *words)
    assert code == 2 and line in said


def test_a_task_of_ones_own(tmp_path, refused):
    text = tmp_path / "lines.txt"
    text.write_text("Give it a sepia tone\nMake it look old and brown in sepia\nTurn it blue\n")
    words = ["task=sepia", "source=file", f"file={text}", "held_out=1", f"out={tmp_path}/p.yaml"]
    code, line = refused(main, *words)
    assert code == 2 and "about=TEXT" in line
    assert main([*words, "about=tone the photo in sepia", "keywords=sepia"]) == 0
    code, line = refused(main, *words, "about=x", "keywords=sepia")
    assert code == 2 and "exists" in line
    assert main([*words, "about=x", "keywords=sepia", "force=true"]) == 0


def test_unreadable_files_are_one_line(tmp_path, refused):
    bad = tmp_path / "x.txt"
    bad.write_bytes(b"caf\xe9")
    assert refused(main, "task=cartoon", "source=file", f"file={bad}")[0] == 3
    bad.write_text("\n \n\t\n")
    code, line = refused(main, "task=cartoon", "source=file", f"file={bad}", f"out={tmp_path}/p.yaml")
    assert code == 3 and "of 0 offered" in line and not (tmp_path / "p.yaml").exists()
    assert refused(main, "task=cartoon", "source=file", f"file={tmp_path / 'none'}")[0] == 5


def test_the_page_names_every_setting(capsys):
    from ip2p_lightning.curation.paraphrase.settings import Settings

    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    page = capsys.readouterr().out
    assert not ended.value.code and all(f"{name}=" in page for name in Settings.__annotations__ if name != "tasks")
