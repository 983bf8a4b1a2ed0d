"""Motion capture for the critic: SMPL poses and shapes.

```
mocap_neutrMosh/neutrSMPL_CMU_000.tfrecord …          records of the originals, used as they are
neutrMosh/neutrSMPL_CMU/*/*.pkl                       SMPL pickles (`poses` or `new_poses`, `betas`)
amass/CMU/01/01_01_poses.npz …                        AMASS
```

The poses of all files of a set are mixed before they are cut into shards, as akanazawa/hmr does: neighbouring frames of
a recording are nearly equal. They go through one temporary file of plain numbers, so that memory stays small.
"""

import contextlib
import dataclasses
import functools
import hashlib
import json
import os
import pathlib
import shutil

import numpy as np

from posekit.data.mocap import MocapFileError, read_mocap
from posekit.data.schema import NUM_POSE, NUM_SHAPE, MocapRecord
from posekit.data.shards import NothingUsableError, RawDataset, Skip, Summary
from posekit.data.tfrecord import (
    MOCAP_FOLDER,
    TFRecordError,
    count_records,
    counted_files,
    explain_write_errors,
    mocap_files,
    mocap_summary_path,
    read_records,
    read_summary,
    write_json,
)

SHARD_SIZE = 10000
_ROW = NUM_POSE + NUM_SHAPE
_SEED = 0
# AMASS keeps a shape without poses beside each subject's recordings.
_NOT_RECORDINGS = ("shape.npz", "neutral_stagei.npz", "male_stagei.npz", "female_stagei.npz")


@dataclasses.dataclass(frozen=True)
class Recordings:
    """Files that make up one motion-capture dataset.

    Args:
        name: `"CMU"`, `"AMASS"`, …
        files: Paths, sorted.
        stride: Every how many frames one is taken.
        skips: Files that were left out.
    """

    name: str
    files: tuple
    stride: int = 1
    skips: tuple = ()


def find_recordings(pickle_dir, amass_dir, amass_stride):
    """Finds motion capture that is not in records yet.

    Args:
        pickle_dir: Folder of folders `neutrSMPL_{name}` with SMPL pickles; need not exist.
        amass_dir: Folder of AMASS's `.npz` files; need not exist.
        amass_stride: Every how many frames of an AMASS recording one is taken.

    Returns:
        List of `Recordings`, sorted by name.

    Follows: akanazawa/hmr src/datasets/smpl_to_tfrecords.py:main.
    """
    found = []
    for folder in sorted(pathlib.Path(pickle_dir).glob("neutrSMPL_*")):
        name = folder.name.removeprefix("neutrSMPL_")
        files, skips = [], []
        for path in sorted(folder.rglob("*.pkl")):
            # The subjects on which Human3.6M is evaluated.
            if name == "H3.6" and {"S9", "S11"} & set(path.parts):
                skips.append(Skip(_short(path), "test subject", by_rule=True))
            else:
                files.append(str(path))
        if files:
            found.append(Recordings(name, tuple(files), skips=tuple(skips)))
    files, skips = [], []
    for path in sorted(pathlib.Path(amass_dir).rglob("*.npz")):
        if path.name in _NOT_RECORDINGS:
            skips.append(Skip(_short(path), "shape without poses", by_rule=True))
        else:
            files.append(str(path))
    if files:
        found.append(Recordings("AMASS", tuple(files), amass_stride, tuple(skips)))
    return sorted(found, key=lambda recordings: recordings.name)


def mocap(recordings, output_dir, progress=None):
    """Lists the poses of one dataset; they are read into a temporary file unless they were converted before.

    Args:
        recordings: A `Recordings`.
        output_dir: Folder of the datasets; the records go to its `mocap_neutrMosh`.
        progress: Called with 1 for every file read.

    Returns:
        A `RawDataset`, to be written into `{output_dir}/mocap_neutrMosh`.

    Raises:
        NothingUsableError: If no file holds a usable pose.
        OSError: If the temporary file cannot be written.
    """
    folder = pathlib.Path(output_dir) / MOCAP_FOLDER
    name = f"neutrSMPL_{recordings.name}"
    digest = _digest(recordings)
    rows, listing = folder / f".{name}.rows", folder / f".{name}.rows.json"
    earlier = read_summary(mocap_summary_path(output_dir, recordings.name)).get("options", {})
    if earlier.get("recordings") != digest:
        earlier = _gather(recordings, rows, listing, digest, progress)
    count, skips = earlier["poses"], earlier["unusable"]
    if not count:
        raise NothingUsableError(
            f"None of the {len(recordings.files)} files of {recordings.name} holds a usable pose: "
            + "; ".join(f"{path}: {reason}" for path, reason in skips[:5])
        )
    return RawDataset(
        name=name,
        items=range(count),
        convert=functools.partial(convert_row, str(rows), count),
        found=count,
        skips=(*recordings.skips, *(Skip(path, reason) for path, reason in skips)),
        options={"recordings": digest, "poses": count, "unusable": skips, "stride": recordings.stride},
        shards=f"{name}_{{index:04d}}.tfrecord",
        prepare=functools.partial(_gather, recordings, rows, listing, digest),
        scratch=(rows, listing),
    )


