"""Calibrations of Human3.6M's cameras: built in, from its `metadata.xml`, or from `cameras.h5`.

Each subject was recorded on days of their own, so every one has calibrations of the four cameras of their own; the lens
of a camera is the same for all.
"""

import dataclasses
import math
import os
import pathlib
import re
import xml.etree.ElementTree

import h5py
import numpy as np

from posekit.data.h36m import CAMERA_SIZES
from posekit.data.shards import NothingUsableError
from posekit.files import regular_file

_MAX_XML_BYTES = 4 << 20
_MAX_NUMBERS = 1000
_MAX_CAMERA_NUMBERS = 64
# Deflate makes no more than this of a byte.
_MAX_EXPANSION = 1032
# Subjects to whom `w0` gives columns, whether their poses are public or not.
_METADATA_SUBJECTS = 11
# The numbers of Human3.6M's metadata.xml (w0), which VideoPose3D's common/h36m_dataset.py has in single precision and
# as quaternions. A row a camera: focal lengths, principal point, radial and tangential distortion.
_LENSES = (
    (1145.04940458804, 1143.78109572365, 512.541504956548, 515.4514869776,
     -0.207098910824901, 0.247775183068982, -0.00307515035078854, -0.00142447157470321, -0.000975698859470499),
    (1149.67569986785, 1147.59161666764, 508.848621645943, 508.064917088557,
     -0.194213629607385, 0.240408539138292, 0.00681997559022603, -0.0027408943961907, -0.001619026613787),
    (1149.14071676148, 1148.7989685676, 519.815837182153, 501.402658888552,
     -0.208338188251856, 0.255488007488945, -0.00246049749891915, -0.000759999321030303, 0.00148438698385668),
    (1145.51133842318, 1144.77392807652, 514.968197319863, 501.882018537695,
     -0.198384093827848, 0.218323676298049, -0.00894780704152122, -0.00181336200488089, -0.000587205583421232),
)  # fmt: skip
# Subject → a row a camera: angles about x, y, z in radians, and where it stands in millimetres.
_PLACES = {
    1: (
    (-1.38382776045614, -3.16734304390158, 0.413636308164621, 1841.10702774543, 4955.28462344526, 1563.4453958977),
    (-1.35517119070383, 3.13934427144743, 2.76026318023792, 1761.27853428116, -5078.00659454077, 1606.2649598335),
    (-1.35460453835517, -3.09585375458873, -0.415010681416711, -1846.7776610084, 5215.04650469073, 1491.97246576518),
    (-1.29084725708861, -3.20353825281863, -2.72857298700043, -1794.78972871109, -3722.69891503676, 1574.89272604599),
    ),
    5: (
    (-1.37617713453938, -3.16256766548869, 0.440809992980791, 2097.39151027444, 4880.94465755369, 1605.73247183927),
    (-1.3563050564389, 3.12931805155389, 2.74473744708868, 2031.70078497138, -5167.93301206581, 1612.92305082439),
    (-1.3562743457011, -3.07982159789068, -0.382865371867181, -1620.59486278793, 5171.65873305247, 1496.43704696787),
    (-1.31332016240395, -3.22574515339158, -2.75330005891557, -1637.17374540766, -3867.31734917197, 1547.03325638793),
    ),
    6: (
    (-1.37384065585639, -3.14962908578124, 0.415338270470213, 1935.45174694685, 4950.24580396107, 1618.08381523153),
    (-1.35273482943409, 3.12306622510911, 2.73860727855607, 1969.80390766216, -5128.73876071113, 1632.77883867694),
    (-1.36295424416142, -3.07297741832933, -0.405919808477019, -1769.59647655694, 5185.36115454991, 1476.99340929046),
    (-1.31574861632979, -3.23364633451714, -2.74452670528462, -1721.66874978818, -3884.13134701978, 1540.48790236846),
    ),
    7: (
    (-1.3767900857079, -3.1563455676984, 0.437827264451112, 1974.51295625891, 4926.35446379868, 1597.83264487845),
    (-1.35115947363283, 3.12541720944921, 2.7424245004417, 1937.0584290357, -5119.78981556288, 1631.56648087072),
    (-1.36202017323371, -3.07639612744257, -0.385859472962769, -1741.81111844229, 5208.24936307788, 1464.82464578145),
    (-1.31229903526751, -3.23226714486797, -2.75617673343893, -1734.71057764601, -3832.42135394085, 1548.58303462156),
    ),
    8: (
    (-1.37729100357321, -3.16179684618815, 0.423258143295384, 2150.65184102118, 4896.16095051376, 1611.90470612013),
    (-1.35529597940683, 3.129067978444, 2.7681840012377, 2219.9656703358, -5148.45307557174, 1613.04401647351),
    (-1.35633305520994, -3.07903933034276, -0.395738228536372, -1571.22149997798, 5137.01858150498, 1498.17612798791),
    (-1.31261466850986, -3.22669130539521, -2.76803843215725, -1476.91338239988, -3896.7411238582, 1547.97220703876),
    ),
    9: (
    (-1.38660153616472, -3.18292551468494, 0.441478757753939, 2044.45852504166, 4935.11727984793, 1481.22752752863),
    (-1.36358353731923, 3.1489218957052, 2.7695783975645, 1990.9596621548, -5123.81055155997, 1568.80481574437),
    (-1.34888172298336, -3.102960692595, -0.382788963877425, -1670.99215489414, 5211.98574196124, 1528.38799771705),
    (-1.30216364078597, -3.20525794988117, -2.73209048976503, -1696.04347097168, -3827.09988628541, 1591.41272727883),
    ),
    11: (
    (-1.38253857374534, -3.18032944555565, 0.435684449022933, 2098.44023766473, 4926.55465688236, 1500.2785741283),
    (-1.3670893792209, 3.14300994840839, 2.74314804826489, 2083.18240070009, -4912.17282366308, 1561.0785790774),
    (-1.33953525239742, -3.10064240051082, -0.434419468030056, -1609.81534310074, 5177.33597262935, 1537.89671533582),
    (-1.3052820100275, -3.20681865219712, -2.73759301328735, -1590.73799072229, -3854.16900368964, 1578.01760714384),
    ),
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Calibration:
    """One camera as it stood for one subject; the arguments are those of `posekit.data.h36m.Cameras`."""

    name: str
    R: np.ndarray
    T: np.ndarray
    f: np.ndarray
    c: np.ndarray
    k: np.ndarray
    p: np.ndarray

    @classmethod
    def from_numbers(cls, index, place, lens):
        """A calibration as Human3.6M writes it.

        Args:
            index: 0 to 3.
            place: Three angles in radians and three lengths in millimetres.
            lens: Nine numbers: focal lengths, principal point, radial and tangential distortion.

        Returns:
            A `Calibration`.

        Follows: una-dinosauria/3d-pose-baseline src/cameras.py:load_camera_params.
        """
        rotation = np.eye(3)
        for axis, angle in enumerate(place[:3]):
            one, other = (axis + 1) % 3, (axis + 2) % 3
            turn = np.eye(3)
            turn[[one, other], [one, other]] = np.cos(angle)
            turn[one, other], turn[other, one] = -np.sin(angle), np.sin(angle)
            rotation = rotation @ turn
        lens = np.asarray(lens, np.float64)
        name = tuple(CAMERA_SIZES)[index]
        return cls(name, rotation, np.array(place[3:]), lens[:2], lens[2:4], lens[4:7], lens[7:])


def find_calibrations(folder):
    """The calibrations to project with.

    Args:
        folder: Human3.6M's folder; a `cameras.h5` or `metadata.xml` in it counts, else what is built in.

    Returns:
        `(calibrations, file)`: dict of (subject, camera from 0) to `Calibration`, and the file, `None` if built in.

    Raises:
        NothingUsableError: If the file makes no sense.
    """
    for name, read in (("cameras.h5", read_cameras_h5), ("metadata.xml", lambda path: read_metadata(path)[0])):
        path = pathlib.Path(folder) / name
        if os.path.lexists(path):
            return read(path), path
    return built_in(), None


def built_in():
    """The calibrations that Human3.6M publishes.

    Returns:
        Dict of (subject, camera from 0) to `Calibration`.
    """
    return {
        (subject, index): Calibration.from_numbers(index, place, _LENSES[index])
        for subject, places in _PLACES.items()
        for index, place in enumerate(places)
    }


def read_metadata(path):
    """Reads Human3.6M's `metadata.xml`.

    Args:
        path: The file.

    Returns:
        `(calibrations, subactions)`: dict of (subject, camera from 0) to `Calibration`, and dict of (subject,
        recording), such as (1, `"Directions 1"`), to (action, subaction).

    Raises:
        NothingUsableError: If it makes no sense.
    """
    path = _regular(path)
    try:
        size = path.stat().st_size
        if size > _MAX_XML_BYTES:
            raise ValueError(f"it has {size} bytes, a metadata.xml fewer than {_MAX_XML_BYTES}")
        content = path.read_bytes()
        # Entities may stand for gigabytes. Only in encodings with zeros are these letters written in another way.
        if b"<!DOCTYPE" in content or b"<!ENTITY" in content or b"\0" in content:
            raise ValueError("it declares a document type or entities, or is not in UTF-8")
        root = xml.etree.ElementTree.fromstring(content)
    except (OSError, MemoryError, xml.etree.ElementTree.ParseError, ValueError, LookupError) as error:
        raise NothingUsableError(f"{path} is no metadata.xml of Human3.6M, or damaged: {error}.") from None
    text = next((element.text or "" for element in root.iter("w0")), "")
    words = text.strip().strip("[]").split()
    try:
        numbers = np.array(words[:_MAX_NUMBERS], np.float64)
    except ValueError:
        numbers = np.empty(0)
    cameras = len(CAMERA_SIZES)
    if numbers.size != cameras * (6 * _METADATA_SUBJECTS + 9) or not np.isfinite(numbers).all():
        raise NothingUsableError(f"{path}: its w0 has {len(words)} numbers; Human3.6M's has 300 for 11 subjects.")
    places = numbers[: cameras * 6 * _METADATA_SUBJECTS].reshape(cameras, _METADATA_SUBJECTS, 6)
    lenses = numbers[cameras * 6 * _METADATA_SUBJECTS :].reshape(cameras, 9)
    calibrations = {
        (subject, index): Calibration.from_numbers(index, places[index, subject - 1], lenses[index])
        for subject in range(1, _METADATA_SUBJECTS + 1)
        for index in range(cameras)
    }
    return calibrations, _subactions(root, path)


def _subactions(root, path):
    """Which recording is which action and subaction, from a table whose first row names the subjects."""
    table = {}
    subjects = []
    for row in root.findall("mapping/tr"):
        first, second, *cells = [(cell.text or "").strip() for cell in row.findall("td")] + ["", ""]
        named = [re.fullmatch(r"S([1-9]\d?)", cell, re.ASCII) for cell in cells]
        if any(named):
            subjects = [int(match[1]) if match else None for match in named]
        elif first.isdecimal() and second.isdecimal():
            if max(len(first), len(second)) > 2:
                raise NothingUsableError(f"{path}: its mapping has the action {first:.20}, subaction {second:.20}.")
            for subject, recording in zip(subjects, cells):
                if subject is not None and recording:
                    table[subject, recording] = int(first), int(second)
    return table


def read_cameras_h5(path):
    """Reads `cameras.h5` of una-dinosauria/3d-pose-baseline: `subject1/camera1/{R,T,f,c,k,p,Name}` and so on.

    Args:
        path: The file.

    Returns:
        Dict of (subject, camera from 0) to `Calibration`.

    Raises:
        NothingUsableError: If it makes no sense.

    Follows: una-dinosauria/3d-pose-baseline src/cameras.py:load_cameras (its earlier form).
    """
    path, calibrations = _regular(path), {}
    try:
        with h5py.File(path, "r") as file:
            for subject in range(1, _METADATA_SUBJECTS + 1):
                subject_group = _own_group(file, f"subject{subject}")
                for index in range(len(CAMERA_SIZES)):
                    group = _own_group(subject_group, f"camera{index + 1}")
                    if group is not None:
                        calibrations[subject, index] = _read_camera(group)
    except HDF5_DAMAGE as error:
        raise NothingUsableError(f"{path} is no cameras.h5, or damaged: {error!s:.300}.") from None
    if not calibrations:
        raise NothingUsableError(f"{path} holds no subject1/camera1 and so on.")
    return calibrations


def _regular(path):
    try:
        return regular_file(path)
    except (OSError, ValueError) as error:
        raise NothingUsableError(str(error)) from None


# What h5py lets through when a file is damaged.
HDF5_DAMAGE = (OSError, RuntimeError, KeyError, TypeError, ValueError, AttributeError, OverflowError, MemoryError)


def own_dataset(group, name, max_bytes):
    """Looks up a dataset of plain numbers that lie in the file itself, all of them.

    Args:
        group: `h5py.Group`.
        name: Name in it.
        max_bytes: Most memory that reading it may take.

    Returns:
        `h5py.Dataset`.

    Raises:
        ValueError: If there is none, it is large, or its numbers are elsewhere or fewer than it claims.
    """
    dataset = group[name] if isinstance(group.get(name, getlink=True), h5py.HardLink) else None
    if not isinstance(dataset, h5py.Dataset) or dataset.shape is None:
        raise ValueError(f"it has no {name!r} of its own in {group.name}")
    if dataset.dtype.kind not in "fiu":
        raise ValueError(f"{name!r} in {group.name} has values of type {dataset.dtype!s:.60}, not numbers")
    claimed = dataset.size * dataset.dtype.itemsize
    there = dataset.id.get_storage_size() * (_MAX_EXPANSION if dataset.compression else 1)
    if dataset.external or dataset.is_virtual or claimed > min(max_bytes, there):
        raise ValueError(f"{name!r} in {group.name} claims {claimed} bytes, too many or not in the file")
    if math.prod(dataset.chunks or ()) * dataset.dtype.itemsize > max_bytes:
        raise ValueError(f"{name!r} in {group.name} comes in pieces of {dataset.chunks}")
    return dataset


def _own_group(group, name):
    """A group that lies in the file itself; `None` if there is nothing of that name."""
    link = group.get(name, getlink=True) if group is not None else None
    if link is None:
        return None
    if not isinstance(link, h5py.HardLink) or not isinstance(group[name], h5py.Group):
        raise ValueError(f"{name} in {group.name} is no group of its own")
    return group[name]


def _read_camera(group):
    values = {}
    for key, size in {"R": 9, "T": 3, "f": 2, "c": 2, "k": 3, "p": 2, "Name": None}.items():
        dataset = own_dataset(group, key, 8 * _MAX_CAMERA_NUMBERS)
        if dataset.size > _MAX_CAMERA_NUMBERS or (size and dataset.size != size):
            raise ValueError(f"{key!r} in {group.name} has {dataset.size} values")
        values[key] = dataset[()].astype(np.float64).ravel()
        if not np.isfinite(values[key]).all():
            raise ValueError(f"{key!r} in {group.name} holds values that are not finite")
    letters = values.pop("Name")
    if not ((letters >= 32) & (letters < 127)).all() or not letters.size:
        raise ValueError(f"{group.name}/Name is no name")
    name = "".join(map(chr, letters.astype(int).tolist()))
    # MATLAB wrote it, which keeps the columns of a matrix together.
    rotation = values.pop("R").reshape(3, 3).T
    if np.abs(rotation @ rotation.T - np.eye(3)).max() > 1e-3 or np.linalg.det(rotation) < 0:
        raise ValueError(f"{group.name}/R is no rotation")
    return Calibration(name, rotation, **values)
