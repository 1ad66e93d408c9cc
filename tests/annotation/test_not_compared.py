"""A run of data that moves where the clean set is constant: no row of it is usable."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from command import run_command
from small_run import HORIZON, annotate_small
from small_worker import make_small

from ambient_curate.annotation.annotate import annotate
from ambient_curate.export.export import export_run
from ambient_curate.run.records import Run

EPISODES, FRAMES = 9, 12
SHARE = 0.25  # of the frames of an episode in which the gripper is open


def write(root: Path) -> Path:
    """A walk and a gripper, which is closed but in ``flap`` and in a third of ``some``."""
    for number, name in enumerate(("clean", "flap", "same", "some")):
        rng = np.random.default_rng(number)
        (root / name).mkdir(parents=True)
        for episode in range(EPISODES):
            action = np.ones((FRAMES, 3), dtype=np.float32)
            action[:, :2] = 0.1 * rng.normal(size=(FRAMES, 2)).cumsum(axis=0)
            if name == "flap" or (name == "some" and episode % 3 == 0):
                action[: int(SHARE * FRAMES), 2] = 0.0
            np.savez(root / name / f"{episode}.npz", action=action)
    return root


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Run]:
    root = tmp_path_factory.mktemp("constant")
    write(root / "set")
    with pytest.MonkeyPatch.context() as patch:
        make_small(patch.setattr)
        return {
            granularity: annotate_small(
                *(root / "set", root / granularity),
                granularity=granularity,
                represent="absolute",
            )
            for granularity in ("dataset", "datapoint")
        }


@pytest.mark.parametrize("granularity", ["dataset", "datapoint"])
def test_no_row_has_a_sigma_min(runs: dict[str, Run], granularity: str) -> None:
    run = runs[granularity]
    rows = run.manifest().to_pandas()
    for name in ("flap", "some"):
        of = rows[rows.dataset == name]
        assert set(of.status) == {"not-compared"}
        assert of.sigma_min.isna().all()
        assert len(of) == (1 if granularity == "dataset" else EPISODES * (FRAMES - HORIZON + 1))
    assert "not-compared" not in set(rows[rows.dataset.isin(["clean", "same"])].status)
    verdict = {row["dataset"]: row for row in run.info["verdict"]}
    for name, share in (("flap", SHARE), ("some", SHARE / 3)):
        assert verdict[name]["status"] == "not-compared"
        assert verdict[name]["usable"] == 0.0
        assert (
            "action dimension 2 is always 1 in the clean set, and something else in "
            f"{share:.1%} of the frames here, by up to 1" in verdict[name]["reason"]
        )
    code, _, stderr = run_command("verify", str(run.path))
    assert code == 0, stderr


def test_the_verdict_and_an_export_name_it(runs: dict[str, Run], tmp_path: Path) -> None:
    code, stdout, _ = run_command("show", str(runs["dataset"].path))
    assert code == 0
    assert "\nflap: do not train on it, not-compared: " in stdout
    done = export_run(runs["datapoint"], out=tmp_path / "export")
    for name in ("flap", "some"):
        member = done.info["members"][name]
        assert member["never_usable"] == member["rows"] > 0
    (note,) = (note for note in done.info["notes"] if note.startswith("some: "))
    assert note.startswith("some: never usable, not-compared: ")
    assert "in 8.3% of the frames" in note


def test_strict_is_not_met(runs: dict[str, Run]) -> None:
    path = runs["dataset"].path
    words = ["annotate", str(path.parent / "set"), "--out", str(path), "--strict", "--workers", "1"]
    words += ["--horizon", str(HORIZON), "--folds", "3"]
    code, _, stderr = run_command(*words)
    assert "already complete" in stderr
    assert code == 3


Grip = Callable[[np.random.Generator, int], np.ndarray]
LONG, MANY = 40, 30  # frames, episodes


def flap(rng: np.random.Generator, episode: int) -> np.ndarray:
    return rng.integers(0, 2, LONG).astype(np.float64)


def flap_once(rng: np.random.Generator, episode: int) -> np.ndarray:
    """In one episode, so in one fold: no network but that of the others has seen it."""
    return flap(rng, episode) if episode == 3 else np.ones(LONG)


def jitter(rng: np.random.Generator, episode: int) -> np.ndarray:
    return 1.0 + 1e-5 * rng.normal(size=LONG)


def open_rarely(rng: np.random.Generator, episode: int) -> np.ndarray:
    """In .5 % of all frames: both quantiles of the normaliser are the same."""
    grip = np.ones(LONG)
    grip[20] = float(episode % 5 != 0)
    return grip


def save_reaches(path: Path, seed: int, grip: Grip) -> None:
    rng, time = np.random.default_rng(seed), np.linspace(0.0, 1.0, LONG)
    reach = 10.0 * time**3 - 15.0 * time**4 + 6.0 * time**5
    action = []
    for episode in range(MANY):
        goal = rng.normal(size=2)
        moved = reach[:, None] * goal + 0.01 * rng.normal(size=(LONG, 2))
        action.append(np.column_stack([moved, grip(rng, episode)]))
    ends = LONG * np.arange(1, MANY + 1)
    np.savez(path, action=np.concatenate(action).astype(np.float32), episode_ends=ends)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    ("grip", "kind"), [(flap_once, "minmax"), (jitter, "minmax"), (open_rarely, "quantile")]
)
def test_what_hardly_moves_in_the_clean_set_is_compared(
    tmp_path: Path, grip: Grip, kind: str
) -> None:
    """Between the ends a toggling gripper is hidden by no noise below its own size."""
    (tmp_path / "set").mkdir()
    save_reaches(tmp_path / "set" / "clean.npz", 0, grip)
    save_reaches(tmp_path / "set" / "flap.npz", 1, flap)
    options = {"horizon": 8, "folds": 3, "workers": 1, "normalize": kind}
    run = annotate(tmp_path / "set", out=tmp_path / "run", **options)
    row = run.info["verdict"][1]
    assert row["status"] == "ok"
    assert row["sigma_min"] > 0.9
