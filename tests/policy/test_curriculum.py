"""The curriculum: every window gets what the manifest says of it, whatever speaks for it."""

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from small_run import HORIZON

from ambient_curate.data.collection import open_collection
from ambient_curate.data.study import Study, prepare_study
from ambient_curate.errors import ConfigError, NotEnoughDataError
from ambient_curate.options import AnnotateOptions
from ambient_curate.policy.interface import Interface
from ambient_curate.policy.level_sampler import LevelSampler
from ambient_curate.policy.options import PolicyOptions
from ambient_curate.policy.training_data import Curriculum, Kept, build_curriculum
from ambient_curate.progress import silent
from ambient_curate.run.records import Run

NAMES = ("clean", "far", "jitter")
Made = tuple[Run, Study]


@pytest.fixture(scope="module")
def make(
    place_small: Callable[..., Run], tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Made]:
    """Runs of one collection, each made once."""
    folder = tmp_path_factory.mktemp("curriculum")

    @cache
    def run(granularity: str, stride: int) -> Made:
        strides = {} if stride == 1 else {"stride": stride}
        key = f"{granularity}{stride}"
        result = place_small(folder, key, granularity=granularity, **strides)
        collection = open_collection(folder / "set")
        options = AnnotateOptions(**result.info["options"])
        return result, prepare_study(collection, options, folder / f"{key}-frames", silent)

    return lambda granularity, stride=1: run(granularity, stride)


def change(manifest: pa.Table, column: str, values: np.ndarray) -> pa.Table:
    """Give the corrupt rows other values, so that no two are equal."""
    field = manifest.schema.field(column)
    place = manifest.schema.get_field_index(column)
    return manifest.set_column(place, field, pa.array(values, field.type, from_pandas=True))


def distinct(manifest: pa.Table) -> pa.Table:
    clean = manifest["is_clean"].to_numpy()
    values = np.where(clean, 0.0, np.linspace(0.1, 0.9, manifest.num_rows))
    return change(manifest, "sigma_min", values)


def expected(study: Study, manifest: pa.Table, name: str) -> list[tuple[int, int, float]]:
    """Episode, start and sigma_min of every whole window, by a plain search of the manifest."""
    rows = [row for row in manifest.to_pylist() if row["dataset"] == name]
    frames, found = study.frames[name], []
    for episode, length in enumerate(frames.length.tolist()):
        for start in range(0, length - HORIZON + 1, study.options.stride):
            fitting = [
                row["sigma_min"]
                for row in rows
                if row["episode_id"] in (None, frames.ids[episode])
                and row["start"] in (None, start)
                and row["group"] in (None, frames.task[episode])
            ]
            if study.options.granularity == "group" and len(fitting) > 1:
                raise AssertionError("two rows speak for one window")
            found.append((episode, start, fitting[0] if fitting[0] is not None else np.nan))
    return found


@pytest.mark.parametrize(
    ("granularity", "stride"),
    [("dataset", 1), ("group", 1), ("episode", 1), ("datapoint", 1), ("datapoint", 2)],
)
def test_every_window_has_the_value_of_its_row(
    make: Callable[..., Made], granularity: str, stride: int
) -> None:
    run, study = make(granularity, stride)
    manifest = distinct(run.manifest())
    options = PolicyOptions(validation=0.0, n_obs_steps=1, n_action_steps=1)
    made = build_curriculum(study, manifest, options)
    assert made.admission.dataset == NAMES
    for (name, span), part in zip(made.admission.spans(), made.data.parts, strict=True):
        rows = expected(study, manifest, name)
        starts = {(e, s): value for e, s, value in rows}
        values = made.admission.sigma_min[span]
        place = 0
        for episode in part.episodes.tolist():
            own = [s for e, s in starts if e == episode]
            for start in range(int(part.windows.length[episode]) - HORIZON + 1):
                near = {
                    starts[episode, s]
                    for s in own
                    if abs(s - start) == min(abs(t - start) for t in own)
                }
                assert values[place] in near or (
                    np.isnan(values[place]) and any(map(np.isnan, near))
                )
                place += 1
        assert place == values.size


def build(made: Made, **options: Any) -> Curriculum:
    return build_curriculum(made[1], made[0].manifest(), PolicyOptions(**options))


