"""What a run leaves in its folder survives crashes, and says what is wrong with it."""

import json

import pytest

from lmjax import InputError
from lmjax.config import Config
from lmjax.training import Record

pytestmark = pytest.mark.versions


@pytest.fixture
def record(tmp_path):
    record = Record(tmp_path / "run")
    record.start(Config())
    for step in (10, 20, 30):
        record.log({"step": step, "test_loss": step / 7})
    return record


def test_round_trip(record):
    assert record.config() == Config()
    assert [row["step"] for row in record.rows()] == [10, 20, 30]
    assert record.rows()[0]["test_loss"] == 10 / 7


def test_rewind_forgets_what_came_after(record):
    assert [row["step"] for row in record.rewind(20)] == [10, 20]
    record.log({"step": 30})
    assert [row["step"] for row in record.rows()] == [10, 20, 30]
    assert record.rewind(0) == []
    assert record.metrics_path.read_text() == ""


def test_line_cut_short_by_a_crash_is_left_out_and_mended(record):
    text = record.metrics_path.read_text()
    record.metrics_path.write_text(text + text[:13])
    assert [row["step"] for row in record.rewind(100)] == [10, 20, 30]
    assert record.metrics_path.read_text() == text


@pytest.mark.parametrize("line", ["nonsense", "3", "{}"])
def test_other_broken_lines_are_named(record, line):
    lines = record.metrics_path.read_text().splitlines()
    record.metrics_path.write_text("\n".join([lines[0], line, lines[2]]) + "\n")
    with pytest.raises(InputError, match=r"metrics\.jsonl: line 2 is not a row of metrics"):
        record.rows()


def test_config_that_is_no_config(record):
    record.config_path.write_text("{")
    with pytest.raises(InputError, match=r"config\.json: is not a config"):
        record.config()
    record.config_path.write_text(json.dumps({"sead": 1}))
    with pytest.raises(InputError, match="unknown key 'sead': did you mean 'seed'"):
        record.config()


def test_only_the_writer_writes(tmp_path):
    record = Record(tmp_path / "run", writes=False)
    record.start(Config())
    record.log({"step": 1})
    record.summarise({})
    assert not (tmp_path / "run").exists()


def test_only_the_process_that_writes_minds_what_the_others_find(tmp_path, config):
    Record(tmp_path / "run").start(config)
    Record(tmp_path / "run", writes=False).start(config)  # it came late
    with pytest.raises(InputError, match="already holds a run"):
        Record(tmp_path / "run").start(config)
