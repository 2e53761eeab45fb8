"""Published files to safetensors: every kind of weight, and one line for what is not a published file."""

import pytest
import torch
from safetensors import safe_open

from ip2p_lightning.cli.convert_teacher import main
from ip2p_lightning.data.teachers.convert import LAYERS, weights
from ip2p_lightning.data.teachers.tf_checkpoint import Bundle, crc32c
from ip2p_lightning.errors import DamagedError, UserError
from tests.support.model_files import write_bundle, write_flatbuffer, write_tflite


def saved(folder, data, name="model.tflite"):
    path = folder / name
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("kind", ["float", "half", "int8"])
def test_weights_arrive_as_float32(tmp_path, layers, generator, kind):
    _, tensors = weights(saved(tmp_path, write_tflite(layers, kind)))
    assert tensors.keys() == generator.state_dict().keys()
    for name, wanted in generator.state_dict().items():
        step = {"float": 0, "half": 1e-3, "int8": wanted.abs().max() / 127}[kind]
        assert tensors[name].dtype == torch.float32 and (tensors[name] - wanted).abs().max() <= step / 1.99


def test_a_tensorflow_checkpoint_is_read_without_tensorflow(tmp_path, layers, generator):
    stored = {"generator/unrelated": layers[0][1]}
    for name, (weight, bias) in zip(LAYERS, layers, strict=True):
        scope = "generator/" + (name.replace(".", "/") if "." in name else name.replace("conv", "Conv"))
        stored |= {f"{scope}/weights": weight.transpose(1, 2, 3, 0).copy(), f"{scope}/biases": bias}
    write_bundle(tmp_path / "model-7", stored)
    for source in (tmp_path, tmp_path / "model-7", tmp_path / "model-7.index"):
        _, tensors = weights(source)
        assert all(torch.equal(tensors[k], v) for k, v in generator.state_dict().items())
    data = tmp_path / "model-7.data-00000-of-00001"
    data.write_bytes(b"other" + data.read_bytes()[5:])
    with pytest.raises(DamagedError, match="checksum"):
        weights(tmp_path / "model-7")


def test_the_checksum_is_castagnolis():
    assert crc32c(b"123456789") == 0xE3069283  # RFC 3720, B.4


def test_the_command_names_licence_and_origin_in_the_file(tmp_path, layers, capsys):
    source = saved(tmp_path, write_tflite(layers, "int8"))
    assert main([str(source), str(tmp_path / "out.safetensors")]) == 0
    assert "CC BY-NC-SA 4.0" in capsys.readouterr().out
    with safe_open(tmp_path / "out.safetensors", "pt") as file:
        assert file.metadata()["origin"] == "model.tflite" and "BY-NC-SA" in file.metadata()["licence"]


def test_every_cut_and_flip_of_a_file_is_refused_or_read(tmp_path, layers):
    """A damaged file may give wrong weights (TFLite has no checksum) but no crash and no hang."""
    data = write_tflite(layers, "int8")
    cases = [data[:n] for n in range(0, len(data), len(data) // 40)]
    cases += [data[:n] + bytes([data[n] ^ 0xFF]) + data[n + 1 :] for n in range(0, 400, 7)]
    for case in cases:
        try:
            weights(saved(tmp_path, case))
        except UserError as error:
            assert "\n" not in str(error)


def test_every_cut_and_flip_of_an_index_is_refused_or_read(tmp_path, layers):
    write_bundle(tmp_path / "m", {f"generator/{i}": bias for i, (_, bias) in enumerate(layers)})
    index = tmp_path / "m.index"
    data = index.read_bytes()
    for n in range(0, len(data), 3):
        for case in (data[:n], data[:n] + bytes([data[n] ^ 0xFF]) + data[n + 1 :]):
            index.write_bytes(case)
            try:
                bundle = Bundle(tmp_path / "m")
                assert len([bundle.read(name) for name in bundle.entries]) == len(layers)
            except UserError as error:
                assert "\n" not in str(error)


@pytest.mark.parametrize(
    ("name", "data", "words", "code"),
    [
        ("a.tflite", b"not one at all", "not a TFLite file", 2),
        ("a.tflite", write_flatbuffer([None] * 5), "cut short", 6),
        ("a.index", b"no table", "not an index", 6),
        ("a.bin", b"?", "give a .tflite", 2),
    ],
)
def test_other_files_are_one_line(tmp_path, refused, name, data, words, code):
    got, line = refused(main, saved(tmp_path, data, name), tmp_path / "o.safetensors")
    assert got == code and words in line and name.split(".")[0] in line


def test_another_network_is_one_line(tmp_path, refused, layers):
    code, line = refused(main, saved(tmp_path, write_tflite(layers[:3], "float")), tmp_path / "o.safetensors")
    assert code == 2 and "3 convolutions" in line
    swapped = [layers[1], layers[0], *layers[2:]]
    code, line = refused(main, saved(tmp_path, write_tflite(swapped, "float")), tmp_path / "o.safetensors")
    assert code == 2 and "size mismatch for conv.weight" in line


def test_nothing_there_says_where_the_weights_are(tmp_path, refused):
    code, line = refused(main, tmp_path / "x.tflite", tmp_path / "o.safetensors")
    assert code == 2 and "White-box-Cartoonization" in line and "BY-NC-SA" in line
    assert "must end in .safetensors" in refused(main, tmp_path, tmp_path / "o.pt")[1]
