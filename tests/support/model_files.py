"""TFLite files and TensorFlow checkpoints as small as they come, written from the formats' descriptions."""

import struct

import numpy as np

from ip2p_lightning.data.teachers.tf_checkpoint import MAGIC, crc32c, masked

# --- flatbuffers (https://flatbuffers.dev/internals): a table is a list of fields, None where one is left out


def scalar(kind, value):
    return ("scalar", struct.pack(f"<{kind}", value))


def vector(kind, values):
    return ("bytes", struct.pack("<I", len(values)) + struct.pack(f"<{len(values)}{kind}", *values))


def blob(data):
    return ("bytes", struct.pack("<I", len(data)) + data)


def write_flatbuffer(root, mark=b"TFL3"):
    out = bytearray(4) + mark
    _point(out, 0, root)
    return bytes(out)


def _point(out, place, node):
    """Append `node` and let the offset at `place` point to it."""
    out.extend(b"\0" * (-len(out) % 4))
    start = len(out)
    if isinstance(node, list):
        start = _table(out, node)
    elif node[0] == "tables":
        out += struct.pack("<I", len(node[1])) + bytes(4 * len(node[1]))
        for i, child in enumerate(node[1]):
            _point(out, start + 4 + 4 * i, child)
    else:
        out += node[1]
    struct.pack_into("<I", out, place, start - place)


def _table(out, fields):
    inline = [b"" if f is None else f[1] if f[0] == "scalar" else bytes(4) for f in fields]
    places, at = [], 4
    for data in inline:
        at += -at % max(len(data), 1)
        places.append(at if data else 0)
        at += len(data)
    vtable = len(out)
    out += struct.pack(f"<{2 + len(fields)}H", 4 + 2 * len(fields), at, *places)
    out.extend(b"\0" * (-len(out) % 4))
    start = len(out)
    out += struct.pack("<i", start - vtable) + bytes(at - 4)
    for place, data in zip(places, inline, strict=True):
        out[start + place : start + place + len(data)] = data
    for place, f in zip(places, fields, strict=True):
        if f is not None and f[0] != "scalar":
            _point(out, start + place, f if f[0] != "table" else f[1])
    return start


def write_tflite(layers, kind):
    """A model of convolutions alone: `layers` are (weight [O kH kW I] float32, bias [O]); kind float, half or int8."""
    buffers, tensors, operators = [[]], [], []

    def tensor(values, code, quantised=None):
        buffers.append([blob(values.tobytes())])
        entry = [vector("i", values.shape), scalar("b", code), scalar("I", len(buffers) - 1), blob(b"w"), quantised]
        tensors.append(entry)
        return len(tensors) - 1

    for weight, bias in layers:
        if kind == "int8":
            scale = (np.abs(weight).max((1, 2, 3)) / 127).astype(np.float32)
            whole = np.rint(weight / scale[:, None, None, None]).astype(np.int8)
            parameters = [None, None, vector("f", scale), vector("q", [0] * len(scale))]
            w = tensor(whole, 9, ("table", parameters))
        elif kind == "half":
            half = tensor(weight.astype(np.float16), 1)
            w = tensor(np.zeros((0, *weight.shape[1:]), np.float32), 0)
            operators.append([scalar("I", 1), vector("i", [half]), vector("i", [w])])
        else:
            w = tensor(weight, 0)
        operators.append([scalar("I", 0), vector("i", [0, w, tensor(bias, 0)]), vector("i", [0])])
    graph = [("tables", tensors), None, None, ("tables", operators)]
    codes = [[scalar("b", 3)], [scalar("b", 6), None, None, scalar("i", 6)]]
    fields = [scalar("I", 3), ("tables", codes), ("tables", [graph]), blob(b"test"), ("tables", buffers)]
    return write_flatbuffer(fields)


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
