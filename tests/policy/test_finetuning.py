"""Going on from a finished policy: what is kept, what is refused, what is not forgotten."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import small_run
from command import check_failure, run_command, snapshot
from small_run import HORIZON, annotate_small, write_collection
from small_worker import make_small
from test_train import SMALL, WORDS, train, weights

from ambient_curate.analysis.survey import sense_policy
from ambient_curate.errors import CheckpointError, ConfigError, RunError
from ambient_curate.policy import fitting
from ambient_curate.policy.acting import load_policy
from ambient_curate.policy.options import PolicyOptions
from ambient_curate.policy.train import TrainedPolicy, train_policy
from ambient_curate.progress import Update
from ambient_curate.run.records import Run

Place = Callable[..., Run]
RESULTS = ("policy.safetensors", "log.csv", "validation.csv")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("finetuning")


@pytest.fixture(scope="module")
def made(place_small: Place, folder: Path) -> Run:
    return place_small(folder, granularity="datapoint")


@pytest.fixture(scope="module")
def base(made: Run, folder: Path) -> TrainedPolicy:
    """An ambient policy that knows goals and tasks."""
    return train(made, folder / "base", condition="goal,task", octaves=1)


def results(policy: TrainedPolicy) -> list[bytes]:
    return [(policy.path / name).read_bytes() for name in RESULTS]


@pytest.mark.parametrize("mode", ["ambient", "clean", "cotrain"])
def test_no_steps_give_the_same_policy(
    made: Run, base: TrainedPolicy, tmp_path: Path, mode: str
) -> None:
    same = train(made, tmp_path / "p", init=base.path, mode=mode, steps=0, seed=5)
    assert weights(same) == weights(base)
    for part in ("shape", "schedule", "interface"):
        assert same.info[part] == base.info[part]
    assert same.info["held_out"]["error_before"] == same.info["held_out"]["error"]
    assert same.info["held_out"]["error"] == base.info["held_out"]["error"]
    seen = {"state": np.ones((1, 2)), "goal": [0.5], "task": ["push"]}
    acts = [load_policy(policy.path).act(seen) for policy in (base, same)]
    np.testing.assert_array_equal(*acts)


def test_it_is_recorded_what_a_policy_was_gone_on_from(
    made: Run, base: TrainedPolicy, tmp_path: Path
) -> None:
    tuned = train(made, tmp_path / "p", init=base.path, mode="clean", steps=3)
    assert tuned.info["init"] == {
        "path": str(base.path),
        "seal": base.info["seal"],
        "run": made.info["digest"],
        "mode": "ambient",
        "steps": SMALL["steps"],
    }
    assert tuned.info["options"]["init"] == base.info["seal"]
    assert base.info["init"] is None
    assert "error_before" not in base.info["held_out"]
    again = train(made, tmp_path / "q", init=tuned.path, steps=2)
    assert again.info["init"]["mode"] == "clean"


def test_a_policy_of_one_run_goes_on_on_another(
    base: TrainedPolicy, place_small: Place, tmp_path: Path
) -> None:
    other = place_small(tmp_path, granularity="dataset")
    tuned = train(other, tmp_path / "p", init=base.path)
    assert tuned.info["run"] == other.info["digest"] != tuned.info["init"]["run"]
    assert weights(tuned) != weights(base)


def test_a_policy_goes_on_on_another_clean_set_that_is_scaled_as_its_own_was(
    made: Run, base: TrainedPolicy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """sigma_min is in units of the scale; where zero lies is the policy's."""
    make_small(monkeypatch.setattr)
    data, other = made.path.parent / "set", {"clean": "far", "represent": "relative"}
    refused = annotate_small(data, tmp_path / "fitted", **other)
    with pytest.raises(CheckpointError, match="normaliser's scale in dimension 0") as caught:
        train(refused, tmp_path / "p", init=base.path)
    assert "annotate --normalizer" in str(caught.value.hint)
    run = annotate_small(data, tmp_path / "run", normalizer=made.path / "run.json", **other)
    assert run.info["normaliser"]["offset"] != made.info["normaliser"]["offset"]
    tuned = train(run, tmp_path / "q", init=base.path)
    assert tuned.info["interface"] == base.info["interface"]
    assert tuned.info["held_out"]["episodes"] != base.info["held_out"]["episodes"]


def test_the_network_and_what_it_observes_need_not_be_said_again(made: Run, tmp_path: Path) -> None:
    said = {"network": "unet-small", "prediction": "v", "n_obs_steps": 1, "n_action_steps": 2}
    base = train(made, tmp_path / "base", **said, octaves=2, condition="task", steps=2)
    tuned = train_policy(made, init=base.path, out=tmp_path / "p", steps=2, batch_size=8)
    assert tuned.info["shape"] == base.info["shape"]
    assert tuned.info["interface"] == base.info["interface"]
    code, _, stderr = run_command(
        *("train", str(made.path), "--init", str(base.path), "--out", str(tmp_path / "q")),
        *("--steps", "2", "--batch-size", "8"),
    )
    assert code == 0, stderr
    assert (tmp_path / "q" / "policy.safetensors").read_bytes() == weights(tuned)


