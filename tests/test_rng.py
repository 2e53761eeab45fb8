"""Keys decide randomness, and nothing else does."""

import numpy as np
import torch

from ip2p_lightning.rng import numpy_rng, seed_of, torch_rng


def test_equal_keys_agree_and_types_and_borders_matter():
    assert seed_of(1, "a") == seed_of(1, "a")
    keys = [(1, "a"), ("1", "a"), (1, "a", ""), ("1a",), (1, "b"), (11, "a")]
    assert len({seed_of(*k) for k in keys}) == len(keys)
    assert all(0 <= seed_of(*k) < 2**63 for k in keys)


def test_global_state_is_neither_read_nor_changed():
    torch.manual_seed(0)
    np.random.seed(0)
    before = torch.get_rng_state()
    a = numpy_rng(3, "x").random(4), torch.rand(4, generator=torch_rng(3, "x"))
    torch.manual_seed(1)
    b = numpy_rng(3, "x").random(4), torch.rand(4, generator=torch_rng(3, "x"))
    assert (a[0] == b[0]).all() and a[1].equal(b[1])
    torch.manual_seed(0)
    assert torch.get_rng_state().equal(before)


def test_seeds_of_a_thousand_neighbours_look_independent():
    first = np.array([numpy_rng(0, "sample", i).random() for i in range(1000)])
    assert abs(first.mean() - 0.5) < 0.03 and abs(np.corrcoef(first[:-1], first[1:])[0, 1]) < 0.1
