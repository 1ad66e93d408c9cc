"""Scales: noise of one standard deviation hides the same at a scale, and other things at two."""

import json
from pathlib import Path

import numpy as np
import pytest

from ambient_curate.errors import ConfigError
from ambient_curate.export.action_scale import compare_scales, read_scale, rescale


def test_larger_actions_need_noise_as_much_larger() -> None:
    sigma = np.array([0.0, 0.1, 0.6, 0.99, 1.0, np.nan])
    found = rescale(sigma, 2.0)
    np.testing.assert_allclose(
        found[1:4] / np.sqrt(1 - found[1:4] ** 2), 2 * sigma[1:4] / np.sqrt(1 - sigma[1:4] ** 2)
    )
    assert found[0] == 0.0 and found[4] == 1.0 and np.isnan(found[5])
    np.testing.assert_allclose(rescale(found, 0.5), sigma)
    assert rescale(sigma, 1.0) is sigma


def test_one_factor_for_all_dimensions_is_found_and_two_are_refused() -> None:
    own = np.array([1.0, 2.0, 4.0])
    assert compare_scales(own, 3 * own) == pytest.approx(3.0)
    with pytest.raises(ConfigError) as error:
        compare_scales(own, np.array([1.0, 2.0, 5.0]))
    assert "[1, 2, 4]" in str(error.value) and "[1, 2, 5]" in str(error.value)
    with pytest.raises(ConfigError, match="by \\[1, 2\\]"):
        compare_scales(own, np.array([1.0, 2.0]))
    with pytest.raises(ConfigError, match="compared nothing"):
        compare_scales(np.array([0.0, 1.0]), np.array([1.0, 1.0]))


STATS = {
    "action": {
        "min": [-1.0, 0.0],
        "max": [1.0, 4.0],
        "std": [0.5, 2.0],
        "q01": [-0.5, 1.0],
        "q99": [0.5, 2.0],
    }
}


@pytest.mark.parametrize(
    ("kind", "expected"),
    [("minmax", [1.0, 0.5]), ("gaussian", [2.0, 0.5]), ("quantile", [2.0, 2.0])],
)
def test_lerobots_statistics_are_read(tmp_path: Path, kind: str, expected: list[float]) -> None:
    file = tmp_path / "stats.json"
    file.write_text(json.dumps(STATS))
    assert read_scale(file, kind).tolist() == expected


def test_a_plain_scale_is_read_and_nonsense_refused(tmp_path: Path) -> None:
    file = tmp_path / "scale.json"
    file.write_text('{"scale": [1, 2.5]}')
    assert read_scale(file, "minmax").tolist() == [1.0, 2.5]
    bad = ["", "[1]", "{}", '{"scale": "x"}', '{"scale": [0, 1]}', '{"scale": [[1]]}']
    bad += ['{"scale": [-1.0]}', '{"action": {"min": [0], "max": [0]}}', '{"scale": [NaN]}']
    for text in bad:
        file.write_text(text)
        with pytest.raises(ConfigError, match=r"scale\.json") as error:
            read_scale(file, "minmax")
        assert "stats.json" in str(error.value.hint)
    with pytest.raises(ConfigError, match="missing"):
        read_scale(tmp_path / "missing", "minmax")
