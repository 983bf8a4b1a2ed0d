import errno
import json
import os
import pathlib
import struct

import numpy as np
import pytest
import tensorflow as tf

from posekit.data import shards, tfrecord
from posekit.data.schema import MocapRecord
from posekit.data.shards import NothingUsableError, RawDataset, ShardWriter, Skip
from posekit.data.tfrecord import (
    DatasetNotFoundError,
    RecordWriter,
    TFRecordError,
    count_records,
    crc32c,
    dataset_files,
    dataset_patterns,
    mocap_files,
    mocap_names,
    num_examples,
    num_mocap,
    read_records,
)
from posekit.testing import load_fixture


def write(path, *records):
    path.parent.mkdir(parents=True, exist_ok=True)
    with RecordWriter(path) as writer:
        for record in records:
            writer.write(record)
    return path


# ----------------------------------------------------------------------------------------------------- framing


@pytest.mark.parametrize(
    "data, checksum",
    [
        (b"", 0),
        (b"123456789", 0xE3069283),
        (bytes(32), 0x8A9136AA),
        (b"\xff" * 32, 0x62A8AB43),
        (bytes(range(32)), 0x46DD794E),
    ],
)
def test_checksum_of_known_data(data, checksum):
    assert crc32c(data) == checksum


def test_long_checksums_equal_short_ones(monkeypatch):
    rng = np.random.default_rng(0)
    for length in (4, 5, 63, 64, 65, 127, 128, 2047, 2048, 2049, 4097, 9001):
        data = rng.bytes(length)
        monkeypatch.setattr(tfrecord, "_SHORT", 1 << 30)
        expected = crc32c(data)
        monkeypatch.setattr(tfrecord, "_SHORT", 4)
        assert crc32c(data) == expected, length


def test_tensorflow_reads_what_we_write_and_we_what_it_writes(tmp_path):
    rng = np.random.default_rng(0)
    records = [rng.bytes(length) for length in (0, 1, 100, 2047, 5000, 70000)]
    ours = write(tmp_path / "ours.tfrecords", *records)
    assert [record.numpy() for record in tf.data.TFRecordDataset(str(ours))] == records
    theirs = str(tmp_path / "theirs.tfrecords")
    with tf.io.TFRecordWriter(theirs) as writer:
        for record in records:
            writer.write(record)
    assert list(read_records(theirs)) == records and count_records(theirs) == len(records)
    assert ours.read_bytes() == pathlib.Path(theirs).read_bytes()


@pytest.mark.parametrize("case", ["lsp", "lsp_ext", "mpii", "face19_ext"])
def test_files_of_the_original(case, tmp_path):
    fixture = load_fixture("hmr_tfrecord")
    path = tmp_path / "set.tfrecords"
    path.write_bytes(bytes(fixture[f"{case}_tfrecord_file"]))
    assert count_records(path) == 1 and list(read_records(path)) == [bytes(fixture[f"{case}_example"])]
    assert write(tmp_path / "ours.tfrecords", *read_records(path)).read_bytes() == path.read_bytes()


def test_a_file_cut_anywhere_names_itself_and_the_byte(tmp_path):
    whole = write(tmp_path / "set.tfrecords", b"a" * 20, b"b" * 30).read_bytes()
    ends = {0: 0, 36: 1, 82: 2}
    cut = tmp_path / "cut.tfrecords"
    for length in range(len(whole) + 1):
        cut.write_bytes(whole[:length])
        if length in ends:
            assert count_records(cut) == ends[length]
            continue
        start = 0 if length < 36 else 36
        with pytest.raises(TFRecordError, match=f"cut.tfrecords.*byte {start}.*byte {length}"):
            count_records(cut)
        with pytest.raises(TFRecordError):
            list(read_records(cut))


def test_a_huge_length_takes_no_memory(tmp_path):
    length = struct.pack("<Q", 1 << 60)
    checksum = struct.pack("<I", tfrecord._masked(crc32c(length)))
    (tmp_path / "huge.tfrecords").write_bytes(length + checksum + bytes(50))
    with pytest.raises(TFRecordError, match="cut short"):
        list(read_records(tmp_path / "huge.tfrecords"))


def test_damaged_contents(tmp_path):
    path = write(tmp_path / "set.tfrecords", b"a" * 20, b"b" * 30)
    content = bytearray(path.read_bytes())
    content[40 + 12] ^= 1
    path.write_bytes(content)
    with pytest.raises(TFRecordError, match="byte 36 is damaged"):
        list(read_records(path))
    assert len(list(read_records(path, verify=False))) == 2
    path.write_bytes(b"\x1f\x8b" + bytes(content))
    with pytest.raises(TFRecordError, match="compressed"):
        count_records(path)


