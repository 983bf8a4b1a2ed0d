"""What an evaluation writes."""

import numpy as np
import pytest

from posekit.systems import evaluation
from posekit.systems.evaluation import Evaluation, write_pictures


@pytest.mark.parametrize(
    ("unit", "best", "worst"),
    [
        ("mm", ["b  2 mm", "a  30.1 mm"], ["c  1e+03 mm", "a  30.1 mm"]),
        (lambda error: f"OKS {1 - error / 1000:.2f}", ["b  OKS 1.00", "a  OKS 0.97"], ["c  OKS 0.00", "a  OKS 0.97"]),
    ],
    ids=["unit", "function"],
)
def test_pictures_tell_how_good_they_are(unit, best, worst, tmp_path, monkeypatch):
    titles = []
    draw = evaluation.side_by_side
    monkeypatch.setattr(evaluation, "side_by_side", lambda images, names: titles.append(names) or draw(images, names))
    errors = np.array([30.1, 2.0, 1000.0, np.nan])
    result = Evaluation({}, {}, {"kind": (errors, unit)}, list("abcd"), lambda index: np.zeros((20, 30, 3), np.uint8))
    written = write_pictures(tmp_path, result, 2)
    assert [path.name for path in written] == ["best_kind.png", "worst_kind.png"]
    assert titles == [best, worst]
