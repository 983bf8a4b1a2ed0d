"""Result files of the depth datasets: a line for every frame with three numbers for every joint.

The numbers are x and y in pixels and the depth, or x, y and z in the world, as each dataset publishes them. Lines of
HANDS2017, and label files such as ICVL's and HANDS2017's own, begin with the name of the image.
"""

import array
import pathlib

import numpy as np

from posekit.files import write_file

# A number takes at least two characters here and eight bytes in memory. HANDS2017's test set takes a third of it.
MAX_RESULT_BYTES = 512 << 20
_MAX_JOINTS = 200
_MAX_LINE = 4096 + 3 * _MAX_JOINTS * 32
# Of pictures: record sets name frames without them, result files and label files often with them.
_SUFFIXES = (".png", ".bin", ".jpg")
_LAYOUT = "every line must hold x, y and z of all joints, separated by spaces or tabs, perhaps after the image's name"


def read_results(path, num_joints=None, count=None, names=None):
    """Reads predicted or true joints of a whole dataset.

    Args:
        path: Text file; blank lines, lines that begin with `#`, tabs and additional spaces do not matter.
        num_joints: Joints of a frame; by default as many as the first line has.
        count: How many frames there must be; any number by default.
        names: Names of the images wanted, in this order. Where the file's lines begin with names, its frames are
            brought into this order; folders before the names and suffixes such as `.png` need not agree, as long as
            names stay different without them. A file without names must have the frames in this order. By default all
            frames come as the file has them.

    Returns:
        `(joints, names)`: float64 `[frames, joints, 3]`, and the names that the lines begin with, a tuple of texts, or
        None if they do not.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is too large or no text, a line has another number of numbers or something else than finite
            numbers, or frames are missing; with the file, the line and the counts.

    Example:
        >>> joints, names = read_results("result_pixel.txt", num_joints=16)  # doctest: +SKIP
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"No result file at {path}. python -m posekit.validate --model=v2v writes one; the original's README lists "
            "published ones."
        )
    size = path.stat().st_size
    if size > MAX_RESULT_BYTES:
        raise ValueError(f"{path} takes {size} bytes, more than the limit of {MAX_RESULT_BYTES}; is it a result file?")
    numbers, labels, lines = _read_lines(path, num_joints)
    if num_joints is None:
        num_joints = len(numbers) // (3 * len(lines)) if lines else 0
    joints = np.array(numbers, np.float64).reshape(len(lines), num_joints, 3)
    bad = np.flatnonzero(~np.isfinite(joints).all((1, 2)))
    if len(bad):
        raise ValueError(
            f"{path}: {len(bad)} of {len(joints)} frames hold NaN or infinity, the first of them in line "
            f"{lines[bad[0]]}. Predict them again."
        )
    if names is not None:
        joints, labels = _in_order(path, joints, labels, names)
    if count is not None and len(joints) != count:
        raise ValueError(
            f"{path} holds {len(joints)} frames, {count} are needed. Predictions and truth must be of the same frames "
            "in the same order."
        )
    return joints, labels


def write_results(path, joints, names=None, decimals=3):
    """Writes joints as the originals do; the file takes its name only when it is complete.

    Args:
        path: Text file to write; its folder is made where needed.
        joints: `[frames, joints, 3]`, pixels and depth or the world's coordinates: as the dataset publishes them.
        names: Names of the images, to begin the lines with, as HANDS2017's challenge has it; none by default.
        decimals: Digits after the point: 3 as mks0601 writes, 4 as dragonbook writes.

    Returns:
        `pathlib.Path` of the file.

    Raises:
        ValueError: If the shape is another, a number is not finite, or the names do not fit.
        OSError: If the file cannot be written.

    Example:
        >>> write_results("result.txt", np.zeros((2, 21, 3)))  # doctest: +SKIP

    Follows: mks0601/V2V-PoseNet_RELEASE vis/msra/pixel2world.py, which writes such files.
    """
    path, joints = pathlib.Path(path), np.asarray(joints, np.float64)
    if joints.ndim != 3 or joints.shape[-1] != 3 or not 0 < joints.shape[1] <= _MAX_JOINTS:
        raise ValueError(
            f"joints have the shape {joints.shape}; they must be [frames, joints, 3] with 1 to {_MAX_JOINTS} joints."
        )
    if not np.isfinite(joints).all():
        bad = np.flatnonzero(~np.isfinite(joints).all((1, 2)))
        raise ValueError(f"joints hold NaN or infinity in {len(bad)} frames, first in number {bad[0]}; leave them out.")
    line = " ".join([f"%0.{int(decimals)}f"] * (3 * joints.shape[1])) + "\n"
    texts = [line % tuple(row) for row in joints.reshape(len(joints), -1).tolist()]
    if names is not None:
        texts = [f"{name} {text}" for name, text in zip(_checked_names(names, len(joints)), texts)]
    write_file(path, "".join(texts).encode())
    return path


def _read_lines(path, num_joints):
    """Numbers of all lines one after the other, the lines' names or None, and their numbers in the file."""
    numbers, labels, lines = array.array("d"), [], []
    wanted = None if num_joints is None else 3 * num_joints
    named = None
    with open(path, "rb") as file:
        for number, text in enumerate(iter(lambda: file.readline(_MAX_LINE), b""), 1):
            if len(text) == _MAX_LINE:
                raise ValueError(f"{path}, line {number} is longer than {_MAX_LINE} characters; {_LAYOUT}.")
            words = _words(path, number, text)
            if not words:
                continue
            if named is None:
                named = not _is_number(words[0])
            elif named == _is_number(words[0]):
                raise ValueError(
                    f"{path}, line {number} begins with {words[0][:40]!r}, the first line with "
                    f"{'a name' if named else 'a number'}; {_LAYOUT}."
                )
            if named:
                labels.append(words.pop(0))
            if wanted is None:
                wanted = len(words)
            if len(words) != wanted or not wanted or wanted % 3:
                raise ValueError(_miscounted(path, number, len(words), wanted, num_joints, named))
            try:
                numbers.extend(map(float, words))
            except ValueError:
                wrong = next(word for word in words if not _is_number(word))
                raise ValueError(f"{path}, line {number}: {wrong[:40]!r} is no number; {_LAYOUT}.") from None
            lines.append(number)
    return numbers, tuple(labels) if named else None, lines


