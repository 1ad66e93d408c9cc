"""A run of data that moves where the clean set is constant: no row of it is usable."""

from pathlib import Path

import numpy as np
import pytest
from command import run_command
from small_run import HORIZON, annotate_small
from small_worker import make_small

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
