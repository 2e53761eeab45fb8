"""Published weights of White-box Cartoonization to safetensors."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from ip2p_lightning.cli.parser import Parser, run, shown
from ip2p_lightning.data.teachers.convert import weights
from ip2p_lightning.data.teachers.whitebox import LICENCE
from ip2p_lightning.errors import UserError
from ip2p_lightning.system.files import sha256_of, write_atomic

EXAMPLES = """
examples:
  python -m ip2p_lightning.cli.convert_teacher whitebox_cartoon_gan_dr.tflite whitebox.safetensors
  python -m ip2p_lightning.cli.convert_teacher test_code/saved_models whitebox.safetensors     the authors' checkpoint
then:
  ip2p-train task=cartoon_whitebox task.make.weights=whitebox.safetensors

The weights are yours to get: github.com/SystemErrorWang/White-box-Cartoonization, CC BY-NC-SA 4.0 (not commercial).
"""


def main(argv: Sequence[str] | None = None) -> int:
    """The command."""
    program = "python -m ip2p_lightning.cli.convert_teacher"
    parser = Parser(program, "Convert published weights to safetensors.", EXAMPLES)
    parser.add_argument("source", type=Path, metavar="IN", help="FILE.tflite, a checkpoint's .index, or their folder")
    parser.add_argument("out", type=Path, metavar="OUT.safetensors")
    return run(parser, _convert, argv)


def _convert(args: argparse.Namespace) -> None:
    from safetensors.torch import save

    if args.out.suffix != ".safetensors":
        raise UserError(f"{args.out}: the output must end in .safetensors")
    file, tensors = weights(args.source)
    origin = {"architecture": "whitebox", "origin": file.name, "sha256": sha256_of(file), "licence": LICENCE}
    write_atomic(args.out, save(tensors, metadata=origin))
    print(f"{shown(args.out)}: {sum(t.numel() for t in tensors.values()):,} float32 weights; {LICENCE}")


if __name__ == "__main__":
    sys.exit(main())
