"""Human3.6M's poses, as pose files `h36m_train.h5` and `h36m_test.h5`.

```
h36m/h36m_train.pkl, h36m_test.pkl       the pickles of CHUNYUWANG/lcn-pose
h36m/h36m_sh_dt_ft.pkl                   2-D detections for them; may be absent
```

or any of what `converters.h36m_recordings` reads.
"""

import contextlib
import dataclasses
import hashlib
import json
import os
import pathlib
import pickle
import shutil

from converters.h36m_recordings import CdfFiles, Hdf5Files, VideoPose
from posekit.data.h36m import SPLITS, pose_file
from posekit.data.h36m_pickles import PickledPoses
from posekit.data.hdf5 import PoseFile, PoseFileError, PoseWriter
from posekit.data.shards import NothingUsableError, Summary, Tally, locked
from posekit.data.tfrecord import DatasetNotFoundError, explain_write_errors, read_summary, staging_folder, write_json

# Part of every fingerprint: raise it when the poses made of unchanged raw data change.
_FORMAT = 1
_NEEDED = {"found", "count", "skipped", "files"}


@dataclasses.dataclass(frozen=True)
class Options:
    """What the poses depend on besides the raw files.

    Args:
        stride: Every how many frames of a video one is taken.
        distortion: Whether `joints_px` has the lens's distortion, where poses in world coordinates are projected.
        image_size: `(width, height)` of pictures of cameras that are not Human3.6M's.
        detections: File of 2-D detections; `None` for the one that lies there, `"none"` to do without.
        max_bytes: Largest file that is read.
    """

    stride: int = 1
    distortion: bool = True
    image_size: tuple | None = None
    detections: str | None = None
    max_bytes: int = 8 << 30


class Pickles:
    """The pickles of the original.

    Args:
        folder: Where they are.
        split: `"train"` or `"test"`.
        options: `Options`.
    """

    title = "CHUNYUWANG/lcn-pose pickles"

    def __init__(self, folder, split, options):
        self.path = pathlib.Path(folder) / f"h36m_{split}.pkl"
        self.split, self.options = split, options
        default = self.path.with_name("h36m_sh_dt_ft.pkl")
        chosen = options.detections or (default if default.exists() else None)
        self.detections = None if chosen in (None, "none") else pathlib.Path(chosen)

    @classmethod
    def is_in(cls, folder):
        """Whether a folder holds them."""
        return any((pathlib.Path(folder) / f"h36m_{split}.pkl").is_file() for split in SPLITS)

    @property
    def files(self):
        """Files whose size and time tell whether poses made earlier are still valid."""
        return [path for path in (self.path, self.detections) if path]

    def open(self):
        """Reads the files.

        Returns:
            `PickledPoses`.

        Raises:
            NothingUsableError: If they cannot be used.
        """
        missing = [path for path in self.files if not path.is_file()]
        if missing:
            raise NothingUsableError(f"{missing[0]} is missing.")
        with _said_once():
            return PickledPoses(
                self.path, self.detections, self.split, self.options.max_bytes, self.options.image_size
            )


# In the order in which they are looked for.
SOURCES = {"pickles": Pickles, "videopose3d": VideoPose, "cdf": CdfFiles, "h5": Hdf5Files}


def find_source(folder, split, options, source=None):
    """What the poses of a split are made from.

    Args:
        folder: Folder of the raw files.
        split: `"train"` or `"test"`.
        options: `Options`.
        source: One of `SOURCES`; the first one that is there if `None`.

    Returns:
        An object with `title`, `files` and `open()`, which gives one with `blocks()` and `cameras()`.

    Raises:
        NothingUsableError: If there is none.
    """
    if source is not None:
        return SOURCES[source](folder, split, options)
    for kind in SOURCES.values():
        if kind.is_in(folder):
            return kind(folder, split, options)
    raise NothingUsableError(
        f"There is nothing of Human3.6M in {folder}: neither h36m_{split}.pkl, nor data_3d_h36m.npz, nor "
        f"S1/{CdfFiles.folders[0]}/*.cdf, nor S1/{Hdf5Files.folders[0]}/*.h5. Give its folder with --h36m_dir."
    )


