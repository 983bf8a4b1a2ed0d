"""Raw datasets turned into TFRecord files: in shards, by several processes, and so that nothing is ever half there.

The shards of a dataset are written into a hidden folder beside its final place, each under a temporary name first, and
are moved when all are complete. A conversion that was interrupted, killed or stopped by a full disk continues with the
shards that are missing, as long as options and raw files are the same.
"""

import collections
import collections.abc
import concurrent.futures
import contextlib
import dataclasses
import glob
import hashlib
import json
import multiprocessing
import os
import pathlib
import shutil
import signal
import threading

from posekit.data.depth_records import WITHOUT_PICTURE
from posekit.data.schema import ImageRecord
from posekit.data.tfrecord import RecordWriter, explain_write_errors, read_summary, staging_folder, write_json

# Part of every fingerprint: raise it when the records of unchanged raw data change.
_FORMAT = 1
_NAMES_KEPT = 5
_CHUNK = 1 << 22


@dataclasses.dataclass(frozen=True)
class Skip:
    """Something of a raw dataset that is not in the records.

    Args:
        name: File or person.
        reason: Short text; equal reasons are counted together.
        by_rule: Left out because the dataset is made so, not because something is wrong with it.
    """

    name: str
    reason: str
    by_rule: bool = False


@dataclasses.dataclass(frozen=True)
class RawDataset:
    """A dataset in its original layout, listed and ready to be converted.

    Args:
        name: Name of the record files.
        items: Sequence of small picklable descriptions, one for about each record.
        convert: Picklable function from an item to the iterable of its records (`ImageRecord`, `MocapRecord`,
            `DepthRecord`) and `Skip`.
        found: How many images, or poses, the raw dataset holds.
        skips: What was left out while listing.
        sources: Files whose size and time tell whether records made earlier are still valid.
        options: What else the records depend on; JSON values.
        shards: File name of a shard below the output folder, with `{index}`.
        single: File name of a small dataset, `None` to write shards always.
        prepare: Called before the first item is converted, for what all of them need.
        scratch: Files that are removed when the dataset is complete.
        silhouettes: Whether its records may have silhouettes, so that those without are worth counting.
        remarks: Texts about the whole of it that its summary should hold.
    """

    name: str
    items: collections.abc.Sequence
    convert: collections.abc.Callable
    found: int
    skips: tuple = ()
    sources: tuple = ()
    options: dict = dataclasses.field(default_factory=dict)
    shards: str = ""
    single: str | None = None
    prepare: collections.abc.Callable | None = None
    scratch: tuple = ()
    silhouettes: bool = True
    remarks: tuple = ()

    @classmethod
    def of_images(cls, name, split="train", **fields):
        """A dataset of images: one file `{name}.tfrecords`, or `{name}/{split}_0000.tfrecord` and so on if it is large.

        Args:
            name: Dataset name.
            split: First part of the shards' names.
            **fields: The other fields.

        Returns:
            A `RawDataset`.
        """
        return cls(name=name, shards=f"{name}/{split}_{{index:04d}}.tfrecord", single=f"{name}.tfrecords", **fields)

    @classmethod
    def of_depth(cls, name, **fields):
        """A set of depth crops: one file `{name}.tfrecords`, or `{name}/depth_0000.tfrecord` and so on if it is large.

        Args:
            name: Name of the set, such as `"msra_p0"` or `"nyu_train"`.
            **fields: The other fields.

        Returns:
            A `RawDataset`.
        """
        shards, single = f"{name}/depth_{{index:04d}}.tfrecord", f"{name}.tfrecords"
        return cls(name=name, shards=shards, single=single, silhouettes=False, **fields)

    def fingerprint(self, shard_size):
        """Digest of everything that the records depend on.

        Args:
            shard_size: Items in a shard.

        Returns:
            Hexadecimal text.
        """
        stats = []
        for path in self.sources:
            with contextlib.suppress(OSError):
                stat = os.stat(path)
                stats.append([os.path.basename(path), stat.st_size, stat.st_mtime_ns])
        content = [_FORMAT, self.name, len(self.items), shard_size, self.options, stats, self.shards, self.single]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