def convert_row(rows, count, index):
    """One pose, at its place in the mixed order.

    Args:
        rows: Path of the temporary file.
        count: Number of poses in it.
        index: Place in the mixed order.

    Yields:
        A `MocapRecord`.
    """
    row = _opened(rows, count)[_order(count)[index]]
    yield MocapRecord(pose=row[:NUM_POSE], shape=row[NUM_POSE:])


def use_existing(name, data_dir, output_dir):
    """Checks and counts motion capture that is in records already, and brings it to the output folder.

    Args:
        name: `"CMU"`, `"jointLim"`, …
        data_dir: Where it is.
        output_dir: Where it should be; files are linked there, or copied.

    Returns:
        A `Summary`; damaged files are among its skips and are not brought over.

    Raises:
        NothingUsableError: If none of the files is sound.
    """
    sound, skips = [], {}
    for path in mocap_files(data_dir, name):
        try:
            _check_records(path)
            sound.append(path)
        except (TFRecordError, ValueError) as error:
            reason = "cut short or damaged records" if isinstance(error, TFRecordError) else "records without pose"
            entry = skips.setdefault(reason, {"count": 0, "first": [], "by_rule": False})
            entry["count"] += 1
            entry["first"] = [*entry["first"], str(error)][:5]
    if not sound:
        raise NothingUsableError(f"No file of {name} can be used: {next(iter(skips.values()))['first'][0]}")
    target = pathlib.Path(output_dir) / MOCAP_FOLDER
    if target.resolve() != (pathlib.Path(data_dir) / MOCAP_FOLDER).resolve():
        with explain_write_errors(target):
            target.mkdir(parents=True, exist_ok=True)
        sound = [_brought(pathlib.Path(path), target / os.path.basename(path)) for path in sound]
    counts = counted_files(sound, mocap_summary_path(output_dir, name))
    written = sum(counts.values())
    files = {file: {"count": count, "bytes": os.path.getsize(target / file)} for file, count in counts.items()}
    return Summary(f"neutrSMPL_{name}", written, written, 0, skips, files, fresh=False)


def made_here(data_dir, name):
    """Whether the records of a dataset were written by this program.

    Args:
        data_dir: Folder of the datasets.
        name: `"CMU"`, `"AMASS"`, …

    Returns:
        True or false.
    """
    return "fingerprint" in read_summary(mocap_summary_path(data_dir, name))


def _gather(recordings, rows, listing, digest, progress=None):
    """Writes all poses into one file of numbers, unless an earlier call has done so."""
    done = read_summary(listing)
    if done.get("recordings") == digest and rows.is_file() and rows.stat().st_size == 4 * _ROW * done["poses"]:
        return done
    with explain_write_errors(rows):
        rows.parent.mkdir(parents=True, exist_ok=True)
    temporary = rows.with_name(f"{rows.name}.tmp")
    count, unusable = 0, []
    try:
        with explain_write_errors(rows), open(temporary, "wb") as file:
            for path in recordings.files:
                number, reason = _append(path, recordings.stride, file)
                count += number
                if reason:
                    unusable.append([_short(path), reason])
                if progress:
                    progress(1)
        os.replace(temporary, rows)
    finally:
        temporary.unlink(missing_ok=True)
    done = {"recordings": digest, "poses": count, "unusable": unusable}
    write_json(listing, done)
    return done


def _append(path, stride, file):
    """Appends the sound poses of one recording; also says what was wrong with the others."""
    try:
        sequence = read_mocap(path, stride)
    except MocapFileError as error:
        return 0, f"unusable recording: {_one_line(error)}"
    except OSError:
        return 0, "unreadable recording"
    file.write(np.concatenate([sequence.poses, sequence.shapes], 1).astype("<f4").tobytes())
    if sequence.num_skipped:
        return len(sequence), "poses that are not numbers (only those)"
    return len(sequence), None if len(sequence) else "recording without poses"


def _digest(recordings):
    stats = []
    for path in recordings.files:
        stats.append([os.path.basename(path)])
        # A link that leads nowhere is named as unreadable when it is its turn.
        with contextlib.suppress(OSError):
            stat = os.stat(path)
            stats[-1] += [stat.st_size, stat.st_mtime_ns]
    return hashlib.sha256(json.dumps([recordings.name, recordings.stride, stats]).encode()).hexdigest()


def _check_records(path):
    count_records(path)
    for record in read_records(path):
        MocapRecord.from_example(record)
        return
    raise TFRecordError(f"{path} holds no record.")


def _brought(source, target):
    if target.exists() and os.path.samefile(source, target):
        return str(target)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    with explain_write_errors(target):
        try:
            try:
                os.link(source, temporary)
            except OSError:
                # Another file system, or one without links.
                shutil.copyfile(source, temporary)
            os.replace(temporary, target)
        finally:
            temporary.unlink(missing_ok=True)
    return str(target)


def _short(path):
    return "/".join(pathlib.PurePath(path).parts[-2:])


def _one_line(error):
    return " ".join(str(error).split())[:200]


@functools.lru_cache(1)
def _opened(rows, count):
    return np.memmap(rows, "<f4", "r", shape=(count, _ROW))


@functools.lru_cache(1)
def _order(count):
    return np.random.default_rng(_SEED).permutation(count)
