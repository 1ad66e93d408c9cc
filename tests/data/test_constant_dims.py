"""What moves where the clean set is constant is found, whatever the windows are."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_study import ACTION, make_episodes, make_study

from ambient_curate.annotation.reliability import NOT_COMPARED, examine_dimensions, judge
from ambient_curate.data.constant_dims import (
    ConstantMotion,
    find_constant_motion,
    list_constant_dims,
)
from ambient_curate.data.motion import CONSTANT
from ambient_curate.data.normalizer import fit_normalizer
from ambient_curate.data.study import Study
from ambient_curate.errors import NotEnoughDataError
from ambient_curate.options import Normalization, Representation
from ambient_curate.readers.episodes import Episode

LENGTHS = (6, 3, 9, 5, 4, 7)
TASKS = ["x", "x", "y", "y", "x", "y"]
FRAMES = sum(LENGTHS)
SCALED = [kind for kind in get_args(Normalization) if kind != "none"]


def hold(episodes: Sequence[Episode], value: float, moved: Sequence[int] = ()) -> list[Episode]:
    """Episodes whose second dimension is `value`, but for a step up in the last frame of some."""
    held = []
    for episode in episodes:
        action = episode.action.copy()
        action[:, 1] = value
        if episode.number in moved:
            action[-1, 1] += 0.5
        held.append(replace(episode, action=action))
    return held


def study_with(folder: Path, a: Sequence[Episode], clean: float = 1.0, **options: Any) -> Study:
    members = {"clean": hold(make_episodes("clean", LENGTHS, task=TASKS), clean), "a": a}
    members["b"] = hold(make_episodes("b", LENGTHS, task=TASKS), clean)
    return make_study(folder, members, **options)


def statuses(study: Study) -> dict[tuple[str, str | None], str]:
    return {(p.dataset, p.group): judge(examine_dimensions(p)) for p in study.corrupt}


@pytest.mark.parametrize("kind", SCALED)
def test_motion_is_named_with_its_dimension_share_and_size(
    tmp_path: Path, kind: Normalization
) -> None:
    moved = hold(make_episodes("a", LENGTHS), 1.0, [0, 2, 5])
    study = study_with(tmp_path, moved, normalize=kind)
    a, b = study.corrupt
    assert find_constant_motion(a) == [ConstantMotion("action", 1, 1.0, 3 / FRAMES, 0.5)]
    assert find_constant_motion(b) == []
    (finding,) = examine_dimensions(a)
    assert (finding.check, finding.passed) == ("dimensions", False)
    assert finding.numbers == {"action 1": 3 / FRAMES}
    assert finding.sentence == (
        "action dimension 1 is always 1 in the clean set, and something else in 8.8% of the frames "
        "here, by up to 0.5: this was not compared, so no noise level is known that hides it; "
        "`dims` in ambient.toml leaves a dimension out of all datasets"
    )
    assert [finding.passed for finding in examine_dimensions(b)] == [True]
    assert statuses(study) == {("a", None): NOT_COMPARED, ("b", None): "ok"}


def test_another_constant_is_a_difference_too(tmp_path: Path) -> None:
    study = study_with(tmp_path, hold(make_episodes("a", LENGTHS), -1.0))
    assert find_constant_motion(study.corrupt[0]) == [ConstantMotion("action", 1, 1.0, 1.0, 2.0)]


@pytest.mark.parametrize("represent", ["relative", "delta"])
def test_relative_windows_see_motion_and_no_other_place(
    tmp_path: Path, represent: Representation
) -> None:
    """A step in the last frame of an episode is in one frame of one window."""
    elsewhere = study_with(
        tmp_path / "1", hold(make_episodes("a", LENGTHS), -1.0), represent=represent
    )
    assert find_constant_motion(elsewhere.corrupt[0]) == []
    moved = study_with(
        tmp_path / "2", hold(make_episodes("a", LENGTHS), 1.0, [2]), represent=represent
    )
    windows = sum(length - 2 for length in LENGTHS)
    (found,) = find_constant_motion(moved.corrupt[0])
    assert found == ConstantMotion("action", 1, 0.0, 1 / (3 * windows), 0.5)


def test_the_resolution_of_float32_is_no_motion(tmp_path: Path) -> None:
    a = hold(make_episodes("a", LENGTHS), 1.0)
    for represent in ("absolute", "relative"):
        for episode in a:
            episode.action[::2, 1] = np.nextafter(np.float32(1.0), np.float32(2.0))
        study = study_with(tmp_path / represent, a, represent=represent)
        assert find_constant_motion(study.corrupt[0]) == []


def test_states_that_are_told_are_looked_at_too(tmp_path: Path) -> None:
    state = [np.ones((length, 1), np.float32) for length in LENGTHS]
    other = [each.copy() for each in state]
    other[3][2:] = 4.0
    members = {
        "clean": make_episodes("clean", LENGTHS, state=state),
        "a": make_episodes("a", LENGTHS, state=other),
        "b": make_episodes("b", LENGTHS, state=state),
    }
    told = make_study(tmp_path / "told", members, condition="state")
    assert list_constant_dims(told.clean.windows) == {"state": [0]}
    assert find_constant_motion(told.corrupt[0]) == [
        ConstantMotion("state", 0, 1.0, 3 / FRAMES, 3.0)
    ]
    assert statuses(told) == {("a", None): NOT_COMPARED, ("b", None): "ok"}
    assert statuses(make_study(tmp_path / "plain", members))["a", None] == "ok"


@given(
    value=st.sampled_from([0.0, 1.0, -300.0]),
    moved=st.sets(st.integers(0, len(LENGTHS) - 1)),
    represent=st.sampled_from(get_args(Representation)),
    kind=st.sampled_from(SCALED),
)
def test_no_population_that_moves_where_clean_is_constant_is_ok(
    tmp_path_factory: pytest.TempPathFactory,
    value: float,
    moved: set[int],
    represent: Representation,
    kind: Normalization,
) -> None:
    """In any episodes: of one fold, of one group, of all."""
    a = hold(make_episodes("a", LENGTHS, task=TASKS), value, sorted(moved))
    options = {"represent": represent, "normalize": kind, "granularity": "group"}
    study = study_with(tmp_path_factory.mktemp("planted"), a, value, **options)
    for population in study.corrupt:
        moves = population.dataset == "a" and bool(moved & set(population.episodes.tolist()))
        assert judge(examine_dimensions(population)) == (NOT_COMPARED if moves else "ok")


def list_moved(where: str, study: Study) -> list[int]:
    """Episodes of a set, of its first fold, or of its group y."""
    labels = {"set": [True] * len(LENGTHS), "fold": study.corrupt[0].fold == 0}
    labels["group"] = [task == "y" for task in TASKS]
    return np.flatnonzero(labels[where]).tolist()


def shake(episodes: Sequence[Episode], size: float) -> list[Episode]:
    """Add to the second dimension what is no more than float32 resolves."""
    rng = np.random.default_rng(0)
    for episode in episodes:
        episode.action[:, 1] += size * rng.uniform(-1.0, 1.0, len(episode.action))
    return list(episodes)


@pytest.mark.parametrize("where", ["set", "fold", "group"])
@pytest.mark.parametrize("kind", SCALED)
@pytest.mark.parametrize(
    ("represent", "nearly"),
    [*((each, 0.0) for each in get_args(Representation)), ("absolute", 0.8 * CONSTANT)],
)
def test_motion_in_one_set_fold_or_group_alone_is_never_ok(
    tmp_path: Path, where: str, represent: Representation, kind: Normalization, nearly: float
) -> None:
    """The clean set is constant there, or but for the noise of float32."""
    value, options = -300.0, {"represent": represent, "normalize": kind, "granularity": "group"}

    def lay(name: str, moved: Sequence[int]) -> Study:
        members = {
            "clean": shake(hold(make_episodes("clean", LENGTHS, task=TASKS), value), nearly * 300),
            "a": hold(make_episodes("a", LENGTHS, task=TASKS), value, moved),
        }
        return make_study(tmp_path / name, members, **options)

    still = lay("still", [])
    assert set(statuses(still).values()) == {"ok"}
    moved = list_moved(where, still)
    study = lay("moved", moved)
    assert list_constant_dims(study.clean.windows) == {"action": [1]}
    (whole, *_) = study.corrupt
    assert judge(examine_dimensions(whole)) == NOT_COMPARED
    (found,) = find_constant_motion(whole)
    assert found.dim == 1 and found.furthest == pytest.approx(0.5, abs=1e-3)
    folds = {int(whole.fold[episode]) for episode in moved}
    assert len(folds) == 1 or where != "fold"
    for population in study.corrupt:
        moves = bool(set(moved) & set(population.episodes.tolist()))
        assert judge(examine_dimensions(population)) == (NOT_COMPARED if moves else "ok")


@pytest.mark.parametrize("kind", SCALED)
@pytest.mark.parametrize("moved", [[0], [3], list(range(len(LENGTHS)))])
@pytest.mark.parametrize("size", [3e-6, 1e-3, 1.0])
def test_what_moves_in_the_clean_set_beyond_float32_has_a_scale(
    tmp_path: Path, kind: Normalization, moved: list[int], size: float
) -> None:
    """In one episode, so in one fold, or hardly: its motion is neither nothing nor lost."""
    clean = hold(make_episodes("clean", LENGTHS, task=TASKS), 1.0)
    for episode in moved:
        clean[episode].action[-1, 1] += 2.0 * size
    study = make_study(
        tmp_path, {"clean": clean, "a": hold(make_episodes("a", LENGTHS), 1.0)}, normalize=kind
    )
    fitted = study.normalizer
    assert fitted.constant == [] and list_constant_dims(study.clean.windows) == {}
    assert np.isfinite(fitted.scale).all() and (fitted.scale > 0.0).all()
    assert 2.0 * size * fitted.scale[1] >= 1.0  # as far as any noise below the largest hides
    assert statuses(study)["a", None] == "ok"


@pytest.mark.parametrize("represent", get_args(Representation))
@pytest.mark.parametrize("kind", get_args(Normalization))
def test_a_clean_set_in_which_nothing_moves_is_refused(
    tmp_path: Path, represent: Representation, kind: Normalization
) -> None:
    still = [replace(e, action=np.ones_like(e.action)) for e in make_episodes("clean", LENGTHS)]
    members = {"clean": still, "a": make_episodes("a", LENGTHS)}
    with pytest.raises(NotEnoughDataError, match="every action dimension is constant") as caught:
        make_study(tmp_path, members, represent=represent, normalize=kind)
    assert "another clean set" in str(caught.value.hint)


def test_windows_of_one_frame_have_no_motion_of_their_own(tmp_path: Path) -> None:
    members = {name: make_episodes(name, LENGTHS) for name in ("clean", "a")}
    with pytest.raises(NotEnoughDataError, match="horizon = 1") as caught:
        make_study(tmp_path, members, represent="relative", horizon=1)
    assert "--represent absolute or a larger --horizon" in str(caught.value.hint)
    make_study(tmp_path / "absolute", members, horizon=1)


def test_a_dimension_that_hardly_ever_moves_keeps_a_scale() -> None:
    """A gripper that opens in five of a thousand frames: both quantiles are the same."""
    values = np.random.default_rng(0).normal(size=(1000, ACTION))
    values[:, 1] = 0.0
    values[500:505, 1] = 4.0
    fitted = fit_normalizer("quantile", values)
    assert fitted.constant == []
    assert (fitted.offset[1], fitted.scale[1]) == (2.0, 0.5)
    np.testing.assert_allclose(
        2.0 / fitted.scale[0], np.ptp(np.quantile(values[:, 0], [0.01, 0.99]))
    )


def test_values_that_are_left_as_stored_are_all_compared() -> None:
    """Counts of an encoder are large: that is no reason to leave them out."""
    values = 1e8 + np.random.default_rng(0).normal(size=(50, ACTION))
    fitted = fit_normalizer("none", values)
    assert (fitted.constant, fitted.scale.tolist()) == ([], [1.0] * ACTION)