def test_an_unfinished_file_leaves_nothing(tmp_path):
    path = write(tmp_path / "set.tfrecords", b"old")
    with pytest.raises(KeyError), RecordWriter(path) as writer:
        writer.write(b"new")
        raise KeyError
    assert list(read_records(path)) == [b"old"] and os.listdir(tmp_path) == ["set.tfrecords"]


@pytest.mark.parametrize("number, words", [(errno.ENOSPC, "free some space"), (errno.EROFS, "writable")])
def test_a_full_disk_is_explained_and_leaves_nothing(tmp_path, monkeypatch, number, words):
    def fail(descriptor):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match=words) as caught:
        write(tmp_path / "set.tfrecords", b"record")
    assert caught.value.errno == number and "set.tfrecords" in str(caught.value)
    assert os.listdir(tmp_path) == []


# ----------------------------------------------------------------------------------------------- files of a set


def test_patterns_are_the_originals():
    expected = load_fixture("hmr_config")["get_all_files"]
    assert [dataset_patterns("/d", name)[0] for name in ("lsp_train", "lsp_ext", "h36m")] == expected.tolist()
    assert dataset_patterns("/d", "mpi_inf_3dhp")[0] == "/d/mpi_inf_3dhp/train/*.tfrecords"


@pytest.mark.parametrize(
    "names, dataset, expected",
    [
        (["lsp_train.tfrecords", "lsp_train_2.tfrecords"], "lsp_train", ["lsp_train.tfrecords"]),
        (["coco/train_0001.tfrecord", "coco/train_0000.tfrecord", "coco/val_0000.tfrecord"], "coco",
         ["coco/train_0000.tfrecord", "coco/train_0001.tfrecord"]),
        (["coco/train_0000_wmeta.tfrecord"], "coco", ["coco/train_0000_wmeta.tfrecord"]),
        (["lsp_val/val_0000.tfrecord"], "lsp_val", ["lsp_val/val_0000.tfrecord"]),
        (["mpii/a.tfrecords", "mpii/b.tfrecords"], "mpii", ["mpii/a.tfrecords", "mpii/b.tfrecords"]),
        (["tf_records_human36m_wjoints/train/x.tfrecords", "tf_records_human36m_wjoints/test/y.tfrecords"], "h36m",
         ["tf_records_human36m_wjoints/train/x.tfrecords"]),
        (["mpi_inf_3dhp/train/x.tfrecord"], "mpi_inf_3dhp", ["mpi_inf_3dhp/train/x.tfrecord"]),
    ],
)  # fmt: skip
def test_files_are_found_where_the_originals_keep_them(tmp_path, names, dataset, expected):
    for name in names:
        write(tmp_path / name, b"record")
    assert dataset_files(tmp_path, dataset) == [str(tmp_path / name) for name in expected]
    assert num_examples(tmp_path, dataset) == len(expected)


def test_missing_datasets_say_what_is_there_and_what_to_type(tmp_path):
    write(tmp_path / "lsp_val.tfrecords", b"record")
    with pytest.raises(DatasetNotFoundError, match=r"lsp_val.*create_dataset.py --lsp_ext --data_dir"):
        dataset_files(tmp_path, "lsp_ext")
    with pytest.raises(DatasetNotFoundError, match=r"create_dataset.py --help"):
        dataset_files(tmp_path, "mine")
    with pytest.raises(DatasetNotFoundError, match="--mocap"):
        mocap_files(tmp_path, "CMU")


def test_counts_are_remembered_as_long_as_files_keep_their_size(tmp_path, monkeypatch):
    path = write(tmp_path / "set.tfrecords", b"one", b"two")
    assert num_examples(tmp_path, "set") == 2
    summary = json.loads((tmp_path / "set.json").read_text())
    assert summary["count"] == 2 and summary["files"] == {"set.tfrecords": {"count": 2, "bytes": path.stat().st_size}}
    with monkeypatch.context() as patch:
        patch.setattr(tfrecord, "count_records", lambda path: pytest.fail("counted again"))
        assert num_examples(tmp_path, "set") == 2
    write(path, b"one", b"two", b"three")
    assert num_examples(tmp_path, "set") == 3
    for nonsense in ("", "[]", "{", '{"files": {"set.tfrecords": 3}}', '{"files": [1]}'):
        (tmp_path / "set.json").write_text(nonsense)
        assert num_examples(tmp_path, "set") == 3


