"""The shipped weights find people that they have never seen, in pictures by which nothing about them was chosen."""

import numpy as np
import pytest

import posekit
from posekit.bodies import sample_body
from posekit.data.synthetic_people import sample_people_picture
from posekit.skeletons import COCO_PLUS19, OPENPOSE18

HEAD = COCO_PLUS19.index("neck"), COCO_PLUS19.index("head_top")


@pytest.fixture(scope="module")
def pictures():
    body = sample_body()
    return [
        sample_people_picture(np.random.default_rng([20261, number]), body, (240, 320), num_people=1 + number % 4)
        for number in range(10)
    ]


def near_joints(found, picture, share=0.5):
    """Which visible joints of the picture's people are within a share of their heads' length.

    Each person who was found stands for one person of the picture at most.
    """
    visible, hits = [], []
    for person in picture.people:
        points, known = COCO_PLUS19.convert(person.keypoints_px, to=OPENPOSE18)
        seen = COCO_PLUS19.convert(person.visible[:, np.newaxis].astype(float), to=OPENPOSE18)[0][:, 0] > 0.5
        head_px = person.scale * np.linalg.norm(np.subtract(*person.joints3d[list(HEAD)]))
        visible.append(seen & known)
        hits.append((np.linalg.norm(found.keypoints_px - points, axis=-1) < share * head_px) & visible[-1])
    visible, hits = np.array(visible), np.array(hits)
    best, counts = np.zeros_like(visible), hits.sum(-1)
    while counts.size and counts.max() > 0:
        person, other = np.unravel_index(counts.argmax(), counts.shape)
        best[person] = hits[person, other]
        counts[person], counts[:, other] = 0, 0
    return best[visible]


def test_nine_of_ten_joints_are_found(pictures):
    find = posekit.load("openpose", "openpose_sample")
    results = find([picture.image for picture in pictures])
    near = np.concatenate([near_joints(*pair) for pair in zip(results, pictures)])
    assert len(near) > 200
    assert near.mean() >= 0.9