@dataclasses.dataclass(frozen=True)
class Summary:
    """What became of a raw dataset.

    Args:
        name: Dataset name.
        found: Images, or poses, of the raw dataset.
        written: Records.
        without_silhouette: Images among them that have no silhouette; None where there are none to have.
        skips: Dict of reason to `{"count", "first", "by_rule"}`.
        files: Dict of file, relative to the output folder, to `{"count", "bytes"}`.
        fresh: False if the files were there already.
        counts: Dict of name to number: sums of the records' own `counts`, such as `DepthRecord.counts`.
        remarks: Texts about the whole of it.
    """

    name: str
    found: int
    written: int
    without_silhouette: int | None
    skips: dict
    files: dict
    fresh: bool = True
    counts: dict = dataclasses.field(default_factory=dict)
    remarks: tuple = ()

    @property
    def defects(self):
        """How many things were skipped because something is wrong with them."""
        return sum(entry["count"] for entry in self.skips.values() if not entry["by_rule"])


class NothingUsableError(ValueError):
    """A raw dataset of which nothing can be used.

    Args:
        message: Text.
        summary: `Summary` with the reasons, `None` if it was not even listed.
    """

    def __init__(self, message, summary=None):
        super().__init__(message)
        self.summary = summary


class ShardWriter:
    """Converts raw datasets into TFRecord files of one folder.

    Args:
        output_dir: The folder; it is made if needed.
        shard_size: Items in a shard. Up to twice as many make a single file where the dataset allows it.
        num_workers: Processes; `None` for as many as there are processors, 1 to convert in this one.
        overwrite: Write again what is there already, and replace files that were not written here.

    Example:
        >>> summary = ShardWriter("data").write(raw)  # doctest: +SKIP
    """

    def __init__(self, output_dir, shard_size=500, num_workers=None, overwrite=False):
        if shard_size < 1:
            raise ValueError(f"shard_size is {shard_size}; it must be at least 1.")
        self.output_dir = pathlib.Path(output_dir)
        self.shard_size = shard_size
        self.num_workers = num_workers or os.cpu_count() or 1
        self.overwrite = overwrite

    def write(self, raw, progress=None):
        """Converts one dataset, or finishes a conversion that was interrupted.

        Args:
            raw: A `RawDataset`.
            progress: Called with the number of items done since the last call.

        Returns:
            A `Summary`.

        Raises:
            FileExistsError: If files of that name are there that were not written here.
            NothingUsableError: If not a single record results.
            OSError: If the files cannot be written; shards that are complete are kept for the next call.
        """
        fingerprint = raw.fingerprint(self.shard_size)
        with explain_write_errors(self.output_dir / raw.name):
            self.output_dir.mkdir(parents=True, exist_ok=True)
        staging = staging_folder(self.output_dir, raw.name)
        with explain_write_errors(staging):
            staging.mkdir(exist_ok=True)
        with locked(staging):
            state = _load_state(staging, fingerprint)
            if not state.get("moving"):
                earlier = read_summary(self.output_dir / f"{raw.name}.json")
                if earlier.get("fingerprint") == fingerprint and self._in_place(earlier) and not self.overwrite:
                    _clear(staging, raw.scratch)
                    return _as_summary(earlier)
                self._refuse_foreign_files(raw, earlier, staging)
                self._convert(raw, staging, state, progress or (lambda count: None))
            summary = self._finish(raw, staging, state, fingerprint)
            _clear(staging, raw.scratch)
        return summary

    # -------------------------------------------------------------------------------------------- conversion

    def _convert(self, raw, staging, state, progress):
        starts = range(0, len(raw.items), self.shard_size)
        waiting = []
        for index, start in enumerate(starts):
            done = state["shards"].get(str(index))
            items = raw.items[start : start + self.shard_size]
            if done and _size(staging / _shard_name(index)) == done["bytes"]:
                progress(len(items))
            else:
                waiting.append((index, items))

        if waiting and raw.prepare:
            raw.prepare()

        def finished(index, result):
            state["shards"][str(index)] = result
            write_json(staging / "progress.json", state)

        if self.num_workers == 1 or len(waiting) < 2:
            for index, items in waiting:
                finished(index, _convert_shard(raw.convert, items, staging / _shard_name(index), progress))
        else:
            _convert_in_parallel(raw.convert, waiting, staging, min(self.num_workers, len(waiting)), progress, finished)

    # ----------------------------------------------------------------------------------------------- moving

    def _finish(self, raw, staging, state, fingerprint):
        shards = [state["shards"][str(index)] for index in range(len(state["shards"]))]
        summary = self._summarise(raw, shards)
        if summary.written == summary.counts.get(WITHOUT_PICTURE, 0):
            shutil.rmtree(staging, ignore_errors=True)
            raise NothingUsableError(f"Nothing of {raw.name} can be used: {_reasons(summary)}.", summary)
        full = [index for index, shard in enumerate(shards) if shard["count"]]
        if raw.single and len(raw.items) <= 2 * self.shard_size:
            targets = {raw.single: full}
        else:
            targets = {raw.shards.format(index=number): [index] for number, index in enumerate(full)}
        # From here on the earlier files go and the new ones come: `moving` lets the next call finish this, and keeps
        # readers away meanwhile.
        state["moving"] = True
        write_json(staging / "progress.json", state)
        with explain_write_errors(self.output_dir / raw.name):
            (self.output_dir / f"{raw.name}.json").unlink(missing_ok=True)
            for path in self._files_of(raw):
                if os.path.relpath(path, self.output_dir) not in targets:
                    os.unlink(path)
        files = {}
        for name, parts in targets.items():
            path = self.output_dir / name
            _move_parts([staging / _shard_name(index) for index in parts], path)
            files[name] = {"count": sum(shards[index]["count"] for index in parts), "bytes": path.stat().st_size}
        summary = dataclasses.replace(summary, files=files)
        write_json(
            self.output_dir / f"{raw.name}.json",
            {
                "dataset": raw.name,
                "count": summary.written,
                "found": summary.found,
                "without_silhouette": summary.without_silhouette,
                "skipped": summary.skips,
                "counts": summary.counts,
                "remarks": list(summary.remarks),
                "files": files,
                "options": raw.options,
                "fingerprint": fingerprint,
            },
        )
        return summary

    def _summarise(self, raw, shards):
        tally, counts = Tally(), collections.Counter()
        for skip in raw.skips:
            tally.add(skip)
        for shard in shards:
            tally.merge(shard["skipped"])
            counts.update(shard.get("counts", {}))
        return Summary(
            name=raw.name,
            found=raw.found,
            written=sum(shard["count"] for shard in shards),
            without_silhouette=sum(shard["without_silhouette"] for shard in shards) if raw.silhouettes else None,
            skips=tally.reasons,
            files={},
            counts=dict(counts),
            remarks=raw.remarks,
        )

    # -------------------------------------------------------------------------------------- files in the way

    def _files_of(self, raw):
        patterns = [glob.escape(str(self.output_dir)) + "/" + raw.shards.replace("{index:04d}", "[0-9]*")]
        if raw.single:
            patterns.append(glob.escape(str(self.output_dir / raw.single)))
        return sorted(path for pattern in patterns for path in glob.glob(pattern))

    def _refuse_foreign_files(self, raw, earlier, staging):
        ours = set(earlier.get("files", {})) if "fingerprint" in earlier else set()
        foreign = [path for path in self._files_of(raw) if os.path.relpath(path, self.output_dir) not in ours]
        if foreign and not self.overwrite:
            shutil.rmtree(staging, ignore_errors=True)
            raise FileExistsError(
                f"{foreign[0]} is there already and was not written by this program. Move it away, choose another "
                "--output_dir, or give --overwrite to replace it."
            )

    def _in_place(self, earlier):
        return all(_size(self.output_dir / name) == entry["bytes"] for name, entry in earlier["files"].items())


