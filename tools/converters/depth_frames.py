"""What the converters of depth datasets share: frames in a row, their centres, and records made of them.

A record holds the part of the picture that any augmentation of the dataset's cube can see around any of the frame's
centres, and nothing else: what is too far away, behind or beside the hand, counts as not measured, which makes records
of a tenth of the size.
"""

import collections.abc
import contextlib
import dataclasses
import os
import pathlib

import numpy as np

from posekit.data.depth_files import DepthFileError, read_centers
from posekit.data.depth_records import DepthRecord, encode_depth
from posekit.data.shards import NothingUsableError, RawDataset, Skip
from posekit.geometry.depth import box_around, depth_to_points
from posekit.geometry.depth_centers import NoForegroundError
from posekit.geometry.depth_scenes import SCENES, Scene

_FARTHEST = np.iinfo(np.uint16).max
# Of joints, in millimetres or metres.
_FAR_AWAY = 1e6


@dataclasses.dataclass(frozen=True)
class Options:
    """What records depend on besides the raw files.

    Args:
        centers_dir: Folder of the centre files; `None` for those in the dataset's own folder.
        estimate_centers: Estimate all centres, also where there are files of them.
        cubic_size: Edge of the cube for which crops are made, in the dataset's unit; 0 for the dataset's own.
        cube: `(original, cropped)`: voxels along the larger and along the network's cube for which crops must do too.
    """

    centers_dir: str | None = None
    estimate_centers: bool = False
    cubic_size: float = 0.0
    cube: tuple | None = None

    def scene(self, dataset):
        """The `Scene` of a dataset with this cube."""
        scene = SCENES[dataset]
        return dataclasses.replace(scene, cubic_size=self.cubic_size or scene.cubic_size)

    def reach(self, scene):
        """How far from the centres of a `Scene` crops hold everything: `Scene.reach` of the cube."""
        return scene.reach(self.cube)


@dataclasses.dataclass(frozen=True)
class Frame:
    """One frame, not yet read.

    Args:
        name: Unique in its set.
        joints: `[J, 3]` in the world.
        valid: `[J]`, whether a joint is labelled.
        centers: `[R, 3]`; NaN where a file says that the centre is invalid, and where it is to be estimated.
        region: `(left, top, right, bottom)` in which the hand is looked for, or `None`.
        group: Part of the set.
        number: Where it stands in the file of the pictures, for datasets that have one.
    """

    name: str
    joints: np.ndarray
    valid: np.ndarray
    centers: np.ndarray
    region: tuple | None = None
    group: str = ""
    number: int = -1


@dataclasses.dataclass(frozen=True, eq=False)
class Frames(collections.abc.Sequence):
    """Frames of one set; a slice of it holds its own part only, so that little travels to a worker.

    Args:
        names: List of texts.
        joints: `[frames, J, 3]`.
        centers: `[frames, R, 3]`.
        valid: `[frames, J]`; all labelled if `None`.
        regions: `[frames, 4]`, or `None`.
        groups: List of texts, or `None`.
        numbers: `[frames]` where they stand in the file of the pictures, or `None`.
    """

    names: list
    joints: np.ndarray
    centers: np.ndarray
    valid: np.ndarray | None = None
    regions: np.ndarray | None = None
    groups: list | None = None
    numbers: np.ndarray | None = None

    def __len__(self):
        return len(self.names)

    def __getitem__(self, index):
        if isinstance(index, slice):
            fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
            return Frames(**{name: None if value is None else value[index] for name, value in fields.items()})
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        region = None if self.regions is None else tuple(self.regions[index].tolist())
        return Frame(
            self.names[index],
            self.joints[index],
            np.ones(self.joints.shape[1], bool) if self.valid is None else self.valid[index],
            self.centers[index],
            region if region and any(region) else None,
            "" if self.groups is None else self.groups[index],
            -1 if self.numbers is None else int(self.numbers[index]),
        )


