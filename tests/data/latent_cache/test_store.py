"""The store: complete, verified, shared by processes, and never wrong after a kill."""

import errno
import multiprocessing
import os
import signal
import time

import numpy as np
import pytest

from ip2p_lightning.data.latent_cache.fill import Everything
from ip2p_lightning.data.latent_cache.store import Space
from ip2p_lightning.errors import StorageError
from ip2p_lightning.system.record_log import RecordLog
from tests.support.disks import obey_permissions
from tests.support.pieces import Counting, counting_fixture, fill, open_cache, write_pairs  # noqa: F401

fork = multiprocessing.get_context("fork")


def key(i):
    return i.to_bytes(4, "big") * 8


def payload(i):
    return np.full(256, i % 251, np.uint8).tobytes()


@pytest.fixture
def space(tmp_path):
    made = Space(tmp_path, {"what": "test"}, 256)
    made.create()
    return made


def test_what_was_put_is_found_by_everyone(space, tmp_path):
    space.put([(key(i), payload(i)) for i in range(100)])
    other = Space(tmp_path, {"what": "test"}, 256)
    assert all(s.get(key(i)) == payload(i) for s in (space, other) for i in range(100))
    assert other.get(key(100)) is None
    space.put([(key(100), payload(100))])
    assert other.get(key(100)) == payload(100)
    assert Space(tmp_path, {"what": "else"}, 256).get(key(1)) is None


def test_many_records_stay_small_and_are_found(tmp_path):
    log = RecordLog(tmp_path / "log", 16)
    rng = np.random.default_rng(0)
    keys = [rng.bytes(32) for _ in range(20_000)]
    for start in range(0, len(keys), 1000):
        with log.appending() as row:
            log.append(row, [(k, k[:16]) for k in keys[start : start + 1000]])
        assert log.find(keys[start]) is not None
    assert all(log.find(k)[1] == k[:16] for k in keys[::37]) and len(log) == 20_000
    assert log.find(rng.bytes(32)) is None
    fresh = RecordLog(tmp_path / "log", 16)
    assert fresh.find(keys[123])[0] == 123 and fresh._heads.nbytes + fresh._places.nbytes == 16 * 20_000


def test_an_entry_rebuilt_among_many_others_is_found_by_an_old_reader(space, tmp_path):
    space.put([(key(1), payload(1))])
    reader = Space(tmp_path, {"what": "test"}, 256)
    assert reader.get(key(1)) == payload(1)
    with (space.folder / "shard-00000").open("r+b") as shard:
        shard.write(b"\xff")
    assert reader.get(key(1)) is None
    with space.index.appending() as row:  # more than the reader keeps whole
        space.index.append(row, [(key(2 + i), bytes(16)) for i in range(4200)])
    space.put([(key(1), payload(1))])
    assert reader.get(key(1)) == payload(1)


def _write_for_ever(root):
    space = Space(root, {"what": "test"}, 256)
    for i in range(10**6):
        space.put([(key(i * 3 + k), payload(i * 3 + k)) for k in range(3)])


def test_a_killed_writer_leaves_nothing_bad(space, tmp_path):
    rng = np.random.default_rng(1)
    for _ in range(20):
        writer = fork.Process(target=_write_for_ever, args=(tmp_path,))
        writer.start()
        time.sleep(0.02 + 0.03 * rng.random())
        os.kill(writer.pid, signal.SIGKILL)
        writer.join()
        with (space.folder / "index").open("ab") as index:
            index.write(rng.bytes(int(rng.integers(0, space.index.width))))  # and torn in the middle of a record
    reader = Space(tmp_path, {"what": "test"}, 256)
    found = [i for i in range(3000) if reader.get(key(i)) is not None]
    assert found and all(reader.get(key(i)) == payload(i) for i in found) and reader.damaged == 0


def _fill_slowly(root, pairs, number):
    class Slow(Counting):
        def moments(self, x):
            time.sleep(0.002)
            return super().moments(x)

    autoencoder = Slow()
    _, cache = open_cache(pairs, root, autoencoder)
    fill(cache)
    (root / f"count-{number}").write_text(f"{cache.filler.counts.filled} {autoencoder.images} {cache.space.damaged}")


