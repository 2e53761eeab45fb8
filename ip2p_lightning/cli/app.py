"""``python -m ip2p_lightning.cli.app``: edit a photo on a local web page, with the same pixels as ip2p-edit."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ip2p_lightning.cli.parser import Parser, at_least, run
from ip2p_lightning.errors import UserError
from ip2p_lightning.system.imports import quiet_libraries

EXAMPLES = """
RUN is a run's folder; PIPELINE a diffusers InstructPix2Pix folder or hub id (the baseline). Give the page a photo and
an instruction: the edit appears beside it, with ip2p-edit's pixels for the same settings (--max-side is one of them).

Only this machine reaches the page, unless you give another --host: then anyone who reaches the port may use it, without
a password. It makes no public link and no network call. Uploads (20 MB at most) and edits are in a temporary folder,
deleted when the page ends. One photo is edited at a time; requests beyond --queue are refused as busy.

examples:
  python -m ip2p_lightning.cli.app runs/demo                            then open http://127.0.0.1:7860
  python -m ip2p_lightning.cli.app timbrooks/instruct-pix2pix --port 8000 --max-side 512

Exit codes: 0 ended with Ctrl-C, 2 usage or no gradio (pip install 'ip2p-lightning[app]'), 6 damaged, 7 unsafe.
"""
OPTIONS = [("port", 1, 7860, "of the page"), ("max-side", 8, 1024, "longest side the model sees")]
OPTIONS += [("max-steps", 1, 50, "most steps of an edit"), ("queue", 1, 8, "most edits that wait")]
LOCAL = ("127.0.0.1", "localhost", "::1")
OFF = ("share", "inbrowser", "ssr_mode", "mcp_server", "pwa", "show_error", "enable_monitoring")
CLOSED: dict[str, Any] = dict.fromkeys(OFF, False)
CLOSED |= {"footer_links": [], "allowed_paths": [], "max_file_size": "20mb"}
MAX_PROMPT, MAX_SCALE, MAX_SEED = 1000, 100, 2**53 - 1  # the largest whole number a browser keeps


def main(argv: Sequence[str] | None = None) -> int:
    """Serve the page until Ctrl-C; returns the exit code."""
    usage = "%(prog)s RUN|PIPELINE [options]"
    page = Parser("python -m ip2p_lightning.cli.app", "Edit photos in the browser.", EXAMPLES, usage=usage)
    page.add_argument("model", help=argparse.SUPPRESS)
    page.add_argument("--host", default=LOCAL[0], metavar="ADDRESS", help="where to listen (default: 127.0.0.1)")
    for name, low, default, what in OPTIONS:
        page.add_argument(f"--{name}", type=at_least(low), default=default, metavar="N", help=f"{what} ({default})")
    return run(page, _serve, argv)


def _serve(args: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory(prefix="ip2p-app-") as folder:
        gradio = _gradio(folder)
        from ip2p_lightning.editing.editor import ready

        module, prompts = _opened(args.model)
        editor = Editor(ready(module), Path(folder), args.max_side, args.max_steps)
        _listen(_page(gradio, editor, prompts, args.model).queue(max_size=args.queue, api_open=False), gradio, args)


def _gradio(folder: str) -> Any:
    """gradio without analytics, history, downloads and GRADIO_* settings; its files in `folder`."""
    for name in [name for name in os.environ if name.startswith("GRADIO_")]:
        del os.environ[name]
    os.environ |= {"GRADIO_ANALYTICS_ENABLED": "False", "GRADIO_RUN_HISTORY": "False", "GRADIO_TEMP_DIR": folder}
    try:
        import gradio
    except ImportError as error:
        raise UserError(f"the page needs gradio ({error}): pip install 'ip2p-lightning[app]'") from None

    async def no_download(*_: Any, **__: Any) -> str:
        raise gradio.Error("give a file, not a link", print_exception=False)

    gradio.processing_utils.async_ssrf_protected_download = no_download  # else it fetches a photo given as a link
    return gradio


def _opened(path: str) -> tuple[Any, list[str]]:
    """The model, opened as ip2p-edit does, and example instructions."""
    from ip2p_lightning.editing.pipeline import is_pipeline, open_pipeline
    from ip2p_lightning.runs.trained_run import open_run

    quiet_libraries()
    if is_pipeline(path):
        return open_pipeline(path), []
    opened = open_run(path)
    return opened.module, examples(opened.config)


def examples(config: Mapping[str, Any], most: int = 3) -> list[str]:
    """The first instructions of each task that a run was trained on."""
    from ip2p_lightning.config.build import task_prompts

    return [prompt for pool in task_prompts(config).values() for prompt in pool[:most]]


class Editor(NamedTuple):
    """Edits with every input checked here: the page's own limits can be bypassed."""

    module: Any
    folder: Path  # of uploads; no other file is read
    max_side: int = 1024
    max_steps: int = 50

    def edit(self, photo: Any, prompt: Any, steps: Any, text_scale: Any, image_scale: Any, seed: Any) -> Any:
        """The edit, [H W 3] uint8 like the photo. Raises UserError, which the page shows in one line."""
        from ip2p_lightning.data.image import open_image
        from ip2p_lightning.editing.geometry import Fit

        if not isinstance(prompt, str) or not prompt.strip() or len(prompt) > MAX_PROMPT:
            raise UserError(f"write an instruction of at most {MAX_PROMPT} characters")
        given = {"steps": number("steps", steps, 1, self.max_steps, int)}
        given["text_scale"] = number("text scale", text_scale, -MAX_SCALE, MAX_SCALE)
        if "image_scale" in vars(self.module.sampler):  # a bridge has none
            given["image_scale"] = number("image scale", image_scale, -MAX_SCALE, MAX_SCALE)
        sampler = type(self.module.sampler)(**(vars(self.module.sampler) | given))
        seed = number("seed", seed, 0, MAX_SEED, int)
        pixels = open_image(self.upload(photo), name="photo")
        fit = Fit.of(pixels.shape[1::-1], self.module, self.max_side)
        x = fit.to_model(pixels)[None].to(self.module.device)
        try:
            return fit.back(self.module.edit(x, [prompt.encode("utf-8", "replace").decode()], [seed], sampler)[0])
        except RuntimeError as error:
            if "memory" not in str(error):
                raise
            raise UserError("not enough memory for this photo; give a smaller one") from None

    def upload(self, photo: Any) -> bytes:
        """The bytes of an uploaded photo. Raises UserError for any other path."""
        path = photo.get("path") if isinstance(photo, dict) else None
        if not isinstance(path, str):
            raise UserError("choose a photo first")
        if not Path(path).resolve().is_relative_to(self.folder.resolve()):
            raise UserError("the photo is not an upload")
        return Path(path).read_bytes()


