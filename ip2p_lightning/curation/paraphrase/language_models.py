"""Sources of sentences: a language model behind a URL, or a text file."""

from __future__ import annotations

import os
import urllib.parse
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ip2p_lightning.errors import DataError, SecurityError, UserError
from ip2p_lightning.rng import seed_of
from ip2p_lightning.system.files import storage_errors

Ask = Callable[[str, int], str]
"""Maps a request and the number of its round, which seeds the sampling, to a reply."""

LARGEST = 1 << 20  # bytes of a file
SECONDS = 120  # to wait for a reply
LOCAL = ("localhost", "127.0.0.1", "::1")


def text_file(path: str) -> str:
    """A UTF-8 file of one sentence per line. Raises DataError, StorageError."""
    place = Path(path).expanduser()
    with storage_errors(place, "read"), place.open("rb") as file:
        data = file.read(LARGEST + 1)
    if len(data) > LARGEST:
        raise DataError(f"{path}: more than {LARGEST} bytes; give a file of one prompt per line")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 at byte {error.start}; save it as UTF-8") from None


def endpoint(url: str, model: str, seed: int, decoding: Mapping[str, Any], key_name: str | None = None) -> Ask:
    """A chat model behind an OpenAI-compatible URL (``https://host/v1``).

    key_name: the environment variable that holds the key; its value is sent as a bearer token and shown nowhere.

    Raises UserError: no such URL or variable, or `openai` is not installed; SecurityError: another scheme than http(s),
    a password in the URL, or a key over plain http.
    """
    address = _address(url, bool(key_name))
    key = os.environ.get(key_name or "", "")
    if key_name and not key:
        raise UserError(f"key={key_name}: this environment variable is not set; export it, or leave key out")
    try:
        import openai
    except ImportError:
        raise UserError("source=endpoint needs openai; pip install 'ip2p-lightning[paraphrase]'") from None
    stay = openai.DefaultHttpxClient(follow_redirects=False)  # a redirect would send the key to another host
    # Without `api_key` the client would send the key for OpenAI that the environment may hold.
    client = openai.OpenAI(base_url=address, api_key=key or "none", timeout=SECONDS, http_client=stay)
    settings = {key: decoding[key] for key in ("temperature", "top_p")}
    settings |= {"model": model, "max_tokens": decoding["max_new_tokens"]}

    def ask(request: str, turn: int) -> str:
        messages = [{"role": "user", "content": request}]
        try:
            reply: Any = client.chat.completions.create(**settings, messages=messages, seed=seed_of(seed, turn) % 2**31)
            return str(reply.choices[0].message.content or "")
        except openai.APIStatusError as error:
            raise UserError(f"{address}: answered {error.status_code}") from None
        except openai.APIConnectionError as error:
            raise UserError(f"{address}: no answer ({error})") from None
        except (openai.OpenAIError, ValueError, IndexError, TypeError, AttributeError):
            raise DataError(f"{address}: not the reply of an OpenAI-compatible chat endpoint") from None

    return ask


def _address(url: str, with_key: bool) -> str:
    try:
        parts = urllib.parse.urlsplit(url)
        host = parts.hostname
        _ = parts.port
    except ValueError:
        raise UserError(f"url={url}: not a URL") from None
    if parts.username or parts.password:  # first, so that no other line shows them
        raise SecurityError("url: holds a user name or password; give the key's environment variable as key=NAME")
    if parts.scheme not in ("http", "https"):
        raise SecurityError(f"url={url}: give an http:// or https:// URL")
    if not host:
        raise UserError(f"url={url}: no host")
    if with_key and parts.scheme == "http" and host not in LOCAL:
        raise SecurityError(f"url={url}: would send the key unencrypted; use https")
    return url.rstrip("/").removesuffix("/chat/completions")
