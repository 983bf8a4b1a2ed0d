"""The body converter: every official layout, one clear line for everything else, nothing half-written."""

import importlib.util
import os
import pathlib
import pickle
import subprocess
import sys

import numpy as np
import pytest
import scipy.sparse
from absl import flags

from posekit.bodies import BodyModel, load_body, load_mean_theta
from posekit.skeletons import COCO_PLUS19, SMPL24
from posekit.testing import FIXTURES, load_fixture, tiny_body

ROOT = pathlib.Path(__file__).resolve().parents[2]
TOOL = ROOT / "tools" / "convert_smpl.py"


def run(*arguments, cwd):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3"}
    command = [sys.executable, str(TOOL), *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=120)


@pytest.fixture(scope="module")
def tool():
    before = set(flags.FLAGS)
    spec = importlib.util.spec_from_file_location("convert_smpl", TOOL)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    for name in set(flags.FLAGS) - before:
        delattr(flags.FLAGS, name)


def official(num_shape=12):
    """Content of a pickle as SMPL's authors lay it out, of a tiny body."""
    body = tiny_body(num_shape=num_shape)
    parents = body.parents.astype(np.int64)
    parents[0] = 2**32 - 1
    return {
        "v_template": body.v_template.astype(np.float64),
        "shapedirs": body.shapedirs.astype(np.float64),
        "posedirs": body.posedirs.astype(np.float64),
        "J_regressor": scipy.sparse.csc_matrix(body.J_regressor.astype(np.float64)),
        "J_regressor_prior": scipy.sparse.csc_matrix(body.J_regressor),
        "weights": body.weights.astype(np.float64),
        "weights_prior": body.weights,
        "kintree_table": np.stack([parents, np.arange(24)]).astype(np.uint32),
        "f": body.faces.astype(np.uint32),
        "cocoplus_regressor": scipy.sparse.csc_matrix(body.keypoint_regressor.astype(np.float64)),
        "bs_type": "lrotmin",
        "bs_style": "lbs",
        "J": np.zeros((24, 3)),
    }


def write_pickle(path, content, protocol=2):
    path.write_bytes(pickle.dumps(content, protocol))
    return path