# ------------------------------------------------------------------------------------------------- one shard


class Tally:
    """Counts skips by reason and keeps the first names."""

    def __init__(self):
        self.reasons = {}

    def add(self, skip):
        """Counts one more.

        Args:
            skip: A `Skip`.
        """
        entry = self.reasons.setdefault(skip.reason, {"count": 0, "first": [], "by_rule": skip.by_rule})
        entry["count"] += 1
        entry["first"] = [*entry["first"], skip.name][:_NAMES_KEPT]

    def merge(self, reasons):
        """Adds what was counted elsewhere.

        Args:
            reasons: Dict of reason to `{"count", "first", "by_rule"}`.
        """
        for reason, other in reasons.items():
            entry = self.reasons.setdefault(reason, {"count": 0, "first": [], "by_rule": other["by_rule"]})
            entry["count"] += other["count"]
            entry["first"] = [*entry["first"], *other["first"]][:_NAMES_KEPT]


def _convert_shard(convert, items, path, progress):
    tally, counts = Tally(), collections.Counter()
    without = 0
    with RecordWriter(path) as writer:
        for item in items:
            for output in convert(item):
                if isinstance(output, Skip):
                    tally.add(output)
                    continue
                without += isinstance(output, ImageRecord) and output.silhouette is None
                counts.update(getattr(output, "counts", {}))
                writer.write(output.to_example())
            progress(1)
    return {
        "count": writer.count,
        "bytes": _size(path),
        "without_silhouette": without,
        "skipped": tally.reasons,
        "counts": dict(counts),
    }


# --------------------------------------------------------------------------------------------- many processes


