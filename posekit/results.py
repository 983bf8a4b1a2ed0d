"""People found in a picture: keypoints, scores, and where known the body mesh; written as JSON, OBJ or npz."""

import dataclasses
import io
import json
import math
import pathlib
from collections.abc import Callable

import numpy as np

from posekit.files import write_file
from posekit.skeletons import COCO17, OPENPOSE18, Skeleton

STYLES = ("coco", "openpose", "json")
MAX_SIDE = 100_000  # pixels of a picture

_LIMB_JOINTS = frozenset(OPENPOSE18.joints[2:14])
_COORDINATES = {
    "keypoints": "pixels of the image, x to the right, y down, the centre of the upper left pixel at (0, 0)",
    "box": "left, top, width, height in pixels of the image",
    "joints3d": "metres, camera axes: x to the right, y down, z away from the camera",
    "camera": "focal length and principal point x, y in pixels of the image",
    "theta": "weak-perspective camera s, tx, ty of the crop; joint rotations as axis-angle; shape coefficients",
}
# Field -> number of axes and, where fixed, the length of the last one.
_PER_PERSON = {
    "person_scores": (1, None),
    "boxes": (2, 4),
    "vertices": (3, 3),
    "camera": (2, 3),
    "theta": (2, None),
    "joints3d": (3, 3),
}


@dataclasses.dataclass(eq=False)
class Person:
    """One of the `People`: the same fields without the first axis; what is not known is None.

    Args:
        keypoints_px: `[joints, 2]`.
        scores: `[joints]`.
        score: Score of the person.
        box: `[4]`.
        vertices: `[vertices, 3]`.
        camera: `[3]`.
        theta: `[parameters]`.
        joints3d: `[joints3d, 3]`.
    """

    keypoints_px: np.ndarray
    scores: np.ndarray
    score: float
    box: np.ndarray | None = None
    vertices: np.ndarray | None = None
    camera: np.ndarray | None = None
    theta: np.ndarray | None = None
    joints3d: np.ndarray | None = None


