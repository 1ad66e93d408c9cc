"""Recordings of sources and of runs, against the files they were made from."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from collection_writer import make_episodes, write_npz
from small_run import write_collection

from ambient_curate.analysis.sources import read_recordings
from ambient_curate.errors import DatasetError
from ambient_curate.run.records import Run


def test_a_collection_is_scaled_by_its_clean_set(tmp_path: Path) -> None:
    write_collection(tmp_path / "set")
    with read_recordings(tmp_path / "set") as found:
        assert [(m.name, m.is_clean) for m in found.members] == [
            ("clean", True),
            ("far", False),
            ("jitter", False),
        ]
        assert found.shared_scale and found.clean is found.members[0]
        clean = np.concatenate(found.members[0].actions)
        assert np.allclose(np.ptp(clean, axis=0), 2.0, atol=1e-5)  # minmax
        raw = found.members[2].frames.data["action"].numpy()
        scaled = np.concatenate(found.members[2].actions)
        scale = found.members[0].windows.normalizer.scale  # type: ignore[union-attr]
        assert np.allclose(scaled, raw * scale)
        assert [len(e) for e in found.members[2].actions] == [10, 9, 3, 12, 9, 11]


def test_one_dataset_has_its_own_scale(tmp_path: Path) -> None:
    write_npz(tmp_path / "other", make_episodes(4))
    with read_recordings(tmp_path / "other", limit=2) as found:
        assert found.clean is None and not found.shared_scale
        assert len(found.members[0].actions) == 2
        values = np.concatenate(found.members[0].actions)
        assert np.allclose(np.ptp(values, axis=0), 2.0, atol=1e-5)


def test_differences_are_given_where_windows_are_such(tmp_path: Path) -> None:
    write_collection(tmp_path / "set")
    (tmp_path / "set" / "ambient.toml").write_text('represent = "delta"\nhorizon = 4\n')
    with read_recordings(tmp_path / "set") as found:
        member = found.members[1]
        raw = member.frames.data["action"].numpy()[:9].astype(float)
        scale = member.windows.normalizer.scale  # type: ignore[union-attr]
        assert np.allclose(member.actions[0], np.diff(raw, axis=0) * scale)


def test_a_run_is_read_in_its_own_units(place_small: Callable[..., Run], tmp_path: Path) -> None:
    run = place_small(tmp_path)
    with read_recordings(tmp_path / "run") as found:
        assert found.options.horizon == 4 and found.options.represent == "relative"
        for member in found.members:
            assert member.windows.normalizer.as_dict() == run.info["normaliser"]  # type: ignore[union-attr]


def test_nothing_is_an_error(tmp_path: Path) -> None:
    with (
        pytest.raises(DatasetError, match="holds no dataset"),
        read_recordings(tmp_path),
    ):
        pass
