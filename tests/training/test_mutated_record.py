"""The folder of a run may be damaged: what is read from it is right, or an `InputError` names the file."""

import json

import pytest
from hypothesis import given, settings

from lmjax import InputError
from lmjax.config import Config, to_dict
from lmjax.training import RunRecord
from tests.data.test_mutated_files import changes

pytestmark = pytest.mark.versions
check = settings(derandomize=True, deadline=None, max_examples=60)

CONFIG = json.dumps(to_dict(Config())).encode()
ROWS = b"".join(json.dumps({"step": step, "test_loss": step / 7}).encode() + b"\n" for step in (10, 20, 30))
DAMAGED = {
    "empty": b"",
    "deep": b"[" * 100_000,
    "a deep table": b'{"seed":' * 100_000,
    "a huge number": b'{"seed": ' + b"9" * 5000 + b', "step": ' + b"9" * 5000 + b"}",
    "an infinite number": b'{"optimizer": {"learning_rate": 1e999}, "step": 1e999}',
    "no number": b'{"optimizer": {"weight_decay": NaN}, "step": NaN}',
    "a key twice": b'{"step": 1, "step": "x", "seed": 1, "seed": "x"}',
    "a mark of the order of bytes": b"\xef\xbb\xbf" + CONFIG,
    "null bytes": bytes(100),
    "no text": b"\xff\xfe{}",
    "half a surrogate": b'{"step": 1, "workdir": "\\ud800"}',
    "other values": b"3\n[]\n{}\nnull\n",
    "steps that are none": b'{"step": "x"}\n{"step": null}\n{"step": []}\n{"step": -1}\n{"step": true}\n',
}


def read(record):
    """Reads both files; what is wrong must be said in a line that names the file."""
    for what, path, holds in (
        (record.config, record.config_path, lambda found: isinstance(found, Config)),
        (record.read_rows, record.metrics_path, lambda found: all(type(row["step"]) is int for row in found)),
    ):
        try:
            assert holds(what())
        except InputError as error:
            assert str(path.parent) in str(error)  # noqa: PT017
            assert path.name in str(error)  # noqa: PT017
            assert len(str(error).splitlines()) == 1  # noqa: PT017


@pytest.fixture
def record(tmp_path):
    record = RunRecord(tmp_path)
    record.config_path.write_bytes(CONFIG)
    record.metrics_path.write_bytes(ROWS)
    return record


def test_damaged_files(record):
    @check
    @given(changes(CONFIG), changes(ROWS))
    def holds(config, rows):
        record.config_path.write_bytes(config)
        record.metrics_path.write_bytes(rows)
        read(record)

    holds()


@pytest.mark.parametrize("kind", DAMAGED)
def test_files_of_every_other_kind(record, kind):
    record.config_path.write_bytes(DAMAGED[kind])
    record.metrics_path.write_bytes(DAMAGED[kind] + b"\n" + ROWS)
    read(record)


def test_folders_in_place_of_files(record):
    for path in (record.config_path, record.metrics_path):
        path.unlink()
        path.mkdir()
    read(record)
    with pytest.raises(InputError, match=r"config\.json"):
        record.config()
    with pytest.raises(InputError, match=r"metrics\.jsonl"):
        record.read_rows()
