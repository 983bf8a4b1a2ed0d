"""Pictures: skeletons, body meshes over photographs, and the grids that training and validation show.

Images are RGB, `[height, width, 3]`, uint8 or float 0 to 1, and come back as uint8. Nothing here opens a window.
"""

import dataclasses
import pathlib

import cv2
import numpy as np

from posekit.files import write_file
from posekit.geometry.cameras import perspective_camera_from_weak
from posekit.geometry.rasterize import check_mesh, point_light_shading, project, vertex_normals
from posekit.ops import rasterize
from posekit.skeletons import COCO_PLUS19

# The first two are the original renderer's, in its order.
MESH_COLORS = {
    "light_blue": (0.65098039, 0.74117647, 0.85882353),
    "light_pink": (0.9, 0.7, 0.7),
    "mint": (0.66, 0.84, 0.74),
    "sand": (0.92, 0.82, 0.64),
    "lilac": (0.78, 0.71, 0.88),
}
MOCAP_VIEWS = ((-1.5, 2.5, -2.0), (0.5, 1.5, -0.5), (0.5, 1.5, -2.0), (0.5, -1.5, -2.0))
_IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp")

_PALETTE = {
    "pink": (197, 27, 125),
    "light_pink": (233, 163, 201),
    "light_green": (161, 215, 106),
    "green": (77, 146, 33),
    "red": (215, 48, 39),
    "light_orange": (252, 141, 89),
    "purple": (118, 42, 131),
    "light_blue": (145, 191, 219),
    "blue": (69, 117, 180),
    "white": (255, 255, 255),
}
_BODY_PARTS = {
    "leg": ("hip", "knee", "ankle", "foot", "heel", "toe", "big_toe", "small_toe"),
    "arm": ("collar", "shoulder", "elbow", "wrist", "hand", "thumb", "finger", "fingertip"),
    "trunk": (
        "pelvis", "spine", "spine_base", "spine1", "spine2", "spine3", "thorax", "upper_neck", "neck", "head",
        "head_top",
    ),
    "nose": ("nose",),
    "eye": ("eye",),
    "ear": ("ear",),
}  # fmt: skip
# Body part -> colours of its right and left joints, and of the bones that end there.
_PART_COLORS = {
    "leg": (("light_pink", "pink"), ("light_pink", "pink")),
    "arm": (("light_blue", "blue"), ("light_blue", "blue")),
    "trunk": (("purple", "purple"), ("purple", "purple")),
    "nose": (("red", "red"), ("purple", "purple")),
    "eye": (("green", "green"), ("green", "green")),
    "ear": (("white", "white"), ("light_green", "light_green")),
}
_OTHER_COLORS = ("blue", "light_orange", "green", "pink", "purple", "light_blue")
_SUBPIXEL_BITS = 4
_FARTHEST_PX = 1 << 14  # joints farther out are drawn as if there: OpenCV's coordinates are whole numbers


@dataclasses.dataclass(frozen=True)
class Camera:
    """A pinhole camera with a pose.

    Args:
        focal: Focal length in pixels, one number or `(fx, fy)`.
        center: Principal point `(x, y)` in pixels.
        rotation: Axis-angle `[3]` that turns world into camera axes.
        translation: `[3]` metres, added after the rotation.
        distortion: Lens coefficients `(k1, k2, p1, p2, k3)`; none by default.

    Follows: mattloper/opendr:camera.py (ProjectPoints).
    """

    focal: float | tuple[float, float]
    center: tuple[float, float]
    rotation: tuple[float, float, float] = (0.0, 0.0, 0.0)
    translation: tuple[float, float, float] = (0.0, 0.0, 0.0)
    distortion: tuple[float, ...] | None = None

    def to_camera(self, points):
        """Moves points `[..., 3]` from world into camera coordinates (x right, y down, z forward)."""
        return np.asarray(points, np.float64) @ _rotation(self.rotation).T + np.asarray(self.translation, np.float64)

    def project(self, points):
        """Projects world points `[..., 3]` to pixels `[..., 2]`; pixel centres are integers."""
        return project(self.to_camera(points), self.focal, self.center, self.distortion)


