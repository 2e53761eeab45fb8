"""sha256 of sources: remembered, and read again where they may have changed."""

import hashlib
import os
from types import SimpleNamespace

import pytest

from ip2p_lightning.data.latent_cache.content_key import Contents
from ip2p_lightning.data.sources import fingerprints
from ip2p_lightning.errors import DataError
from ip2p_lightning.system.file_digests import Digests


@pytest.fixture(autouse=True)
def settled(monkeypatch):
    """Files that were written just now count as long written."""
    monkeypatch.setattr("ip2p_lightning.system.file_digests._SETTLED", 0)


def test_a_file_is_read_once_for_all_starts(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"content")
    for reads in (1, 0):
        digests = Digests(tmp_path / "memo")
        assert digests.of_file(path) == digests.of_file(path) == hashlib.sha256(b"content").digest()
        assert digests.read == reads
    path.write_bytes(b"CONTENT")
    os.utime(path, ns=(0, 0))
    again = Digests(tmp_path / "memo")
    assert again.of_file(path) == hashlib.sha256(b"CONTENT").digest() and (again.read, len(again.changed)) == (1, 1)


def test_a_file_written_just_now_is_not_trusted(tmp_path, monkeypatch):
    monkeypatch.setattr("ip2p_lightning.system.file_digests._SETTLED", 10**12)
    (tmp_path / "a").write_bytes(b"content")
    for _ in range(2):
        digests = Digests(tmp_path / "memo")
        digests.of_file(tmp_path / "a")
        assert digests.read == 1


def test_without_a_memo_this_process_remembers(tmp_path):
    (tmp_path / "a").write_bytes(b"content")
    digests = Digests()
    assert digests.of_file(tmp_path / "a") == digests.of_file(tmp_path / "a") and digests.read == 1
    with pytest.raises(DataError, match=r"gone: No such file"):
        digests.of_file(tmp_path / "gone")


def test_rows_go_by_their_names(tmp_path):
    class Rows:
        asked = 0

        def row_name(self, i):
            return f"version 1, row {i}"

        def sources(self, i):
            self.asked += 1
            return (b"original", b"edited")

    for asked in (1, 0):
        rows, found = Rows(), Contents(Digests(tmp_path / "memo"))
        digest = found.of(rows, 0)
        assert digest == found.of(rows, 0) and rows.asked == asked

    unnamed = SimpleNamespace(sources=lambda i: (b"original", b"edited"))
    assert Contents(Digests()).of(unnamed, 0) == digest  # the same content is the same entry


@pytest.mark.parametrize(("small", "reads"), [(0, 0), (1 << 20, 1)])
def test_only_what_is_large_is_worth_remembering(tmp_path, monkeypatch, small, reads):
    monkeypatch.setattr(fingerprints, "SMALL", small)
    (tmp_path / "a").write_bytes(b"content")
    first, second = Digests(tmp_path / "memo"), Digests(tmp_path / "memo")
    one, other = (fingerprints.file_hashes({"a": tmp_path / "a"}, digests) for digests in (first, second))
    assert one == other
    assert (first.read, second.read) == (1, reads)
