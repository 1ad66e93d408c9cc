"""Policies: trained on a run, resumed, refused where the data is not what was annotated."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command import check_failure, run_command, snapshot
from small_run import HORIZON, annotate_small, write_collection
from small_worker import make_small
from test_journal import read_tensorboard

from ambient_curate.errors import CheckpointError, ConfigError, ManifestError, RunError
from ambient_curate.policy import fitting
from ambient_curate.policy.acting import load_policy
from ambient_curate.policy.level_sampler import LevelSampler
from ambient_curate.policy.options import PolicyOptions
from ambient_curate.policy.train import TrainedPolicy, train_policy
from ambient_curate.run.records import Run

SMALL: dict[str, Any] = {"steps": 20, "batch_size": 16, "n_action_steps": 3, "warm_up": 2}
WORDS = [
    word for key, value in SMALL.items() for word in (f"--{key.replace('_', '-')}", str(value))
]


@pytest.fixture(scope="module")
def made(place_small: Callable[..., Run], tmp_path_factory: pytest.TempPathFactory) -> Run:
    return place_small(tmp_path_factory.mktemp("policies"), granularity="datapoint")


def train(made: Run, out: Path, **changes: Any) -> TrainedPolicy:
    return train_policy(made, out=out, **SMALL | changes)


def weights(policy: TrainedPolicy) -> bytes:
    return (policy.path / "policy.safetensors").read_bytes()


def test_a_policy_is_trained_and_the_same_command_finds_it_complete(
    made: Run, tmp_path: Path
) -> None:
    told: list[LevelSampler] = []
    first = train(made, tmp_path / "p", tell=told.append)
    written = ["log.csv", "policy.json", "policy.safetensors", "validation.csv"]
    assert sorted(os.listdir(first.path)) == written
    before = snapshot(first.path)
    again = train(made, tmp_path / "p")
    assert again.already_complete
    assert not first.already_complete
    assert snapshot(first.path) == before
    assert first.info["coverage"] == {k: v.tolist() for k, v in told[0].coverage().items()}
    assert first.info["run"] == made.info["digest"]
    assert weights(train(made, tmp_path / "q")) == weights(first)
    assert weights(train(made, tmp_path / "r", seed=1)) != weights(first)


@pytest.mark.parametrize("mode", ["ambient", "weighted", "cotrain", "clean"])
def test_modes_differ_in_what_they_draw_and_nothing_else(
    made: Run, tmp_path: Path, mode: str
) -> None:
    told: list[LevelSampler] = []
    policy = train(made, tmp_path / mode, mode=mode, clean_weight=0.3, tell=told.append)
    coverage = policy.info["coverage"]
    assert (set(coverage) == {"clean"}) == (mode == "clean")
    if mode in ("cotrain", "weighted"):
        assert all(set(share) == {1.0} for share in coverage.values())
    if mode == "weighted":
        assert policy.info["effective_windows"] != policy.info["windows"]
    windows = policy.info["windows"]
    rest = sum(size for name, size in windows.items() if name != "clean") or 1
    shares = {n: 0.3 if n == "clean" else 0.7 * size / rest for n, size in windows.items()}
    admitted = sum(w * (np.array(coverage[name]) > 0) for name, w in shares.items())
    np.testing.assert_allclose(told[0].probability[:, :2].sum(axis=1), 0.3 / admitted)
    assert all(np.isfinite(policy.info["held_out"]["error"]))


def test_the_clean_set_can_be_left_out(made: Run, tmp_path: Path) -> None:
    told: list[LevelSampler] = []
    train(made, tmp_path / "p", mode="cotrain", clean_weight=0.0, tell=told.append)
    assert not told[0].probability[:, :2].any()  # the clean set comes first
    np.testing.assert_allclose(told[0].probability.sum(axis=1), 1.0)


@pytest.mark.parametrize(
    ("network", "prediction"),
    [(n, "wiener") for n in ("mlp", "unet-small")]
    + [("mlp", p) for p in ("sample", "epsilon", "v", "flow")],
)
def test_every_network_and_prediction_acts(
    made: Run, tmp_path: Path, network: str, prediction: str
) -> None:
    trained = train(
        made, tmp_path / "p", network=network, prediction=prediction, condition="goal,task", steps=4
    )
    policy = load_policy(trained.path, steps=3)
    seen = {"state": np.zeros((2, 2)), "goal": np.ones(2), "task": np.array(["reach", "push"])}
    actions = policy.act(seen)
    assert actions.shape == (2, 3, 2)
    assert np.isfinite(actions).all()


def test_a_policy_that_cannot_act_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_small(monkeypatch.setattr)
    run = annotate_small(write_collection(tmp_path / "set", state=False), tmp_path / "run")
    trained = train(run, tmp_path / "p")
    with pytest.raises(CheckpointError, match="cannot act: windows relative to their own first"):
        load_policy(trained.path)


def test_a_window_decides_how_many_actions_are_executed(made: Run, tmp_path: Path) -> None:
    trained = train(made, tmp_path / "p", n_action_steps=None, n_obs_steps=2, steps=1)
    assert trained.info["interface"]["n_action_steps"] == HORIZON - 1
    with pytest.raises(ConfigError, match="need windows of 5 frames; the run has 4"):
        train(made, tmp_path / "q", n_action_steps=4, n_obs_steps=2)


def test_acting_puts_windows_where_the_robot_is(made: Run, tmp_path: Path) -> None:
    """Relative windows move with the state, all else equal."""
    trained = train(made, tmp_path / "p", n_obs_steps=1)
    policy = load_policy(trained.path)
    policy.interface.scale_state.scale[:] = 0.0  # type: ignore[union-attr]
    here = policy.act({"state": np.zeros((1, 2))})
    policy.reset()
    there = policy.act({"state": np.full((1, 2), 5.0)})
    np.testing.assert_allclose(there, here + 5.0, atol=1e-4)


def test_an_ambient_policy_is_fine_tuned_on_the_clean_set(made: Run, tmp_path: Path) -> None:
    base = train(made, tmp_path / "base")
    told = train(
        made, tmp_path / "tuned", mode="clean", init=base.path, steps=1, learning_rate=1e-9
    )
    assert told.info["shape"] == base.info["shape"]
    policies = [load_policy(policy.path) for policy in (base, told)]
    acts = [policy.act({"state": np.ones((1, 2))}) for policy in policies]
    np.testing.assert_allclose(acts[1], acts[0], atol=1e-4)
    with pytest.raises(CheckpointError, match="its n_obs_steps is 2, here 1"):
        train(made, tmp_path / "other", init=base.path, n_obs_steps=1)


@pytest.mark.filterwarnings("default")  # TensorBoard's
def test_a_log_elsewhere_outlives_the_training_and_changes_nothing(
    made: Run, tmp_path: Path
) -> None:
    pytest.importorskip("tensorboard")
    policy = train(made, tmp_path / "p", log="tensorboard")
    shown = read_tensorboard(policy.path)
    assert [step for step, _ in shown["loss"]] == [10, 20]
    assert [step for step, _ in shown["held-out error"]] == [20]
    assert weights(train(made, tmp_path / "q")) == weights(policy)
    assert train(made, tmp_path / "p").already_complete


def test_a_policy_that_is_replaced_takes_its_logs_elsewhere_along(
    made: Run, tmp_path: Path
) -> None:
    policy = train(made, tmp_path / "p")
    for name in ("tensorboard", "wandb", "mine"):
        (policy.path / name).mkdir()
    train(made, tmp_path / "p", seed=1, force=True)
    left = [name for name in ("tensorboard", "wandb", "mine") if (policy.path / name).exists()]
    assert left == ["mine"]  # nobody here wrote it


def test_a_missing_extra_is_named_before_anything_is_written(
    made: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fitting, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="trackio is not installed"):
        train(made, tmp_path / "p", log="trackio")
    assert not (tmp_path / "p").exists()


def test_what_does_not_suit_the_run_is_refused(made: Run, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="steps = 0"):
        train(made, tmp_path / "p", steps=0)
    with pytest.raises(RunError, match="is not there"):
        train(made, tmp_path / "p", data=tmp_path / "nowhere")
    with pytest.raises(ValueError, match="not both"):
        train_policy(made, PolicyOptions(), steps=3)


def set_of(run: Run) -> Path:
    return Path(run.path / run.info["collection"]["path"])


def test_a_copy_of_the_data_will_do_and_changed_data_will_not(made: Run, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(set_of(made), copy)
    expected = weights(train(made, tmp_path / "p"))
    assert weights(train(made, tmp_path / "q", data=copy)) == expected
    file = copy / "far" / "data.parquet"
    os.utime(file)
    with pytest.raises(RunError, match=r"1 file of far changed since .*data\.parquet") as caught:
        train(made, tmp_path / "r", data=copy)
    assert "annotate again" in str(caught.value.hint)
    shutil.rmtree(copy / "far")
    with pytest.raises(RunError, match=r"other members .*: far"):
        train(made, tmp_path / "r", data=copy)


def test_a_manifest_of_another_run_is_refused(made: Run, tmp_path: Path) -> None:
    mixed = tmp_path / "mixed"
    shutil.copytree(made.path, mixed)
    record = json.loads((mixed / "run.json").read_text()) | {"digest": "0" * 64}
    (mixed / "run.json").write_text(json.dumps(record))
    with pytest.raises(ManifestError, match="was written by another run"):
        train_policy(mixed, data=set_of(made), out=tmp_path / "p", **SMALL)


def changed(made: Run, **changes: Any) -> Run:
    return Run(made.path, json.loads(json.dumps(made.info)) | changes)


def test_a_manifest_of_another_normaliser_or_horizon_is_refused(made: Run, tmp_path: Path) -> None:
    other = made.info["normaliser"] | {"offset": [0.0, 0.0]}
    with pytest.raises(ManifestError, match="the normaliser of"):
        train(changed(made, normaliser=other), tmp_path / "p")
    options = made.info["options"] | {"horizon": HORIZON + 1}
    with pytest.raises(ManifestError, match=r"the (horizon|normaliser) of"):
        train(changed(made, options=options), tmp_path / "p")


def test_the_command_prints_what_is_used_and_how_far_it_errs(made: Run, tmp_path: Path) -> None:
    words = ["train", str(made.path), "--out", str(tmp_path / "p"), *WORDS]
    code, stdout, stderr = run_command(*words)
    assert code == 0, stderr
    heads = stdout.splitlines()[0].split()
    assert heads == ["level", "sigma", "clean", "far", "jitter", "held-out", "error"]
    assert "clean: " in stderr
    assert "admitted from sigma 0.025 to 1.000" in stderr
    assert run_command(*words)[2].startswith("already complete")
    other = ["train", str(made.path), "--out", str(tmp_path / "p"), *WORDS, "--seed", "3"]
    check_failure(
        run_command(*other), r"is the policy of other inputs \(options.seed: 0 -> 3\)", "--force"
    )
    check_failure(run_command("train", str(tmp_path)), "is no run", "annotate")
    check_failure(run_command("rollout", str(made.path), "--env", "a:b"), "", "")


def program(made: Run, out: Path, *more: str) -> list[str]:
    words = ["train", str(made.path), "--out", str(out), *WORDS, *more]
    return [sys.executable, "-P", "-m", "ambient_curate", *words]


@pytest.mark.slow
@pytest.mark.parametrize("step", [230, 640, 1330])
def test_a_killed_training_goes_on_to_the_same_losses(made: Run, tmp_path: Path, step: int) -> None:
    more = ("--steps", "1500")
    subprocess.run(program(made, tmp_path / "whole", *more), check=True, capture_output=True)
    killed = subprocess.Popen(
        program(made, tmp_path / "killed", *more), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    until = time.monotonic() + 300
    while reached(tmp_path / "killed" / ".work" / "log.csv") < step:
        assert killed.poll() is None
        assert time.monotonic() < until
        time.sleep(0.01)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    assert not (tmp_path / "killed" / "policy.json").exists()
    subprocess.run(program(made, tmp_path / "killed", *more), check=True, capture_output=True)
    for name in ("log.csv", "validation.csv", "policy.safetensors"):
        pair = [(tmp_path / folder / name).read_bytes() for folder in ("whole", "killed")]
        assert pair[0] == pair[1], name


def reached(log: Path) -> int:
    """Last step in a log that is being written."""
    steps = [row.split(",")[0] for row in log.read_text().splitlines()] if log.exists() else []
    return max((int(text) for text in steps if text.isdecimal()), default=0)


@pytest.mark.slow  # test_ranks.py compares two processes with one, step by step
def test_two_processes_train_the_policy_of_one(made: Run, tmp_path: Path) -> None:
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    words = program(made, tmp_path / "two")
    done = subprocess.run(
        [sys.executable, *launch, "-m", *words[3:]],
        check=True,
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert done.stdout.count("held-out error") == 1
    assert done.stderr.count("training: done") == 1
    train(made, tmp_path / "one")
    rows = [(tmp_path / name / "log.csv").read_text().splitlines() for name in ("one", "two")]
    for one, two in zip(*rows, strict=True):
        if not one.startswith("step"):
            assert float(two.split(",")[1]) == pytest.approx(float(one.split(",")[1]), rel=1e-5)
