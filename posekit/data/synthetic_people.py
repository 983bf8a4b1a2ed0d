"""Pictures of several people made by code, with everything known: near and far, side by side, behind each other.

Everything is a pure function of the `numpy.random.Generator` passed in.
"""

import dataclasses

import numpy as np

from posekit.data.synthetic import (
    behind,
    draw_person,
    photograph,
    pose_body,
    sample_background,
    sample_light,
    sample_outfit,
    sample_poses,
    sample_shapes,
)

# How tall people are, as shares of the picture's height, from the farthest to the nearest.
FAR, NEAR = 0.38, 0.98
# People of whom less than this share is seen are drawn nowhere.
_LEAST_SEEN = 0.35
# How far apart most people's middles are, in shares of the larger box's longer side.
_APART = 0.36
_ATTEMPTS = 40


@dataclasses.dataclass(frozen=True, eq=False)
class PeoplePicture:
    """A picture with everything that is known about its people.

    Args:
        image: Uint8 `[H, W, 3]` RGB.
        people: List of `Person`, the farthest first.
        seen: Float `[people]`, share of each person's silhouette that is inside the picture and not behind others.
        crowd: Boolean `[H, W]`, true on people far away who are not told apart.
    """

    image: np.ndarray
    people: list
    seen: np.ndarray
    crowd: np.ndarray


def sample_people_picture(rng, body, size=(240, 320), num_people=3, num_crowd=0):
    """Draws a picture of people who stand about at random: those in front are larger and hide others.

    Args:
        rng: `numpy.random.Generator`.
        body: `posekit.bodies.BodyModel` with 24 joints and 19 keypoints.
        size: `(height, width)` in pixels.
        num_people: How many people to draw; where there is no room, fewer.
        num_crowd: How many people to draw far behind them, as one crowd.

    Returns:
        A `PeoplePicture`.
    """
    height, width = (int(side) for side in size)
    image, light = sample_background(rng, (height, width)), sample_light(rng)
    crowd = np.zeros((height, width), bool)
    middle, row = rng.uniform(0.15, 0.85) * width, rng.uniform(0.3, 0.5) * height
    for _ in range(num_crowd):
        tall = rng.uniform(0.16, 0.24) * height
        place = middle + rng.normal(0, 0.4) * tall, row + rng.normal(0, 0.1) * tall
        image, person = _Sketch(rng, body, tall, place).draw(rng, image, body, light)
        crowd |= person.mask
    people, whole, boxes = [], [], []
    for depth in np.sort(rng.random(num_people)):
        # Some people stand right before others, which training cannot tell apart; most do not.
        apart = _APART if rng.random() < 0.85 else 0.0
        for _ in range(_ATTEMPTS):
            # Near people stand lower in the picture; some of them are cut off by its border.
            tall = (FAR + (NEAR - FAR) * depth) * rng.uniform(0.85, 1.1) * height
            place = rng.uniform(0.06, 0.94) * width, (0.46 + 0.2 * depth + rng.normal(0, 0.05)) * height
            sketch = _Sketch(rng, body, tall, place)
            if not all(sketch.is_apart(box, apart) for box in boxes):
                continue
            drawn, person = sketch.draw(rng, image, body, light)
            # About what the person would cover in a picture without borders, by the part that is inside.
            pixels = person.mask.sum() / max(sketch.share_inside((height, width)), 1e-3)
            masks = [other.mask & ~person.mask for other in people] + [person.mask]
            left = np.array([mask.sum() for mask in masks])
            if (left >= _LEAST_SEEN * np.array([*whole, pixels])).all():
                image, whole, boxes = drawn, [*whole, pixels], [*boxes, sketch.box]
                crowd &= ~person.mask
                people = [behind(other, person.mask) for other in people] + [person]
                break
    seen = np.array([person.mask.sum() for person in people]) / np.maximum(whole, 1)
    return PeoplePicture(photograph(rng, image), people, np.minimum(seen, 1.0), crowd)


class _Sketch:
    """A person `tall` pixels tall around a place `(x, y)`, before drawing."""

    def __init__(self, rng, body, tall, place):
        self._pose, self._shape = sample_poses(rng, 1)[0], sample_shapes(rng, 1, body.num_shape)[0]
        self._posed = pose_body(body, self._pose, self._shape)
        self._scale = tall / np.ptp(body.v_template[:, 1])
        outline = self._posed.vertices[:, :2] * self._scale
        self._offset = np.asarray(place) - (outline.min(0) + outline.max(0)) / 2
        self._outline = outline + self._offset
        self.box = self._outline.min(0), self._outline.max(0)

    def is_apart(self, box, share):
        """Whether the middles are farther from each other than a share of the longest side of the boxes."""
        middles = [(low + high) / 2 for low, high in (self.box, box)]
        longest = max((high - low).max() for low, high in (self.box, box))
        return np.linalg.norm(middles[0] - middles[1]) >= share * longest

    def share_inside(self, size):
        return ((self._outline >= 0) & (self._outline < size[::-1])).all(-1).mean()

    def draw(self, rng, image, body, light):
        outfit = sample_outfit(rng)
        return draw_person(
            image, body, self._pose, self._shape, self._scale, self._offset, outfit, light, self._posed
        )
