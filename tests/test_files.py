"""Files and names: what is written is whole, and where it was meant to be."""

import errno
import os
from pathlib import Path

import pytest

from lmjax import InputError, files
from lmjax.config import Config, DataConfig


def test_what_is_no_address(monkeypatch, tmp_path):
    """The shell leaves the ~ of --workdir=~/a as it is."""
    for place in ("a:b", "C:/x", "./gs", "x//y", "a b:/c"):
        assert files.local(place, "--to") == Path(place)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert files.local("~/a", "--to") == tmp_path / "a"
    config = Config(workdir="~/a", data=DataConfig(name="folder(8)", dir="~/b"))
    assert (config.workdir, config.data.dir) == (str(tmp_path / "a"), str(tmp_path / "b"))


@pytest.mark.parametrize(
    ("place", "way"),
    [
        ("gs://b/run", "gcloud storage rsync -r, or mount a bucket"),
        ("s3://b/run", "copy from or to the other place"),
    ],
)
def test_an_address_is_refused_and_the_ways_that_work_are_named(place, way):
    for given in (place, Path(place)):  # which has one slash less
        with pytest.raises(InputError, match=rf"--to .*: {place[:2]}:// is not supported: name a folder .*{way}"):
            files.local(given, "--to")


def test_names_and_links_that_would_lead_elsewhere(tmp_path):
    for name in ("", ".", "..", "../x", "/x", "a/b", "a\\b", ".hidden", "a\0b"):
        with pytest.raises(InputError, match="cannot be the name of a file or a folder"):
            files.inside(tmp_path, "train", name)
    (tmp_path / "victim").mkdir()
    (tmp_path / "train").symlink_to(tmp_path / "victim")
    with pytest.raises(InputError, match="is a link"):
        files.inside(tmp_path, "train", "cat")
    assert files.inside(tmp_path, "victim", "cat") == tmp_path / "victim" / "cat"


@pytest.mark.parametrize("durable", [True, False])
def test_writing_replaces_a_link_and_spares_what_is_behind_it(tmp_path, durable):
    victim, place = tmp_path / "victim", tmp_path / "file"
    victim.write_text("theirs")
    place.symlink_to(victim)
    files.write(place, "ours ±", durable=durable)
    assert place.read_bytes() == "ours ±".encode()
    assert not place.is_symlink()
    assert victim.read_text() == "theirs"
    assert {path.name for path in tmp_path.iterdir()} == {"victim", "file"}


def test_pipes_are_written_to(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    files.write(tmp_path / "pipe", "told \udcff")
    assert os.read(reader, 100) == b"told \\udcff"
    assert not (tmp_path / "pipe").is_file()


def failing(number):
    def fail(*_):
        raise OSError(number, os.strerror(number))

    return fail


def test_writing_that_fails_leaves_what_was_there(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("old")
    monkeypatch.setattr(os, "fsync", failing(errno.ENOSPC))
    with pytest.raises(OSError, match="No space"):
        files.write(tmp_path / "file", "new")
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("file", "old")]


def test_file_systems_that_cannot_sync(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", failing(errno.EINVAL))
    files.make_folder(tmp_path / "a" / "b")
    for line in ("one\n", "two\n"):
        files.append(tmp_path / "a" / "b" / "file", line)
    assert (tmp_path / "a" / "b" / "file").read_text() == "one\ntwo\n"
