"""The convolutions of a TFLite file as float32 arrays, read with the packages `tflite` and `flatbuffers`."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np

from ip2p_lightning.errors import DamagedError, UserError
from ip2p_lightning.system.files import storage_errors


def convolutions(path: Path) -> list[tuple[np.ndarray, np.ndarray]]:
    """Weight [O kH kW I] and bias [O] of every CONV_2D of the file's first graph, in the order in which they run.

    Weights may be float32, float16 (behind a DEQUANTIZE operator or not) or int8 with scales, which are multiplied in.
    Raises UserError: not a TFLite file, one whose weights are of another kind, or `tflite` is not installed;
    DamagedError: it is cut short; StorageError.
    """
    try:
        import tflite
    except ImportError:
        raise UserError("reading a .tflite file needs tflite; pip install 'ip2p-lightning[teachers]'") from None
    with storage_errors(path, "read"):
        data = path.read_bytes()
    if data[4:8] != b"TFL3":
        raise UserError(f"{path}: not a TFLite file (no TFL3 mark)")
    try:
        return _convolutions(tflite, tflite.Model.GetRootAs(data, 0))
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    # offsets that lead nowhere
    except (struct.error, ValueError, IndexError, TypeError, AttributeError, OverflowError):
        raise DamagedError(f"{path}: cut short, or not a TFLite file; download it again") from None


def _convolutions(tflite: Any, model: Any) -> list[tuple[np.ndarray, np.ndarray]]:
    graph, kind = model.Subgraphs(0), tflite.BuiltinOperator
    operators: dict[int, list[Any]] = {kind.CONV_2D: [], kind.DEQUANTIZE: []}
    for operator in map(graph.Operators, range(graph.OperatorsLength())):
        operators.get(model.OperatorCodes(operator.OpcodeIndex()).BuiltinCode(), []).append(operator)
    half = {operator.Outputs(0): operator.Inputs(0) for operator in operators[kind.DEQUANTIZE]}
    tensors = [[half.get(o.Inputs(i), o.Inputs(i)) for i in (1, 2)] for o in operators[kind.CONV_2D]]
    return [(_values(model, graph.Tensors(w)), _values(model, graph.Tensors(b))) for w, b in tensors]


def _values(model: Any, tensor: Any) -> np.ndarray:
    kinds = {0: "<f4", 1: "<f2", 9: "i1"}  # TensorType
    if tensor.Type() not in kinds:
        raise UserError(f"weights of TensorType {tensor.Type()} are not supported (float32, float16, int8 are)")
    data = model.Buffers(tensor.Buffer()).DataAsNumpy()
    values = np.frombuffer(data, kinds[tensor.Type()]).reshape(tensor.ShapeAsNumpy()).astype(np.float32)
    if tensor.Type() != 9:
        return values
    if np.any(tensor.Quantization().ZeroPointAsNumpy()):
        raise UserError("int8 weights with a zero point are not supported")
    return values * tensor.Quantization().ScaleAsNumpy().reshape(-1, 1, 1, 1)  # one scale, or one per output channel