def test_mocap_files_and_counts(tmp_path):
    for name in ("CMU_000", "CMU_001", "H3.6_000", "CMU_extra_000"):
        write(tmp_path / "mocap_neutrMosh" / f"neutrSMPL_{name}.tfrecord", b"a", b"b")
    assert [pathlib.Path(path).name for path in mocap_files(tmp_path, "CMU")] == [
        "neutrSMPL_CMU_000.tfrecord", "neutrSMPL_CMU_001.tfrecord",
    ]  # fmt: skip
    assert mocap_names(tmp_path) == ["CMU", "CMU_extra", "H3.6"]
    assert num_mocap(tmp_path, "CMU") == 4 and num_mocap(tmp_path, "H3.6") == 2


# ------------------------------------------------------------------------------------------------------- shards

calls = []


def pose(item):
    """A converter for tests: negative items are skipped, the number 1000 interrupts."""
    calls.append(item)
    if item == 1000:
        raise KeyboardInterrupt
    if item < 0:
        yield Skip(f"item {item}", "negative")
    else:
        yield MocapRecord(np.full(72, float(item)), np.zeros(10))


@pytest.fixture(autouse=True)
def no_calls():
    calls.clear()


def raw(items, name="set", **fields):
    return RawDataset.of_images(name, items=items, convert=pose, found=len(items), **fields)


def values(folder, name="set"):
    records = (record for path in dataset_files(folder, name) for record in read_records(path))
    return [int(MocapRecord.from_example(record).pose[0]) for record in records]


def writer(folder, **options):
    return ShardWriter(folder, **{"shard_size": 3, "num_workers": 1} | options)


def test_a_small_set_is_one_file(tmp_path):
    done = []
    summary = writer(tmp_path).write(raw([0, 1, -7, 3, 4, 5], skips=(Skip("x", "missing"),)), done.append)
    assert sorted(os.listdir(tmp_path)) == ["set.json", "set.tfrecords"]
    assert values(tmp_path) == [0, 1, 3, 4, 5] and sum(done) == 6
    assert (summary.written, summary.found, summary.defects, summary.fresh) == (5, 6, 2, True)
    content = json.loads((tmp_path / "set.json").read_text())
    assert content["count"] == 5 and content["skipped"]["missing"]["first"] == ["x"]
    assert num_examples(tmp_path, "set") == 5


def test_a_large_set_is_a_folder_of_shards(tmp_path):
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "raw.jpg").write_bytes(b"raw data of the same name stays")
    writer(tmp_path).write(raw([0, 1, 2, -1, -2, -3, 6, 7]))
    assert sorted(os.listdir(tmp_path / "set")) == ["raw.jpg", "train_0000.tfrecord", "train_0001.tfrecord"]
    assert values(tmp_path) == [0, 1, 2, 6, 7] and sorted(os.listdir(tmp_path)) == ["set", "set.json"]


def test_what_is_there_is_not_made_again(tmp_path):
    writer(tmp_path).write(raw([0, 1]))
    calls.clear()
    summary = writer(tmp_path).write(raw([0, 1]))
    assert not calls and not summary.fresh and summary.written == 2
    writer(tmp_path, overwrite=True).write(raw([0, 1]))
    assert calls == [0, 1]


def test_other_options_or_sources_make_it_again(tmp_path):
    source = tmp_path / "labels"
    source.write_text("a")
    output = tmp_path / "output"
    writer(output).write(raw([0, 1], sources=(source,)))
    source.write_text("other")
    assert writer(output).write(raw([0, 1], sources=(source,))).fresh
    assert writer(output).write(raw([0, 1], sources=(source,), options={"a": 1})).fresh
    assert not writer(output).write(raw([0, 1], sources=(source,), options={"a": 1})).fresh
    # From one file to a folder: the earlier file goes.
    writer(output).write(raw(list(range(8)), sources=(source,)))
    assert sorted(os.listdir(output)) == ["set", "set.json"] and values(output) == list(range(8))
    writer(output).write(raw([5], sources=(source,)))
    assert values(output) == [5] and os.listdir(output / "set") == []


def test_foreign_files_are_not_replaced_unless_told_so(tmp_path):
    write(tmp_path / "set.tfrecords", b"somebody's")
    with pytest.raises(FileExistsError, match="--overwrite"):
        writer(tmp_path).write(raw([0]))
    assert list(read_records(tmp_path / "set.tfrecords")) == [b"somebody's"]
    assert os.listdir(tmp_path) == ["set.tfrecords"]
    writer(tmp_path, overwrite=True).write(raw([0]))
    assert values(tmp_path) == [0]


