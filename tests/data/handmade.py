"""Directories as tensorflow-datasets leaves them behind, made without TensorFlow from its public pieces."""

import struct
from pathlib import Path

import numpy as np


def prepare(directory: Path, splits: dict, *, file_format="array_record", shards=1, features=None, classes=("a", "b")):
    """Writes a prepared data set.

    Args:
        directory: ends in the name and the version.
        splits: for each split its records, as dictionaries of feature values.
        file_format: "array_record" or "tfrecord".
        shards: number of files of a split.
        features: TFDS features; None: an "image", a "label" and, if the records have it, a "file_name".
        classes: names of the labels.
    """
    import tensorflow_datasets as tfds

    directory.mkdir(parents=True)
    name, version = directory.parts[-2:]
    if features is None:
        features = {
            "image": tfds.features.Image(encoding_format="jpeg"),
            "label": tfds.features.ClassLabel(names=list(classes)),
        }
        if "file_name" in next(iter(splits.values()))[0]:
            features["file_name"] = tfds.features.Text()
    infos = []
    for split, records in splits.items():
        template = tfds.core.ShardedFileTemplate(
            dataset_name=name, data_dir=directory, split=split, filetype_suffix=file_format
        )
        parts = np.array_split(np.arange(len(records)), shards)
        for shard, part in enumerate(parts):
            file = template.sharded_filepath(shard_index=shard, num_shards=shards)
            _WRITERS[file_format](str(file), [_example(records[i]) for i in part])
        lengths = [len(part) for part in parts]
        infos.append(tfds.core.SplitInfo(name=split, shard_lengths=lengths, num_bytes=1, filename_template=template))
    info = tfds.core.DatasetInfo(
        builder=tfds.core.DatasetIdentity(
            name=name, version=tfds.core.Version(version), data_dir=str(directory), module_name="test"
        ),
        features=tfds.features.FeaturesDict(features),
    )
    info.set_file_format(file_format)
    info.set_splits(tfds.core.SplitDict(infos))
    info.write_to_directory(directory)


def _example(record):
    from tensorflow_datasets.proto import tf_example_pb2

    example = tf_example_pb2.Example()
    for key, value in record.items():
        if isinstance(value, int):
            example.features.feature[key].int64_list.value.append(value)
        else:
            value = value.encode() if isinstance(value, str) else value
            example.features.feature[key].bytes_list.value.append(value)
    return example.SerializeToString()


def _write_array_record(file, examples):
    from array_record.python.array_record_module import ArrayRecordWriter

    writer = ArrayRecordWriter(file, "group_size:1")
    for example in examples:
        writer.write(example)
    writer.close()


def _write_tfrecord(file, examples):
    """Without the two checksums, which lmjax does not read."""
    with open(file, "wb") as out:
        for example in examples:
            out.write(struct.pack("<QI", len(example), 0) + example + bytes(4))


_WRITERS = {"array_record": _write_array_record, "tfrecord": _write_tfrecord}
