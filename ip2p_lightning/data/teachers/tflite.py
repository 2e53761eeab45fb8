"""The convolutions of a TFLite file, read without TensorFlow.

Schema: tensorflow/compiler/mlir/lite/schema/schema.fbs. A table's fields are numbered in the order of that file.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ip2p_lightning.data.teachers.flatbuffer import Table
from ip2p_lightning.errors import DamagedError, UserError
from ip2p_lightning.system.files import storage_errors

CONV_2D, DEQUANTIZE = 3, 6  # BuiltinOperator
FLOATS = {0: "<f4", 1: "<f2"}  # TensorType
INT8 = 9


@dataclass(frozen=True)
class Convolution:
    """weight: [O kH kW I], float32, or int8 with a `scale` [O]; bias: [O] float32."""

    weight: np.ndarray
    bias: np.ndarray
    scale: np.ndarray | None = None


def convolutions(path: Path) -> list[Convolution]:
    """Every CONV_2D of the file's first graph, in the order in which they run.

    Weights may be float32, float16 (behind a DEQUANTIZE operator or not) or int8 with a scale per channel.

    Raises:
        UserError: not a TFLite file, or one whose weights are of another kind.
        DamagedError: it is cut short.
        StorageError: it cannot be read.
    """
    with storage_errors(path, "read"):
        data = path.read_bytes()
    if data[4:8] != b"TFL3":
        raise UserError(f"{path}: not a TFLite file (no TFL3 mark)")
    try:
        return _Graph(data).convolutions()
    except (DamagedError, UserError) as error:
        raise type(error)(f"{path}: {error}") from None
    except (ValueError, IndexError) as error:  # shapes and indices that contradict one another
        raise DamagedError(f"{path}: {error}; download it again") from None


class _Graph:
    def __init__(self, data: bytes) -> None:
        model = Table.root(data)
        graphs = model.tables(2)
        if not graphs:
            raise DamagedError("holds no graph")
        # The code moved from an int8 to an int32 field when there came to be more than 127 operators.
        self._codes = [max(code.scalar(0, "b"), code.scalar(3, "i")) for code in model.tables(1)]
        self._buffers, self._tensors = model.tables(4), graphs[0].tables(0)
        self._operators = graphs[0].tables(3)
        self._halves = {o.integers(2)[0]: o.integers(1)[0] for o in self._operators if self._code(o) == DEQUANTIZE}

    def convolutions(self) -> list[Convolution]:
        return [self._convolution(o.integers(1)) for o in self._operators if self._code(o) == CONV_2D]

    def _code(self, operator: Table) -> int:
        return self._codes[operator.scalar(0, "I")]

    def _convolution(self, inputs: list[int]) -> Convolution:
        if len(inputs) != 3 or min(inputs) < 0:
            raise UserError("a convolution without bias: not a generator that is known here")
        weight, scale = self._values(inputs[1])
        bias, bias_scale = self._values(inputs[2])
        if bias_scale is not None:
            raise UserError("full integer quantisation is not supported; use a float or dynamic-range file")
        return Convolution(weight, bias, scale)

    def _values(self, index: int) -> tuple[np.ndarray, np.ndarray | None]:
        tensor = self._tensors[self._halves.get(index, index)]
        shape, kind = tensor.integers(0), tensor.scalar(1, "b")
        data = self._buffers[tensor.scalar(2, "I")].bytes(0)
        if kind in FLOATS:
            return np.frombuffer(data, FLOATS[kind]).reshape(shape).astype(np.float32), None
        if kind == INT8:
            return np.frombuffer(data, np.int8).reshape(shape), self._scale(tensor, shape[0])
        raise UserError(f"weights of TensorType {kind} are not supported (float32, float16, int8 are)")

    def _scale(self, tensor: Table, channels: int) -> np.ndarray:
        """[O] float32 of ``QuantizationParameters``: scale per output channel, zero point 0."""
        quantised = tensor.table(4)
        scale = np.frombuffer(quantised.bytes(2, 4), "<f4") if quantised else np.empty(0, np.float32)
        if quantised is None or scale.size not in (1, channels) or any(quantised.bytes(3, 8)):
            raise UserError("int8 weights need one scale per output channel and no zero point")
        return np.broadcast_to(scale, channels).astype(np.float32)
