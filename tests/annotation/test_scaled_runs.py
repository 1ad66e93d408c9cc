"""Runs scaled as a trainer scales: sigma_min is that of arrays scaled beforehand."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import h5py
import numpy as np
import pyarrow.parquet as pq
import pytest
from command import check_failure, run_command
from small_run import annotate_small
from small_study import make_episodes, make_study
from small_worker import make_small
from trainer_rules import TRAINERS, listed, measure, write_file

from ambient_curate.annotation.request import make_request
from ambient_curate.annotation.verdict import describe_scale
from ambient_curate.data.trainer_scales import read_trainer_scales
from ambient_curate.errors import ConfigError
from ambient_curate.export.export import export_run
from ambient_curate.run.records import Run

USED = {
    "openvla": "quantile",  # masks, cuts off, has constants
    "lerobot": "minmax",
    "openpi": "gaussian",
    "octo": "quantile",
    "gr00t": "minmax",
    "robomimic": "gaussian",
}
ONE, *OTHERS = (pytest.param(trainer, kind, id=trainer) for trainer, kind in USED.items())
SLOW = [pytest.param(*each.values, marks=pytest.mark.slow, id=each.id) for each in OTHERS]


@pytest.fixture(autouse=True)
def _small() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        make_small(patch.setattr)
        yield


def write_demos(root: Path, change: Callable[[np.ndarray], np.ndarray]) -> Path:
    """Four dimensions: two that move, a constant, a gripper."""
    for number, name in enumerate(("clean", "jitter", "far")):
        rng = np.random.default_rng(number)
        (root / name).mkdir(parents=True)
        with h5py.File(root / name / "demos.hdf5", "w") as file:
            for episode in range(6):
                length = 9 + episode % 3
                walk = rng.normal(size=(length, 2)).cumsum(axis=0) * (1.0, 20.0)
                walk += {"clean": 0.0, "jitter": 2.0 * rng.normal(size=walk.shape), "far": 9.0}[
                    name
                ]
                hand = rng.integers(2, size=(length, 1))
                action = np.hstack([walk, np.full((length, 1), 7.3), hand]).astype(np.float32)
                file[f"data/demo_{episode}/actions"] = change(action)
    return root


def read_all(root: Path, name: str = "*") -> np.ndarray:
    values = []
    for path in sorted(root.glob(f"{name}/demos.hdf5")):
        with h5py.File(path) as file:
            values += [file[f"data/{name}/actions"][()] for name in file["data"]]
    return np.concatenate(values).astype(np.float64)


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_demos(tmp_path_factory.mktemp("raw") / "set", lambda action: action)


@pytest.mark.parametrize(("trainer", "kind"), [ONE, *SLOW])
def test_sigma_min_is_that_of_arrays_scaled_beforehand(
    raw: Path, tmp_path: Path, trainer: str, kind: str
) -> None:
    stats = measure(read_all(raw))
    file = write_file(tmp_path, trainer, stats, kind)
    given = {"represent": "absolute", "granularity": "episode"}
    found = annotate_small(raw, tmp_path / "found", normalizer=file, normalize=kind, **given)
    before = write_demos(
        tmp_path / "before",
        lambda x: TRAINERS[trainer][0](x.astype(np.float64), stats, kind).astype(np.float32),
    )
    expected = annotate_small(before, tmp_path / "expected", normalize="none", **given)
    assert found.manifest().equals(expected.manifest())
    assert pq.read_table(found.path / "curves.parquet").equals(
        pq.read_table(expected.path / "curves.parquet")
    )
    assert any(value for value in found.manifest()["sigma_min"].to_pylist())
    check_record(found, trainer, file)
    # the trainer of that file has the run's scale, whatever became of the file's place
    moved = shutil.copy(file, tmp_path / "elsewhere.json")
    done = export_run(found, out=tmp_path / "e", normalizer=Path(moved))
    assert done.info["options"]["factor"] == 1.0
    assert not any("cuts" in note for note in done.info["notes"])


def check_record(run: Run, trainer: str, file: Path) -> None:
    source = run.info["normaliser"]["trainer"]["source"]
    assert (source["file"], source["format"]) == (file.name, trainer)
    assert run.info["statistics"] == {key: source[key] for key in ("format", "sha256")}
    assert f"normalised as {trainer} does by {file.name}" in run.info["assumed"]


def test_a_scale_of_other_proportions_is_refused_with_the_command_that_annotates(
    place_small: Callable[..., Run], tmp_path: Path
) -> None:
    run = place_small(tmp_path)
    scale = np.array(run.info["normaliser"]["scale"])
    ends = {"min": -1 / scale, "max": 1 / scale * (1, 3)}
    stats = measure(np.zeros((2, scale.size))) | ends | {"std": 1 / scale * (1, 3)}
    file = write_file(tmp_path, "lerobot", stats, "minmax")
    words = ["export", str(run.path), "--out", str(tmp_path / "e"), "--normalizer", str(file)]
    check_failure(
        run_command(*words),
        "one is no multiple of the other",
        f"annotate COLLECTION --normalizer {file} --normalize minmax",
    )
    assert not (tmp_path / "e").exists()
    # the same file, read as another policy of the trainer reads it, says so too
    check_failure(
        run_command(*words, "--normalize", "gaussian"), "multiple", "--normalize gaussian"
    )


def test_a_run_whose_datasets_are_scaled_apart_is_opened_and_exported_as_it_was(
    raw: Path, tmp_path: Path
) -> None:
    """OpenVLA and Octo scale every dataset by its own statistics."""
    content = {}
    for name in ("clean", "far", "jitter"):
        action = listed(measure(read_all(raw, name)))
        content[name] = {"action": action, "num_transitions": 60}
    file = tmp_path / "dataset_statistics.json"
    file.write_text(json.dumps(content))
    given = {"represent": "absolute", "normalize": "gaussian"}
    run = annotate_small(raw, tmp_path / "run", normalizer=file, **given)
    assert "(gaussian, each dataset by its own)" in run.info["assumed"]
    scales = {name: each["scale"] for name, each in run.info["normalisers"].items()}
    assert scales["clean"] == run.info["normaliser"]["scale"] != scales["far"]
    done = export_run(run, out=tmp_path / "e", to="openvla", normalizer=file)
    assert done.info["options"]["factor"] == 1.0
    # read again as the run itself: the same once more
    again = read_trainer_scales(run.path / "run.json", "gaussian")
    assert again.of("far").scale.tolist() == scales["far"]
    one = tmp_path / "one.json"
    one.write_text(json.dumps({"clean": content["clean"]}))
    with pytest.raises(ConfigError, match=r"no multiple|own statistics") as error:
        export_run(run, out=tmp_path / "other", to="openvla", normalizer=one)
    assert f"--normalizer {one} --normalize gaussian" in str(error.value.hint)


def test_a_scale_fitted_on_all_is_said_in_the_verdict(tmp_path: Path) -> None:
    members = {name: make_episodes(name, (6, 3, 9, 5, 4, 7)) for name in ("clean", "a")}
    said = describe_scale(make_study(tmp_path / "all", members, normalize_on="all"))
    assert "by all datasets together (minmax)" in said
    assert "sigma_min depends on which datasets there are" in said
    assert describe_scale(make_study(tmp_path / "clean", members)) == (
        "normalised by the clean set (minmax)"
    )


def test_what_decides_no_number_leaves_the_digest_as_it_was(raw: Path, tmp_path: Path) -> None:
    plain = make_request(raw, None, {}).inputs
    assert {"normalizer", "normalize_on", "statistics"}.isdisjoint({**plain, **plain["options"]})
    one = write_file(tmp_path, "lerobot", measure(read_all(raw)), "minmax")
    other = tmp_path / "other.json"
    other.write_bytes(one.read_bytes())
    found = [make_request(raw, None, {"normalizer": path}).inputs for path in (one, other)]
    assert found[0] == found[1] != plain
    other.write_text(one.read_text().replace("7.3", "7.4"))
    assert make_request(raw, None, {"normalizer": other}).inputs != found[0]
