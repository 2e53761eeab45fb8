"""TFLite files and TensorFlow checkpoints as small as they come, written from the formats' descriptions."""

import struct

import numpy as np

from ip2p_lightning.data.teachers.tf_checkpoint import MAGIC, crc32c, masked

# --- flatbuffers (schema.fbs of TFLite): a table is a list of fields, None where one is left out


def write_flatbuffer(root, mark=b"TFL3"):
    """`root` and all below it: a list is a table, a tuple of lists a vector of tables, an array a vector."""
    import flatbuffers

    builder = flatbuffers.Builder()
    builder.Finish(_written(builder, root), mark)
    return bytes(builder.Output())


def _written(builder, node):
    if isinstance(node, np.ndarray):
        return builder.CreateNumpyVector(node)
    inside = [field if field is None or np.isscalar(field) else _written(builder, field) for field in node]
    if isinstance(node, tuple):
        builder.StartVector(4, len(inside), 4)
        for place in reversed(inside):
            builder.PrependUOffsetTRelative(place)
        return builder.EndVector()
    builder.StartObject(len(node))
    for slot, (field, place) in enumerate(zip(node, inside, strict=True)):
        if isinstance(field, np.number):
            {np.int8: builder.PrependInt8Slot, np.uint32: builder.PrependUint32Slot}[type(field)](slot, place, 99)
        elif field is not None:
            builder.PrependUOffsetTRelativeSlot(slot, place, 0)
    return builder.EndObject()


def write_tflite(layers, kind):
    """A model of convolutions alone: `layers` are (weight [O kH kW I] float32, bias [O]); kind float, half or int8."""
    buffers, tensors, operators = [[]], [], []

    def tensor(values, code, quantised=None):
        buffers.append([values.ravel().view(np.uint8)])
        shape = np.array(values.shape, np.int32)
        tensors.append([shape, np.int8(code), np.uint32(len(buffers) - 1), None, quantised])
        return len(tensors) - 1

    def operator(code, inputs, outputs):
        operators.append([np.uint32(code), np.array(inputs, np.int32), np.array(outputs, np.int32)])

    for weight, bias in layers:
        if kind == "int8":
            scale = (np.abs(weight).max((1, 2, 3)) / 127).astype(np.float32)
            whole = np.rint(weight / scale[:, None, None, None]).astype(np.int8)
            w = tensor(whole, 9, [None, None, scale, np.zeros(len(scale), np.int64)])
        elif kind == "half":
            half, w = tensor(weight.astype(np.float16), 1), tensor(np.zeros((0, *weight.shape[1:]), np.float32), 0)
            operator(1, [half], [w])
        else:
            w = tensor(weight, 0)
        operator(0, [0, w, tensor(bias, 0)], [0])
    graph = [tuple(tensors), None, None, tuple(operators)]
    codes = ([np.int8(3)], [np.int8(6)])
    return write_flatbuffer([np.uint32(3), codes, (graph,), None, tuple(buffers)])


# --- TensorFlow checkpoints (tensor_bundle.proto in a table as LevelDB's)


def varint(n):
    out = bytearray()
    while n > 127:
        out.append(n & 127 | 128)
        n >>= 7
    return bytes([*out, n])


def message(*fields):
    """A protocol buffer message of (number, int or bytes); a negative number is a fixed32."""
    out = b""
    for number, value in fields:
        if isinstance(value, bytes):
            out += varint(number << 3 | 2) + varint(len(value)) + value
        elif number < 0:
            out += varint(-number << 3 | 5) + struct.pack("<I", value)
        else:
            out += varint(number << 3) + varint(value)
    return out


def block(rows):
    """Rows that share the heads of their keys, one restart point, and the trailer: no compression, checksum."""
    out, last = b"", b""
    for key, value in rows:
        shared = next((i for i, (a, b) in enumerate(zip(key, last, strict=False)) if a != b), min(len(key), len(last)))
        out += varint(shared) + varint(len(key) - shared) + varint(len(value)) + key[shared:] + value
        last = key
    out += struct.pack("<II", 0, 1)
    return out, b"\0" + struct.pack("<I", masked(crc32c(out + b"\0")))


def write_bundle(prefix, tensors):
    """`tensors`: name -> float32 array. Data blocks of five rows each, so that the index has several."""
    rows, data = [(b"", message((1, 1), (3, message((1, 1)))))], b""
    for name in sorted(tensors):
        array = tensors[name].tobytes()
        shape = message(*((2, message((1, n))) for n in tensors[name].shape))
        place = ((4, len(data)),) if data else ()  # proto3 leaves zeros out
        entry = message((1, 1), (2, shape), *place, (5, len(array)), (-6, masked(crc32c(array))))
        rows.append((name.encode(), entry))
        data += array
    out, handles = b"", []
    for i in range(0, len(rows), 5):
        content, trailer = block(rows[i : i + 5])
        handles.append((rows[min(i + 4, len(rows) - 1)][0], varint(len(out)) + varint(len(content))))
        out += content + trailer
    footer = b""
    for part in (block([]), block(handles)):
        footer += varint(len(out)) + varint(len(part[0]))
        out += part[0] + part[1]
    prefix.with_name(f"{prefix.name}.index").write_bytes(out + footer.ljust(40, b"\0") + struct.pack("<Q", MAGIC))
    prefix.with_name(f"{prefix.name}.data-00000-of-00001").write_bytes(data)
