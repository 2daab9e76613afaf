"""What a run leaves in its folder survives crashes, and says what is wrong with it."""

import errno
import json
import os
import re
import shutil
import subprocess

import pytest

from lmjax import InputError
from lmjax.config import Config
from lmjax.training import RunRecordWriter, run_folder, run_record
from tests.tiny import git_environment

pytestmark = pytest.mark.versions


@pytest.fixture
def record(tmp_path):
    record = RunRecordWriter(tmp_path / "run")
    record.start(Config())
    for step in (10, 20, 30):
        record.log({"step": step, "test_loss": step / 7})
    yield record
    record.close()


def test_round_trip_and_rewriting_that_forgets_what_came_after(record):
    assert record.config() == Config()
    assert record.read_rows() == [{"step": step, "test_loss": step / 7} for step in (10, 20, 30)]
    record.rewrite(record.rows[:2])
    assert [row["step"] for row in record.read_rows()] == [10, 20]
    record.log({"step": 30})
    assert record.read_rows() == record.rows
    record.rewrite([])
    assert record.metrics_path.read_text() == ""


def test_line_cut_short_by_a_crash_is_left_out(record):
    text = record.metrics_path.read_text()
    record.metrics_path.write_text(text + text[:13])
    assert [row["step"] for row in record.read_rows()] == [10, 20, 30]


def test_row_that_could_not_be_written_is_made_up_for(record, monkeypatch, capsys):
    with monkeypatch.context() as patch:

        def full(*_, **__):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        patch.setattr(os, "open", full)
        record.log({"step": 40})
    why = "could not be written (No space left on device): going on without it"
    assert capsys.readouterr().err == f"{record.metrics_path} {why}\n"
    assert [row["step"] for row in record.read_rows()] == [10, 20, 30]
    record.log({"step": 50})
    assert [row["step"] for row in record.read_rows()] == [10, 20, 30, 40, 50]


@pytest.mark.parametrize("name", ["config.json", "metrics.jsonl", "summary.json"])
@pytest.mark.parametrize("kind", ["a pipe", "a device"])
def test_what_is_read_must_be_a_file(record, name, kind):
    """A pipe would be waited for, and a device may have no end."""
    place = record.directory / name
    place.unlink(missing_ok=True)
    os.mkfifo(place) if kind == "a pipe" else place.symlink_to("/dev/zero")
    read = {"config.json": record.config, "metrics.jsonl": record.read_rows, "summary.json": record.summary}[name]
    with pytest.raises(InputError, match=rf"{re.escape(str(place))}: .*it is no file"):
        read()


def test_no_link_is_written_through(record, tmp_path, capsys):
    victim = tmp_path / "victim"
    victim.write_text("theirs")
    record.metrics_path.unlink()
    record.metrics_path.symlink_to(victim)
    record.log({"step": 40})
    why = "could not be written (Too many levels of symbolic links): going on without it"
    assert capsys.readouterr().err == f"{record.metrics_path} {why}\n"
    record.log({"step": 50})  # which takes the place of the link
    assert [row["step"] for row in record.read_rows()] == [10, 20, 30, 40, 50]
    lock = record.directory / ".lock"
    lock.unlink(missing_ok=True)
    lock.symlink_to(victim)
    with pytest.raises(InputError, match=r"cannot be written \(\.lock is a link\)"):
        RunRecordWriter(record.directory).hold()
    assert victim.read_text() == "theirs"


@pytest.mark.parametrize("line", ["nonsense", "3", "{}"])
def test_other_broken_lines_are_named(record, line):
    lines = record.metrics_path.read_text().splitlines()
    record.metrics_path.write_text("\n".join([lines[0], line, lines[2]]) + "\n")
    with pytest.raises(InputError, match=r"metrics\.jsonl: line 2 is not a row of metrics"):
        record.read_rows()


def test_config_that_is_no_config(record):
    record.config_path.write_text("{")
    with pytest.raises(InputError, match=r"config\.json: is not a config"):
        record.config()
    record.config_path.write_text(json.dumps({"sead": 1}))
    with pytest.raises(InputError, match="unknown key 'sead': did you mean 'seed'"):
        record.config()


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"test_accuracy": "high"}', "[" * 100_000])
def test_summary_that_is_none(record, text):
    assert record.summary() is None
    record.summarize({"test_accuracy": 0.5})
    assert record.summary() == {"test_accuracy": 0.5}
    record.summary_path.write_text(text)
    with pytest.raises(
        InputError, match=r"summary\.json: is not a summary .*: delete it, and going on with the run writes it again"
    ):
        record.summary()


def test_summary_of_a_run_whose_last_checkpoint_is_from_before_its_evaluation(record, monkeypatch):
    summary, rows = {"test_accuracy": 0.5, "steps": 20}, [{"step": 10, "test_accuracy": 0.25}]
    record.summarize(summary)
    monkeypatch.setattr(run_record, "newest_about", lambda folder: (20, {"rows": rows}))
    assert record.summary() == summary
    rows.append({"step": 20, "test_accuracy": 0.75})
    with pytest.raises(InputError, match="its test_accuracy is not that of the last checkpoint"):
        record.summary()


def test_only_the_writer_writes(tmp_path):
    record = RunRecordWriter(tmp_path / "run", writes=False)
    record.start(Config())
    record.log({"step": 1})
    record.summarize({})
    assert not (tmp_path / "run").exists()


def test_only_the_process_that_writes_minds_what_the_others_find(tmp_path, config):
    with RunRecordWriter(tmp_path / "run") as record:
        record.start(config)
    RunRecordWriter(tmp_path / "run", writes=False).start(config)  # it came late
    with pytest.raises(InputError, match="already holds a run"):
        RunRecordWriter(tmp_path / "run").start(config)


def test_a_file_system_without_locks(tmp_path, monkeypatch, capsys):
    record = RunRecordWriter(tmp_path / "run")

    def acquire(**_):
        raise NotImplementedError

    monkeypatch.setattr(record._lock, "acquire", acquire)
    record.start(Config())
    assert "is on a file system without locks" in capsys.readouterr().err
    record.require_there()


@pytest.fixture
def commit():
    run_folder.commit.cache_clear()
    yield run_folder.commit
    run_folder.commit.cache_clear()


def test_versions_name_the_commit(tmp_path, monkeypatch, commit):
    """Of a checkout that lmjax is imported from; not of another one that it is installed in."""
    git = shutil.which("git")
    if git is None:
        pytest.skip("no git")

    def found(root):
        monkeypatch.setattr(run_folder.lmjax, "__file__", str(root / "lmjax" / "__init__.py"))
        commit.cache_clear()
        return run_folder.versions().get("commit")

    def run(*command):
        return subprocess.run(
            [git, *command], cwd=tmp_path, env=git_environment(), check=True, capture_output=True
        ).stdout

    run("init")
    (tmp_path / "code.py").write_text("a = 1\n")
    run("add", ".")
    run("commit", "-m", "first")
    head = run("rev-parse", "HEAD").decode().strip()
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "of another one"))
    assert found(tmp_path) == head
    (tmp_path / "code.py").write_text("a = 2\n")
    assert found(tmp_path) == f"{head}-dirty"
    assert found(tmp_path / "venv") is None