def test_the_units_of_observations_are_kept(made: Run, base: TrainedPolicy, tmp_path: Path) -> None:
    """Of the clean set alone, goals have another range than of all data."""
    alone = train(made, tmp_path / "alone", mode="clean", condition="goal,task", octaves=1)
    assert alone.info["interface"]["columns"]["goal"] != base.info["interface"]["columns"]["goal"]
    tuned = train(made, tmp_path / "p", mode="clean", init=base.path)
    assert tuned.info["interface"] == base.info["interface"]


def test_principal_axes_are_kept(made: Run, base: TrainedPolicy, tmp_path: Path) -> None:
    tuned = train(made, tmp_path / "p", mode="clean", init=base.path, learning_rate=0.1)
    pair = [load_policy(policy.path).denoiser for policy in (base, tuned)]
    for name, value in pair[0].named_buffers():
        assert value.equal(pair[1].get_buffer(name)), name
    moved = [not p.equal(q) for p, q in zip(*(each.parameters() for each in pair), strict=True)]
    assert any(moved)


def test_what_was_held_out_stays_held_out(made: Run, base: TrainedPolicy, tmp_path: Path) -> None:
    """Whatever the seed and the share: else the error before would be that of training data."""
    apart = base.info["held_out"]["episodes"]
    assert len(apart) == 1
    fresh = train(made, tmp_path / "fresh", seed=3)
    assert fresh.info["held_out"]["episodes"] != apart
    for changes in ({"seed": 3}, {"validation": 0.4}, {"validation": 0.0}):
        name = "".join(changes)
        tuned = train(
            made, tmp_path / f"{name}{len(changes)}", init=base.path, **changes, force=True
        )
        assert tuned.info["held_out"]["episodes"] == apart
        assert tuned.info["windows"] == base.info["windows"]


def test_an_error_on_data_it_was_trained_on_is_not_called_held_out(
    made: Run, tmp_path: Path
) -> None:
    base = train(made, tmp_path / "base", validation=0.0)
    assert base.info["held_out"] is None
    tuned = train(made, tmp_path / "p", init=base.path)
    assert "error_before" not in tuned.info["held_out"]


def test_the_same_seed_gives_the_same_bytes(made: Run, base: TrainedPolicy, tmp_path: Path) -> None:
    first, same, other = (
        train(made, tmp_path / name, init=base.path, seed=seed)
        for name, seed in (("a", 1), ("b", 1), ("c", 2))
    )
    assert results(first) == results(same)
    assert weights(first) != weights(other)
    moved = tmp_path / "moved"
    shutil.copytree(base.path, moved)
    assert train(made, tmp_path / "a", init=moved, seed=1).already_complete
    with pytest.raises(RunError, match=r"of other inputs \(options.init: "):
        train(made, tmp_path / "a", init=other.path, seed=1)


@pytest.mark.parametrize("reached", [3, 14, 20])
def test_an_interrupted_finetuning_ends_as_an_undisturbed_one(
    made: Run, base: TrainedPolicy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reached: int
) -> None:
    monkeypatch.setattr(fitting, "KEPT", 10)
    whole = train(made, tmp_path / "whole", init=base.path, mode="clean")
    done = 0

    def stop(update: Update) -> None:
        nonlocal done
        done += update.work == "training" and update.state == "running" and update.steps > 0
        if done == reached:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(made, tmp_path / "p", init=base.path, mode="clean", progress=stop)
    assert not (tmp_path / "p" / "policy.json").exists()
    resumed = train(made, tmp_path / "p", init=base.path, mode="clean")
    assert results(resumed) == results(whole)
    assert resumed.info["held_out"] == whole.info["held_out"]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"network": "unet-small"}, "network is mlp, here unet-small"),
        ({"prediction": "v"}, "prediction is wiener, here v"),
        ({"octaves": 2}, "octaves is 1, here 2"),
        ({"n_obs_steps": 1}, "n_obs_steps is 2, here 1"),
        ({"n_action_steps": 1}, "n_action_steps is 3, here 1"),
        ({"condition": "task"}, "condition is goal,task, here task"),
    ],
)
def test_another_network_or_observation_is_refused(
    made: Run, base: TrainedPolicy, tmp_path: Path, changes: dict[str, Any], expected: str
) -> None:
    with pytest.raises(CheckpointError, match=f"does not suit this training: its {expected}"):
        train(made, tmp_path / "p", init=base.path, **changes)
    assert not (tmp_path / "p" / "policy.json").exists()
    options = PolicyOptions(**SMALL, init=base.path, out=tmp_path / "q")
    with pytest.raises(CheckpointError, match="octaves is 1, here 0; condition is goal,task"):
        train_policy(made, options)  # of whole options all are meant


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"horizon": HORIZON + 1}, f"horizon is {HORIZON}, here {HORIZON + 1}"),
        ({"normalize": "gaussian"}, r"normaliser's scale in dimension 0 is \d.*, here \d"),
        ({"represent": "absolute"}, "representation is relative, here absolute"),
        ({"schedule": "squaredcos_cap_v2:50"}, "schedule is squaredcos_cap_v2:100, here"),
    ],
)
def test_a_run_of_another_kind_is_refused(
    base: TrainedPolicy, place_small: Place, tmp_path: Path, options: dict[str, Any], expected: str
) -> None:
    other = place_small(tmp_path, **options)
    with pytest.raises(CheckpointError, match=expected):
        train(other, tmp_path / "p", init=base.path)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"ACTION": 3}, "number of action dimensions is 2, here 3"),
        ({"state": False}, "number of state dimensions is 2, here 0"),
    ],
)
def test_data_of_other_dimensions_is_refused(
    base: TrainedPolicy,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    change: dict[str, Any],
    expected: str,
) -> None:
    make_small(monkeypatch.setattr)
    monkeypatch.setattr(small_run, "ACTION", change.get("ACTION", 2))
    write_collection(tmp_path / "set", state=change.get("state", True))
    other = annotate_small(tmp_path / "set", tmp_path / "run")
    with pytest.raises(CheckpointError, match=expected):
        train(other, tmp_path / "p", init=base.path)


