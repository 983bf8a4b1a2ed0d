"""Sample data of the depth datasets: what `create_sample_data.py` writes with --msra, --nyu and --itop.

Pictures are drawn sequence by sequence, each a pure function of the seeds and its number, so that several processes
can share the work. In centre files of training sets, some frames are `invalid`, as in the originals.
"""

import contextlib
import functools
import io
import pathlib
import struct

import cv2
import h5py
import numpy as np
import scipy.io

from posekit.bodies import sample_body
from posekit.data.synthetic_hand import GESTURES, NYU_NAMES, msra_frames, nyu_frames, sample_hand_shape
from posekit.data.synthetic_room import VIEWS, room_frames
from posekit.files import replacing, write_file
from posekit.geometry.depth import dataset_camera, world_to_pixel
from posekit.skeletons import ITOP15

# Patterns of all files that are written, for each folder.
FILES = {
    "msra": ("P?/*/??????_depth.bin", "P?/*/joint.txt", "center/center_*_refined.txt"),
    "nyu": ("*/depth_1_???????.png", "*/joint_data.mat", "center/center_*_refined.txt"),
    "itop": ("ITOP_*.h5", "center/*_view/center_*.txt"),
}
_TEST_SHARE = 0.2
_INVALID = {"msra": 0.004, "nyu": 0.01, "itop": 0.06}
# Millimetres by which networks that were trained without one person or another differ in where a hand is.
_CENTERS_DIFFER = 1.5
_MSRA_SUBJECTS = 9
_NYU_SEQUENCE = 20
# ITOP's persons 4 to 19 are for training, 0 to 3 for testing.
_ITOP_PERSONS = {"train": range(4, 20), "test": range(4)}


def mat_bytes(**arrays):
    """A MATLAB file that is the same whenever it is made.

    Args:
        **arrays: Variables by name.

    Returns:
        Its bytes.
    """
    file = io.BytesIO()
    scipy.io.savemat(file, arrays, do_compression=True)
    data = file.getvalue()
    # The header's free text holds the time; without it, equal data gives equal files.
    return b"MATLAB 5.0 MAT-file, sample data of posekit".ljust(116) + data[116:]


def _center_lines(centers, valid=None):
    valid = np.ones(len(centers), bool) if valid is None else valid
    lines = (" ".join(f"{value:.4f}" for value in center) if ok else "invalid" for center, ok in zip(centers, valid))
    return "".join(f"{line}\n" for line in lines).encode()


def _valid(rng, name, count):
    """Which frames have a centre: most, and of more than a few not all."""
    valid = rng.random(count) >= _INVALID[name]
    if count >= 20:
        valid[rng.integers(count)] = False
    return valid


# ---------------------------------------------------------------------------------------------------------- MSRA


def write_msra(mark, every, seeds, frames):
    """Writes MSRA's hands: nine people, seventeen gestures each.

    Args:
        mark: The folder, as `create_sample_data` marks it.
        every: Function of `draw` and a count, which gives `draw(0)`, `draw(1)` and so on.
        seeds: List of whole numbers.
        frames: Frames of each gesture of each person.

    Returns:
        A line about it.
    """
    draw = functools.partial(draw_msra, seeds=seeds, folder=str(mark.folder), frames=frames)
    centers = []
    for names, sequence in every(draw, _MSRA_SUBJECTS * len(GESTURES)):
        mark.add(names)
        centers.append(sequence)
    centers = np.reshape(centers, (_MSRA_SUBJECTS, -1, 3))
    for subject in range(_MSRA_SUBJECTS):
        rng = np.random.default_rng([*seeds, _MSRA_SUBJECTS, subject])
        mark.write_bytes(f"center/center_test_{subject}_refined.txt", _center_lines(centers[subject]))
        others = np.delete(centers, subject, 0).reshape(-1, 3)
        others = others + rng.normal(0, _CENTERS_DIFFER, others.shape)
        lines = _center_lines(others, _valid(rng, "msra", len(others)))
        mark.write_bytes(f"center/center_train_{subject}_refined.txt", lines)
    return f"{_MSRA_SUBJECTS * len(GESTURES) * frames} frames of {_MSRA_SUBJECTS} people"