@dataclasses.dataclass(frozen=True)
class Converter:
    """Makes the record of a frame; sent to the workers as it is.

    Args:
        scene: `Scene`.
        reach: How far from the centres crops hold everything, as of `Scene.reach`.
        read: Picklable function from a `Frame` to the depth `[height, width]` of a part of its picture, in the
            scene's unit, and the part's box.
        estimated: Rows of the centres that are estimated.
        subject: Number of the person.
        unlabelled: Whether frames without any labelled joint become records too.
        keep_all: Whether frames that are skipped for their pictures become records too, without picture and centre: in
            tests, whose result files have a line for every frame.
    """

    scene: Scene
    reach: tuple
    read: collections.abc.Callable
    estimated: tuple = ()
    subject: int = -1
    unlabelled: bool = False
    keep_all: bool = False

    def __call__(self, frame):
        """Yields the `DepthRecord` of a frame, or a `Skip`; both where it is kept without its picture."""
        if not frame.valid.any() and not self.unlabelled:
            yield Skip(frame.name, "frame whose labels the dataset calls not valid", by_rule=True)
            return
        joints = frame.joints[frame.valid]
        if not np.isfinite(joints).all():
            yield Skip(frame.name, "joints that are not numbers, in the label file")
            return
        if (np.abs(joints) > _FAR_AWAY).any():
            yield Skip(frame.name, "joints farther away than any camera sees, in the label file")
            return
        if (joints[:, 2] <= 0).any():
            yield Skip(frame.name, "joints behind the camera, in the label file")
            return
        if not self.estimated and np.isnan(frame.centers).any(1).all():
            yield Skip(frame.name, "centre marked as invalid in its file", by_rule=True)
            return
        try:
            depth, box = self.read(frame)
            yield self.record(frame, depth, box)
            return
        except DepthFileError as error:
            yield Skip(frame.name, error.reason)
        except NoForegroundError:
            by_rule = not frame.valid.any()
            yield Skip(frame.name, "nothing measured where a hand or body is looked for", by_rule)
        if self.keep_all:
            nothing = np.zeros((1, 1), np.uint16)
            yield self._record(frame, nothing, (0, 0, 1, 1), np.full_like(frame.centers, np.nan), "file")

    def record(self, frame, depth, box):
        """The record of a frame whose picture is read.

        Args:
            frame: `Frame`.
            depth: `[height, width]` of a part of the picture.
            box: The part's box.

        Returns:
            `DepthRecord`.

        Raises:
            NoForegroundError: If nothing was measured near the centres, or all of them would have to be estimated and
                cannot be.
        """
        scene = self.scene
        if not (depth > 0).any():
            raise NoForegroundError("The picture is empty.")
        centers, source = np.array(frame.centers, np.float64), "file"
        if self.estimated:
            try:
                centers[list(self.estimated)] = self._estimate(frame, depth, box)
                source = "estimated"
            except NoForegroundError:
                if np.isnan(centers).any(1).all():
                    raise
                # The centres of the files are as good as without those.
        used = centers[np.isfinite(centers).all(1)]
        wall = scene.depth_range[1] if scene.walled else None
        steps, box = crop_to_reach(depth, box, used, self.reach, scene.camera, wall)
        return self._record(frame, steps, box, centers, source)

    def _record(self, frame, steps, box, centers, source):
        camera = self.scene.camera
        return DepthRecord(
            name=frame.name,
            depth=steps,
            box=box,
            joints=frame.joints,
            valid=frame.valid,
            centers=centers,
            center_source=source,
            camera=camera.signed_intrinsics,
            picture=self.scene.size,
            unit=camera.unit,
            reach=self.reach,
            subject=self.subject,
            group=frame.group,
        )

    def _estimate(self, frame, depth, box):
        if frame.region:
            left, top, right, bottom = box
            region = np.clip(frame.region, (left, top, left, top), (right, bottom, right, bottom))
            x, y = region[::2] - left, region[1::2] - top
            depth, box = depth[y[0] : y[1], x[0] : x[1]], tuple(region.tolist())
        scene = self.scene
        return scene.estimate_center(depth, box=box)


def crop_to_reach(depth, box, centers, reach, camera, wall=None):
    """The part of a picture that cubes around centres can see.

    Args:
        depth: `[height, width]` of a part of the picture, in the camera's unit.
        box: `(left, top, right, bottom)` of the part.
        centers: `[centers, 3]`, at least one.
        reach: `[3]`, how far from a centre cubes look.
        camera: `DepthCamera`.
        wall: Depth that will be taken for pixels that measured nothing; `None` if there will be nothing.

    Returns:
        `(steps, box)`: the least part that holds all of it, as of `encode_depth`. What was measured elsewhere is 0 too,
        or very far where 0 would put it into a cube.

    Raises:
        NoForegroundError: If nothing that was measured is within reach.
    """
    # The cut by the cubes' shadows only saves time.
    shadows = np.array([box_around(center, reach, camera) for center in centers])
    left, top = np.maximum(box[:2], shadows[:, :2].min(0) - 1)
    right, bottom = np.minimum(box[2:], shadows[:, 2:].max(0) + 1)
    if left < right and top < bottom:
        depth = depth[top - box[1] : bottom - box[1], left - box[0] : right - box[0]]
        walled = depth if wall is None else np.where(depth > 0, depth, wall)
        near = (walled >= centers[:, 2].min() - reach[2]) & (walled <= centers[:, 2].max() + reach[2])
        part, (left, top, _, _) = _bounds(near, (left, top))
        depth, walled = depth[part], walled[part]
        points = depth_to_points(walled, camera, (left, top))
        # Pixels may be numbered from 0 or from 1, which moves points by a pixel.
        pixel = points[..., 2:] / np.array([camera.fx, camera.fy, np.inf])
        near = np.zeros(depth.shape, bool)
        for center in centers:
            near |= (np.abs(points - center) <= np.asarray(reach) + pixel).all(-1)
        steps = encode_depth(depth, camera.unit)
        near &= encode_depth(walled, camera.unit) > 0
        if (near & (steps > 0)).any():
            part, box = _bounds(near, (left, top))
            elsewhere = _FARTHEST if (near & (depth == 0)).any() else 0
            return np.where(near | (depth == 0), steps, np.uint16(elsewhere))[part], box
    raise NoForegroundError("Nothing was measured within reach of the centre.")