def number(name: str, value: Any, low: int, high: int, kind: type = float) -> Any:
    """`value` as a `kind` in [low, high]. Raises UserError."""
    if not isinstance(value, int | float) or not low <= value <= high or kind(value) != value:
        raise UserError(f"{name} must be a {'whole ' * (kind is int)}number from {low} to {high}")
    return kind(value)


def _page(gr: Any, editor: Editor, prompts: Sequence[str], title: str) -> Any:
    """The page; without preprocessing, so that the editor decodes the photo and not gradio."""

    def edit(*values: Any) -> Any:
        try:
            return editor.edit(*values)
        except UserError as error:  # a bug's traceback stays in the terminal
            line = " ".join(str(error).split())
            raise gr.Error(line, duration=None, title="Not edited", print_exception=False) from None

    own = vars(editor.module.sampler)
    with gr.Blocks(title="ip2p-lightning", analytics_enabled=False, delete_cache=(600, 3600)) as page:
        gr.Markdown(f"### {title}")
        with gr.Row():
            original = gr.Image(label="original", type="filepath", sources=["upload", "clipboard"], height=420)
            edited = gr.Image(label="edited", format="png", interactive=False, buttons=["download"], height=420)
        prompt = gr.Textbox(label="instruction", max_length=MAX_PROMPT, max_lines=1)
        if prompts:
            gr.Examples([[p] for p in prompts], prompt, label="examples", cache_examples=False, examples_per_page=30)
        with gr.Row():
            steps = gr.Slider(1, editor.max_steps, min(own["steps"], editor.max_steps), step=1, label="steps")
            text = gr.Number(own["text_scale"], label="text scale", step=0.5)
            image = gr.Number(own.get("image_scale"), label="image scale", step=0.1, visible="image_scale" in own)
            seed = gr.Number(0, label="seed", precision=0)
        events = [gr.Button("Edit", variant="primary").click, prompt.submit]
        inputs = [original, prompt, steps, text, image, seed]
        gr.on(events, edit, inputs, edited, api_name="edit", concurrency_limit=1, preprocess=False)
    return page


def _listen(page: Any, gr: Any, args: argparse.Namespace) -> None:
    theme = gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["monospace"])  # no fonts from elsewhere
    place = {"server_name": args.host, "server_port": args.port, "prevent_thread_lock": True, "quiet": True}
    try:
        _, url, _ = page.launch(**CLOSED, **place, theme=theme)
    except OSError as error:
        raise UserError(f"cannot listen on {args.host} port {args.port}; give another ({error})") from None
    if args.host not in LOCAL:
        print(f"warning: anyone who reaches {args.host} port {args.port} can use this page", file=sys.stderr)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    print(f"{url} (Ctrl-C ends it)", flush=True)
    page.block_thread()


if __name__ == "__main__":
    sys.exit(main())
