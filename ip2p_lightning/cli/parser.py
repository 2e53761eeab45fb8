"""What the commands share: the parser, errors in one line, common options, Hydra's start."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
import textwrap
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

import ip2p_lightning
from ip2p_lightning.errors import INTERRUPTED, UserError, exit_code
from ip2p_lightning.system.imports import gc_paused


class Parser(argparse.ArgumentParser):
    """An ArgumentParser that reports an error in one line and keeps the line breaks of its examples."""

    def __init__(self, prog: str, summary: str, examples: str, **options: Any) -> None:
        width = {"formatter_class": lambda prog: argparse.RawDescriptionHelpFormatter(prog, max_help_position=30)}
        epilog = textwrap.dedent(examples).strip()
        super().__init__(prog=prog, description=summary, epilog=epilog, allow_abbrev=False, **(width | options))
        self.add_argument("--version", action="version", version=version())

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; see {self.prog} --help")


def version() -> str:
    """What ``--version`` prints."""
    return f"ip2p-lightning {ip2p_lightning.__version__}\n"


def run(parser: Parser, command: Callable[[argparse.Namespace], None], argv: Sequence[str] | None) -> int:
    """Parse `argv` and run `command`; returns the exit code. A UserError becomes one line on stderr.

    ``args.typed`` is the command line as typed.
    """
    words = list(sys.argv[1:] if argv is None else argv)

    def action() -> int:
        args = parser.parse_intermixed_args(words)
        args.typed = shlex.join([parser.prog, *words])
        try:
            command(args)
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr)
            return INTERRUPTED
        return 0

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the libraries
        warnings.filterwarnings("default", module=r"ip2p_lightning(\..*)?")
        one_line_warnings()
        return exit_code(action)


def one_line_warnings() -> None:
    """Print a warning without its source location."""
    warnings.showwarning = lambda message, *_args, **_more: print(f"warning: {message}", file=sys.stderr)


def run_hydra(name: str, argv: Sequence[str], job: Callable[[Any], int]) -> int:
    """Let Hydra compose the config `name` and call `job` with it, once or for each job of a multirun.

    `name` is a file of ``conf/``, `argv` program and command line. Returns the highest exit code of the jobs; raises
    UserError for an error of Hydra's, reworded.
    """
    with gc_paused():
        import hydra

        from ip2p_lightning.config.compose import CONF
        from ip2p_lightning.config.hydra_errors import explain
        from ip2p_lightning.config.hydra_guard import guard_hydra

    guard_hydra()
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra lets errors through instead of printing them and exiting with 1
    codes: list[int] = []
    typed, sys.argv = sys.argv, list(argv)
    try:
        hydra.main(version_base="1.3", config_path=str(CONF), config_name=name)(lambda c: codes.append(job(c)))()
    except Exception as error:
        raise explain(error, sys.argv[1:]) from None
    finally:
        sys.argv = typed
    return max(codes, default=0)


def at_least(low: int) -> Callable[[str], int]:
    """An argparse type: a whole number of at least `low`."""

    def number(text: str) -> int:
        if not text.lstrip("+").isdigit() or int(text) < low:
            raise argparse.ArgumentTypeError(f"'{text}' is not a whole number of at least {low}")
        return int(text)

    return number


def add_weights_option(page: Parser) -> None:
    """--weights, as `runs.open.open_run` takes it."""
    page.add_argument("--weights", choices=("ema", "raw"), default="ema", help="averaged or raw (default: ema)")


def add_model_options(page: Parser) -> None:
    """--weights and --seed, settings of the sampler (see `overridden`), and the device (see `editing.editor.ready`)."""
    add_weights_option(page)
    page.add_argument("--seed", type=at_least(0), metavar="N", default=0, help="of the sampler's noise (default: 0)")
    strength: dict[str, Any] = {"type": float, "metavar": "X"}
    page.add_argument("--text-scale", **strength, help="how strongly the instruction is followed (default: the run's)")
    page.add_argument("--image-scale", **strength, help="how strongly the photo is kept (default: the run's)")
    page.add_argument("--steps", type=at_least(1), metavar="N", help="sampling steps (default: the run's)")
    page.add_argument("--scheduler", metavar="NAME", help="ddim, dpm++, unipc or euler-a (default: the run's)")
    page.add_argument("--device", metavar="NAME", help="cpu, cuda, cuda:1, ... (default: the GPU if there is one)")
    types = ("float32", "bfloat16", "float16")
    page.add_argument("--dtype", choices=types, default="float32", help="of the networks (default: float32)")
    page.add_argument("--compile", action="store_true", help="torch.compile: pays off after some minutes of work")


def sampler_settings(args: argparse.Namespace) -> dict[str, Any]:
    """The sampler's settings that were given."""
    names = ("text_scale", "image_scale", "steps", "scheduler")
    return {name: getattr(args, name) for name in names if getattr(args, name) is not None}


def overridden(module: Any, args: argparse.Namespace) -> Any:
    """A model's sampler with the settings that were given. Raises UserError for one it lacks, or that is out of range.

    Warns as the sampler's `check`.
    """
    given, sampler = sampler_settings(args), module.sampler
    for name in given:
        if name not in vars(sampler):
            option, kind = name.replace("_", "-"), type(sampler).__name__
            raise UserError(f"--{option} does not apply: {kind}, this run's sampler, has no {name}")
    sampler = type(sampler)(**(vars(sampler) | given))
    sampler.check(module.objective)
    return sampler


def described(sampler: Any) -> str:
    """A sampler's settings in a line, such as ``steps=1``."""
    return " ".join(f"{name}={value}" for name, value in vars(sampler).items() if isinstance(value, str | int | float))


def shown(path: Path) -> str:
    """A path relative to the current folder, if it lies below it."""
    path = Path(path).absolute()
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)