def draw_msra(index, seeds, folder, frames):
    """Draws and writes one gesture of one person.

    Args:
        index: Number of the sequence, person by person.
        seeds: List of whole numbers.
        folder: Folder of the dataset.
        frames: Frames of the sequence.

    Returns:
        `(names, centers)`: the files written, and float64 `[frames, 3]`.
    """
    subject, gesture = divmod(index, len(GESTURES))
    shape = sample_hand_shape(np.random.default_rng([*seeds, subject]))
    place = f"P{subject}/{list(GESTURES)[gesture]}"
    names, lines, centers = [f"{place}/joint.txt"], [str(frames)], []
    rng = np.random.default_rng([*seeds, subject, gesture])
    for number, frame in enumerate(msra_frames(rng, shape, list(GESTURES)[gesture], frames)):
        names.append(f"{place}/{number:06d}_depth.bin")
        header = struct.pack("<6i", *_size("msra"), *frame.box)
        write_file(pathlib.Path(folder, names[-1]), header + np.ascontiguousarray(frame.depth, "<f4").tobytes())
        lines.append(" ".join(f"{value:.4f}" for value in (frame.joints * (1, 1, -1)).ravel()))
        centers.append(frame.center)
    write_file(pathlib.Path(folder, names[0]), "".join(f"{line}\n" for line in lines).encode())
    return names, np.array(centers)


def _size(name):
    camera = dataset_camera(name)
    return camera.width, camera.height


# ----------------------------------------------------------------------------------------------------------- NYU


def write_nyu(mark, every, seeds, frames):
    """Writes NYU's hands: one person to train with, that one and another to test with.

    Args:
        mark: The folder, as `create_sample_data` marks it.
        every: Function of `draw` and a count, which gives `draw(0)`, `draw(1)` and so on.
        seeds: List of whole numbers.
        frames: Frames, a fifth of them to test with.

    Returns:
        A line about it.
    """
    num_test = max(1, round(_TEST_SHARE * frames))
    half = (num_test + 1) // 2
    parts = (("train", 0, 0, frames - num_test), ("test", 0, 0, half), ("test", 1, half, num_test))
    sequences = [
        (split, person, start, min(_NYU_SEQUENCE, stop - start))
        for split, person, first, stop in parts
        for start in range(first, stop, _NYU_SEQUENCE)
    ]
    draw = functools.partial(draw_nyu, sequences=sequences, seeds=seeds, folder=str(mark.folder))
    joints, centers = {"train": [], "test": []}, {"train": [], "test": []}
    for split, names, sequence, centres in every(draw, len(sequences)):
        mark.add(names)
        joints[split].append(sequence)
        centers[split].append(centres)
    for split in ("train", "test"):
        points = np.concatenate(centers[split])
        valid = _valid(np.random.default_rng([*seeds, 1 << 20]), "nyu", len(points)) if split == "train" else None
        mark.write_bytes(f"center/center_{split}_refined.txt", _center_lines(points, valid))
        mark.write_bytes(f"{split}/joint_data.mat", _nyu_labels(np.concatenate(joints[split])))
    return f"{frames - num_test} frames to train and {num_test} to test"


def draw_nyu(index, sequences, seeds, folder):
    """Draws and writes one sequence.

    Args:
        index: Number of the sequence.
        sequences: List of `(split, person, number of the first frame, frames)`.
        seeds: List of whole numbers.
        folder: Folder of the dataset.

    Returns:
        `(split, names, joints, centers)`: the files written, float64 `[frames, 36, 3]` and `[frames, 3]`.
    """
    split, person, start, frames = sequences[index]
    shape = sample_hand_shape(np.random.default_rng([*seeds, person]))
    names, joints, centers = [], [], []
    for number, frame in enumerate(nyu_frames(np.random.default_rng([*seeds, person, index]), shape, frames)):
        names.append(f"{split}/depth_1_{start + number + 1:07d}.png")
        depth = frame.depth.astype(np.uint16)
        # OpenCV has blue first, which holds the lower half.
        pixels = np.stack([depth & 255, depth >> 8, np.zeros_like(depth)], -1).astype(np.uint8)
        ok, data = cv2.imencode(".png", pixels)
        if not ok:
            raise OSError("OpenCV cannot encode PNG.")
        write_file(pathlib.Path(folder, names[-1]), data.tobytes())
        joints.append(frame.joints)
        centers.append(frame.center)
    return split, names, np.array(joints), np.array(centers)


