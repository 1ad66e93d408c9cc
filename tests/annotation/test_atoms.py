"""Three atoms, forty corrupt windows for one clean: from files to weights that undo the tilt.

Clean windows are uniform on {0, 1}, corrupt ones on {-1, 0}: what the corrupt set has to give is
atom 0, of which it has forty times as much.
"""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from ambient_curate.annotation.annotate import annotate
from ambient_curate.run.records import Run

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
CLEAN, CORRUPT = (100, 10), (1_000, 40)  # episodes and frames
JITTER = 1e-3
EXACT = 20.5 / 21  # share of atom 0 among what trains at low noise


def save(path: Path, atoms: tuple[float, float], size: tuple[int, int], seed: int) -> None:
    """Windows of one frame; every episode visits both atoms as often, in a random order."""
    rng = np.random.default_rng(seed)
    episodes, frames = size
    visits = rng.permuted(np.tile(atoms, (episodes, frames // 2)), axis=1).ravel()
    action = visits + JITTER * rng.normal(size=visits.size)
    ends = frames * np.arange(1, episodes + 1)
    np.savez(path, action=action[:, None].astype(np.float32), episode_ends=ends)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, pd.DataFrame]:
    """A run with its rows, each beside the atom it is at."""
    root = tmp_path_factory.mktemp("atoms") / "set"
    root.mkdir()
    save(root / "clean.npz", (0.0, 1.0), CLEAN, 0)
    save(root / "corrupt.npz", (-1.0, 0.0), CORRUPT, 1)
    run = annotate(
        root,
        out=root.parent / "run",
        granularity="datapoint",
        horizon=1,
        represent="absolute",
        normalize="none",
        epsilon=0.1,  # a hundred clean episodes do not place a c of exactly 1/2 within .05
        store_curves=True,
    )
    rows = run.manifest().to_pandas()
    for name in ("clean", "corrupt"):  # rows are in the order of the episodes and their frames
        action = np.load(root / f"{name}.npz")["action"][:, 0]
        rows.loc[rows["dataset"] == name, "atom"] = np.round(action) + 0.0
    return run, rows


def share_of_zero(rows: pd.DataFrame, weight: pd.Series | np.ndarray) -> float:
    return float(weight[rows["atom"] == 0.0].sum() / weight.sum())


def test_the_report_tells_the_tilt_and_what_the_weights_make_of_it(
    finished: tuple[Run, pd.DataFrame],
) -> None:
    run, _ = finished
    clean, corrupt = run.info["verdict"]
    print(corrupt["tilt"])
    assert (clean["status"], corrupt["status"]) == ("ok", "ok")
    assert clean["tilt"] is None
    assert run.info["shares"] == pytest.approx({"clean": 1 / 41, "corrupt": 40 / 41})
    assert corrupt["tilt"]["mixture"] == pytest.approx(EXACT, abs=0.02)
    assert corrupt["tilt"]["clean"] == pytest.approx(0.5, abs=0.05)
    assert corrupt["tilt"]["weighted"] == pytest.approx(0.5, abs=0.02)
    assert corrupt["tilt"]["usable"] == pytest.approx(0.5, abs=0.05)


def test_what_trains_by_sigma_min_is_mostly_the_shared_atom(
    finished: tuple[Run, pd.DataFrame],
) -> None:
    """Reckoned from the rows: a window trains at the lowest noise where its sigma_min is 0."""
    _, rows = finished
    used = rows["sigma_min"] == 0.0
    assert not used[rows["atom"] == -1.0].any()
    assert used[rows["dataset"] == "clean"].all()
    assert share_of_zero(rows, used) == pytest.approx(EXACT, abs=0.02)


def test_the_weights_of_the_manifest_make_both_sets_speak_for_the_clean_law(
    finished: tuple[Run, pd.DataFrame],
) -> None:
    """Both sets have episodes of one length: a draw by episode is one by window."""
    _, rows = finished
    weight = rows["weight"]
    assert weight.notna().all()
    print("weighted share of atom 0:", share_of_zero(rows, weight))
    assert share_of_zero(rows, weight) == pytest.approx(0.5, abs=0.02)
    mean = weight.groupby(rows["atom"]).mean()
    assert mean[-1.0] < 0.01
    assert mean[0.0] == pytest.approx(1.0, abs=0.1)  # exactly 0, 1 and 41
    assert mean[1.0] == pytest.approx(41.0, rel=0.1)
    # and about the same whichever set a window is from: it is a function of the window
    zero = rows[rows["atom"] == 0.0].groupby("dataset")["weight"].mean()
    assert zero["clean"] == pytest.approx(zero["corrupt"], rel=0.05)


def test_odds_as_weights_of_the_corrupt_windows_do_not(
    finished: tuple[Run, pd.DataFrame],
) -> None:
    _, rows = finished
    c = rows["p_clean"].map(lambda curve: 1.0 if curve is None else float(curve[0]))
    odds = np.where(rows["dataset"] == "corrupt", c / (1.0 - c).clip(lower=1e-9), 1.0)
    print("share of atom 0 by odds:", share_of_zero(rows, odds))
    assert share_of_zero(rows, odds) == pytest.approx(EXACT, abs=0.02)