class _Stopped(Exception):
    """The main process wants no more shards."""


_worker = {}


@contextlib.contextmanager
def interrupts_held_back():
    """Makes a context in which Ctrl-C waits for the end of the block; processes started in it never see one.

    Ctrl-C reaches every process of the terminal, also one that is just starting; the main process decides what it
    means.
    """
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    earlier = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, earlier)


def _start_worker(done, stop):
    """Runs first in every worker."""
    _worker.update(done=done, stop=stop)
    leave_with_parent()


def leave_with_parent():
    """Makes this worker end with its main process; one whose main process was killed would wait for work for ever."""

    def leave():
        multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=leave, daemon=True).start()


def _convert_in_worker(convert, items, path):
    def progress(count):
        if _worker["stop"].is_set():
            raise _Stopped
        with _worker["done"].get_lock():
            _worker["done"].value += count

    return _convert_shard(convert, items, path, progress)


def _convert_in_parallel(convert, waiting, staging, num_workers, progress, finished):
    # Started afresh rather than forked: forking a process that has threads, as TensorFlow's have, may hang.
    context = multiprocessing.get_context("spawn")
    done, stop = context.Value("Q", 0), context.Event()
    reported = 0
    with concurrent.futures.ProcessPoolExecutor(num_workers, context, _start_worker, (done, stop)) as pool:
        with interrupts_held_back():
            futures = {
                pool.submit(_convert_in_worker, convert, items, staging / _shard_name(index)): index
                for index, items in waiting
            }
        running = set(futures)
        try:
            while running:
                ended, running = concurrent.futures.wait(running, 0.2, concurrent.futures.FIRST_COMPLETED)
                for future in ended:
                    finished(futures[future], future.result())
                now = done.value
                progress(now - reported)
                reported = now
        except concurrent.futures.process.BrokenProcessPool as error:
            raise RuntimeError(
                "A worker process died, perhaps for lack of memory. Finished shards are kept: run the same command "
                "again, if need be with fewer --num_workers."
            ) from error
        except BaseException:
            stop.set()
            for future in running:
                future.cancel()
            raise


# ----------------------------------------------------------------------------------------------------- files


def _shard_name(index):
    return f"{index:05d}.tfrecord"


def _size(path):
    try:
        return os.path.getsize(path)
    except OSError:
        return -1


def _load_state(staging, fingerprint):
    """Progress of an earlier call; a fresh one, and no shards, if that was about something else."""
    state = {"fingerprint": fingerprint, "shards": {}}
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
        earlier = json.loads((staging / "progress.json").read_text())
        if earlier["fingerprint"] == fingerprint and isinstance(earlier["shards"], dict):
            state = earlier
    for path in staging.iterdir():
        if path.name.endswith(".tmp") or (path.suffix == ".tfrecord" and not state["shards"]):
            path.unlink()
    return state


def _clear(staging, scratch):
    shutil.rmtree(staging, ignore_errors=True)
    for path in scratch:
        pathlib.Path(path).unlink(missing_ok=True)


def _move_parts(parts, path):
    """Joins finished shards into one file, or moves a single one; doing so again after an interruption is harmless."""
    with explain_write_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        if len(parts) == 1:
            if parts[0].exists():
                os.replace(parts[0], path)
            return
    with RecordWriter(path) as writer:
        for part in parts:
            with open(part, "rb") as file:
                while chunk := file.read(_CHUNK):
                    writer.write_frames(chunk, 0)


@contextlib.contextmanager
def locked(staging):
    """Makes a context that keeps two conversions of one dataset apart; the lock goes with the process, ended or killed.

    Args:
        staging: Folder as of `staging_folder`; it must exist.

    Raises:
        RuntimeError: If another process is at it.
    """
    try:
        import fcntl
    except ImportError:
        # Without the module, on Windows, two at once are the user's affair.
        yield
        return
    with open(staging / "lock", "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            name = staging.name.removeprefix(".").removesuffix(".partial")
            raise RuntimeError(f"Another process is converting {name} into {staging.parent}; wait for it.") from None
        yield


def _as_summary(content):
    return Summary(
        name=content["dataset"],
        found=content["found"],
        written=content["count"],
        without_silhouette=content["without_silhouette"],
        skips=content["skipped"],
        files=content["files"],
        fresh=False,
        counts=content.get("counts", {}),
        remarks=tuple(content.get("remarks", ())),
    )


def _reasons(summary):
    parts = [f"{reason} ({entry['count']}: {', '.join(entry['first'])})" for reason, entry in summary.skips.items()]
    return "; ".join(parts) or "it is empty"