def _nyu_labels(joints):
    """The label file: three cameras, of which the pictures of the first are there."""
    turns = (np.eye(3), cv2.Rodrigues(np.radians([-40.0, 0, 0]))[0], cv2.Rodrigues(np.radians([0, 40.0, 0]))[0])
    middle = np.array([0.0, 0.0, 750.0])
    world = np.stack([(joints - middle) @ turn.T + middle for turn in turns])
    names = np.array(NYU_NAMES, object)[None]
    return mat_bytes(joint_names=names, joint_uvd=world_to_pixel(world, "nyu"), joint_xyz=world)


# ---------------------------------------------------------------------------------------------------------- ITOP


def write_itop(mark, every, seeds, frames):
    """Writes ITOP's people: sixteen to train with, four to test with, each moment seen from the front and from above.

    Args:
        mark: The folder, as `create_sample_data` marks it.
        every: Function of `draw` and a count, which gives `draw(0)`, `draw(1)` and so on.
        seeds: List of whole numbers.
        frames: Frames of each view, a fifth of them to test with.

    Returns:
        A line about it.
    """
    num_test = max(1, round(_TEST_SHARE * frames))
    counts = {"train": frames - num_test, "test": num_test}
    persons = [
        (split, person, len(part))
        for split, count in counts.items()
        for person, part in zip(_ITOP_PERSONS[split], np.array_split(np.arange(count), len(_ITOP_PERSONS[split])))
        if len(part)
    ]
    drawn = every(functools.partial(draw_itop, persons=persons, seeds=seeds), len(persons))
    for split, count in counts.items():
        files = {(view, what): f"ITOP_{view}_{split}_{what}.h5" for view in VIEWS for what in ("depth_map", "labels")}
        rng, centers, done = np.random.default_rng([*seeds, 1 << 20]), {view: [] for view in VIEWS}, 0
        valid = _valid(rng, "itop", count) if split == "train" else np.ones(count, bool)
        mark.folder.mkdir(parents=True, exist_ok=True)
        with contextlib.ExitStack() as stack:
            open_files = {
                key: stack.enter_context(h5py.File(stack.enter_context(replacing(mark.folder / name)), "w"))
                for key, name in files.items()
            }
            for (_, what), file in open_files.items():
                _make_arrays(file, what, count)
            for person in (person for part, person, _ in persons if part == split):
                for number, frame in enumerate(next(drawn)):
                    for view in VIEWS:
                        values = dict(zip(("depth_map", "labels"), _itop_rows(frame[view], valid[done])))
                        for what, rows in values.items():
                            for key, value in rows.items():
                                open_files[view, what][key][done] = value
                            open_files[view, what]["id"][done] = f"{person:02d}_{number:05d}".encode()
                        centers[view].append(frame[view].center)
                    done += 1
        mark.add(files.values())
        for view in VIEWS:
            mark.write_bytes(f"center/{view}_view/center_{split}.txt", _center_lines(centers[view], valid))
    for _ in drawn:
        pass
    return f"{counts['train']} frames to train and {num_test} to test, from the front and from above"


def draw_itop(index, persons, seeds):
    """Draws one person.

    Args:
        index: Number of the person's entry.
        persons: List of `(split, person, frames)`.
        seeds: List of whole numbers.

    Returns:
        List of what `posekit.data.synthetic_room.room_frames` yields.
    """
    _, person, frames = persons[index]
    return list(room_frames(np.random.default_rng([*seeds, person]), sample_body(), frames))


def _make_arrays(file, what, count):
    """Makes the empty arrays of a file, with the names and types of the real ones."""
    width, height = _size("itop")
    num_joints = ITOP15.num_joints
    shapes = {"id": ((), "S8")}
    if what == "depth_map":
        shapes["data"] = ((height, width), "f2")
    else:
        shapes |= {"is_valid": ((), "u1"), "visible_joints": ((num_joints,), "i2")}
        shapes |= {"image_coordinates": ((num_joints, 2), "i2"), "real_world_coordinates": ((num_joints, 3), "f2")}
        shapes["segmentation"] = ((height, width), "i1")
    for key, (shape, kind) in shapes.items():
        pictures = {"chunks": (1, *shape), "compression": "gzip"} if shape == (height, width) else {}
        file.create_dataset(key, (count, *shape), kind, **pictures)


def _itop_rows(frame, valid):
    """Rows of the depth file and of the label file; a frame that is not valid has no labels."""
    labels = {
        "is_valid": valid,
        "visible_joints": frame.visible & valid,
        "image_coordinates": np.rint(frame.joints_px) * valid,
        "real_world_coordinates": frame.joints * valid,
        "segmentation": np.where(valid, frame.parts, -1),
    }
    return {"data": frame.depth}, labels
