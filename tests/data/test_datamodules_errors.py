"""What data modules and loaders refuse, and that it is said in one line."""

import pytest
from PIL import Image

from ip2p_lightning.data.dataloader import Loader
from ip2p_lightning.data.datamodules import DeblurDataModule, EditDataModule, MixtureDataModule
from ip2p_lightning.data.prompts import PromptPool
from ip2p_lightning.data.sources.folder import Folder
from ip2p_lightning.errors import DataError, UserError


def test_refusals() -> None:
    with pytest.raises(UserError, match="one side of a pair only"):
        DeblurDataModule().setup("fit")
    with pytest.raises(UserError, match="did you mean 'fog'"):
        MixtureDataModule({"fog": EditDataModule()}, {"fogg": 1})
    with pytest.raises(UserError, match="all are 0"):
        MixtureDataModule({"fog": EditDataModule()}, {"fog": 0})


BAD = [{"batch_size": 0}, {"size": 30}, {"crop": "middle"}, {"workers": -1}, {"eval_draws": 0}, {"epoch_size": 0}]
BAD += [{"timeout": -1}, {"max_bad": -1}, {"size": 64, "resize": [32, 40]}, {"eval_size": None, "eval_batch_size": 4}]


@pytest.mark.parametrize("options", BAD, ids=str)
def test_bad_loaders(options: dict) -> None:
    with pytest.raises(UserError):
        Loader(**options)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_bad_file_is_one_line(tmp_path, workers: int) -> None:
    for side in ("input", "target"):
        (tmp_path / side).mkdir()
        Image.new("RGB", (32, 32)).save(tmp_path / side / "a.png")
    (tmp_path / "target" / "a.png").write_bytes((tmp_path / "target" / "a.png").read_bytes()[:60])
    loader = Loader(batch_size=1, size=32, workers=workers)
    data = EditDataModule(Folder(str(tmp_path), val=0, test=0), PromptPool(["x y"]), loader=loader)
    with pytest.raises(DataError) as caught:
        list(data.train_dataloader())
    assert "a.png: " in str(caught.value) and "\n" not in str(caught.value)
