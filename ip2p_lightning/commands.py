"""What the commands on a finished run share: the parser, and refusals in one line."""

from __future__ import annotations

import argparse
import shlex
import sys
import textwrap
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from ip2p_lightning.errors import UserError
from ip2p_lightning.refusal import INTERRUPTED, exit_code


class Parser(argparse.ArgumentParser):
    """An ArgumentParser whose refusal is one line, and whose page keeps the layout of its examples."""

    def __init__(self, prog: str, summary: str, examples: str, **options: Any) -> None:
        width = {"formatter_class": lambda prog: argparse.RawDescriptionHelpFormatter(prog, max_help_position=30)}
        epilog = textwrap.dedent(examples).strip()
        super().__init__(prog=prog, description=summary, epilog=epilog, allow_abbrev=False, **(width | options))

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; see {self.prog} --help")


def run(parser: Parser, command: Callable[[argparse.Namespace], int], argv: Sequence[str] | None) -> int:
    """Parse `argv` and run `command`; a refusal becomes one line on stderr and its exit code.

    The command finds the line that started it in ``args.typed``.
    """
    words = list(sys.argv[1:] if argv is None else argv)

    def action() -> int:
        args = parser.parse_intermixed_args(words)
        args.typed = shlex.join([parser.prog, *words])
        try:
            return command(args)
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr)
            return INTERRUPTED

    with warnings.catch_warnings():
        quiet()
        return exit_code(action)


def quiet() -> None:
    """Our own warnings in one line each, and none of the libraries' about themselves."""
    warnings.simplefilter("ignore")
    warnings.filterwarnings("default", module=r"ip2p_lightning(\..*)?")
    one_line_warnings()


def one_line_warnings() -> None:
    """Without the place in the code that warns."""
    warnings.showwarning = lambda message, *_args, **_more: print(f"warning: {message}", file=sys.stderr)


def quiet_libraries() -> None:
    """No progress bars or advice from the libraries that load weights; to be called before they do."""
    import diffusers
    import huggingface_hub
    import transformers

    huggingface_hub.logging.set_verbosity_error()
    for library in (diffusers, transformers):
        library.utils.logging.set_verbosity_error()
        library.utils.logging.disable_progress_bar()


def at_least(low: int) -> Callable[[str], int]:
    """An argparse type: a whole number of at least `low`."""

    def number(text: str) -> int:
        if not text.lstrip("+").isdigit() or int(text) < low:
            raise argparse.ArgumentTypeError(f"'{text}' is not a whole number of at least {low}")
        return int(text)

    return number


def device(module: Any) -> Any:
    """Put a model on the GPU if there is one; returns the model."""
    import torch

    module.to("cuda" if torch.cuda.is_available() else "cpu")
    module.setup("predict")
    return module.eval()


def shown(path: Path) -> str:
    """A path as one would type it from here."""
    path = Path(path).absolute()
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)