def test_modes_admit_what_they_say(make: Callable[..., Made]) -> None:
    made = make("datapoint")
    clean = build(made, mode="clean", n_action_steps=3)
    assert clean.admission.dataset == ("clean",)
    cotrain = build(made, mode="cotrain", n_action_steps=3)
    assert cotrain.admission.dataset == NAMES
    assert not cotrain.admission.sigma_min.any()
    assert cotrain.admission.weight is None
    weighted = build(made, mode="weighted", n_action_steps=3, validation=0.0)
    assert not weighted.admission.sigma_min.any()
    assert weighted.admission.weight is not None
    table = made[0].manifest()
    rows = table.filter(pc.equal(table["dataset"], "far"))
    span = dict(weighted.admission.spans())["far"]
    assert set(weighted.admission.weight[span]) == set(rows["weight"].to_numpy().astype(float))
    with pytest.raises(NotEnoughDataError, match="has no weights"):
        build(make("dataset"), mode="weighted", n_action_steps=3)


def test_one_sigma_min_takes_the_place_of_the_manifests(make: Callable[..., Made]) -> None:
    run, study = make("datapoint")
    manifest = distinct(run.manifest())
    options = PolicyOptions(n_action_steps=3, sigma_min=0.3)
    made = build_curriculum(study, manifest, options).admission
    values = {name: set(made.sigma_min[span]) for name, span in made.spans()}
    assert values == {"clean": {0.0}, "far": {0.3}, "jitter": {0.3}}
    before = build_curriculum(study, manifest, PolicyOptions(n_action_steps=3)).admission
    np.testing.assert_array_equal(made.sigma_max, before.sigma_max)
    nulls = change(manifest, "sigma_min", np.full(manifest.num_rows, np.nan))
    assert build_curriculum(study, nulls, options).unannotated["far"] == 0


def test_one_sigma_max_takes_the_place_of_the_manifests(make: Callable[..., Made]) -> None:
    run, study = make("datapoint")
    options = PolicyOptions(n_action_steps=3, sigma_min=1.0, sigma_max=0.4)
    made = build_curriculum(study, distinct(run.manifest()), options).admission
    values = {name: set(made.sigma_max[span]) for name, span in made.spans()}
    assert values == {"clean": {0.0}, "far": {0.4}, "jitter": {0.4}}
    below, above = LevelSampler(made, np.array([0.4, 0.41])).coverage()["far"]
    assert (below, above) == (1.0, 0.0)


def test_nulls_are_never_admitted_and_a_run_of_nulls_is_refused(make: Callable[..., Made]) -> None:
    run, study = make("dataset")
    manifest = run.manifest()
    nulls = change(manifest, "sigma_min", np.where(manifest["is_clean"].to_numpy(), 0.0, np.nan))
    options = PolicyOptions(n_action_steps=3)
    with pytest.raises(NotEnoughDataError, match="no corrupt window") as caught:
        build_curriculum(study, nulls, options)
    assert "--allow-unannotated" in str(caught.value.hint)
    allowed = build_curriculum(
        study, nulls, PolicyOptions(n_action_steps=3, allow_unannotated=True)
    )
    sizes = dict(zip(allowed.admission.dataset, allowed.admission.size, strict=True))
    assert allowed.unannotated == {"clean": 0, "far": sizes["far"], "jitter": sizes["jitter"]}
    assert build_curriculum(study, nulls, PolicyOptions(n_action_steps=3, mode="cotrain"))


def test_held_out_episodes_and_their_copies_are_in_no_batch(make: Callable[..., Made]) -> None:
    made = build(make("dataset"), validation=0.3, n_action_steps=3)
    assert made.held_out is not None
    (apart,) = made.held_out.parts
    assert apart.name == "clean"
    assert apart.episodes.size == 3
    assert not set(apart.episodes.tolist()) & set(made.data.parts[0].episodes.tolist())
    assert made.data.parts[0].episodes.size == 7
    run, study = make("dataset")
    far, clean = study.frames["far"], study.frames["clean"]
    original, copied = far.digest, far.digest.copy()
    copied[2] = clean.digest[apart.episodes[0]]
    object.__setattr__(far, "digest", copied)
    try:
        again = build((run, study), validation=0.3, n_action_steps=3)
        assert 2 not in again.data.parts[1].episodes
        assert again.data.parts[1].episodes.size == 5
    finally:
        object.__setattr__(far, "digest", original)