@pytest.mark.parametrize("stem", ["card_chumpy_py2_views_p2", "card_chumpy_py3_p2"])
def test_pickles_with_chumpy(stem, tmp_path):
    with np.load(FIXTURES / "card_chumpy.npz", allow_pickle=False) as archive:
        wanted = {key.removeprefix(stem + "/"): archive[key] for key in archive.files if key.startswith(stem + "/")}
    result = run(f"--input={FIXTURES / stem}.pkl", "--output=models/neutral.npz", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "40 vertices" in result.stdout and "--body=models/neutral.npz" in result.stdout
    assert os.listdir(tmp_path / "models") == ["neutral.npz"]
    body = load_body(tmp_path / "models" / "neutral.npz")
    assert body.name == stem and "smpl.is.tue.mpg.de" in body.licence
    for key in ("v_template", "shapedirs", "posedirs", "J_regressor", "weights"):
        np.testing.assert_array_equal(getattr(body, key), wanted[key].astype(np.float32), err_msg=key)
    np.testing.assert_array_equal(body.keypoint_regressor, wanted["cocoplus_regressor"].astype(np.float32))
    np.testing.assert_array_equal(body.faces, wanted["f"])
    assert body.parents[0] == -1
    np.testing.assert_array_equal(body.parents[1:], wanted["kintree_table"][0, 1:])


def test_number_of_shape_coefficients_name_and_licence(tmp_path):
    write_pickle(tmp_path / "in.pkl", official(num_shape=12), protocol=0)
    result = run("--input=in.pkl", "--num_shape=11", "--name=me", "--licence=mine", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    body = BodyModel.load(tmp_path / "models" / "model.npz")
    assert (body.num_shape, body.name, body.licence) == (11, "me", "mine")
    np.testing.assert_array_equal(body.shapedirs, tiny_body(num_shape=12).shapedirs[:, :, :11])
    np.testing.assert_array_equal(body.parents, SMPL24.parents)


def test_open_npz_bodies(tmp_path):
    tiny_body().save(tmp_path / "in.npz")
    result = run("--input=in.npz", "--output=out.npz", "--num_shape=4", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    body = BodyModel.load(tmp_path / "out.npz")
    assert body.num_shape == 4 and body.licence == "Apache-2.0"
    np.testing.assert_array_equal(body.weights, tiny_body().weights)


def test_mean_parameters(tmp_path):
    fixture = load_fixture("hmr_config")
    (tmp_path / "mean.h5").write_bytes(fixture["mean_h5_file"].tobytes())
    result = run("--input=mean.h5", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "--mean_params=models/mean_params.npz" in result.stdout
    converted = load_mean_theta(tmp_path / "models" / "mean_params.npz")
    np.testing.assert_array_equal(converted, fixture["mean_param"][0])
    assert os.listdir(tmp_path / "models") == ["mean_params.npz"]


def test_help_and_wrong_command_lines(tmp_path):
    result = run("--help", cwd=tmp_path)
    assert "--regressor" in result.stdout and "neutral_smpl_with_cocoplus_reg.pkl" in result.stdout
    assert run(cwd=tmp_path).returncode != 0
    assert run("--input=a.pkl", "surplus", cwd=tmp_path).returncode != 0


def test_missing_file_says_where_to_get_it(tmp_path):
    result = run("--input=SMPL_NEUTRAL.pkl", cwd=tmp_path)
    assert result.returncode == 1 and result.stdout == ""
    for part in ("SMPL_NEUTRAL.pkl", "https://smpl.is.tue.mpg.de", "models/model.npz", "$POSEKIT_BODY", "sample body"):
        assert part in result.stderr
    assert "tools/convert_smpl.py --input=" in result.stderr


def test_evil_pickle_leaves_nothing(tmp_path):
    result = run(f"--input={FIXTURES / 'card_pickle_evil_2.pkl'}", "--output=out.npz", cwd=tmp_path)
    assert result.returncode == 1 and "__builtin__.eval" in result.stderr and "Traceback" not in result.stderr
    assert os.listdir(tmp_path) == []


def test_body_without_keypoint_regressor(tmp_path):
    content = official()
    write_pickle(tmp_path / "with.pkl", content)
    regressor = content.pop("cocoplus_regressor").toarray()
    write_pickle(tmp_path / "without.pkl", content)
    result = run("--input=without.pkl", cwd=tmp_path)
    assert result.returncode == 1 and not any((tmp_path / "models").iterdir())
    for choice in ("--regressor=FILE", "neutral_smpl_with_cocoplus_reg.pkl", ".npy", "--regressor=smpl24"):
        assert choice in result.stderr
    result = run("--input=without.pkl", "--regressor=with.pkl", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    np.testing.assert_array_equal(load_body(tmp_path / "models/model.npz").keypoint_regressor, np.float32(regressor))


def test_unwritable_output(tmp_path):
    write_pickle(tmp_path / "in.pkl", official())
    (tmp_path / "file").write_text("in the way")
    result = run("--input=in.pkl", "--output=file/model.npz", cwd=tmp_path)
    assert result.returncode == 1 and result.stderr.startswith("ERROR") and "file" in result.stderr
    result = run("--input=in.pkl", "--output=model.pkl", cwd=tmp_path)
    assert result.returncode == 1 and "must end in .npz" in result.stderr


def test_forms_of_the_regressor(tool, tmp_path):
    content = official()
    regressor = content.pop("cocoplus_regressor").toarray()
    body = write_pickle(tmp_path / "body.pkl", content)
    np.save(tmp_path / "reg.npy", regressor)
    np.savez(tmp_path / "reg.npz", cocoplus_regressor=regressor)
    for name in ("reg.npy", "reg.npz"):
        arrays = tool.read_body(body, regressor=str(tmp_path / name))
        np.testing.assert_array_equal(arrays["cocoplus_regressor"], regressor)
    np.save(tmp_path / "turned.npy", regressor.T)
    with pytest.raises(tool.ConversionError, match=r"turned\.npy.*\[60, 19\].*\[19, 60\]"):
        tool.read_body(body, regressor=str(tmp_path / "turned.npy"))
    np.save(tmp_path / "objects.npy", np.array([{}]))
    with pytest.raises(tool.ConversionError, match=r"objects\.npy is no \.npy file"):
        tool.read_body(body, regressor=str(tmp_path / "objects.npy"))
    np.savez(tmp_path / "other.npz", other=regressor)
    with pytest.raises(tool.ConversionError, match=r"other\.npz has no 'cocoplus_regressor'"):
        tool.read_body(body, regressor=str(tmp_path / "other.npz"))
    with pytest.raises(tool.ConversionError, match="6890"):
        tool.read_body(body, regressor="smpl24")


def test_keypoints_from_smpl_joints(tool):
    rng = np.random.default_rng(0)
    template = rng.normal(size=(6890, 3))
    joints = rng.random((24, 6890))
    regressor = tool._smpl_regressor({"v_template": template, "J_regressor": joints})
    keypoints = regressor @ template
    for name in ("right_ankle", "left_hip", "left_wrist", "neck"):
        np.testing.assert_allclose(keypoints[COCO_PLUS19.index(name)], joints[SMPL24.index(name)] @ template)
    np.testing.assert_array_equal(keypoints[COCO_PLUS19.index("head_top")], template[template[:, 1].argmax()])
    np.testing.assert_array_equal(keypoints[COCO_PLUS19.index("left_ear")], template[583])
    assert (regressor.sum(1) > 0).all()


def test_faces_from_a_file(tool, tmp_path):
    content = official()
    faces = content.pop("f")
    path = write_pickle(tmp_path / "body.pkl", content)
    with pytest.raises(tool.ConversionError, match=r"lacks \['f'\].*--faces"):
        tool.read_body(path)
    np.save(tmp_path / "smpl_faces.npy", faces)
    np.testing.assert_array_equal(tool.read_body(path, faces=tmp_path / "smpl_faces.npy")["f"], faces)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("v_template", np.zeros((60, 2)), r"'v_template' has the shape \[60, 2\]"),
        ("v_template", np.zeros((0, 3)), r"'v_template'"),
        ("v_template", [[0.0, 0.0, 0.0]] * 60, "'v_template' is a list"),
        ("v_template", None, r"lacks \['v_template'\]"),
        ("shapedirs", np.zeros((60, 3, 4)), "4 shape coefficients, not 10. Give --num_shape=4"),
        ("shapedirs", np.zeros((60, 30)), "'shapedirs'"),
        ("posedirs", np.zeros((60, 3, 459)), r"'posedirs' has the shape \[60, 3, 459\].*24 joints"),
        ("J_regressor", scipy.sparse.csc_matrix((52, 60)), r"'J_regressor' has the shape \[52, 60\]"),
        ("J_regressor", scipy.sparse.csr_matrix((24, 10**9)), r"'J_regressor' has the shape"),
        ("weights", np.full((60, 24), 0.1), "weights of a vertex sum to"),
        ("weights", np.array([["a"] * 24] * 60), "'weights' has the shape"),
        ("kintree_table", np.zeros((2, 24)), "'kintree_table'.*integers"),
        ("kintree_table", np.zeros((24,), np.int64), "'kintree_table'"),
        ("f", np.zeros((5, 4), np.uint32), "'f'"),
        ("cocoplus_regressor", np.zeros((14, 60)), r"'cocoplus_regressor' has the shape \[14, 60\]"),
        ("bs_type", "rotmat", "'rotmat'"),
    ],
)
def test_content_that_does_not_fit(key, value, message, tool, tmp_path):
    content = official()
    if value is None:
        del content[key]
    else:
        content[key] = value
    with pytest.raises(tool.ConversionError, match=message):
        tool.read_body(write_pickle(tmp_path / "body.pkl", content))


def test_values_that_make_no_sense(tmp_path):
    content = official()
    content["f"] = content["f"] + 1000
    write_pickle(tmp_path / "faces.pkl", content)
    result = run("--input=faces.pkl", "--output=out.npz", cwd=tmp_path)
    assert result.returncode == 1 and "faces.pkl: faces (f) name vertices" in result.stderr
    assert os.listdir(tmp_path) == ["faces.pkl"]


def test_other_contents(tool, tmp_path):
    with pytest.raises(tool.ConversionError, match="holds a list"):
        tool.read_body(write_pickle(tmp_path / "list.pkl", [1, 2]))
    (tmp_path / "body.txt").write_text("text")
    with pytest.raises(tool.ConversionError, match=r"neither \.pkl nor \.npz"):
        tool.read_body(tmp_path / "body.txt")
    (tmp_path / "body.npz").write_text("text")
    with pytest.raises(ValueError, match=r"body\.npz cannot be read as \.npz"):
        tool.read_body(tmp_path / "body.npz")
