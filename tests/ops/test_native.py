"""The table of implementations tells the truth about this machine."""

import tensorflow as tf

import posekit.ops
from posekit.ops import native


def test_every_op_runs_in_plain_tensorflow():
    rows = native.status()
    assert [row["op"] for row in rows] == list(native.OPS)
    assert set(native.OPS) <= set(posekit.ops.__all__)
    for row in rows:
        assert row["implementation"] == "plain"
        assert tf.config.list_logical_devices(row["device"])
        assert row["reason"]