@dataclasses.dataclass(eq=False, repr=False)
class People:
    """All people found in one picture. `len(people)`, `people[0]` (a `Person`), `people[1:]` (`People`), iteration.

    Args:
        keypoints_px: `[people, joints, 2]` x, y in pixels of the image; NaN where a joint was not found.
        scores: `[people, joints]` confidences, 0 where a joint was not found.
        skeleton: `Skeleton` that names the joints.
        image_size: `(height, width)` of the image.
        person_scores: `[people]`; by default the mean score of the joints found.
        boxes: `[people, 4]` left, top, width, height in pixels.
        vertices: `[people, vertices, 3]` metres, in camera coordinates (x right, y down, z forward).
        faces: `[faces, 3]` triangles of the meshes.
        camera: `[people, 3]` focal length and principal point x, y in pixels of the image: with it `vertices`
            project onto the image.
        theta: `[people, parameters]` body parameters as the model predicts them.
        joints3d: `[people, joints3d, 3]` metres, camera axes.
        up: `[3]` the direction that was upwards, camera axes, where it is known.
        source: File name or other label of the image.
        image: uint8 `[height, width, 3]` RGB image, for `draw`; not saved.
        renderer: Function `(people, image, path, **options) -> picture`, for `draw`, such as
            `posekit.drawing.draw_people`; the predictor sets it.
        maps: Dict of arrays in which a network found the people, for pictures of them; not saved.

    Raises:
        ValueError: If shapes do not fit together.
    """

    keypoints_px: np.ndarray
    scores: np.ndarray
    skeleton: Skeleton
    image_size: tuple[int, int]
    person_scores: np.ndarray | None = None
    boxes: np.ndarray | None = None
    vertices: np.ndarray | None = None
    faces: np.ndarray | None = None
    camera: np.ndarray | None = None
    theta: np.ndarray | None = None
    joints3d: np.ndarray | None = None
    up: tuple[float, float, float] | None = None
    source: str | None = None
    image: np.ndarray | None = dataclasses.field(default=None, repr=False)
    renderer: Callable | None = dataclasses.field(default=None, repr=False)
    maps: dict | None = dataclasses.field(default=None, repr=False)

    def __post_init__(self):
        self.keypoints_px = _float32("keypoints_px", self.keypoints_px)
        joints = self.skeleton.num_joints
        if self.keypoints_px.ndim != 3 or self.keypoints_px.shape[1:] != (joints, 2):
            raise ValueError(
                f"keypoints_px has shape {self.keypoints_px.shape}, but skeleton {self.skeleton.name!r} needs "
                f"[people, {joints}, 2]."
            )
        self.scores = _float32("scores", self.scores)
        if self.scores.shape != self.keypoints_px.shape[:2]:
            raise ValueError(f"scores has shape {self.scores.shape}; it must be {self.keypoints_px.shape[:2]}.")
        for name, (axes, last) in _PER_PERSON.items():
            value = getattr(self, name)
            if value is None:
                continue
            value = _float32(name, value)
            if value.ndim != axes or len(value) != len(self) or last not in (None, value.shape[-1]):
                wanted = ["people", *["…"] * (axes - 2), str(last or "…")][:axes]
                raise ValueError(f"{name} has shape {value.shape} for {len(self)} people; it must be {wanted}.")
            setattr(self, name, value)
        if self.vertices is not None:
            if self.faces is None:
                raise ValueError("vertices without faces: pass the body's faces too.")
            self.faces = np.asarray(self.faces, np.int32)
        if self.person_scores is None:
            self.person_scores = self._mean_scores()
        self.image_size = int(self.image_size[0]), int(self.image_size[1])
        if not all(1 <= side <= MAX_SIDE for side in self.image_size):
            raise ValueError(
                f"image_size is {self.image_size!s:.60}; it must be (height, width) of the picture, each from 1 to "
                f"{MAX_SIDE} pixels."
            )

    def _mean_scores(self):
        found = (self.scores > 0) & np.isfinite(self.keypoints_px).all(-1)
        return np.where(found, self.scores, 0.0).sum(-1) / np.maximum(found.sum(-1), 1)

    def __len__(self):
        return len(self.keypoints_px)

    def __repr__(self):
        height, width = self.image_size
        where = f" in {self.source}" if self.source else ""
        meshes = ", with meshes" if self.vertices is not None else ""
        return f"People({len(self)}{where}, {width}x{height} px, {self.skeleton.name}{meshes})"

    def __getitem__(self, index):
        if isinstance(index, (int, np.integer)):
            if not -len(self) <= index < len(self):
                raise IndexError(f"person {index} of {len(self)}")
            rest = {name: getattr(self, name) for name in ("boxes", "vertices", "camera", "theta", "joints3d")}
            rest = {name: None if value is None else value[index] for name, value in rest.items()}
            rest["box"] = rest.pop("boxes")
            return Person(self.keypoints_px[index], self.scores[index], float(self.person_scores[index]), **rest)
        names = ("keypoints_px", "scores", *_PER_PERSON)
        values = {name: getattr(self, name) for name in names}
        parts = {name: value[index] for name, value in values.items() if value is not None}
        return dataclasses.replace(self, **parts)

    def __iter__(self):
        return (self[index] for index in range(len(self)))

    def draw(self, path=None, image=None, **options):
        """Draws the people over their image.

        Args:
            path: Picture to write (`.png` or `.jpg`); none by default.
            image: uint8 `[height, width, 3]` RGB to draw on instead of the image that the people were found in. People
                lifted to 3-D need none.
            **options: Of the system that found them: `view="heatmaps"` and `view="pafs"` of openpose, `view="rotated"`
                of hmr, and the other views of its preview; and those of its drawing function, such as `opacity=0.3`.

        Returns:
            uint8 `[height, width, 3]` RGB picture.

        Raises:
            ValueError: If there is no image, or the people do not come from a predictor.
        """
        image = self.image if image is None else image
        if self.renderer is None:
            lack = "image" if image is None else "renderer"
            raise ValueError(f"These people carry no {lack}; call posekit.drawing.draw_people(people, image, path).")
        return self.renderer(self, image, path, **options)

    def save(self, path, style="json", image_id=None):
        """Writes the keypoints as JSON.

        Args:
            path: File to write.
            style: `"coco"`: COCO's result format, a list with 17 keypoints a person, converted by name;
                `"openpose"`: OpenPose's format, its 18 joints where the skeleton has arms and legs, otherwise the
                skeleton's own joints; `"json"`: everything known but the meshes, all of it named.
            image_id: COCO's image id; by default the number that `source` names, or else its stem.

        Raises:
            ValueError: If the style is not known, or the name is that of another kind of file.
            OSError: If the file cannot be written.
        """
        if style not in STYLES:
            raise ValueError(f"style={style!r}: choose one of {list(STYLES)}.")
        if pathlib.PurePath(path).suffix.lower() == ".npz":
            raise ValueError(f"{path}: save() writes JSON; for arrays call people.save_npz({str(path)!r}).")
        if style == "coco":
            content = self.coco_results(image_id)
        else:
            content = self._to_openpose() if style == "openpose" else self._to_json()
        text = json.dumps(content, allow_nan=False, ensure_ascii=False) + "\n"
        # Half a character, as a name may have, has no UTF-8; written as its number it is JSON all the same.
        write_file(path, text.encode(errors="backslashreplace"))

    def save_obj(self, path, person=0, y_up=True):
        """Writes one person's mesh as Wavefront OBJ.

        Args:
            path: File to write.
            person: Which of the people.
            y_up: Turn the mesh upright, as viewers expect it (y up, z towards the viewer); otherwise camera
                coordinates, y down.

        Raises:
            ValueError: If there is no mesh, or it is not finite.
            OSError: If the file cannot be written.
        """
        if self.vertices is None:
            raise ValueError("These people have no meshes (only human mesh recovery makes them); save(path) as JSON.")
        vertices = self[person].vertices
        if not np.isfinite(vertices).all():
            raise ValueError(f"The mesh of person {person} is not finite and cannot be written as OBJ.")
        text = io.StringIO()
        text.write(f"# metres; {'y up' if y_up else 'camera axes: x right, y down, z forward'}\no person_{person}\n")
        np.savetxt(text, vertices * ([1, -1, -1] if y_up else [1, 1, 1]), "v %.6f %.6f %.6f")
        np.savetxt(text, self.faces + 1, "f %d %d %d")
        write_file(path, text.getvalue().encode())

    def save_npz(self, path):
        """Writes every array under its field's name, and the joint names, as compressed `.npz`.

        Args:
            path: File to write.

        Raises:
            OSError: If the file cannot be written.
        """
        names = ("keypoints_px", "scores", "faces", *_PER_PERSON)
        arrays = {name: getattr(self, name) for name in names if getattr(self, name) is not None}
        content = io.BytesIO()
        np.savez_compressed(
            content,
            joints=np.array(self.skeleton.joints),
            skeleton=np.array(self.skeleton.name),
            image_size=np.array(self.image_size),
            source=np.array(self.source or ""),
            **arrays,
        )
        write_file(path, content.getvalue())

    def _converted(self, skeleton):
        """Keypoints and scores in another skeleton's order; zeros where a joint is not there or not finite."""
        points, found = self.skeleton.convert(self.keypoints_px, to=skeleton)
        scores, _ = self.skeleton.convert(self.scores[..., None], to=skeleton)
        scores = np.where(found, scores[..., 0], 0.0)
        known = np.isfinite(points).all(-1) & np.isfinite(scores) & found
        return np.where(known[..., None], points, 0.0), np.where(known, scores, 0.0)

    def coco_results(self, image_id=None):
        """The people as COCO's results.

        Args:
            image_id: As for `save`.

        Returns:
            List of one dict a person.
        """
        if image_id is None:
            stem = pathlib.PurePath(self.source or "0").stem
            image_id = int(stem) if stem.isdecimal() else stem
        points, scores = self._converted(COCO17)
        people = []
        for person in range(len(self)):
            entry = {
                "image_id": image_id,
                "category_id": 1,
                "keypoints": _triples(points[person], scores[person]),
                "score": _plain(self.person_scores[person]) or 0.0,
            }
            if self.boxes is not None and np.isfinite(self.boxes[person]).all():
                entry["bbox"] = _plain(self.boxes[person])
            people.append(entry)
        return people

    def _to_openpose(self):
        as_openpose = _LIMB_JOINTS <= set(self.skeleton.joints)
        points, scores = self._converted(OPENPOSE18 if as_openpose else self.skeleton)
        if as_openpose and "neck" not in self.skeleton.joints:
            neck, right, left = (OPENPOSE18.index(name) for name in ("neck", "right_shoulder", "left_shoulder"))
            both = np.minimum(scores[:, right], scores[:, left])
            scores[:, neck] = both
            points[:, neck] = np.where(both[:, None] > 0, (points[:, right] + points[:, left]) / 2, 0.0)
        absent = dict.fromkeys(
            (
                "face_keypoints_2d", "hand_left_keypoints_2d", "hand_right_keypoints_2d", "pose_keypoints_3d",
                "face_keypoints_3d", "hand_left_keypoints_3d", "hand_right_keypoints_3d",
            ),
            [],
        )  # fmt: skip
        people = [
            {"person_id": [-1], "pose_keypoints_2d": _triples(points[person], scores[person]), **absent}
            for person in range(len(self))
        ]
        if self.joints3d is not None and self.joints3d.shape[1] == self.skeleton.num_joints:
            placed, there = self.skeleton.convert(self.joints3d, to=OPENPOSE18 if as_openpose else self.skeleton)
            there = there & np.isfinite(placed).all(-1)
            for entry, joints, known in zip(people, np.where(there[..., None], placed, 0.0), there):
                entry["pose_keypoints_3d"] = _triples(joints, known.astype(np.float32))
        return {"version": 1.3, "people": people}

    def _to_json(self):
        people = []
        for person in self:
            entry = {"score": _plain(person.score), "box": _plain(person.box)}
            entry["keypoints"] = [
                {"name": name, "x": _plain(x), "y": _plain(y), "score": _plain(score)}
                for name, (x, y), score in zip(self.skeleton.joints, person.keypoints_px, person.scores)
            ]
            for name in ("joints3d", "camera", "theta"):
                entry[name] = _plain(getattr(person, name))
            people.append({name: value for name, value in entry.items() if value is not None or name == "score"})
        return {
            "image": {"source": self.source, "height": self.image_size[0], "width": self.image_size[1]},
            "skeleton": {
                "name": self.skeleton.name,
                "joints": list(self.skeleton.joints),
                "bones": [list(bone) for bone in self.skeleton.bone_names],
            },
            "coordinates": _COORDINATES,
            "people": people,
        }


def _float32(name, value):
    """An array of a field; beyond what float32 holds it is infinite."""
    value = np.asarray(value)
    try:
        if value.dtype.kind in "US":
            raise ValueError("text")
        with np.errstate(over="ignore"):
            return value.astype(np.float32, copy=False)
    except (TypeError, ValueError):
        raise ValueError(f"{name} holds {value.dtype}, not numbers.") from None


def _triples(points, scores):
    return [_plain(value) for row in np.concatenate([points, scores[:, None]], 1) for value in row]


def _plain(value):
    """Numbers as JSON has them: Python floats of float32 precision, None for what is not finite."""
    if value is None:
        return None
    if isinstance(value, np.ndarray) and value.ndim:
        return [_plain(item) for item in value]
    value = float(value)
    return float(f"{value:.7g}") if math.isfinite(value) else None