def original_lights(turn_deg=120.0):
    """The original renderer's three lamps, turned about the vertical axis.

    Args:
        turn_deg: Angle in degrees.

    Returns:
        List of `(position [3], colour [3])`, positions in the coordinates of the vertices.

    Follows: akanazawa/hmr:src/util/renderer.py (simple_renderer).
    """
    turn = _rotation((0.0, np.radians(turn_deg), 0.0))
    lamps = (((-200, -100, -100), 1.0), ((800, 10, 300), 1.0), ((-500, 500, 1000), 0.7))
    return [(np.array(position, np.float64) @ turn, np.full(3, strength)) for position, strength in lamps]


class MeshRenderer:
    """Draws lit body meshes, over a photograph or on white, with the original renderer's conventions.

    Vertices are in camera coordinates: x right, y down, z forward.

    Args:
        faces: `[faces, 3]` triangles, counter-clockwise seen from outside.
        image_size: Side of the square picture, or `(height, width)`, where no image is given.
        focal_length: Focal length of the default camera in pixels.
        supersample: Samples along each side of a pixel; 1 gives the original's hard edges.
        ambient: Share of the light that comes from everywhere, 0 to 1; 0 gives the original's black shadows.
        lights: Pairs `(position, colour)`; by default `original_lights()`.

    Example:
        >>> from posekit.bodies import sample_body
        >>> body = sample_body()
        >>> renderer = MeshRenderer(body.faces, image_size=224)
        >>> vertices = body.v_template * [1, -1, -1] + [0, 0, 5]  # upright, 5 m before the camera
        >>> renderer(vertices).shape
        (224, 224, 3)
        >>> from_the_side = renderer.rotated(vertices, 60, do_alpha=False)

    Follows: akanazawa/hmr:src/util/renderer.py (SMPLRenderer).
    Differs: no line overdraw at silhouettes (opendr's `overdraw`); white surfaces stay opaque in alpha.
    """

    def __init__(self, faces, image_size=256, focal_length=500.0, supersample=2, ambient=0.15, lights=None):
        if int(supersample) != supersample or not 1 <= supersample <= 8:
            raise ValueError(f"supersample={supersample}: pass a whole number from 1 to 8, such as 2.")
        if not 0.0 <= ambient <= 1.0:
            raise ValueError(f"ambient={ambient}: pass a share from 0 to 1, such as 0.15.")
        self.faces = np.asarray(faces)
        self.ambient = float(ambient)
        self.image_size = _height_width(image_size)
        self.focal_length = float(focal_length)
        self.supersample = int(supersample)
        self.lights = original_lights() if lights is None else list(lights)

    def __call__(
        self,
        vertices,
        camera=None,
        image=None,
        do_alpha=False,
        near=None,
        far=None,
        color="light_blue",
        image_size=None,
        opacity=1.0,
    ):
        """Draws a mesh.

        Args:
            vertices: `[vertices, 3]` metres.
            camera: `(focal, x, y)` in pixels or a `Camera`; by default the renderer's focal length and the middle of
                the picture.
            image: Picture to draw on; white by default.
            do_alpha: Give the picture an alpha channel: where the mesh is, or everywhere if there is an image.
            near: Nearest depth drawn; by default 25 m before the mesh, at least 0.1 m.
            far: Farthest depth drawn; by default 25 m behind the mesh, at least 25 m.
            color: Name in `MESH_COLORS`, or red, green, blue from 0 to 1.
            image_size: Overrides the renderer's where no image is given.
            opacity: 1 for a solid mesh, less to let the image shine through.

        Returns:
            uint8 `[height, width, 3]`, or 4 channels with `do_alpha`.

        Raises:
            ValueError: If the mesh is not finite or not made of these faces, or an option is out of range.
        """
        vertices, faces = check_mesh(vertices, self.faces)
        if not 0.0 <= opacity <= 1.0:
            raise ValueError(f"opacity={opacity}: pass a number from 0 (invisible) to 1 (solid).")
        backdrop = None if image is None else uint8_image(image)
        height, width = _height_width(image_size or self.image_size) if image is None else backdrop.shape[:2]
        if camera is None:
            camera = (self.focal_length, width / 2.0, height / 2.0)
        if not isinstance(camera, Camera):
            focal, x, y = (float(value) for value in camera)
            camera = Camera(focal, (x, y))
        vertices_cam = camera.to_camera(vertices)
        depth = vertices_cam[:, 2] if len(vertices_cam) else np.zeros(1)
        near = max(depth.min() - 25.0, 0.1) if near is None else near
        far = max(depth.max() + 25.0, 25.0) if far is None else far

        times = self.supersample
        focal, center = (np.asarray(value, np.float64) for value in (camera.focal, camera.center))
        center = (center + 0.5) * times - 0.5  # the middle of a pixel is the middle of its samples
        size = (height * times, width * times)
        seen = rasterize(vertices_cam, faces, focal * times, center, size, near, far, camera.distortion)
        albedo = _mesh_color(color)
        colors = point_light_shading(vertices, vertex_normals(vertices, faces), albedo, self.lights)
        colors = self.ambient * albedo + (1.0 - self.ambient) * colors
        colors = seen.interpolate(np.clip(colors, 0.0, 1.0))
        pixels, colors, coverage = _gather_samples(seen.pixels, colors, width, times)

        share = (coverage * opacity)[:, None]
        picture = np.full((height, width, 3), 255, np.uint8) if backdrop is None else backdrop.copy()
        flat = picture.reshape(-1, 3)
        under = 0.0 if do_alpha and backdrop is None else (1.0 - share) * flat[pixels]
        over = 1.0 if do_alpha and backdrop is None else share
        flat[pixels] = np.floor(under + over * colors * 255.0 + 0.5)
        if not do_alpha:
            return picture
        alpha = np.full((height * width, 1), 0 if backdrop is None else 255, np.uint8)
        if backdrop is None:
            alpha[pixels] = np.floor(share * 255.0 + 0.5)
        return np.concatenate([picture, alpha.reshape(height, width, 1)], -1)

    def rotated(self, vertices, deg, axis="y", camera=None, image=None, do_alpha=True, **options):
        """Draws a mesh turned about its own middle.

        Args:
            vertices: `[vertices, 3]` metres.
            deg: Angle in degrees.
            axis: `"x"`, `"y"` or `"z"`.
            camera: As in a call of the renderer.
            image: As in a call of the renderer.
            do_alpha: As in a call of the renderer, but on by default.
            **options: Further options of a call.

        Returns:
            uint8 picture, as a call of the renderer gives it.

        Raises:
            ValueError: If the axis is not known.
        """
        if axis not in ("x", "y", "z"):
            raise ValueError(f"axis={axis!r}: choose 'x', 'y' or 'z'.")
        vertices, _ = check_mesh(vertices, self.faces)
        turn = _rotation(np.radians(deg) * np.eye(3)["xyz".index(axis)])
        middle = vertices.mean(0) if len(vertices) else 0.0
        return self((vertices - middle) @ turn + middle, camera, image, do_alpha, **options)

    def place(self, vertices, camera, image_size=None):
        """Moves a predicted body before the renderer's default camera.

        Args:
            vertices: `[vertices, 3]` metres, as the model gives them.
            camera: `[3]` weak-perspective camera `(s, tx, ty)`.
            image_size: Side of the crop in pixels; the renderer's by default.

        Returns:
            Float64 `[vertices, 3]` camera coordinates.
        """
        height, width = _height_width(image_size or self.image_size)
        if height != width:
            raise ValueError(f"Weak-perspective cameras belong to square crops, not to {height}x{width} pixels.")
        translation = perspective_camera_from_weak(np.asarray(camera, np.float64), width, self.focal_length)
        return np.asarray(vertices, np.float64) + np.asarray(translation, np.float64)


