"""The script that makes the token table: what it does with vectors of tokens, without the encoder they come from."""

import importlib.util
import json
from pathlib import Path

import pytest
import torch

SCRIPT = Path(__file__).parents[2] / "tools" / "make_token_table.py"


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("make_token_table", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_components_are_uncorrelated_of_falling_variance_and_fixed_signs(script):
    vectors = torch.randn(500, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    vectors = vectors * torch.tensor([5.0, 4, 3, 2, 1, 0.5]) + 7
    found = script.components(vectors, 3)
    covariance = found.T @ found
    assert torch.allclose(covariance, torch.diag(covariance.diag()), atol=1e-8)
    assert covariance.diag().tolist() == sorted(covariance.diag().tolist(), reverse=True)
    assert found.square().mean().item() == pytest.approx(1)
    assert all(torch.corrcoef(torch.stack([found[:, i], vectors[:, i]]))[0, 1] > 0.9 for i in range(3))


def test_frequent_tokens_weigh_little(script):
    weights = script.weights(30522, 1e-3)
    assert weights[:1997].unique().tolist() == [pytest.approx(0.0107, abs=1e-4)]  # characters as "the", with p = 0.09
    assert (weights[1996:].diff() > 0).all() and 0.99 < weights[-1] < 1


def test_eight_bits_hold_each_number_to_half_a_step_of_its_column(script):
    table = torch.randn(50, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    table *= torch.tensor([9.0, 1, 0.1, 0.01])
    stored = script.rounded(table)
    assert stored["table"].dtype == torch.int8 and stored["table"].abs().amax(0).tolist() == [127] * 4
    assert ((stored["table"] * stored["scale"] - table).abs() <= 0.5001 * stored["scale"]).all()


def test_a_file_that_is_not_the_pinned_one_is_refused(script, tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"other")
    with pytest.raises(SystemExit, match=r"error: .*model\.safetensors is not the file"):
        script.unpacked(tmp_path, tmp_path)


def test_the_tokenizer_neither_pads_nor_cuts(script, tmp_path):
    file = tmp_path / "tokenizer.json"
    file.write_text(json.dumps({"padding": {"x": 1}, "truncation": {"y": 2}, "model": {"vocab": {"\u00e9": 0}}}))
    assert json.loads(script.plain_tokenizer(file)) == {
        "padding": None,
        "truncation": None,
        "model": {"vocab": {"\u00e9": 0}},
    }
