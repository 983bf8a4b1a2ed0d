import dataclasses

import numpy as np
import pytest

from posekit import train
from posekit.results import People
from posekit.skeletons import MSRA21
from posekit.systems import SYSTEMS, v2v
from posekit.training.config import parse


def test_recipes_of_both_originals():
    port, lua = v2v.Config(), v2v.Config(convention="lua")
    assert (port.batch_size, port.num_epochs, port.learning_rate, port.optimizer) == (12, 15, 1e-3, "adam")
    assert (lua.batch_size, lua.num_epochs, lua.learning_rate, lua.optimizer) == (8, 10, 2.5e-4, "rmsprop")
    chosen = v2v.Config(convention="lua", batch_size=3, num_epochs=2, learning_rate=0.1, optimizer="adam")
    assert (chosen.batch_size, chosen.num_epochs, chosen.learning_rate, chosen.optimizer) == (3, 2, 0.1, "adam")


def test_what_follows_dataset_and_convention_goes_on_following_them():
    other = v2v.Config(num_epochs=3).replace(dataset="nyu", convention="lua")
    assert (other.cubic_size, other.batch_size, other.num_epochs, other.optimizer) == (250, 8, 3, "rmsprop")
    assert v2v.Config().replace(dataset="nyu", cubic_size=123.0).cubic_size == 123
    flags = ["--model=v2v", "--dataset=itop_top", "--convention=lua", "--batch_size=5"]
    parsed = parse(flags, SYSTEMS, train.Command)[2]
    assert (parsed.cubic_size, parsed.batch_size, parsed.num_epochs, parsed.learning_rate) == (2, 5, 10, 2.5e-4)


@pytest.mark.parametrize(
    ("dataset", "cube", "joints"),
    [("msra", 200, 21), ("icvl", 200, 16), ("nyu", 250, 14), ("hands2017", 250, 21), ("itop_top", 2, 15)],
)
def test_datasets_have_their_cubes_and_joints(dataset, cube, joints):
    config = v2v.Config(dataset=dataset)
    assert config.cubic_size == cube and v2v.skeleton(config).num_joints == joints
    assert v2v.Config(dataset=dataset, cubic_size=123.0).cubic_size == 123


def test_part_of_the_joints_in_the_order_of_the_dataset():
    part = v2v.skeleton(v2v.Config(joints=("thumb_tip", "wrist", "index_mcp", "index_pip")))
    assert part.joints == ("wrist", "index_mcp", "index_pip", "thumb_tip")
    assert {(part.joints[child], part.joints[parent]) for child, parent in part.bones} == {
        ("index_mcp", "wrist"), ("index_pip", "index_mcp"), ("thumb_tip", "wrist"),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"joints": ("wrist", "toe")}, "toe is not right; the joints of msra are wrist"),
        ({"joints": ("wrist", "wrist")}, "a name twice"),
        ({"joints": ("toe",) * 1000}, "^.{,800}$"),
        ({"cropped_size": 84}, "no multiple of 8"),
        ({"cropped_size": 88, "original_size": 80}, "--original_size=80 is smaller"),
        ({"convention": "lua", "head": "integral"}, "no integral head"),
        ({"dataset": "MSRA"}, "msra"),
        ({"width": 0}, "width"),
        ({"jit_compile": True, "debug_numerics": True}, "leave one of them out"),
    ],
)
def test_options_that_do_not_go_together(options, message):
    with pytest.raises(ValueError, match=message):
        v2v.Config(**options)


def test_optimizers_step_as_the_originals():
    small = {"width": 1, "cropped_size": 8, "original_size": 8}
    for config, name in ((v2v.Config(**small), "TorchAdam"), (v2v.Config(convention="lua", **small), "TorchRMSprop")):
        optimizer = v2v.build_trainer(config, v2v.build_model(config)).optimizer
        assert type(optimizer).__name__ == name and optimizer.epsilon == 1e-8
    assert optimizer.rho == 0.99