def test_eight_processes_fill_one_cache_each_entry_once(tmp_path):
    pairs = write_pairs(tmp_path / "pairs", 40)
    (tmp_path / "cache").mkdir()
    workers = [fork.Process(target=_fill_slowly, args=(tmp_path / "cache", pairs, n)) for n in range(8)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
        assert worker.exitcode == 0
    counts = [list(map(int, (tmp_path / "cache" / f"count-{n}").read_text().split())) for n in range(8)]
    filled, images, damaged = map(sum, zip(*counts, strict=True))
    assert (filled, images, damaged) == (80, 160, 0)


def test_twenty_of_two_hundred_damaged_entries_are_rebuilt(tmp_path, counting):
    pairs = write_pairs(tmp_path / "pairs", 100, size=32)
    _, cache = open_cache(pairs, tmp_path / "cache", counting)
    assert fill(cache) == 200
    every = Everything(cache)
    before = {key: cache.space.get(key) for key in (every[i].key for i in every)}
    rng = np.random.default_rng(0)
    shard = next(cache.space.folder.glob("shard-*"))
    raw = bytearray(shard.read_bytes())
    for slot in rng.choice(200, 20, replace=False):
        raw[slot * cache.codec.payload + int(rng.integers(cache.codec.payload))] ^= 1 << int(rng.integers(8))
    shard.write_bytes(raw)
    _, again = open_cache(pairs, tmp_path / "cache", counting)
    assert fill(again) == 20 and again.state()["damaged"] == 20
    assert {k: again.space.get(k) for k in before} == before
    _, third = open_cache(pairs, tmp_path / "cache", counting)
    assert fill(third) == 0 and third.state()["damaged"] == 0


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK], ids=errno.errorcode.get)
def test_without_locks_entries_are_computed_unclaimed(tmp_path, counting, monkeypatch, number):
    def refusing(*words):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("fcntl.fcntl", refusing)
    _, cache = open_cache(write_pairs(tmp_path / "pairs", 2), tmp_path / "cache", counting)
    assert fill(cache) == 4


def _train_from(root, pairs):
    obey_permissions()
    data, cache = open_cache(pairs, root, Counting())
    with pytest.warns(UserWarning, match="not filled any further"):
        assert len(list(data.train_dataloader())) == 2
    counts = cache.filler.counts
    assert counts.hits and counts.unstored and counts.hits + counts.unstored == 4
    with pytest.raises(StorageError):
        fill(open_cache(pairs, root, Counting())[1])


def test_a_cache_that_cannot_be_written_is_read(tmp_path, counting):
    pairs = write_pairs(tmp_path / "pairs", 4)
    _, cache = open_cache(write_pairs(tmp_path / "half", 2), tmp_path / "cache", counting)  # two pairs of the four
    assert fill(cache) == 4
    for path in (cache.space.folder, *cache.space.folder.iterdir()):
        path.chmod(0o555 if path.is_dir() else 0o444)
    reader = fork.Process(target=_train_from, args=(tmp_path / "cache", pairs))
    reader.start()
    reader.join(60)
    assert reader.exitcode == 0


def _hold(root, ready):
    space = Space(root, {"what": "test"}, 256)
    with space.claims() as claims:
        assert claims.take([key(1)])
        ready.set()
        time.sleep(600)


def test_a_claim_ends_with_its_owner(space, tmp_path):
    ready = fork.Event()
    owner = fork.Process(target=_hold, args=(tmp_path, ready))
    owner.start()
    assert ready.wait(20)
    with space.claims() as claims:
        assert claims.take([key(1), key(2)]) == [key(2)]
        os.kill(owner.pid, signal.SIGKILL)
        owner.join()
        began = time.perf_counter()
        while not claims.take([key(1)]):
            assert time.perf_counter() - began < 30
    assert time.perf_counter() - began < 5


def test_a_full_disk_makes_training_slower_not_impossible(tmp_path, counting, monkeypatch):
    pairs = write_pairs(tmp_path / "pairs", 3)
    data, cache = open_cache(pairs, tmp_path / "cache", counting)

    def full(entries):
        raise StorageError("no space")

    monkeypatch.setattr(cache.space, "put", full)
    with pytest.warns(UserWarning, match="not filled any further"):
        batches = list(data.train_dataloader())
    assert batches[0].edited.shape == (2, 8, 4, 4)
    counts = cache.filler.counts
    assert (counts.filled, counts.unstored) == (0, 2 * len(batches))
    _, again = open_cache(pairs, tmp_path / "cache", counting)
    monkeypatch.setattr(again.space, "put", full)
    with pytest.raises(StorageError, match="no space"):  # filling it beforehand has no other purpose
        fill(again)
