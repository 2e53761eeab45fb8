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

from ip2p_lightning.errors import INTERRUPTED, UserError, exit_code


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


def at_least(low: int) -> Callable[[str], int]:
    """An argparse type: a whole number of at least `low`."""

    def number(text: str) -> int:
        if not text.lstrip("+").isdigit() or int(text) < low:
            raise argparse.ArgumentTypeError(f"'{text}' is not a whole number of at least {low}")
        return int(text)

    return number


def add_sampler_options(page: Parser) -> None:
    """What a sampler can be told in place of the run's own settings; see `overridden`."""
    page.add_argument(
        "--text-scale", type=float, metavar="X", help="how strongly the instruction is followed (default: the run's)"
    )
    page.add_argument(
        "--image-scale", type=float, metavar="X", help="how strongly the photo is kept (default: the run's)"
    )
    page.add_argument("--steps", type=at_least(1), metavar="N", help="sampling steps (default: the run's)")
    page.add_argument("--scheduler", metavar="NAME", help="ddim, dpm++, unipc or euler-a (default: the run's)")


def add_device_options(page: Parser) -> None:
    """Where and how a model computes; see `editing.ready`."""
    page.add_argument("--device", metavar="NAME", help="cpu, cuda, cuda:1, ... (default: the GPU if there is one)")
    page.add_argument(
        "--dtype", choices=("float32", "bfloat16", "float16"), default="float32", help="of the networks (float32)"
    )
    page.add_argument("--compile", action="store_true", help="torch.compile: pays off after some minutes of work")


def sampler_settings(args: argparse.Namespace) -> dict[str, Any]:
    """The settings of `add_sampler_options` that were given."""
    names = ("text_scale", "image_scale", "steps", "scheduler")
    return {name: getattr(args, name) for name in names if getattr(args, name) is not None}


def overridden(sampler: Any, args: argparse.Namespace) -> Any:
    """A sampler like `sampler`, with the settings that were given.

    Raises:
        UserError: a setting that it does not have, or a value out of range.
    """
    given = sampler_settings(args)
    for name in given:
        if name not in vars(sampler):
            option = name.replace("_", "-")
            raise UserError(f"--{option} does not apply: {type(sampler).__name__}, this run's sampler, has no {name}")
    return type(sampler)(**(vars(sampler) | given))


def shown(path: Path) -> str:
    """A path as one would type it from here."""
    path = Path(path).absolute()
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)