def h36m(split, folder, output_dir, options=Options(), source=None, overwrite=False, progress=None):
    """Makes the pose file of one split.

    Args:
        split: `"train"` or `"test"`.
        folder: Folder of the raw files.
        output_dir: Folder of the pose files.
        options: `Options`.
        source: One of `SOURCES`; the first one that is there if `None`.
        overwrite: Make it again if it is there, and replace a file that was not made here.
        progress: Called with the number of poses done since the last call.

    Returns:
        A `Summary`.

    Raises:
        NothingUsableError: If the raw files are missing or make no sense, or not a single pose results.
        FileExistsError: If a file of that name is there that was not made here.
        OSError: If the file cannot be written.
    """
    raw = find_source(folder, split, options, source)
    path = pose_file(output_dir, split)
    name = path.stem
    fingerprint = _fingerprint(raw, split, options)
    with explain_write_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        staging = staging_folder(path.parent, name)
        staging.mkdir(exist_ok=True)
    with locked(staging):
        try:
            earlier = _earlier(path, fingerprint, overwrite)
            if earlier:
                return earlier
            # What a killed run has left; nobody else writes while the lock is held.
            for leftover in path.parent.glob(f".{path.name}.*.tmp"):
                leftover.unlink(missing_ok=True)
            return _write(raw, path, options, fingerprint, progress or (lambda count: None))
        finally:
            shutil.rmtree(staging, ignore_errors=True)


def _write(raw, path, options, fingerprint, progress):
    poses = raw.open()
    tally = Tally()
    for skip in getattr(poses, "skips", ()):
        tally.add(skip)
    found = 0
    with PoseWriter(path, source=raw.title, fingerprint=fingerprint) as writer:
        for columns, skipped in _blocks(poses, options):
            count = len(skipped)
            for reason, names in _by_reason(skipped).items():
                entry = {"count": len(names), "first": names[:5], "by_rule": reason is None}
                tally.merge({reason or "frame between the strides": entry})
            if columns is not None and len(columns["action"]):
                writer.append(columns)
                count += len(columns["action"])
            found += count
            progress(count)
        summary = Summary(path.stem, found, writer.count, None, tally.reasons, {})
        if not writer.count:
            reasons = "; ".join(f"{reason} ({entry['count']})" for reason, entry in tally.reasons.items())
            raise NothingUsableError(f"Nothing of {path.stem} can be used: {reasons or 'it is empty'}.", summary)
        writer.set_cameras(poses.cameras().columns())
    files = {path.name: {"count": summary.written, "bytes": path.stat().st_size}}
    content = {
        "dataset": path.stem,
        "count": summary.written,
        "found": summary.found,
        "skipped": summary.skips,
        "files": files,
        "options": {"source": raw.title, **dataclasses.asdict(options)},
        "fingerprint": fingerprint,
    }
    write_json(path.with_suffix(".json"), content)
    return dataclasses.replace(summary, files=files)


def _by_reason(skipped):
    names = {}
    for name, reason in skipped:
        names.setdefault(reason, []).append(name)
    return names


def _blocks(poses, options):
    with _said_once():
        yield from poses.blocks(stride=options.stride)


@contextlib.contextmanager
def _said_once():
    """Makes a context in which whatever is wrong with the raw files as a whole becomes `NothingUsableError`."""
    try:
        yield
    except NothingUsableError:
        raise
    except (pickle.UnpicklingError, ValueError) as error:  # among the latter `UnknownCameraError`
        message = str(error).replace("call load_pickle(path, max_bytes=...) with a larger one", "raise --h36m_max_gib")
        raise NothingUsableError(message) from error


def _earlier(path, fingerprint, overwrite):
    """`Summary` of what is there already, `None` if it has to be made."""
    if not path.exists() or overwrite:
        return None
    try:
        with PoseFile(path) as file:
            made_of = file.fingerprint
    except (PoseFileError, DatasetNotFoundError, OSError):
        made_of = ""
    if not made_of:
        raise FileExistsError(
            f"{path} is there already and was not written by this program. Move it away, choose another "
            "--output_dir, or give --overwrite to replace it."
        )
    summary = read_summary(path.with_suffix(".json"))
    if made_of != fingerprint or summary.get("fingerprint") != fingerprint or not _NEEDED <= set(summary):
        return None
    return Summary(
        path.stem, summary["found"], summary["count"], None, summary["skipped"], summary["files"], fresh=False
    )


def _fingerprint(raw, split, options):
    stats = []
    for path in raw.files:
        with contextlib.suppress(OSError):
            status = os.stat(path)
            stats.append([path.name, status.st_size, status.st_mtime_ns])
    chosen = {key: value for key, value in dataclasses.asdict(options).items() if key != "max_bytes"}
    content = [_FORMAT, split, raw.title, chosen, stats]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
