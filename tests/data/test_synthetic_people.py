import numpy as np
import pytest

from posekit.bodies import sample_body
from posekit.data.synthetic_people import sample_people_picture


@pytest.fixture(scope="module")
def pictures():
    return [
        sample_people_picture(np.random.default_rng([5, seed]), sample_body(), (120, 160), people, crowd)
        for seed, (people, crowd) in enumerate([(1, 0), (4, 3), (3, 0)])
    ]


def test_people_hide_each_other(pictures):
    for picture in pictures:
        assert picture.image.shape == (120, 160, 3) and picture.image.dtype == np.uint8
        assert len(picture.seen) == len(picture.people) >= 1
        assert ((picture.seen >= 0.3) & (picture.seen <= 1)).all()
        masks = np.array([person.mask for person in picture.people] + [picture.crowd])
        # No pixel shows two people.
        assert masks.sum(0).max() == 1
        for person in picture.people:
            x, y = np.rint(person.keypoints_px[person.visible]).astype(int).T
            others = [other.mask for other in picture.people if other is not person]
            assert not any(mask[y, x].any() for mask in others)
    assert pictures[1].crowd.any() and not pictures[0].crowd.any()


def test_same_seed_same_picture(pictures):
    again = sample_people_picture(np.random.default_rng([5, 0]), sample_body(), (120, 160), 1)
    np.testing.assert_array_equal(again.image, pictures[0].image)


def test_people_differ(pictures):
    heights = [np.ptp(np.argwhere(person.mask)[:, 0]) for picture in pictures for person in picture.people]
    assert max(heights) > 1.3 * min(heights)