def test_run_folders_are_named_after_the_options():
    assert v2v.run_name(v2v.Config()).startswith("V2V_msra_S3_heatmap_pytorch_88v_W16_15e_")
    assert v2v.run_name(v2v.Config(dataset="nyu", convention="lua")).startswith("V2V_nyu_heatmap_lua_88v_W16_10e_")


@pytest.mark.parametrize("dataset", ["msra", "itop_front"])
@pytest.mark.parametrize("head", ["heatmap", "integral"])
def test_predicts_in_the_camera_s_axes_whatever_the_dataset_s_are(dataset, head):
    config = v2v.Config(dataset=dataset, head=head, width=1, cropped_size=16, original_size=16)
    model = v2v.build_model(config)
    camera = v2v.dataset_camera("icvl")
    depth = np.zeros((240, 320), np.float32)
    depth[60:120, 200:250] = 600.0
    depth[0, 0] = 20_000
    people = v2v.predict(config, model, [depth, np.zeros((240, 320), np.float32)], [camera] * 2)
    assert [len(one) for one in people] == [1, 0]
    joints = people[0].joints3d[0]
    # The network is untrained: its joints lie somewhere in the cube around the surface.
    half = 0.001 * config.cubic_size / 2 if dataset == "msra" else 1.0
    middle = 0.6 * np.array([(225 - 160) / camera.fx, (90 - 120) / camera.fy, 1])
    assert joints.shape == (v2v.skeleton(config).num_joints, 3)
    assert (np.abs(joints - middle) <= half + 0.02).all()
    seen = joints[:, :2] / joints[:, 2:] * [camera.fx, camera.fy] + [160, 120]
    np.testing.assert_allclose(people[0].keypoints_px[0], seen, atol=0.01)
    given, far = v2v.predict(config, model, [depth] * 2, [camera] * 2, [1000 * middle, 1000 * middle + [0, 0, 5000]])
    assert (np.abs(given.joints3d[0] - middle) <= half).all()
    assert (0 <= given.scores).all() and (given.scores <= 1).all()
    assert len(far) == 0


def test_subsets_give_skeletons_that_can_be_drawn():
    config = v2v.Config(joints=MSRA21.joints[:5], width=1, cropped_size=16, original_size=16)
    depth = np.full((240, 320), 400.0, np.float32)
    people = v2v.predict(config, v2v.build_model(config), [depth], [v2v.dataset_camera("msra")])[0]
    for view in v2v.VIEWS:
        assert v2v.draw(people, depth, view).ndim == 3
    nobody = dataclasses.replace(
        people, keypoints_px=people.keypoints_px[:0], scores=people.scores[:0], joints3d=people.joints3d[:0],
        camera=people.camera[:0], person_scores=None, boxes=None,
    )  # fmt: skip
    for view in v2v.VIEWS:  # pictures of a video keep their size
        assert v2v.draw(nobody, depth, view).shape == v2v.draw(people, depth, view).shape


def test_drawing_knows_the_camera_of_the_people():
    """Pixels need not be square; what the depth camera measured lies under the joints all the same."""
    joints = np.random.default_rng(0).uniform([-0.1, -0.1, 0.4], [0.1, 0.1, 0.6], (1, 21, 3))
    camera = v2v.DepthCamera(200.0, 260.0, 90.0, 70.0, False, 180, 140, "mm")
    pixels = v2v.world_to_pixel(1000 * joints, camera)[..., :2]
    people = People(pixels, np.ones((1, 21)), MSRA21, (140, 180), camera=[[200, 90, 70]], joints3d=joints)
    found = v2v._camera_of(people)
    np.testing.assert_allclose(found.signed_intrinsics, camera.signed_intrinsics, rtol=1e-5)
    assert (found.width, found.height) == (180, 140)
    depth = np.full((140, 180), 500.0, np.float32)
    assert v2v.draw(people, depth).shape[2] == 3
    level = people.joints3d * [1, 0, 1]
    level = dataclasses.replace(people, keypoints_px=np.full((1, 21, 2), 70.0), joints3d=level)
    assert v2v._camera_of(level).fy == 200
