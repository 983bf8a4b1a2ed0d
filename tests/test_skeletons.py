import numpy as np
import pytest

from posekit.skeletons import (
    COCO17,
    COCO_PLUS19,
    DEPTH_SKELETONS,
    LSP14,
    MPII16,
    OPENPOSE18,
    SKELETONS,
    SMPL24,
    Skeleton,
)
from posekit.testing import load_fixture


def test_lsp_bone_parents_are_the_original_table():
    assert LSP14.parents == (1, 2, 8, 9, 3, 4, 7, 8, 12, 12, 9, 10, 13, -1)
    assert [child for child, _ in LSP14.bones] == list(range(13))


def test_cocoplus_draw_parents_are_the_original_table():
    assert COCO_PLUS19.parents == (1, 2, 8, 9, 3, 4, 7, 8, 12, 12, 9, 10, 14, -1, 13, -1, -1, 15, 16)


def test_flip_permutations_are_the_original_tables():
    swap = [5, 4, 3, 2, 1, 0, 11, 10, 9, 8, 7, 6, 12, 13, 14, 16, 15, 18, 17]
    assert COCO_PLUS19.flip_permutation.tolist() == swap
    assert LSP14.flip_permutation.tolist() == swap[:14]


@pytest.mark.parametrize("skeleton", SKELETONS.values(), ids=SKELETONS)
def test_flipping_twice_is_the_identity(skeleton):
    permutation = skeleton.flip_permutation
    assert (permutation[permutation] == np.arange(skeleton.num_joints)).all()


def test_mpii_to_lsp_is_the_original_remap():
    order = np.arange(16, dtype=np.float32)[:, None]
    converted, found = MPII16.convert(order, to=LSP14)
    assert converted[:, 0].tolist() == [0, 1, 2, 3, 4, 5, 10, 11, 12, 13, 14, 15, 8, 9]
    assert found.all()


def test_coco_to_cocoplus_is_the_original_map():
    converted, found = COCO17.convert(np.arange(17)[:, None], to=COCO_PLUS19)
    assert converted[found, 0].tolist() == [16, 14, 12, 11, 13, 15, 10, 8, 6, 5, 7, 9, 0, 1, 2, 3, 4]
    assert np.flatnonzero(~found).tolist() == [12, 13]
    assert (converted[12:14] == 0).all()


def test_smpl_parents():
    assert SMPL24.parents == (-1, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 9, 9, 12, 13, 14, 16, 17, 18, 19, 20, 21)


def test_bone_matrix_gives_child_minus_parent():
    points = np.random.default_rng(0).normal(size=(14, 3)).astype(np.float32)
    bones = points.T @ LSP14.bone_matrix()
    for column, (child, parent) in enumerate(LSP14.bones):
        np.testing.assert_allclose(bones[:, column], points[child] - points[parent], rtol=1e-6)


def test_neighbours_by_hops():
    chain = Skeleton("chain", ("a", "b", "c"), (("b", "a"), ("c", "b")))
    assert chain.neighbours(0).tolist() == np.eye(3, dtype=bool).tolist()
    assert chain.neighbours(1)[0].tolist() == [True, True, False]
    assert chain.neighbours(2).all()


def test_convert_refuses_the_wrong_number_of_joints():
    with pytest.raises(ValueError, match=r"COCO17.*17 joints"):
        COCO17.convert(np.zeros((18, 2)), to=LSP14)


@pytest.mark.parametrize(
    ("joints", "bones", "message"),
    [
        (("a", "a"), (), "more than once"),
        (("a",), (("a", "b"),), "name"),
        (("a", "b", "c"), (("a", "b"), ("a", "c")), "several parents"),
        (("left_a",), (), "without its twin"),
    ],
)
def test_bad_skeletons_are_refused(joints, bones, message):
    with pytest.raises(ValueError, match=message):
        Skeleton("bad", joints, bones)


def test_unknown_joint_is_named():
    with pytest.raises(KeyError, match="nose"):
        LSP14.index("nose")