def _bounds(mask, corner):
    """Slices of the least part that holds all of a mask, and its box, for the mask's corner (left, top)."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    rows, columns = (range(places[0], places[-1] + 1) if len(places) else range(0) for places in (rows, columns))
    left, top = int(corner[0] + columns.start), int(corner[1] + rows.start)
    part = np.s_[rows.start : rows.stop, columns.start : columns.stop]
    return part, (left, top, left + len(columns), top + len(rows))


# ------------------------------------------------------------------------------------------------------ listing


def find_centers(name, folders):
    """The first centre file of that name.

    Args:
        name: Such as `center_train_refined.txt`.
        folders: Where it may be, in the order in which they count.

    Returns:
        `pathlib.Path`, or `None`.
    """
    paths = (pathlib.Path(folder) / name for folder in folders)
    return next((path for path in paths if os.path.lexists(path)), None)


def center_folders(options, folder, dataset):
    """Where centre files may be.

    Args:
        options: `Options`.
        folder: The dataset's folder.
        dataset: Its name.

    Returns:
        List of folders.
    """
    if options.estimate_centers:
        return []
    if options.centers_dir:
        folder = pathlib.Path(options.centers_dir)
        if not folder.is_dir():
            raise NothingUsableError(f"There is no folder {folder}; name the one of the centre files.")
        return [folder / dataset, folder]
    return [pathlib.Path(folder) / "center", pathlib.Path(folder)]


def centers_of(name, count, options, folders, unit):
    """Centres of a set of one centre file.

    Args:
        name: Name of the file.
        count: Frames of the set.
        options: `Options`.
        folders: Where the file may be.
        unit: Of the dataset.

    Returns:
        `(centers, estimated, path)`: `[count, 1, 3]`, the rows that are to be estimated, and the file or `None`.

    Raises:
        NothingUsableError: If the file does not fit, or `options` names a folder that lacks it.
    """
    path = find_centers(name, folders)
    if path is None:
        if options.centers_dir and not options.estimate_centers:
            raise NothingUsableError(f"There is no {name} in {' nor in '.join(map(str, folders))}.")
        return np.full((count, 1, 3), np.nan), (0,), None
    with usable():
        return read_centers(path, count, unit)[:, None], (), path


@contextlib.contextmanager
def usable():
    """Makes a context in which a file that cannot be used ends the conversion of its set."""
    try:
        yield
    except DepthFileError as error:
        hint = ""
        if pathlib.Path(error.path).name.startswith("center_"):
            hint = " Move it away, or give --estimate_centers, to have the centres estimated."
        raise NothingUsableError(f"{error}{hint}") from error


def depth_set(name, frames, converter, sources, remarks=()):
    """The raw dataset of one set.

    Args:
        name: Of the set, such as `"nyu_train"`.
        frames: `Frames`.
        converter: `Converter`.
        sources: Files and folders whose change makes the records outdated.
        remarks: Texts for the table.

    Returns:
        `RawDataset`.
    """
    unique, skips = _without_repeats(frames)
    return RawDataset.of_depth(
        name,
        items=unique,
        convert=converter,
        found=len(frames),
        skips=skips,
        sources=tuple(os.fspath(source) for source in sources if source is not None),
        options={
            "cubic_size": converter.scene.cubic_size,
            "reach": list(converter.reach),
            "estimated": list(converter.estimated),
            "keep_all": converter.keep_all,
        },
        remarks=tuple(remarks),
    )


def _without_repeats(frames):
    """Frames with each name once, and what is left out: results are told apart by the names."""
    if len(set(frames.names)) == len(frames):
        return frames, ()
    seen, kept, skips = set(), [], []
    for place, name in enumerate(frames.names):
        if name in seen:
            skips.append(Skip(name, "picture listed a second time"))
        else:
            kept.append(place)
        seen.add(name)
    fields = {field.name: getattr(frames, field.name) for field in dataclasses.fields(frames)}
    for field, values in fields.items():
        if isinstance(values, list):
            fields[field] = [values[place] for place in kept]
        elif values is not None:
            fields[field] = values[kept]
    return Frames(**fields), tuple(skips)


def existing_folder(folder, dataset, what):
    """A folder that must be there.

    Args:
        folder: Path.
        dataset: Named in the error.
        what: What it should hold.

    Returns:
        `pathlib.Path`.

    Raises:
        NothingUsableError: If there is no such folder.
    """
    folder = pathlib.Path(folder)
    if not folder.is_dir():
        raise NothingUsableError(
            f"There is no folder {folder}; it should hold {what}. Give the dataset's folder with --{dataset}_dir."
        )
    return folder


def picture_name(path, name):
    """Name of a frame whose picture a text names.

    Args:
        path: The text.
        name: Such as `test_seq_1/image_0000.png`.

    Returns:
        The name without its suffix.

    Raises:
        DepthFileError: If it leads out of the folder of the pictures.
    """
    stem = name.replace("\\", "/").removesuffix(".png").removesuffix(".bin").lstrip("/")
    if not stem or ".." in stem.split("/"):
        raise DepthFileError(path, "names a picture outside its folder", repr(name[:80]))
    return stem