def uncrop(crop, vertices, camera, joints_px, focal_length=500.0):
    """Takes a body predicted in a crop back to the image the crop was cut from.

    Args:
        crop: `posekit.geometry.crops.Crop`, made when the crop was cut.
        vertices: `[vertices, 3]` metres, as the model gives them.
        camera: `[3]` weak-perspective camera `(s, tx, ty)`.
        joints_px: `[joints, 2]` in pixels of the crop.
        focal_length: Focal length of the crop's pinhole camera in pixels.

    Returns:
        `(camera, vertices_cam, joints_px)`: focal length and principal point `[3]` in pixels of the image, vertices in
        camera coordinates, joints in pixels of the image.

    Follows: akanazawa/hmr:src/util/renderer.py (get_original).
    """
    translation = perspective_camera_from_weak(np.asarray(camera, np.float64), crop.size, focal_length)
    vertices_cam = np.asarray(vertices, np.float64) + np.asarray(translation, np.float64)
    center = crop.to_image((crop.size / 2.0, crop.size / 2.0))
    focal = np.mean(focal_length / np.asarray(crop.scale, np.float64))
    return np.array([focal, *center]), vertices_cam, crop.to_image(joints_px)


def draw_skeleton(
    image, joints_px, skeleton=COCO_PLUS19, visibility=None, draw_edges=True, radius=None, antialiased=True
):
    """Draws joints and bones.

    Args:
        image: Picture to draw on; it is not changed.
        joints_px: `[joints, 2]` x, y in pixels; joints that are not finite are left out.
        skeleton: `Skeleton` of the joints.
        visibility: `[joints]`; joints with 0 are left out. All are drawn by default.
        draw_edges: Draw bones and solid joints; otherwise one ring a joint.
        radius: Of the joints in pixels; by default 1 % of the image's size, at least 4.
        antialiased: Draw smoothly; false gives the original's picture, pixel by pixel.

    Returns:
        uint8 `[height, width, 3]`, or float32 0 to 1 for a float image.

    Raises:
        ValueError: If shapes do not fit the skeleton.

    Follows: akanazawa/hmr:src/util/renderer.py (draw_skeleton).
    Differs: float32 images are drawn on like float64 ones; any skeleton, coloured by the joints' names.
    """
    joints = np.asarray(joints_px, np.float64)
    if joints.shape != (skeleton.num_joints, 2):
        raise ValueError(
            f"joints_px has shape {joints.shape}, but skeleton {skeleton.name!r} needs [{skeleton.num_joints}, 2]; "
            "pass the skeleton of these joints."
        )
    seen = np.isfinite(joints).all(-1)
    if visibility is not None:
        visibility = np.asarray(visibility)
        if visibility.shape != (skeleton.num_joints,):
            raise ValueError(f"visibility has shape {visibility.shape}; it must be [{skeleton.num_joints}].")
        seen &= visibility != 0
    joints = np.clip(np.where(seen[:, None], joints, 0.0), -_FARTHEST_PX, _FARTHEST_PX)
    canvas = uint8_image(image).copy()
    if radius is None:
        radius = max(4, int(np.mean(canvas.shape[:2]) * 0.01))
    colors = joint_colors(skeleton)
    draw = _draw_smoothly if antialiased else _draw_as_original
    draw(canvas, joints, seen, skeleton.parents, colors, draw_edges, int(radius))
    return canvas if np.asarray(image).dtype == np.uint8 else canvas.astype(np.float32) / 255.0


