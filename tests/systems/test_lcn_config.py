"""The options of lcn are the original's, with its defaults and its spelling."""

import dataclasses
import types

import numpy as np
import pytest

from posekit import preview, train, validate
from posekit.geometry import graphs
from posekit.skeletons import H36M17
from posekit.systems import lcn
from posekit.training.config import UsageError, further_options, parse

SYSTEMS = {"lcn": lambda: lcn, "bare": lambda: types.SimpleNamespace(Config=lcn.Config)}
ORIGINAL_COMMAND = [
    "--data-type", "scale", "--mode", "dt_ft", "--test-indices", "7", "--mask-type", "locally_connected_learnable",
    "--graph", "0", "--knn", "2", "--layers", "4", "--in-joints", "17", "--out-joints", "17", "--dropout", "0.1",
    "--channels", "32", "--in-F", "3", "--flip-data",
]  # fmt: skip


def parsed(*argv, command=train.Command, name="train"):
    return parse(["--model=lcn", *argv], SYSTEMS, command, None, name)


def test_the_originals_command_line_is_understood():
    _, _, config, options, _ = parsed(*ORIGINAL_COMMAND)
    assert config.mode == "dt_ft" and config.mask_type == "locally_connected_learnable" and config.graph == "skeleton"
    assert (config.knn, config.num_layers, config.dropout, config.channels) == (2, 4, 0.1, 32)
    assert config.in_features == 3 and config.flip_data
    assert lcn.run_name(config, **further_options(lcn, "train", options)) == "test7"


def test_defaults_are_the_originals():
    config = lcn.Config()
    expected = {
        "num_epochs": 200, "batch_size": 200, "learning_rate": 1e-3, "decay_type": "exp", "decay_steps": 32000,
        "decay_rate": 0.96, "dropout": 0.25, "regularization": 0.0, "num_layers": 3, "channels": 64, "in_features": 2,
        "knn": 3, "mask_type": "locally_connected", "mask_init": "random", "residual": True, "max_norm": True,
        "batch_norm": True,
    }  # fmt: skip
    assert {name: getattr(config, name) for name in expected} == expected
    assert [float(step) for step in config.boundaries] == [250000, 500000, 1000000, 1350000]
    assert [float(rate) for rate in config.lr_values] == [1e-3, 7e-4, 4e-4, 2e-4, 1e-4]


def test_choice_of_checkpoint_has_the_originals_spelling(tmp_path):
    options = parsed("--run_dir", str(tmp_path), "--checkpoints", "final", command=validate.Command, name="validate")[3]
    assert options.reference == str(tmp_path / "checkpoints" / "last")
    with pytest.raises(UsageError, match="--run_dir"):
        parsed("--checkpoints=final", command=validate.Command, name="validate")


def test_further_options_belong_to_their_command_only():
    assert parsed("--per-joint", "--protocol2", command=validate.Command, name="validate")[3].per_joint
    assert parsed("--placement=image", command=preview.Command, name="preview")[3].placement == "image"
    with pytest.raises(UsageError, match="per_joint"):
        parsed("--per-joint")
    with pytest.raises(UsageError, match="per_joint"):
        parse(["--model=bare", "--per-joint"], SYSTEMS, validate.Command, None, "validate")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"in_features": 4}, "largest"),
        ({"in_joints": 16}, "smallest"),
        ({"knn": 0}, "smallest"),
        ({"graph": "1"}, "choose from skeleton"),
        ({"decay_type": "step", "lr_values": ("1e-3",)}, "1 rates for 4"),
        ({"boundaries": ("2", "1")}, "must rise"),
        ({"decay_type": "step", "lr_values": ("1e-3",), "boundaries": ()}, "1 rates for 0"),
        ({"boundaries": ("5.5",)}, "whole"),
        ({"boundaries": ("-1",)}, "smallest"),
        ({"boundaries": ("1e30",)}, "largest allowed value is 2147483647"),
        ({"lr_values": ("fast",)}, "numbers"),
        ({"lr_values": ("nan",)}, "lr_values=nan is not a finite"),
        ({"lr_values": ("-1",)}, "smallest"),
        ({"limb_lengths": ("inf",)}, "limb_lengths=inf is not a finite"),
        ({"learning_rate": float("inf")}, "learning_rate=inf is not a finite"),
        ({"batch_size": 10**30}, "largest allowed value is 1000000"),
        ({"decay_steps": 10**30}, "largest"),
        ({"num_epochs": 10**30}, "largest"),
        ({"seed": 2**32}, "largest"),
        ({"random_edges": 3}, "smallest"),
        ({"graph": "laplacian", "graph_norm": "row"}, "graph_norm"),
        ({"jit_compile": True, "debug_numerics": True}, "jit_compile"),
    ],
)
def test_options_that_make_no_sense_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        lcn.Config(**changes)


def test_every_graph_of_the_original():
    def graph(**changes):
        return lcn.adjacency(lcn.Config(**changes))

    np.testing.assert_array_equal(graph(knn=2), H36M17.neighbours(2))
    np.testing.assert_array_equal(graph(graph="full"), np.ones((17, 17)))
    edges = graphs.random_graph(17, 20, 146)
    np.testing.assert_array_equal(graph(graph="random", knn=2), graphs.neighbours_from_edges(edges, 17, 2))
    np.testing.assert_allclose(graph(graph_norm="row").sum(1), 1, rtol=1e-6)
    symmetric = graph(graph_norm="symmetric", knn=1)
    np.testing.assert_allclose(symmetric, symmetric.T)
    lengths = np.linspace(0.1, 0.5, 20)
    config = lcn.Config(graph="laplacian", limb_lengths=tuple(map(str, lengths)))
    np.testing.assert_allclose(lcn.adjacency(config), graphs.laplacian(H36M17, lengths), atol=1e-6)
    with pytest.raises(ValueError, match="train first"):
        graph(graph="laplacian")


def test_step_decay_and_exponential_decay():
    def rates(config, steps):
        schedule = lcn.learning_rate(config)
        return [float(schedule(step)) for step in steps]

    exponential = rates(lcn.Config(), (0, 16000, 32000))
    np.testing.assert_allclose(exponential, 1e-3 * 0.96 ** np.array([0, 0.5, 1]), rtol=1e-6)
    stepped = rates(lcn.Config(decay_type="step"), (250000, 250001, 1350000, 1350001))
    np.testing.assert_allclose(stepped, [1e-3, 7e-4, 2e-4, 1e-4], rtol=1e-6)


def test_every_field_can_be_replaced_by_itself():
    config = lcn.Config()
    assert dataclasses.replace(config) == config
    assert lcn.Config.from_dict(config.to_dict()) == config
