"""The options of hmr are the original's, with its defaults."""

import dataclasses

import pytest

from posekit import train
from posekit.systems import hmr
from posekit.testing import load_fixture

# The original parses --joint_type=lsp and then trains all 19 keypoints; here the option works and its default says so.
DIFFERS = {"joint_type": "cocoplus"}


def fields():
    table = {}
    for options in (hmr.Config, train.Command):
        for field in dataclasses.fields(options):
            for spelling in (field.name, *field.metadata["aliases"]):
                table[spelling] = field
    return table


@pytest.mark.parametrize(("flag", "default"), load_fixture("hmr_config")["flags_json"].items())
def test_every_flag_of_the_original_is_there_with_its_default(flag, default):
    ours = fields()[flag].default
    assert (list(ours) if isinstance(ours, tuple) else ours) == DIFFERS.get(flag, default)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scale_min": 2.0}, "scale_max"),
        ({"use_kpr_loss": False}, "Nothing to learn"),
        ({"datasets": ()}, "datasets"),
        ({"val_datasets": ()}, "nouse_validation"),
        ({"mocap_datasets": ()}, "encoder_only"),
        ({"image_size": 10}, "smallest"),
        ({"num_stages": 1000}, "largest"),
    ],
)
def test_options_that_make_no_sense_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        hmr.Config(**changes)


def test_run_name_tells_the_options():
    name = hmr.run_name(hmr.Config(use_mesh_repro_loss=True))
    assert name.startswith("HMR_T3_125e_lsp_train_lsp_ext_CMU_jointLim_Dlr0.0005_d0.01_Elr0.0001_kp60_mr0.001")
    assert "CMU" not in hmr.run_name(hmr.Config(encoder_only=True))
