"""A narrow generator with random weights, and it as published files would hold it."""

import pytest
import torch


@pytest.fixture(scope="session")
def generator():
    from ip2p_lightning.data.teachers.whitebox import WhiteboxGenerator

    with torch.random.fork_rng():
        torch.manual_seed(3)
        return WhiteboxGenerator(channels=8).eval().requires_grad_(False)


@pytest.fixture(scope="session")
def layers(generator):
    """(weight [O kH kW I], bias [O]) of each convolution, in the order in which they run."""
    from ip2p_lightning.data.teachers.convert import LAYERS

    state = generator.state_dict()
    return [(state[f"{n}.weight"].permute(0, 2, 3, 1).numpy().copy(), state[f"{n}.bias"].numpy()) for n in LAYERS]


@pytest.fixture(scope="session")
def weights_file(generator, tmp_path_factory):
    from safetensors.torch import save_file

    path = tmp_path_factory.mktemp("weights") / "whitebox.safetensors"
    save_file(generator.state_dict(), path)
    return path
