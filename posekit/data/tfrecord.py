"""TFRecord files: their framing, the files that make up a dataset, and how many records they hold.

Nothing here imports TensorFlow; the files are the ones that `tf.data.TFRecordDataset` reads.
"""

import contextlib
import errno
import functools
import glob
import json
import os
import pathlib
import struct

import numpy as np

from posekit.files import replacing
from posekit.geometry.depth_scenes import SCENES

MOCAP_FOLDER = "mocap_neutrMosh"
# Datasets whose files the originals keep under another name than the dataset's.
_FOLDERS = {"h36m": "tf_records_human36m_wjoints", "mpi_inf_3dhp": "mpi_inf_3dhp"}
_HEADER = struct.Struct("<QI")
_CHECKSUM = struct.Struct("<I")
_FRAME_BYTES = _HEADER.size + _CHECKSUM.size
# Below this length a plain loop is quicker than NumPy's 64 steps.
_SHORT = 2048


class TFRecordError(ValueError):
    """A file that is not a TFRecord file, or only a part of one."""


class DatasetNotFoundError(FileNotFoundError):
    """A dataset that has no files where they are expected."""


# ---------------------------------------------------------------------------------------------------- checksum


@functools.cache
def _byte_table():
    table = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        table = np.where(table & 1, (table >> 1) ^ np.uint32(0x82F63B78), table >> 1)
    return table


@functools.cache
def _shift_tables(level):
    """Tables `[4, 256]` that carry a checksum over `2**level` zero bytes, one table for each of its bytes."""
    if level == 0:
        steps = np.arange(256, dtype=np.uint32)
        return np.stack([_byte_table(), steps, steps << 8, steps << 16])
    half = _shift_tables(level - 1)
    return _apply_tables(half, half)


def _apply_tables(tables, checksums):
    return (
        tables[0][checksums & 0xFF]
        ^ tables[1][checksums >> 8 & 0xFF]
        ^ tables[2][checksums >> 16 & 0xFF]
        ^ tables[3][checksums >> 24]
    )


def crc32c(data):
    """CRC-32C (Castagnoli) of bytes.

    Long data is cut into 64-byte lanes whose checksums advance together in NumPy and are then joined pairwise:
    a checksum is linear, so that of `a + b` is that of `a`, carried over `len(b)` zero bytes, xor that of `b`.

    Args:
        data: Bytes.

    Returns:
        The checksum, an integer below 2**32.
    """
    if len(data) < _SHORT:
        table = _short_table()
        checksum = 0xFFFFFFFF
        for byte in data:
            checksum = table[(checksum ^ byte) & 0xFF] ^ (checksum >> 8)
        return checksum ^ 0xFFFFFFFF
    level = 6
    lanes = 1 << max(0, (-(-len(data) >> level) - 1).bit_length())
    # Leading zeros leave a checksum that starts from 0 alone; starting from ones is flipping the first four bytes.
    padded = np.zeros(lanes << level, np.uint8)
    padded[-len(data) :] = np.frombuffer(data, np.uint8)
    padded[len(padded) - len(data) :][:4] ^= 0xFF
    table = _byte_table()
    checksums = np.zeros(lanes, np.uint32)
    for column in np.ascontiguousarray(padded.reshape(lanes, 1 << level).T):
        checksums = table[(checksums ^ column) & 0xFF] ^ (checksums >> 8)
    while len(checksums) > 1:
        checksums = _apply_tables(_shift_tables(level), checksums[0::2]) ^ checksums[1::2]
        level += 1
    return int(checksums[0]) ^ 0xFFFFFFFF


@functools.cache
def _short_table():
    return _byte_table().tolist()


def _masked(checksum):
    return ((checksum >> 15 | checksum << 17) + 0xA282EAD8) & 0xFFFFFFFF


@functools.lru_cache(4096)
def _length_checksum(length):
    return _masked(crc32c(struct.pack("<Q", length)))


# ------------------------------------------------------------------------------------------------------ framing


def frame(record):
    """One record as it stands in a TFRecord file: length, checksum, bytes, checksum.

    Args:
        record: Bytes.

    Returns:
        The framed bytes.
    """
    head = _HEADER.pack(len(record), _length_checksum(len(record)))
    return head + record + _CHECKSUM.pack(_masked(crc32c(record)))


