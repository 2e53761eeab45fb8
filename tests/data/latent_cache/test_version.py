"""What a fixed input is stored as, against what `VERSION` stands for."""

import json

import pytest

from ip2p_lightning.data.latent_cache.version import VERSION
from tests.support.record_golden import CACHE_ENTRIES, FOLDER, agree, cache_entry


@pytest.fixture(scope="module")
def recorded():
    return json.loads((FOLDER / "cache_entries.json").read_text())


def test_the_record_is_of_this_version(recorded):
    assert recorded["version"] == VERSION and set(recorded["entries"]) == set(CACHE_ENTRIES), "run make golden"


@pytest.mark.parametrize("name", CACHE_ENTRIES)
def test_what_is_stored_changes_with_the_version_only(recorded, name, tmp_path):
    same = agree(cache_entry(name, tmp_path), recorded["entries"][name])
    assert same, "raise VERSION in data/latent_cache/version.py, then run make golden"
