"""The page: what it accepts without gradio, and with gradio a server of its own, spoken to over HTTP (drill 61)."""

import io
import json
import math
import os
import re
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from ip2p_lightning.cli import app
from ip2p_lightning.errors import DataError, UserError
from ip2p_lightning.runs.folder import read_config
from tests.support.photos import PROMPT, edit, photo, pixels

META = {"_type": "gradio.FileData"}
on_a_bridge = pytest.mark.parametrize("served", ["tiny_run"], indirect=True)


class Sampler:
    """A bridge's settings: no image scale."""

    def __init__(self, steps=4, text_scale=1.0):
        self.steps, self.text_scale = steps, text_scale


class Model:
    """Gives back what it is shown; remembers how it was asked."""

    device, autoencoder, sampler = "cpu", SimpleNamespace(factor=1, model=None), Sampler()

    def edit(self, x, prompts, seeds, sampler):
        self.asked = tuple(x.shape[2:]), prompts, seeds, vars(sampler)
        return x


@pytest.fixture
def editor(tmp_path):
    return app.Editor(Model(), tmp_path, max_side=64, max_steps=10)


def ask(editor, **changed):
    upload = {"path": str(photo(editor.folder / "a.png", (100, 60)))}
    asked = {"photo": upload, "prompt": PROMPT, "steps": 2, "text_scale": 3, "image_scale": None, "seed": 5}
    return editor.edit(**(asked | changed))


def test_help_is_a_page(capsys):
    with pytest.raises(SystemExit):
        app.main(["--help"])
    page = capsys.readouterr().out
    assert all(word in page for word in ("--host", "127.0.0.1", "--queue", "ip2p-lightning[app]", "examples:"))


def test_usage_is_refused_in_one_line(refused):
    for words in ((), ("run", "--queue", 0), ("run", "--max-side", 4), ("run", "--share"), ("run", "--port", "x")):
        assert refused(app.main, *words)[0] == 2


def test_without_gradio_it_says_what_to_install(refused, monkeypatch):
    monkeypatch.setattr(os, "environ", os.environ.copy())
    monkeypatch.setitem(sys.modules, "gradio", None)
    code, line = refused(app.main, "nowhere")
    assert code == 2 and "pip install 'ip2p-lightning[app]'" in line


def test_the_environment_opens_nothing(monkeypatch):
    monkeypatch.setattr(os, "environ", os.environ | {"GRADIO_SHARE": "True", "GRADIO_ALLOWED_PATHS": "/"})
    monkeypatch.setitem(sys.modules, "gradio", SimpleNamespace(processing_utils=SimpleNamespace()))
    app._gradio("/uploads")
    left = {name: value for name, value in os.environ.items() if name.startswith("GRADIO_")}
    assert left == {"GRADIO_ANALYTICS_ENABLED": "False", "GRADIO_RUN_HISTORY": "False", "GRADIO_TEMP_DIR": "/uploads"}


def test_the_model_is_asked_for_what_the_visitor_set(editor):
    assert ask(editor, seed=5.0, prompt="cut \ud83d").shape == (60, 100, 3)  # half a character breaks a tokenizer
    assert editor.module.asked == ((40, 64), ["cut ?"], [5], {"steps": 2, "text_scale": 3.0})  # 100 x 60 capped to 64


BAD = {"steps": [0, 11, 1.5, "2", None, math.nan], "seed": [-1, 2**53, 0.5, math.inf, None, 10**400]}
BAD |= {"text_scale": [math.nan, 101, -1e9, "x", None], "prompt": ["", "  ", None, ["x"], "x" * 1001]}
BAD |= {"photo": [None, {}, {"path": None}, {"path": "/etc/passwd"}, "/etc/passwd"]}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in BAD.items() for value in values])
def test_what_a_visitor_sends_is_checked(editor, name, value):
    with pytest.raises(UserError):
        ask(editor, **{name: value})
    assert not hasattr(editor.module, "asked")


def test_uploads_are_read_and_nothing_else(editor):
    (editor.folder / "link.png").symlink_to("/etc/hostname")
    (editor.folder / "text.png").write_text("no image")
    for name in ("link.png", "../x.png"):
        with pytest.raises(UserError, match="not an upload"):
            ask(editor, photo={"path": f"{editor.folder}/{name}"})
    with pytest.raises(DataError, match="photo: not an image"):
        ask(editor, photo={"path": f"{editor.folder}/text.png"})


def test_examples_are_the_trained_tasks_own(tiny_run):
    config = read_config(tiny_run)
    shown = app.examples(config)
    assert len(shown) == 12 and shown[0] == config["task"]["tasks"]["cartoon"]["prompts"]["prompts"][0]
    config["task"]["weights"] = {"cartoon": 0}
    assert app.examples(config) == shown[3:]
    assert app.examples({"task": {"name": "own", "prompts": {"prompts": ["a", "b"]}}}) == ["a", "b"]
    assert app.examples({"task": {"name": "own", "prompts": None}}) == []


