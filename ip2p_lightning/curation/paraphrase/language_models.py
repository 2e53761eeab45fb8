"""Where sentences come from: a language model on this machine, one behind a URL, a text file."""

from __future__ import annotations

import json
import os
import re
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Mapping
from http.client import HTTPException, responses
from pathlib import Path
from typing import Any

from ip2p_lightning.errors import DataError, SecurityError, UserError
from ip2p_lightning.rng import seed_of
from ip2p_lightning.system.files import storage_errors

Ask = Callable[[str, int], str]
"""A request and the round it is asked in (which is all that its randomness depends on, but for the seed) to a reply."""

LARGEST = 1 << 20  # bytes of a reply or a file
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


def local_model(path: str, seed: int, decoding: Mapping[str, Any]) -> Ask:
    """A causal language model of transformers from a folder or the hub, sampling from `seed` and the round alone.

    decoding: temperature, top_p, max_new_tokens. Raises UserError where there is no such model.
    """
    import torch

    tokenizer, model = _loaded(path)

    def ask(request: str, turn: int) -> str:
        tokens = _encoded(tokenizer, request, model)
        room = getattr(model.config, "max_position_embeddings", 1 << 20) - tokens["input_ids"].shape[1]
        if room < 1:
            raise UserError(f"model={path}: the request is {1 - room} tokens too long for it; give a shorter template=")
        length = {"max_new_tokens": min(decoding["max_new_tokens"], room), "pad_token_id": tokenizer.eos_token_id}
        devices = [model.device] if model.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices), torch.inference_mode():
            torch.manual_seed(seed_of("paraphrase", seed, turn, request))
            made = model.generate(**tokens, **(dict(decoding) | length), do_sample=True, top_k=0)
        return tokenizer.decode(made[0, tokens["input_ids"].shape[1] :], skip_special_tokens=True)

    return ask


def _loaded(path: str) -> tuple[Any, Any]:
    """Tokenizer and model, on the GPU if there is one."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from ip2p_lightning.system.imports import quiet_libraries

    quiet_libraries()
    where = str(Path(path).expanduser()) if Path(path).expanduser().is_dir() else path
    if where == path and not Path(path).is_dir() and not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", path):
        raise UserError(f"model={path}: no such folder, and not the id of a hub repository")
    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(where)
        # Weights that are pickles would run code: safetensors alone.
        model: Any = AutoModelForCausalLM.from_pretrained(where, use_safetensors=True).eval()
    except Exception as error:  # network, hub, I/O and format errors come as a dozen unrelated classes
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
        raise UserError(f"model={path}: not loaded ({reason}); `hf download ID --local-dir DIR` gets one") from error
    model.to("cuda" if torch.cuda.is_available() else "cpu")
    return tokenizer, model


def _encoded(tokenizer: Any, request: str, model: Any) -> Any:
    if tokenizer.chat_template:
        tokens = tokenizer.apply_chat_template(
            [{"role": "user", "content": request}], add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
    else:
        tokens = tokenizer(request, return_tensors="pt")
    return {name: tokens[name].to(model.device) for name in ("input_ids", "attention_mask")}


def endpoint(url: str, model: str, seed: int, decoding: Mapping[str, Any], key_name: str | None = None) -> Ask:
    """A chat model behind an OpenAI-compatible URL (``https://host/v1``).

    key_name: the environment variable that holds the key; its value is sent as a bearer token and shown nowhere.

    Raises:
        UserError: no such URL or variable.
        SecurityError: another scheme than http(s), a password in the URL, or a key over plain http.
    """
    address = _address(url, bool(key_name))
    key = os.environ.get(key_name or "", "")
    if key_name and not key:
        raise UserError(f"key={key_name}: this environment variable is not set; export it, or leave key out")
    head = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {})
    settings = {"temperature": decoding["temperature"], "top_p": decoding["top_p"]}
    settings |= {"max_tokens": decoding["max_new_tokens"], "model": model}

    def ask(request: str, turn: int) -> str:
        body = settings | {"messages": [{"role": "user", "content": request}], "seed": seed_of(seed, turn) % 2**31}
        reply = _post(urllib.request.Request(address, json.dumps(body).encode(), head, method="POST"), address)
        try:
            return str(json.loads(reply)["choices"][0]["message"]["content"])
        except (ValueError, KeyError, IndexError, TypeError):
            raise DataError(f"{address}: the reply is not that of an OpenAI-compatible chat endpoint") from None

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
        raise SecurityError(f"url={url}: only http:// and https:// are asked")
    if not host:
        raise UserError(f"url={url}: no host")
    if with_key and parts.scheme == "http" and host not in LOCAL:
        raise SecurityError(f"url={url}: would send the key unencrypted; use https")
    path = parts.path.rstrip("/").removesuffix("/chat/completions")
    return urllib.parse.urlunsplit((parts.scheme, parts.netloc, f"{path}/chat/completions", "", ""))


class _Stay(urllib.request.HTTPRedirectHandler):
    """No redirects: the key would go along to whoever is named there."""

    def redirect_request(self, *args: Any, **options: Any) -> None:
        return None


def _post(request: urllib.request.Request, address: str) -> bytes:
    try:
        with urllib.request.build_opener(_Stay).open(request, timeout=SECONDS) as reply:
            return reply.read(LARGEST)
    except urllib.error.HTTPError as error:
        raise UserError(f"{address}: answered {error.code} {responses.get(error.code, '')}") from None
    except (OSError, HTTPException, ValueError) as error:  # refused, no such host, time-out; a key that is no header
        raise UserError(f"{address}: no answer ({getattr(error, 'reason', None) or type(error).__name__})") from None
