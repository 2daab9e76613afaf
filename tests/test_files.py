"""Files and names: what is written is whole, and where it was meant to be."""

import os
from pathlib import Path

import pytest

import train
from lmjax import InputError, cli, files
from lmjax.config import Config, DataConfig

ROOT = Path(__file__).parent.parent
DIGITS = ["--config", str(ROOT / "configs" / "digits.py")]


@pytest.mark.parametrize(
    ("program", "arguments"),
    [
        (train.main, [*DIGITS, "--workdir", "gs://b/x"]),
        (train.main, [*DIGITS, "--workdir", "s3://b/x", "--resume"]),
        (train.main, [*DIGITS, "--evaluate", "gs://b/x"]),
        (train.main, [*DIGITS, "--profile", "gs://b/x"]),
        (train.main, [*DIGITS, "--data.name", "cifar10", "--data.dir", "gs://b/x"]),
        (cli.main, ["prepare", "resize", "--images", "gs://b/x", "--to", "there"]),
        (cli.main, ["prepare", "resize", "--images", ".", "--to", "gs://b/x"]),
        (cli.main, ["prepare", "imagenet2012", "--archives", ".", "--data-dir", "gs://b/x"]),
        (cli.main, ["prepare", "imagenet2012", "--archives", "gs://b/x", "--data-dir", "."]),
        (cli.main, ["prepare", "sort-validation", "--images", "gs://b/x"]),
        (cli.main, ["report", ".", "--out", "gs://b/x.html"]),
        (cli.main, ["analyze", "order", "euler", "--out", "gs://b/x.png"]),
        (cli.main, ["reproduce", "digits", "--out", "gs://b/x"]),
        (cli.main, ["reproduce", "digits", "--export", "gs://b/x"]),
        (cli.main, ["reproduce", "digits", "--data-dir", "gs://b/x"]),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value)[-40:] if isinstance(value, list) else "",
)
def test_addresses_are_refused_before_anything_is_written(tmp_path, monkeypatch, capsys, program, arguments):
    monkeypatch.chdir(tmp_path)
    assert program(arguments) == 2
    said = capsys.readouterr().err
    assert ":// is not supported: name a folder of this machine" in said, said
    assert list(tmp_path.iterdir()) == []


def test_what_is_no_address():
    for place in ("a:b", "C:/x", "./gs", "x//y", "a b:/c"):
        assert files.local(place, "--to") == Path(place)


def test_home_is_found_wherever_a_path_is_given(monkeypatch, tmp_path):
    """The shell leaves the ~ of --workdir=~/a as it is."""
    monkeypatch.setenv("HOME", str(tmp_path))
    assert files.local("~/a", "--to") == tmp_path / "a"
    config = Config(workdir="~/a", data=DataConfig(name="folder(8)", dir="~/b"))
    assert (config.workdir, config.data.dir) == (str(tmp_path / "a"), str(tmp_path / "b"))


@pytest.mark.parametrize("name", ["", ".", "..", "../x", "/x", "a/b", "a\\b", ".hidden", "a\0b"])
def test_names_that_would_lead_elsewhere(tmp_path, name):
    with pytest.raises(InputError, match="cannot be the name of a file or a folder"):
        files.inside(tmp_path, "train", name)


def test_links_are_not_gone_through(tmp_path):
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


def test_writing_that_fails_leaves_what_was_there(tmp_path, monkeypatch):
    place = tmp_path / "file"
    place.write_text("old")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        files.write(place, "new")
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("file", "old")]


def test_file_systems_that_cannot_sync(tmp_path, monkeypatch):
    def impossible(*_):
        raise OSError(22, "Invalid argument")

    monkeypatch.setattr(os, "fsync", impossible)
    files.make_folder(tmp_path / "a" / "b")
    files.append(tmp_path / "a" / "b" / "file", "one\n")
    files.append(tmp_path / "a" / "b" / "file", "two\n")
    assert (tmp_path / "a" / "b" / "file").read_text() == "one\ntwo\n"
