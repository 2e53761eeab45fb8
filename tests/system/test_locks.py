"""A lock has one holder, and "there are no locks" is never taken for "another has it"."""

import errno
import fcntl
import multiprocessing

import pytest

from ip2p_lightning.errors import StorageError
from ip2p_lightning.runs.folder import claim
from ip2p_lightning.system.locks import is_held, try_lock


def answering(number):
    def flock(file, kind):
        raise OSError(number, "told by the system")

    return flock


def hold(path, ready):
    lock = try_lock(path)
    ready.send(lock is not None)
    ready.recv()


def test_a_lock_has_one_holder_until_its_process_is_killed(tmp_path):
    path, (here, there) = tmp_path / ".lock", multiprocessing.Pipe()
    other = multiprocessing.get_context("spawn").Process(target=hold, args=(path, there))
    other.start()
    assert here.recv()
    assert is_held(path) and try_lock(path) is None
    other.kill()
    other.join()
    assert not is_held(path)
    with try_lock(path) as lock:
        assert lock is not None and is_held(path)


def test_what_is_not_there_is_not_held(tmp_path):
    assert not is_held(tmp_path / ".lock") and not list(tmp_path.iterdir())


@pytest.mark.parametrize("number", [errno.EWOULDBLOCK, errno.EACCES])
def test_held_by_another_on_systems_that_say_it_otherwise(tmp_path, monkeypatch, number):
    monkeypatch.setattr(fcntl, "flock", answering(number))
    assert try_lock(tmp_path / ".lock") is None


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_one_line_and_one_folder(tmp_path, monkeypatch, number):
    monkeypatch.setattr(fcntl, "flock", answering(number))
    with pytest.raises(StorageError, match=r"run/\.lock: its file system has no file locks"):
        claim(tmp_path / "run")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    assert not is_held(tmp_path / "run/.lock")