def test_an_interrupted_conversion_continues(tmp_path):
    items = [0, 1, 2, 3, 4, 5, 6, 1000, 8]
    with pytest.raises(KeyboardInterrupt):
        writer(tmp_path).write(raw(items))
    assert os.listdir(tmp_path) == [".set.partial"]
    with pytest.raises(DatasetNotFoundError):
        dataset_files(tmp_path, "set")
    items[7] = 7
    calls.clear()
    done = []
    summary = writer(tmp_path).write(raw(items), done.append)
    assert calls == [6, 7, 8] and sum(done) == 9 and summary.written == 9
    assert values(tmp_path) == list(range(9)) and sorted(os.listdir(tmp_path)) == ["set", "set.json"]


def test_an_interrupted_conversion_with_other_options_starts_again(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        writer(tmp_path).write(raw([0, 1, 2, 1000]))
    calls.clear()
    writer(tmp_path).write(raw([0, 1, 2, 3], options={"other": True}))
    assert calls == [0, 1, 2, 3] and values(tmp_path) == [0, 1, 2, 3]


def test_a_damaged_shard_of_an_interrupted_conversion_is_made_again(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        writer(tmp_path).write(raw([0, 1, 2, 1000]))
    (tmp_path / ".set.partial" / "00000.tfrecord").write_bytes(b"half")
    writer(tmp_path).write(raw([0, 1, 2, 3]))
    assert values(tmp_path) == [0, 1, 2, 3]


@pytest.mark.parametrize("count", [4, 9])
def test_interrupted_while_moving(tmp_path, monkeypatch, count):
    writer(tmp_path).write(raw([40, 41]))
    original, moved = shards._move_parts, []

    def move(parts, path):
        if moved:
            raise KeyboardInterrupt
        original(parts, path)
        moved.append(path)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(shards, "_move_parts", move)
        patch.setattr(shards, "write_json", interrupt_after_moving(shards.write_json))
        writer(tmp_path).write(raw(list(range(count))))
    with pytest.raises(DatasetNotFoundError, match="half in place"):
        dataset_files(tmp_path, "set")
    calls.clear()
    summary = writer(tmp_path).write(raw(list(range(count))))
    assert not calls and summary.written == count and values(tmp_path) == list(range(count))
    assert not (tmp_path / ".set.partial").exists()


def interrupt_after_moving(write_json):
    def interrupted(path, content):
        if path.name == "set.json":
            raise KeyboardInterrupt
        write_json(path, content)

    return interrupted


def test_a_full_disk_keeps_the_finished_shards(tmp_path, monkeypatch):
    def fail(descriptor):
        if len(calls) > 3:
            raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(OSError, match="free some space"):
        patch.setattr(os, "fsync", fail)
        writer(tmp_path).write(raw(list(range(9))))
    assert sorted(os.listdir(tmp_path / ".set.partial")) == ["00000.tfrecord", "lock", "progress.json"]
    calls.clear()
    writer(tmp_path).write(raw(list(range(9))))
    assert calls == list(range(3, 9)) and values(tmp_path) == list(range(9))


def test_nothing_usable_leaves_nothing(tmp_path):
    with pytest.raises(NothingUsableError, match=r"negative \(2: item -1, item -2\)") as caught:
        writer(tmp_path).write(raw([-1, -2]))
    assert caught.value.summary.defects == 2 and os.listdir(tmp_path) == []
    with pytest.raises(NothingUsableError):
        writer(tmp_path).write(raw([]))


def test_two_at_once_are_refused(tmp_path):
    fcntl = pytest.importorskip("fcntl")
    staging = tmp_path / ".set.partial"
    staging.mkdir()
    with open(staging / "lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(RuntimeError, match="Another process"):
            writer(tmp_path).write(raw([0]))
    writer(tmp_path).write(raw([0]))


def test_output_that_is_no_folder(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OSError, match="--output_dir"):
        writer(tmp_path / "file").write(raw([0]))


def test_senseless_shard_size():
    with pytest.raises(ValueError, match="at least 1"):
        ShardWriter("data", shard_size=0)


def test_only_the_first_names_are_kept_but_all_are_counted(tmp_path):
    summary = writer(tmp_path).write(raw([*range(3), *range(-20, 0)]))
    assert summary.skips["negative"]["count"] == 20 and len(summary.skips["negative"]["first"]) == 5