# Chains of joints, numbered from 1, as the original draws them.
DRAWN = {
    "MSRA21": ((1, 18, 19, 20, 21), (1, 2, 3, 4, 5), (1, 6, 7, 8, 9), (1, 10, 11, 12, 13), (1, 14, 15, 16, 17)),
    "ICVL16": ((1, 2, 3, 4), (1, 5, 6, 7), (1, 8, 9, 10), (1, 11, 12, 13), (1, 14, 15, 16)),
    "HANDS21": ((1, 2, 7, 8, 9), (1, 3, 10, 11, 12), (1, 4, 13, 14, 15), (1, 5, 16, 17, 18), (1, 6, 19, 20, 21)),
    "NYU14": ((14, 13), (14, 12), (14, 11, 10, 9), (14, 8, 7), (14, 6, 5), (14, 4, 3), (14, 2, 1)),
    "ITOP15": ((2, 1), (2, 3, 5, 7), (2, 4, 6, 8), (2, 9, 10, 12, 14), (9, 11, 13, 15)),
}


@pytest.mark.parametrize("name", DRAWN)
def test_bones_of_depth_skeletons_are_those_that_the_original_draws(name):
    skeleton = DEPTH_SKELETONS[name]
    drawn = {pair for chain in DRAWN[name] for pair in zip(chain, chain[1:])}
    assert {(parent + 1, child + 1) for child, parent in skeleton.bones} == drawn
    assert len(skeleton.bones) == skeleton.num_joints - 1 == int(name.lstrip("ABCDEFGHIJKLMNOPQRSTUVWXYZ")) - 1


# Pairs of joints whose part affinity fields are trained, in the order of their channels.
FIELDS = (
    (1, 8), (8, 9), (9, 10), (1, 11), (11, 12), (12, 13), (1, 2), (2, 3), (3, 4), (2, 16), (1, 5), (5, 6), (6, 7),
    (5, 17), (1, 0), (0, 14), (0, 15), (14, 16), (15, 17),
)  # fmt: skip


def test_limbs_and_their_grouping_are_the_original_tables():
    assert OPENPOSE18.limbs == FIELDS
    reference = load_fixture("rmpe_util")
    ends = [np.add(OPENPOSE18.limbs[limb], 1).tolist() for limb in OPENPOSE18.limb_grouping]
    assert ends == reference["limbSeq"].tolist()
    channels = [[19 + 2 * limb, 20 + 2 * limb] for limb in OPENPOSE18.limb_grouping]
    assert channels == reference["hmapIdx"].tolist()
    assert OPENPOSE18.limb_opens == (True,) * 17 + (False,) * 2


def test_limbs_flip_with_their_joints():
    permutation, signs = OPENPOSE18.limb_flip
    mirrored = OPENPOSE18.flip_permutation[np.array(OPENPOSE18.limbs)]
    assert (np.array(OPENPOSE18.limbs)[permutation] == mirrored).all()
    assert (signs == 1).all()
    _, signs = COCO17.limb_flip  # the bone between the shoulders points to the right one on both sides
    assert signs.tolist() == [1] * 14 + [-1]
    with pytest.raises(ValueError, match="twin"):
        _ = Skeleton("odd", ("left_a", "right_a", "b"), (("left_a", "b"),)).limb_flip


def test_limbs_of_other_skeletons_are_their_bones_and_are_grouped_as_they_hang_together():
    chain = Skeleton("chain", ("a", "b", "c", "d"), (("b", "a"), ("d", "c"), ("c", "b")))
    assert chain.limbs == ((0, 1), (2, 3), (1, 2))
    assert chain.limb_grouping == (0, 2, 1)
    assert chain.limb_opens == (True, True, True)
    loop = Skeleton("loop", ("a", "b", "c"), limb_names=(("a", "b"), ("b", "c"), ("c", "a")))
    assert loop.limb_opens == (True, True, False)


@pytest.mark.parametrize(
    ("limbs", "grouping", "message"),
    [
        ((("a", "x"),), (), "x"),
        ((("a", "b"), ("b", "a")), (), "twice"),
        ((("a", "a"),), (), "itself"),
        ((("a", "b"),), (("b", "a"),), "another order"),
    ],
)
def test_bad_limbs_are_refused(limbs, grouping, message):
    with pytest.raises(ValueError, match=message):
        Skeleton("bad", ("a", "b"), limb_names=limbs, grouping_names=grouping)