def joint_colors(skeleton):
    """Colours of joints and bones by the joints' names: left and right differ, and so do legs, arms and trunk.

    Args:
        skeleton: A `Skeleton`.

    Returns:
        List of `(joint, bone)` for every joint: its colour and that of the bone to its parent, RGB from 0 to 255.
    """
    return [_joint_colors(name, index) for index, name in enumerate(skeleton.joints)]


def draw_text(image, content, antialiased=True):
    """Writes named numbers into the upper left corner.

    Args:
        image: Picture to draw on; it is not changed.
        content: Dict of names to numbers, written in alphabetical order with two digits.
        antialiased: Light letters with a dark outline, sized like the image; false gives the original's small black
            ones.

    Returns:
        uint8 `[height, width, 3]`, or float32 0 to 1 for a float image.

    Follows: akanazawa/hmr:src/util/renderer.py (draw_text).
    """
    canvas = uint8_image(image).copy()
    scale = 1.0 if not antialiased else max(1.0, min(canvas.shape[:2]) / 224.0)
    letters = np.zeros(canvas.shape[:2], np.uint8)
    for line, name in enumerate(sorted(content), 1):
        text, place = f"{name}: {content[name]:.2g}", (round(5 * scale), round(15 * line * scale))
        if antialiased:
            cv2.putText(letters, text, place, cv2.FONT_HERSHEY_SIMPLEX, 0.45 * scale, 255, round(scale), cv2.LINE_AA)
        else:
            cv2.putText(canvas, text, place, cv2.FONT_HERSHEY_SIMPLEX, 0.45, (0, 0, 0))
    if antialiased:
        reach = 2 * round(scale) + 1
        shadow = cv2.dilate(letters, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (reach, reach)))
        for shape, color in ((shadow, 25.0), (letters, 255.0)):
            share = shape[..., None] / 255.0
            canvas = np.rint(canvas * (1.0 - share) + color * share).astype(np.uint8)
    return canvas if np.asarray(image).dtype == np.uint8 else canvas.astype(np.float32) / 255.0