def _words(path, number, text):
    try:
        text = text.decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:
        raise ValueError(f"{path}, line {number} is no text; {_LAYOUT}.")
    return [] if text.lstrip().startswith("#") else text.split()


def _is_number(word):
    try:
        float(word)
    except ValueError:
        return False
    return True


def _miscounted(path, number, found, wanted, num_joints, named):
    after = " after the name" if named else ""
    if num_joints is not None:
        return (
            f"{path}, line {number} holds {found} numbers{after}; {num_joints} joints need {wanted}. Is it the result "
            "of another dataset, or cut short?"
        )
    if wanted != found:
        return f"{path}, line {number} holds {found} numbers{after}, the first line {wanted}; is the file cut short?"
    return f"{path}, line {number} holds {found} numbers{after}, which are not three for every joint; {_LAYOUT}."


def _in_order(path, joints, labels, names):
    names = [str(name) for name in names]
    if labels is None:
        if len(joints) != len(names):
            raise ValueError(
                f"{path} holds {len(joints)} frames without names, {len(names)} are needed; without names it must hold "
                "all of them in their order."
            )
        return joints, None
    for form in (str, _without_suffix, _without_folder):
        shorter, found = [form(name) for name in names], {form(label): place for place, label in enumerate(labels)}
        if len(found) < len(labels) or len(set(shorter)) < len(set(names)):
            if form is str:
                raise ValueError(
                    f"{path} holds {len(labels)} frames of only {len(found)} names; every name must occur once."
                )
            break  # only what was left out tells the frames apart
        wanted, places = shorter, found
        if places.keys() >= set(wanted):
            break
    missing = [name for name, place in zip(names, wanted) if place not in places]
    if missing:
        raise ValueError(f"{path} lacks {len(missing)} of {len(names)} frames, the first of them {missing[0]!r}.")
    order = [places[name] for name in wanted]
    return joints[order], tuple(labels[place] for place in order)


def _without_suffix(name):
    name = name.replace("\\", "/")
    return next((name.removesuffix(suffix) for suffix in _SUFFIXES if name.endswith(suffix)), name)


def _without_folder(name):
    return _without_suffix(name).rsplit("/", 1)[-1]


def _checked_names(names, count):
    names = [str(name) for name in names]
    if len(names) != count:
        raise ValueError(f"There are {len(names)} names for {count} frames; give one for each.")
    for name in names:
        if len(name.split()) != 1 or name.startswith("#") or _is_number(name):
            raise ValueError(f"The name {name!r} cannot begin a line; give names without spaces that are no numbers.")
    return names