def test_what_is_told_is_encoded_by_episode(make: Callable[..., Made]) -> None:
    made = build(make("dataset"), condition="goal, task", n_action_steps=3, validation=0.0)
    columns = made.interface.columns
    assert columns["task"] == ["push", "reach"]
    low, high = columns["goal"]
    part = made.data.parts[0]
    study = make("dataset")[1]
    goals = [labels["goal"] for labels in study.frames["clean"].labels()]
    scaled = [(2 * g - low - high) / (high - low) for g in goals]
    np.testing.assert_allclose(part.condition[:, 0].numpy(), scaled, atol=1e-6)
    assert part.condition[:, 1].tolist() == [float(t == "push") for t in study.frames["clean"].task]
    assert made.interface.scale_state is not None
    assert made.interface.reference == "state"
    with pytest.raises(ConfigError, match="no column 'colour'") as caught:
        build(make("dataset"), condition="colour", n_action_steps=3)
    assert "goal" in str(caught.value.hint)


def test_a_window_too_short_for_what_is_executed_is_refused(make: Callable[..., Made]) -> None:
    with pytest.raises(ConfigError, match="need windows of 9 frames; the run has 4"):
        build(make("dataset"), n_action_steps=8)


def keep(interface: Interface, *apart: bytes, **changes: Any) -> Kept:
    return Kept(replace(interface, **changes), np.array(apart, dtype="S32"))


def test_what_a_policy_has_no_place_for_is_refused(make: Callable[..., Made]) -> None:
    run, study = make("dataset")
    options = PolicyOptions(condition="goal,task", n_action_steps=3)
    own = build((run, study), condition="goal,task", n_action_steps=3).interface
    goal, task = own.columns["goal"], own.columns["task"]
    for columns, expected in (
        ({"goal": goal, "task": ["push"]}, "does not know task = 'reach'; it knows 'push'"),
        ({"goal": ["far"], "task": task}, "goal holds numbers, and texts where the policy"),
        ({"goal": goal, "task": [0.0, 1.0]}, "task holds texts, and numbers where the policy"),
    ):
        with pytest.raises(ConfigError, match=expected):
            build_curriculum(study, run.manifest(), options, keep(own, columns=columns))
    wider = keep(own, columns={"goal": [-9.0, 9.0], "task": ["lift", *task]})
    made = build_curriculum(study, run.manifest(), options, wider)
    assert made.interface is wider.interface
    goals = [labels["goal"] / 9.0 for labels in study.frames["clean"].labels()]
    np.testing.assert_allclose(made.data.parts[0].condition[:, 0].numpy(), goals, atol=1e-6)
    assert not made.data.parts[0].condition[:, 1].any()  # no episode is of the task "lift"


def test_what_another_policy_held_out_is_left_out_wherever_it_is(
    make: Callable[..., Made],
) -> None:
    run, study = make("dataset")
    own = build((run, study), n_action_steps=3).interface
    options = PolicyOptions(n_action_steps=3, mode="cotrain", validation=0.3)
    clean, far = (study.frames[name].digest for name in ("clean", "far"))
    made = build_curriculum(study, run.manifest(), options, keep(own, clean[4], far[2]))
    assert made.held_out is not None
    assert made.held_out.parts[0].episodes.tolist() == [4]
    left = [part.episodes.tolist() for part in made.data.parts]
    assert left[0] == [0, 1, 2, 3, 5, 6, 7, 8, 9]
    assert left[1] == [0, 1, 3, 4, 5]
    other = build_curriculum(study, run.manifest(), options, keep(own, far[2]))
    assert other.held_out is not None
    assert other.held_out.parts[0].episodes.size == 3  # none of the clean set: chosen anew
    assert other.data.parts[1].episodes.tolist() == [0, 1, 3, 4, 5]


def test_windows_are_scaled_as_a_policy_that_is_gone_on_from_scales_them(
    make: Callable[..., Made],
) -> None:
    run, study = make("dataset")
    options = PolicyOptions(n_action_steps=3, validation=0.0)
    own = build((run, study), n_action_steps=3, validation=0.0)
    scale = own.interface.scale_action
    other = keep(own.interface, scale_action=replace(scale, offset=scale.offset + 0.5))
    made = build_curriculum(study, run.manifest(), options, other)
    every = np.arange(len(own.data))
    moved = own.data.read(every)["action"].numpy() - 0.5 * scale.scale
    np.testing.assert_allclose(made.data.read(every)["action"].numpy(), moved, atol=1e-5)