def draw_people(people, image, path=None, mesh=True, skeleton=None, min_score=0.05, opacity=1.0, supersample=2):
    """Draws people over their image: meshes where they have them, farther ones first, skeletons otherwise.

    Args:
        people: `posekit.results.People`.
        image: The picture they were found in.
        path: Picture to write; none by default.
        mesh: Draw the meshes.
        skeleton: Draw the skeletons; by default only where there is no mesh.
        min_score: Joints with a lower score are left out.
        opacity: Of the meshes, 0 to 1.
        supersample: Samples along each side of a pixel in the meshes.

    Returns:
        uint8 `[height, width, 3]`.

    Raises:
        ValueError: If there is no image.
    """
    if image is None:
        raise ValueError("These people carry no image; pass one: people.draw('out.png', image=image).")
    picture = uint8_image(image)
    has_mesh = mesh and people.vertices is not None and people.camera is not None
    if has_mesh:
        renderer = MeshRenderer(people.faces, supersample=supersample)
        names = list(MESH_COLORS)
        finite = np.isfinite(people.vertices).all((1, 2)) & np.isfinite(people.camera).all(1)
        size = people.camera[:, 0] / np.maximum(people.vertices[..., 2].mean(-1), 1e-6)
        for index in np.argsort(np.where(finite, size, np.inf)):  # pixels per metre grow towards the camera
            if finite[index]:
                color = names[index % len(names)]
                camera = people.camera[index]
                picture = renderer(people.vertices[index], camera, picture, color=color, opacity=opacity)
    if skeleton or (skeleton is None and not has_mesh):
        for joints, scores in zip(people.keypoints_px, people.scores):
            picture = draw_skeleton(picture, joints, people.skeleton, scores >= min_score)
    if path is not None:
        save_image(path, picture)
    return picture


def stage_grid(
    image, vertices, cameras, keypoints_ndc, renderer, true_keypoints=None, silhouette=None, skeleton=COCO_PLUS19
):
    """Shows how the regression of one sample proceeds: a row for each stage.

    The columns are the skeleton on the image (rings: true joints), the mesh on the image with the camera and the
    keypoint error `kpl` (sum of squared ndc distances over visible joints), and the mesh on the silhouette.

    Args:
        image: `[size, size, 3]`.
        vertices: `[stages, vertices, 3]` metres.
        cameras: `[stages, 3]` weak-perspective cameras `(s, tx, ty)`.
        keypoints_ndc: `[stages, joints, 2]` predicted.
        renderer: `MeshRenderer` of the body.
        true_keypoints: `[joints, 3]` x, y in ndc, visibility; none by default.
        silhouette: `[size, size]` or `[size, size, 1]`, positive on the person; without it, or where it is empty,
            the third column shows the mesh from the side (60 degrees).
        skeleton: `Skeleton` of the keypoints.

    Returns:
        uint8 `[stages * size, 3 * size, 3]`.

    Follows: maxpit/human-pose-estimation (summary images of a training run).
    """
    image = uint8_image(image)
    size = image.shape[0]
    backdrop = image
    if true_keypoints is not None:
        true_keypoints = np.asarray(true_keypoints, np.float64)
        true_px = (true_keypoints[:, :2] + 1.0) * 0.5 * size
        backdrop = draw_skeleton(image, true_px, skeleton, true_keypoints[:, 2], draw_edges=False)
    shape = None if silhouette is None else _silhouette_picture(silhouette)
    rows = []
    for mesh, camera, keypoints in zip(vertices, np.asarray(cameras), np.asarray(keypoints_ndc, np.float64)):
        content = dict(zip(("sc", "tx", "ty"), camera))
        if true_keypoints is not None:
            difference = (keypoints - true_keypoints[:, :2])[true_keypoints[:, 2] != 0]
            content["kpl"] = np.sum(difference**2)
        with_bones = draw_skeleton(backdrop, (keypoints + 1.0) * 0.5 * size, skeleton)
        on_image, beside = image, np.full_like(image, 255)
        if np.isfinite(mesh).all() and np.isfinite(camera).all() and camera[0] > 0:
            placed = renderer.place(mesh, camera, size)
            on_image = renderer(placed, image=image)
            if shape is None or not shape.any():
                beside = renderer.rotated(placed, 60, image_size=size, do_alpha=False)
            else:
                beside = renderer(placed, image=shape, opacity=0.75)
        rows.append(np.concatenate([with_bones, draw_text(on_image, content), beside], 1))
    return np.concatenate(rows)