class RecordWriter:
    """Writes one TFRecord file, which takes its final name only when it is complete.

    Use it as a context manager. If the body raises, the unfinished file is removed and an earlier file of the same
    name stays as it was.

    Args:
        path: The file's final path; its folder must exist.

    Raises:
        OSError: If the file cannot be written, with the reason and what to do in the message.

    Example:
        >>> with RecordWriter("set.tfrecords") as writer:  # doctest: +SKIP
        ...     writer.write(record.to_example())
    """

    def __init__(self, path):
        self.path = pathlib.Path(path)
        self.count = 0
        self._temporary = self.path.with_name(f".{self.path.name}.{os.getpid()}.tmp")
        self._file = None

    def __enter__(self):
        with explain_write_errors(self.path):
            self._file = open(self._temporary, "wb")
        return self

    def write(self, record):
        """Appends one record.

        Args:
            record: Serialised bytes.
        """
        self.write_frames(frame(record), 1)

    def write_frames(self, frames, count):
        """Appends records that are framed already, such as a piece of another TFRecord file.

        Args:
            frames: Framed bytes.
            count: How many records they are.
        """
        with explain_write_errors(self.path):
            self._file.write(frames)
        self.count += count

    def __exit__(self, kind, error, trace):
        try:
            with explain_write_errors(self.path):
                # A full disk may show only when the last bytes are flushed.
                if kind is None:
                    self._file.flush()
                    os.fsync(self._file.fileno())
                self._file.close()
                if kind is None:
                    os.replace(self._temporary, self.path)
        finally:
            with contextlib.suppress(OSError):
                self._file.close()
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._temporary)


@contextlib.contextmanager
def explain_write_errors(path):
    """Turns the operating system's errors into ones that say what to do.

    Args:
        path: What is being written.

    Raises:
        OSError: With the same number as the original error.
    """
    try:
        yield
    except OSError as error:
        folder = pathlib.Path(path).parent
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            advice = "free some space there, or choose another --output_dir, and run the same command again"
        elif error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            advice = "make the folder writable, or choose another --output_dir"
        else:
            advice = "check the folder, or choose another --output_dir"
        reason = os.strerror(error.errno or 0)
        raise OSError(error.errno, f"cannot write {path}: {reason} (folder {folder}); {advice}.") from error


def read_records(path, verify=True):
    """Yields the records of a file, one at a time.

    Args:
        path: A TFRecord file, not compressed.
        verify: Compare each record's checksum too, not only that of its length.

    Yields:
        Serialised bytes.

    Raises:
        TFRecordError: If the file is cut short or damaged; the message names the file and the byte.
    """
    with open(path, "rb") as file:
        for offset, length in _record_spans(path, file):
            file.seek(offset + _HEADER.size)
            record = file.read(length)
            (checksum,) = _CHECKSUM.unpack(file.read(_CHECKSUM.size))
            if verify and checksum != _masked(crc32c(record)):
                raise TFRecordError(f"{path}: the record at byte {offset} is damaged (its checksum does not match).")
            yield record


def count_records(path):
    """Number of records in a file, from their lengths alone.

    Args:
        path: A TFRecord file, not compressed.

    Returns:
        The count.

    Raises:
        TFRecordError: If the file is cut short or is no TFRecord file; the message names the file and the byte.
    """
    with open(path, "rb") as file:
        return sum(1 for _ in _record_spans(path, file))


def _record_spans(path, file):
    """Yields `(offset, length)` of each record; every length is checked before anything of that size is read."""
    size = os.fstat(file.fileno()).st_size
    offset = number = 0
    while offset < size:
        file.seek(offset)
        header = file.read(_HEADER.size)
        if len(header) < _HEADER.size:
            raise TFRecordError(
                f"{path} is cut short: record {number} starts at byte {offset}, but the file ends at byte {size}. "
                "Write or download it again."
            )
        length, checksum = _HEADER.unpack(header)
        if checksum != _length_checksum(length):
            raise TFRecordError(
                f"{path} is no TFRecord file, is compressed, or is damaged: the length of record {number} at byte "
                f"{offset} does not match its checksum. Write or download it again."
            )
        end = offset + _FRAME_BYTES + length
        if end > size:
            raise TFRecordError(
                f"{path} is cut short: record {number} at byte {offset} reaches to byte {end}, but the file ends at "
                f"byte {size}. Write or download it again."
            )
        yield offset, length
        offset, number = end, number + 1


# ------------------------------------------------------------------------------------------- files of a dataset