@pytest.fixture(scope="module")
def served(request, tmp_path_factory):
    """The real command on a free port, with room for one waiting edit, and the run; ended with SIGTERM."""
    if find_spec("gradio") is None:
        pytest.skip("needs ip2p-lightning[app]")
    run, home = request.getfixturevalue(request.param), tmp_path_factory.mktemp("home")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = [sys.executable, "-m", "ip2p_lightning.cli.app", run, "--port", port, "--queue", 1]
    temp = {"TMPDIR": str(home), "GRADIO_ALLOWED_PATHS": "/", "GRADIO_SERVER_NAME": "0.0.0.0", "GRADIO_SHARE": "True"}
    server = subprocess.Popen([*map(str, words)], env=os.environ | temp, stdout=subprocess.PIPE, text=True)
    try:
        said = server.stdout.readline()
        assert said == f"http://127.0.0.1:{port}/ (Ctrl-C ends it)\n"
        yield SimpleNamespace(url=said.split("/ ")[0], run=run, port=port)
    finally:
        server.terminate()
        assert server.wait(30) == 0
        assert not list(home.iterdir())  # uploads and edits are gone


def call(served, path, body=None, kind="application/json"):
    """One request: (status, body)."""
    body = json.dumps(body).encode() if isinstance(body, dict) else body
    request = urllib.request.Request(f"{served.url}{path}", body, {"Content-Type": kind} if body else {})
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.status, error.read()


def upload(served, content):
    head = b'--B\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\nContent-Type: image/png\r\n\r\n'
    body = head + content + b"\r\n--B--\r\n"
    return call(served, "/gradio_api/upload", body, "multipart/form-data; boundary=B")


def request_edit(served, path, *settings):
    """The name of an edit's event, None where the page is busy."""
    data = [path and {"path": path, "meta": META}, PROMPT, *settings]
    status, body = call(served, "/gradio_api/call/edit", {"data": data})
    assert status == 200 or (status == 503 and b"full" in body), body
    return json.loads(body)["event_id"] if status == 200 else None


def outcome(served, event):
    status, body = call(served, f"/gradio_api/call/edit/{event}")
    kind, data = re.search(r"event: (complete|error)\ndata: (.*)", body.decode()).groups()
    assert status == 200
    return kind, json.loads(data)


@pytest.mark.parametrize("served", ["tiny_run", "sd_run"], indirect=True)
def test_the_page_has_ip2p_edits_pixels(served, tmp_path):
    source = photo(tmp_path / "a.png", (70, 50))
    assert edit(served.run, source, PROMPT, "--steps", 3, "--seed", 7, "--text-scale", 2) == 0
    path = json.loads(upload(served, source.read_bytes())[1])[0]
    scale = None if "tiny" in str(served.run) else 1.5  # the sampler's default
    kind, data = outcome(served, request_edit(served, path, 3, 2, scale, 7))
    assert kind == "complete"
    answer = call(served, f"/gradio_api/file={data[0]['path']}")[1]
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(answer))).astype(int), pixels(tmp_path / "a-edit.png"))


@on_a_bridge
def test_the_page_gives_nothing_away(served):
    readme = Path(__file__).parents[2] / "README.md"
    for path in ("/etc/hostname", readme, "README.md", f"{served.run}/config.json", "http://127.0.0.1:1/a.png"):
        assert call(served, f"/gradio_api/file={path}")[0] == 403, path
        kind, said = outcome(served, request_edit(served, str(path), 1, 1, 1, 0))
        assert kind == "error" and (said["error"] in (None, "give a file, not a link")), said
    assert call(served, "/gradio_api/proxy=http://127.0.0.1:1/")[0] == 400
    assert call(served, "/gradio_api/run/edit", {"data": [None] * 6})[0] == 404  # past the queue
    assert call(served, "/monitoring")[0] == 403
    with pytest.raises(OSError), socket.create_connection(("127.0.0.2", served.port), 2):
        pass  # 127.0.0.2 is this machine too: a server on 0.0.0.0 would answer there


@on_a_bridge
def test_refusals_are_one_line_and_the_page_lives_on(served):
    bad = json.loads(upload(served, b"no image")[1])[0]
    wrong = {"choose a photo first": (None, 1), "photo: not an image": (bad, 1)}
    for words, settings in (wrong | {"steps must be a whole number from 1 to 50": (bad, 51)}).items():
        kind, said = outcome(served, request_edit(served, *settings, 1, 1, 0))
        assert kind == "error" and said["error"].startswith(words) and "\n" not in said["error"]
    assert upload(served, bytes(21_000_000))[0] == 413


@on_a_bridge
def test_a_full_queue_is_busy(served, tmp_path):
    path = json.loads(upload(served, photo(tmp_path / "a.png", (96, 96)).read_bytes())[1])[0]
    events = [request_edit(served, path, 50, 1, 1, 0) for _ in range(5)]
    taken = [event for event in events if event]
    assert 1 <= len(taken) < 5
    assert all(outcome(served, event)[0] == "complete" for event in taken)


@on_a_bridge
def test_a_taken_port_is_one_line(served):
    words = [sys.executable, "-m", "ip2p_lightning.cli.app", served.run, "--port", served.port]
    done = subprocess.run([*map(str, words)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 2 and done.stderr.startswith("error: cannot listen") and done.stderr.count("\n") == 1