def test_changed_weights_are_refused(made: Run, base: TrainedPolicy, tmp_path: Path) -> None:
    other = train(made, tmp_path / "other", condition="goal,task", octaves=1, seed=1)
    mixed = tmp_path / "mixed"
    shutil.copytree(base.path, mixed)
    shutil.copyfile(other.path / RESULTS[0], mixed / RESULTS[0])
    with pytest.raises(CheckpointError, match=r"was changed since policy\.json was written"):
        train(made, tmp_path / "p", init=mixed)
    (mixed / RESULTS[0]).unlink()
    with pytest.raises(CheckpointError, match="holds no weights of this policy"):
        train(made, tmp_path / "q", init=mixed)
    with pytest.raises(RunError, match="is no policy"):
        train(made, tmp_path / "r", init=made.path)


def test_a_policy_is_never_replaced_by_the_one_that_starts_from_it(
    made: Run, base: TrainedPolicy
) -> None:
    before = snapshot(base.path)
    for force in (False, True):
        with pytest.raises(ConfigError, match="is the policy to start from"):
            train(made, base.path, init=base.path, force=force)
    assert snapshot(base.path) == before


def test_the_command_shows_the_errors_before_and_after(
    made: Run, base: TrainedPolicy, tmp_path: Path
) -> None:
    words = ("train", str(made.path), "--init", str(base.path), "--out", str(tmp_path / "p"))
    code, stdout, stderr = run_command(*words, *WORDS, "--steps", "0")
    assert code == 0, stderr
    head, *rows = stdout.splitlines()
    assert head.split()[-4:] == ["error", "before", "held-out", "error"]
    assert all(row.split()[-1] == row.split()[-2] for row in rows)
    info = json.loads((tmp_path / "p" / "policy.json").read_text())
    assert len(rows) == len(info["held_out"]["error_before"])
    fresh = ("train", str(made.path), "--out", str(tmp_path / "q"), *WORDS, "--steps", "0")
    check_failure(run_command(*fresh), "steps = 0 without init", "correct the values")


def test_what_is_not_taught_is_not_forgotten(made: Run, tmp_path: Path) -> None:
    """Ambient data that is admitted at high noise only costs nothing on clean data anywhere."""
    sizes: dict[str, Any] = {"batch_size": 64, "validation": 0.3, "network": "mlp"}
    base = train(made, tmp_path / "base", mode="clean", steps=400, **sizes)
    tuned = train(
        made, tmp_path / "p", init=base.path, sigma_min=0.7, steps=200, learning_rate=2e-4, **sizes
    )
    found = tuned.info["held_out"]
    assert found["error_before"] == base.info["held_out"]["error"]
    before, after = np.array(found["error_before"]), np.array(found["error"])
    assert tuned.info["coverage"]["far"][0] == 0.0
    assert (after <= 1.05 * before).all()


def test_the_receptive_field_of_a_finetuned_policy_is_that_of_its_own_observations(
    made: Run, base: TrainedPolicy, tmp_path: Path
) -> None:
    same = train(made, tmp_path / "same", mode="clean", init=base.path, steps=0)
    found = [sense_policy(made.path, policy.path, levels=2).sensitivity for policy in (base, same)]
    np.testing.assert_array_equal(found[0].square, found[1].square)