def dataset_patterns(data_dir, name, split="train"):
    """Where the files of an image dataset may lie, in the order in which they are looked for.

    Args:
        data_dir: Folder of the datasets.
        name: Dataset name, such as `"lsp_train"`.
        split: Which part of a dataset that is split into several.

    Returns:
        Glob patterns. The first is that of maxpit/human-pose-estimation; `{name}/{split}_*.tfrecord` is that of
        akanazawa/hmr.

    Follows: maxpit/human-pose-estimation src/util/data_utils.py:get_all_files.
    """
    folder = glob.escape(os.fspath(data_dir))
    if name in _FOLDERS:
        return [f"{folder}/{_FOLDERS[name]}/{split}/*.{suffix}" for suffix in ("tfrecords", "tfrecord")]
    name = glob.escape(name)
    return [
        f"{folder}/{name}.tfrecords",
        f"{folder}/{name}.tfrecord",
        f"{folder}/{name}/{split}_*.tfrecord",
        f"{folder}/{name}/{split}_*.tfrecords",
        f"{folder}/{name}/*.tfrecords",
        f"{folder}/{name}/*.tfrecord",
    ]


def dataset_files(data_dir, name, split="train"):
    """Files of an image dataset.

    Args:
        data_dir: Folder of the datasets.
        name: Dataset name, such as `"lsp_train"`.
        split: Which part of a dataset that is split into several.

    Returns:
        Sorted list of paths, never empty.

    Raises:
        DatasetNotFoundError: If there are none; the message says where they were looked for and how to make them.
    """
    data_dir = pathlib.Path(data_dir)
    _refuse_half_moved(data_dir, name)
    listed = [data_dir / file for file in read_summary(summary_path(data_dir, name)).get("files", {})]
    if listed and all(path.is_file() for path in listed):
        return sorted(map(str, listed))
    patterns = dataset_patterns(data_dir, name, split)
    for pattern in patterns:
        if files := _visible(pattern):
            return files
    there = sorted({_set_name(path) for path in _visible(f"{glob.escape(str(data_dir))}/*.tfrecord*")})
    raise DatasetNotFoundError(
        f"No dataset {name!r} in {data_dir}: looked for {', '.join(patterns)}. Datasets there: {there or 'none'}. "
        f"Make it with: python tools/create_dataset.py {_creation_flag(name)} --data_dir={data_dir}"
    )


def mocap_files(data_dir, name):
    """Files of a motion-capture dataset.

    Args:
        data_dir: Folder of the datasets.
        name: `"CMU"`, `"jointLim"`, `"H3.6"`, `"AMASS"`, …

    Returns:
        Sorted list of `{data_dir}/mocap_neutrMosh/neutrSMPL_{name}_*.tfrecord`, never empty.

    Raises:
        DatasetNotFoundError: If there are none; the message says where they were looked for and how to make them.
    """
    folder = pathlib.Path(data_dir) / MOCAP_FOLDER
    _refuse_half_moved(folder, f"neutrSMPL_{name}")
    pattern = f"{glob.escape(str(folder))}/neutrSMPL_{glob.escape(name)}_[0-9]*.tfrecord"
    files = _visible(pattern)
    if files:
        return files
    raise DatasetNotFoundError(
        f"No motion capture {name!r}: looked for {pattern}. There: {mocap_names(data_dir) or 'none'}. Make it with: "
        f"python tools/create_dataset.py --mocap --data_dir={data_dir}"
    )


def mocap_names(data_dir):
    """Names of the motion-capture datasets in a folder.

    Args:
        data_dir: Folder of the datasets.

    Returns:
        Sorted list, such as `["CMU", "jointLim"]`.
    """
    files = _visible(f"{glob.escape(str(pathlib.Path(data_dir) / MOCAP_FOLDER))}/neutrSMPL_*_[0-9]*.tfrecord")
    return sorted({pathlib.Path(path).stem.removeprefix("neutrSMPL_").rpartition("_")[0] for path in files})


def num_examples(data_dir, name, split="train"):
    """Number of images of a dataset, counted once and then remembered beside its files.

    Args:
        data_dir: Folder of the datasets.
        name: Dataset name, such as `"lsp_train"`.
        split: Which part of a dataset that is split into several.

    Returns:
        The count.

    Raises:
        DatasetNotFoundError: If the dataset has no files.
        TFRecordError: If one of its files is cut short.
    """
    return sum(counted_files(dataset_files(data_dir, name, split), summary_path(data_dir, name)).values())