def mocap_grid(vertices, faces, cell_size=224, views=MOCAP_VIEWS, supersample=2):
    """Shows bodies from several sides: a column for each body, a row for each view.

    Args:
        vertices: `[bodies, vertices, 3]` metres, around the origin, z up as motion capture has it.
        faces: `[faces, 3]`.
        cell_size: Side of each picture in pixels.
        views: Axis-angle rotations of the cameras, 1.2 m from the origin.
        supersample: Samples along each side of a pixel.

    Returns:
        uint8 `[views * cell_size, bodies * cell_size, 3]`.

    Follows: maxpit/human-pose-estimation:visualizations/draw_smpls.py.
    Differs: the lamps move with the camera, so that no view lies in the dark.
    """
    renderer = MeshRenderer(faces, cell_size, cell_size / 2.0, supersample)
    cameras = [Camera(renderer.focal_length, (0.0, 0.0), view, (0.0, 0.0, 1.2)) for view in views]
    rows = [np.concatenate([renderer(camera.to_camera(body)) for body in vertices], 1) for camera in cameras]
    return np.concatenate(rows)


def dataset_picture(image, silhouette, joints_px, skeleton=COCO_PLUS19, visibility=None):
    """Shows a training sample: the image, and its silhouette with the keypoints.

    Args:
        image: `[height, width, 3]`.
        silhouette: `[height, width]` or `[height, width, 1]`, positive on the person; none gives an empty one.
        joints_px: `[joints, 2]` in pixels.
        skeleton: `Skeleton` of the joints.
        visibility: `[joints]`.

    Returns:
        uint8 `[height, 2 * width, 3]`.

    Follows: maxpit/human-pose-estimation:visualizations/vis_2d_datasets.py.
    """
    image = uint8_image(image)
    shape = np.zeros_like(image) if silhouette is None else _silhouette_picture(silhouette)
    joints = draw_skeleton(shape, joints_px, skeleton, visibility)
    return np.concatenate([image, joints], 1)


def side_by_side(images, titles=None, height=None, gap=8):
    """Puts pictures beside each other, scaled to one height.

    Args:
        images: List of pictures.
        titles: One text a picture, written below it; none by default.
        height: Of the pictures in pixels; the tallest one's by default.
        gap: White pixels between them.

    Returns:
        uint8 `[height, width, 3]`.
    """
    images = [uint8_image(image) for image in images]
    if not images or (titles is not None and len(titles) != len(images)):
        raise ValueError(f"{len(images)} images and titles {titles}: pass at least one image, and a title for each.")
    height = height or max(image.shape[0] for image in images)
    images = [_scaled_to_height(image, height) for image in images]
    scale = np.clip(min(image.shape[1] for image in images) / 500.0, 0.4, 1.0)
    columns = []
    for index, image in enumerate(images):
        if titles is not None:
            strip = np.full((round(40 * scale), image.shape[1], 3), 255, np.uint8)
            place = (4, round(29 * scale))
            cv2.putText(strip, titles[index], place, cv2.FONT_HERSHEY_SIMPLEX, scale, (40, 40, 40), 1, cv2.LINE_AA)
            image = np.concatenate([image, strip])
        columns += [image, np.full((image.shape[0], gap, 3), 255, np.uint8)]
    return np.concatenate(columns[:-1], 1)


def _scaled_to_height(image, height):
    if image.shape[0] == height:
        return image
    width = max(1, round(image.shape[1] * height / image.shape[0]))
    how = cv2.INTER_AREA if height < image.shape[0] else cv2.INTER_LINEAR
    return cv2.resize(image, (width, height), interpolation=how)


def plot_pck(curves, path=None, mark=0.2):
    """Plots the share of correct keypoints over the distance that still counts as correct.

    Args:
        curves: Dict of labels to `(thresholds [n], shares [n])`, shares from 0 to 1.
        path: Picture to write; none by default.
        mark: Threshold at which a line is drawn and the share written into the legend; none with None.

    Returns:
        uint8 `[height, width, 3]`.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.0, 4.2), dpi=110, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for label, (thresholds, shares) in curves.items():
        thresholds, shares = np.asarray(thresholds, np.float64), np.asarray(shares, np.float64)
        if mark is not None and thresholds.size and thresholds.min() <= mark <= thresholds.max():
            label = f"{label} ({100 * np.interp(mark, thresholds, shares):.1f} % at {mark:g})"
        axes.plot(thresholds, 100 * shares, label=label, linewidth=1.8)
    if mark is not None:
        axes.axvline(mark, color="0.6", linewidth=0.8, linestyle="--")
    axes.set(xlabel="normalised distance", ylabel="correct keypoints, %", ylim=(0, 100))
    axes.set_xlim(left=0)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    if curves:
        axes.legend(frameon=False, loc="lower right", fontsize="small")
    canvas.draw()
    picture = np.asarray(canvas.buffer_rgba())[..., :3].copy()
    if path is not None:
        save_image(path, picture)
    return picture


def uint8_image(image, low=0.0, high=1.0):
    """Gives a picture the form used here.

    Args:
        image: `[height, width]`, or with 1, 3 or 4 channels (alpha is dropped); uint8, or float from `low` to `high`.
        low: Value of black in a float image; -1 for what a network takes.
        high: Value of white in a float image.

    Returns:
        uint8 `[height, width, 3]`. Floats are cut to whole numbers, not rounded, as the original does.

    Raises:
        ValueError: If the shape or the values are not those of an image.
    """
    image = np.asarray(image)
    if image.ndim == 2:
        image = image[..., None]
    if image.ndim != 3 or image.shape[-1] not in (1, 3, 4) or not image.size:
        raise ValueError(f"An image of shape {image.shape}: pass one picture, [height, width, 3].")
    if np.issubdtype(image.dtype, np.floating):
        slack = 0.01 * (high - low)
        if not (image.min() >= low - slack and image.max() <= high + slack):
            raise ValueError(
                f"A float image with values from {image.min():g} to {image.max():g}: they must lie between {low:g} "
                f"and {high:g}; pass uint8, or uint8_image(image, low=-1) of a network's input."
            )
        image = np.clip((image.astype(np.float64) - low) / (high - low) * 255.0, 0.0, 255.0).astype(np.uint8)
    elif image.dtype == bool:
        image = image.astype(np.uint8) * 255
    elif image.dtype != np.uint8:
        raise ValueError(f"An image of type {image.dtype}: pass uint8, or float from 0 to 1.")
    return np.ascontiguousarray(np.repeat(image, 3, -1) if image.shape[-1] == 1 else image[..., :3])


def save_image(path, image):
    """Writes a picture; nothing half-written ever stands under its name.

    Args:
        path: File whose suffix gives the format: .png, .jpg, .jpeg, .bmp or .webp.
        image: RGB picture, or RGBA where the format has alpha.

    Raises:
        ValueError: If the suffix is not known.
        OSError: If the file cannot be written.
    """
    suffix = pathlib.Path(path).suffix.lower()
    if suffix not in _IMAGE_SUFFIXES:
        raise ValueError(f"{path}: pictures are written as {', '.join(_IMAGE_SUFFIXES)}; give such a name.")
    image = np.asarray(image)
    if image.dtype == np.uint8 and image.ndim == 3 and image.shape[-1] == 4 and suffix in (".png", ".webp"):
        pixels = cv2.cvtColor(image, cv2.COLOR_RGBA2BGRA)
    else:
        pixels = cv2.cvtColor(uint8_image(image), cv2.COLOR_RGB2BGR)
    write_file(path, cv2.imencode(suffix, pixels)[1].tobytes())


def _rotation(axis_angle):
    return cv2.Rodrigues(np.asarray(axis_angle, np.float64).reshape(3))[0]


def _height_width(size):
    size = np.broadcast_to(np.asarray(size), (2,))
    return int(size[0]), int(size[1])


def _mesh_color(color):
    if isinstance(color, str):
        if color not in MESH_COLORS:
            raise ValueError(f"color={color!r}: choose one of {list(MESH_COLORS)}, or give red, green, blue.")
        color = MESH_COLORS[color]
    color = np.asarray(color, np.float64)
    if color.shape != (3,) or not ((0 <= color) & (color <= 1)).all():
        raise ValueError(f"color={color}: give red, green and blue from 0 to 1.")
    return color


def _gather_samples(samples, colors, width, times):
    """Means of the samples within each pixel.

    Returns the flat pixels touched, their mean colours over the covered samples, and the share covered.
    """
    if times == 1:
        return samples, colors, np.ones(len(samples))
    row, column = samples // (width * times), samples % (width * times)
    pixel = row // times * width + column // times
    first = pixel[0] // width * width if len(pixel) else 0  # rows above the mesh need no counting
    count = np.bincount(pixel - first)
    pixels = np.flatnonzero(count)
    count = count[pixels]
    sums = np.stack([np.bincount(pixel - first, colors[:, c])[pixels] for c in range(3)], -1)
    return pixels + first, sums / count[:, None], count / times**2


def _silhouette_picture(silhouette):
    silhouette = np.asarray(silhouette)
    silhouette = silhouette.reshape(silhouette.shape[:2])
    return np.where(silhouette[..., None] > 0, np.uint8([235, 235, 235]), np.uint8(0))


def _joint_colors(name, index):
    """Colours of a joint and of the bone to its parent."""
    side = 1 if name.startswith("left_") else 0
    stem = name.removeprefix("left_").removeprefix("right_")
    for part, stems in _BODY_PARTS.items():
        if stem in stems:
            joints, bones = _PART_COLORS[part]
            return _PALETTE[joints[side]], _PALETTE[bones[side]]
    color = _PALETTE[_OTHER_COLORS[index % len(_OTHER_COLORS)]]
    return color, color


def _draw_as_original(canvas, joints, seen, parents, colors, draw_edges, radius):
    points = [tuple(int(value) for value in point) for point in np.round(joints)]
    for child, parent in enumerate(parents):
        if not seen[child]:
            continue
        if not draw_edges:
            cv2.circle(canvas, points[child], radius - 1, colors[child][0], 1)
            continue
        cv2.circle(canvas, points[child], radius, _PALETTE["white"], -1)
        cv2.circle(canvas, points[child], radius - 1, colors[child][0], -1)
        if parent >= 0 and seen[parent]:
            cv2.circle(canvas, points[parent], radius - 1, colors[parent][0], -1)
            cv2.line(canvas, points[child], points[parent], colors[child][1], max(1, radius - 2))


def _draw_smoothly(canvas, joints, seen, parents, colors, draw_edges, radius):
    """Bones first, then joints on top, at fractions of pixels."""
    fine = 1 << _SUBPIXEL_BITS
    points = [tuple(int(value) for value in point) for point in np.round(joints * fine)]

    def circle(joint, size, color, thickness):
        cv2.circle(canvas, points[joint], round(size * fine), color, thickness, cv2.LINE_AA, _SUBPIXEL_BITS)

    thin = max(1, round(radius / 4))
    if not draw_edges:
        for joint in np.flatnonzero(seen):
            circle(joint, radius - 0.5, _PALETTE["white"], thin + 1)
            circle(joint, radius - 0.5, colors[joint][0], thin)
        return
    bones = [(child, parent) for child, parent in enumerate(parents) if parent >= 0 and seen[child] and seen[parent]]
    for child, parent in bones:
        ends = points[child], points[parent]
        cv2.line(canvas, *ends, colors[child][1], max(1, radius - 1), cv2.LINE_AA, _SUBPIXEL_BITS)
    for joint in np.flatnonzero(seen):
        circle(joint, radius, _PALETTE["white"], -1)
        circle(joint, radius - max(1.0, radius / 4), colors[joint][0], -1)