def num_mocap(data_dir, name):
    """Number of poses of a motion-capture dataset, counted once and then remembered beside its files.

    Args:
        data_dir: Folder of the datasets.
        name: `"CMU"`, `"jointLim"`, `"H3.6"`, `"AMASS"`, …

    Returns:
        The count.

    Raises:
        DatasetNotFoundError: If the dataset has no files.
        TFRecordError: If one of its files is cut short.
    """
    return sum(counted_files(mocap_files(data_dir, name), mocap_summary_path(data_dir, name)).values())


def counted_files(files, summary):
    """Record counts of files, remembered in a summary.

    A remembered count holds as long as the file keeps its size.

    Args:
        files: Paths of TFRecord files below the summary's folder.
        summary: Path of the JSON file; where it cannot be written, nothing is remembered.

    Returns:
        Dict of file name, relative to the summary's folder, to count.
    """
    content = read_summary(summary)
    known = content.get("files", {})
    folder = pathlib.Path(summary).parent
    counts, fresh = {}, {}
    for path in files:
        name, size = os.path.relpath(path, folder), os.path.getsize(path)
        entry = known.get(name, {})
        counts[name] = entry["count"] if entry.get("bytes") == size else count_records(path)
        fresh[name] = {"count": counts[name], "bytes": size}
    if fresh != known:
        content.setdefault("dataset", pathlib.Path(summary).stem)
        content.update(files=fresh, count=sum(counts.values()))
        with contextlib.suppress(OSError):
            write_json(summary, content)
    return counts


def summary_path(data_dir, name):
    """Path of the summary beside an image dataset's files.

    Args:
        data_dir: Folder of the datasets.
        name: Dataset name.

    Returns:
        `pathlib.Path` of `{data_dir}/{name}.json`.
    """
    return pathlib.Path(data_dir) / f"{name}.json"


def mocap_summary_path(data_dir, name):
    """Path of the summary beside a motion-capture dataset's files.

    Args:
        data_dir: Folder of the datasets.
        name: Dataset name.

    Returns:
        `pathlib.Path` of `{data_dir}/mocap_neutrMosh/neutrSMPL_{name}.json`.
    """
    return pathlib.Path(data_dir) / MOCAP_FOLDER / f"neutrSMPL_{name}.json"


def write_json(path, content):
    """Writes a JSON file that takes its name only when it is complete.

    Args:
        path: Where to.
        content: Anything that JSON can hold.

    Raises:
        OSError: If it cannot be written.
    """
    path = pathlib.Path(path)
    with explain_write_errors(path), replacing(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n")


def staging_folder(folder, name):
    """Where the shards of a dataset lie until it is complete.

    Args:
        folder: Folder in which the finished dataset will lie.
        name: Dataset name.

    Returns:
        `pathlib.Path` of a hidden folder.
    """
    return pathlib.Path(folder) / f".{name}.partial"


def _refuse_half_moved(folder, name):
    if read_summary(staging_folder(folder, name) / "progress.json").get("moving"):
        raise DatasetNotFoundError(
            f"The dataset {name!r} in {folder} is only half in place: tools/create_dataset.py was interrupted. Run the "
            "same command again to finish it."
        )


def read_summary(path):
    """Reads a dataset's summary.

    Args:
        path: The JSON file.

    Returns:
        Its content; empty if the file is missing or makes no sense, for then the records are counted again.
    """
    path = pathlib.Path(path)
    try:
        content = json.loads(path.read_text()) if path.is_file() else {}
        files, skips = content.get("files", {}), content.get("skipped", {})
        typed = [(content.get(key, 0), int) for key in ("found", "count")]
        typed += [(entry[key], int) for entry in files.values() for key in ("count", "bytes")]
        typed += [(entry["count"], int) for entry in skips.values()]
        typed += [(entry["by_rule"], bool) for entry in skips.values()]
        typed += [(name, str) for entry in skips.values() for name in entry["first"]]
        return content if all(isinstance(value, kind) for value, kind in typed) else {}
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return {}


def _visible(pattern):
    return sorted(path for path in glob.glob(pattern) if os.path.isfile(path))


def _set_name(path):
    return pathlib.Path(path).name.partition(".tfrecord")[0]


def _creation_flag(name):
    flags = {"lsp_train": "--lsp", "lsp_val": "--lsp_val", "lsp_ext": "--lsp_ext", "mpii": "--mpii", "coco": "--coco"}
    dataset, _, part = name.rpartition("_")
    if dataset in ("msra", "coco_people") or (dataset in SCENES and part in ("train", "test")):
        return f"--{dataset}"
    return flags.get(name, "--help")
