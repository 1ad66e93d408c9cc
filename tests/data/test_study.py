"""A study: what is read and kept, who is compared with whom, and who is too few."""

import os
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
from small_study import HORIZON, MemoryDataset, make_collection, make_episodes, make_study

from ambient_curate.data.cache import EPISODES_FILE
from ambient_curate.data.collection import Collection
from ambient_curate.data.planted_controls import SHIFT, SPIKES
from ambient_curate.data.study import (
    Study,
    describe_member,
    find_outside,
    open_study,
    prepare_study,
)
from ambient_curate.errors import ConfigError, DatasetError, NotEnoughDataError
from ambient_curate.options import AnnotateOptions
from ambient_curate.progress import silent
from ambient_curate.readers.episodes import Episode

LENGTHS = (6, 3, 9, 5, 4)  # one too few for controls
SIX = (*LENGTHS, 7)
OPTIONS = AnnotateOptions(horizon=HORIZON, folds=3)


def members(*names: str) -> dict[str, list[Episode]]:
    return {name: make_episodes(name, LENGTHS) for name in ("clean", *names)}


def prepare(collection: Collection, folder: Path, options: AnnotateOptions = OPTIONS) -> Study:
    return prepare_study(collection, options, folder, silent)


def reads(collection: Collection) -> list[int]:
    datasets = [member.dataset for member in collection.members]
    return [dataset.reads for dataset in datasets if isinstance(dataset, MemoryDataset)]


def with_states(episodes: list[Episode], width: int) -> list[Episode]:
    return [
        replace(e, state=np.full((e.length, width), e.number, dtype=np.float32)) for e in episodes
    ]


def test_arms_are_the_other_members_and_last_the_controls(tmp_path: Path) -> None:
    study = make_study(tmp_path, {name: make_episodes(name, SIX) for name in ("clean", "b", "a")})
    assert study.clean.dataset == study.options.clean == "clean"
    assert [(population.dataset, population.group) for population in study.corrupt] == [
        ("a", None),
        ("b", None),
    ]
    assert [population.dataset for population in study.populations] == ["a", "b", SHIFT, SPIKES]
    assert [study.head(name) for name in ("a", "b", "clean", "c")] == [0, 1, None, None]
    for population in (study.clean, *study.corrupt):
        assert population.episodes.tolist() == list(range(len(SIX)))
        assert sorted(population.fold.tolist()) == [0, 0, 1, 1, 2, 2]


def test_without_two_clean_episodes_a_fold_there_are_no_controls(tmp_path: Path) -> None:
    study = make_study(tmp_path, members("a"))
    assert study.controls == ()
    assert [population.dataset for population in study.populations] == ["a"]


def test_the_normaliser_is_that_of_the_clean_set_alone(tmp_path: Path) -> None:
    far = {"a": [replace(e, action=e.action * 100.0) for e in make_episodes("a", LENGTHS)]}
    study = make_study(tmp_path, members() | far)
    values = np.concatenate([e.action for e in members()["clean"]])
    np.testing.assert_allclose(study.normalizer.low, values.min(axis=0), rtol=1e-6)
    np.testing.assert_allclose(study.normalizer.high, values.max(axis=0), rtol=1e-6)
    assert all(windows.normalizer is study.normalizer for windows in study.windows.values())


@pytest.mark.parametrize(
    ("represent", "clean", "corrupt", "expected"),
    [
        ("absolute", 2, 2, None),
        ("relative", 2, 2, "state"),
        ("delta", 2, 2, "state"),
        ("relative", 2, 3, "first action"),  # another space than the actions'
        ("relative", 2, 0, "first action"),
        ("relative", 0, 0, "first action"),
    ],
)
def test_relative_windows_refer_to_the_state_where_all_members_have_it(
    tmp_path: Path, represent: str, clean: int, corrupt: int, expected: str | None
) -> None:
    widths = {"clean": clean, "a": corrupt}
    stated = {
        name: with_states(episodes, widths[name]) if widths[name] else episodes
        for name, episodes in members("a").items()
    }
    study = make_study(tmp_path, stated, represent=represent, normalize="none")
    assert study.reference == expected
    raw = stated["a"][2].action[1 : 1 + HORIZON]  # its second window
    found = study.windows["a"].of_episode(2)[1].numpy()
    reference = {"state": np.full(2, 2.0), "first action": raw[0], None: np.zeros(2)}[expected]
    naive = np.diff(raw, axis=0, prepend=[reference]) if represent == "delta" else raw - reference
    np.testing.assert_allclose(found, naive, atol=1e-6)


def test_copies_share_a_fold_across_datasets(tmp_path: Path) -> None:
    """Members of other ids: without the copies the folds would be dealt by the ids alone."""
    clean = make_episodes("clean", LENGTHS)
    copies = [replace(e, id=f"copy {e.number}") for e in reversed(clean)]
    study = make_study(tmp_path, {"clean": clean, "a": copies})
    assert study.folds["a"].tolist() == study.folds["clean"].tolist()[::-1]


def test_episodes_too_short_to_be_scored_take_no_place_in_a_fold(tmp_path: Path) -> None:
    """Six whole windows among sixty stubs would else fill three folds only by luck."""
    lengths = [HORIZON if i % 11 == 0 else HORIZON - 1 for i in range(66)]
    study = make_study(
        tmp_path, {"clean": make_episodes("clean", lengths), "a": make_episodes("a", lengths)}
    )
    for name in ("clean", "a"):
        whole = study.windows[name].counts > 0
        assert np.bincount(study.folds[name][whole]).tolist() == [2, 2, 2]
        assert (study.folds[name][~whole] == -1).all()
    assert study.clean.episodes.tolist() == list(range(0, 66, 11))


def test_too_few_different_clean_episodes_are_told_with_the_folds_they_fill(tmp_path: Path) -> None:
    clean = make_episodes("clean", LENGTHS)
    copied = [*clean[:4], replace(clean[0], id="copy")]
    with pytest.raises(NotEnoughDataError) as error:
        make_study(tmp_path, {"clean": copied, "a": make_episodes("a", LENGTHS)}, folds=5)
    assert str(error.value) == (
        "the clean set clean has 5 episodes with a whole window, which fill 4 of 5 folds "
        "(copies share a fold); every fold needs one"
    )
    assert error.value.hint == "add clean episodes, or use --folds 4"
    made = make_study(
        tmp_path / "again", {"clean": copied, "a": make_episodes("a", LENGTHS)}, folds=4
    )
    assert made.clean.episodes.size == 5  # what the hint says works


def test_two_clean_episodes_are_too_few_for_any_number_of_folds(tmp_path: Path) -> None:
    few = {"clean": make_episodes("clean", (6, 2, 6)), "a": make_episodes("a", LENGTHS)}
    with pytest.raises(NotEnoughDataError, match="fill 2 of 3 folds") as error:
        make_study(tmp_path, few)
    assert error.value.hint == "add clean episodes: at least 3 different ones are needed"


def test_a_corrupt_set_that_cannot_fill_the_folds_is_no_arm(tmp_path: Path) -> None:
    few = {"b": make_episodes("b", (6, 6)), "c": make_episodes("c", (2, 1, 2, 1))}
    study = make_study(tmp_path, members("a") | few)
    assert [population.dataset for population in study.corrupt] == ["a"]
    assert set(study.frames) == {"clean", "a", "b", "c"}
    with pytest.raises(NotEnoughDataError, match="in each of the 3 folds"):
        make_study(tmp_path / "again", members() | few)


def test_a_clean_set_without_a_whole_window_is_told_with_its_longest_episode(
    tmp_path: Path,
) -> None:
    with pytest.raises(NotEnoughDataError, match=r"of 16 frames: its longest episode has 9") as e:
        make_study(tmp_path, members("a"), horizon=16)
    assert e.value.hint == "use --horizon 9 or less"


def test_a_collection_of_the_clean_set_alone_has_nothing_to_annotate(tmp_path: Path) -> None:
    with pytest.raises(NotEnoughDataError, match="holds only the clean set 'clean'"):
        make_study(tmp_path, members())
    assert list(tmp_path.iterdir()) == []  # told before anything is read


def test_actions_of_other_dimensions_are_refused_with_both_names(tmp_path: Path) -> None:
    wide = [
        replace(e, action=np.zeros((e.length, 3), np.float32)) for e in make_episodes("a", LENGTHS)
    ]
    with pytest.raises(ConfigError, match="clean has 2 dimensions, a has 3"):
        make_study(tmp_path, members() | {"a": wide})


def test_groups_are_arms_after_the_whole_members(tmp_path: Path) -> None:
    """Task x has a whole window in every fold, task y only a stub and one episode."""
    lengths = (6, 6, 6, 6, 2, 6)
    tasks = ["x", "x", "x", "x", "y", "y"]
    grouped = {
        "clean": make_episodes("clean", lengths, task=tasks),
        "a": make_episodes("a", lengths, task=["x"] * 6),
        "b": make_episodes("b", lengths, task=["y"] * 6),
    }
    study = make_study(tmp_path, grouped, granularity="group")
    found = [(population.dataset, population.group) for population in study.corrupt]
    assert found == [("a", None), ("b", None), ("a", "x"), ("b", "y")]
    assert study.head("b", "y") == 3
    assert study.head("b", "x") is None
    for population in study.corrupt:
        assert population.episodes.tolist() == [0, 1, 2, 3, 5]


def test_a_group_holds_its_own_episodes_and_needs_all_folds(tmp_path: Path) -> None:
    lengths = [6] * 12
    grouped = {
        "clean": make_episodes("clean", lengths),
        "a": make_episodes("a", lengths, labels=[{"by": "xxxxxyz"[min(i, 6)]} for i in range(12)]),
    }
    study = make_study(tmp_path, grouped, granularity="group", group_by="by")
    parts = {
        population.group: population.episodes.tolist()
        for population in study.corrupt
        if population.group
    }
    fold = study.folds["a"]
    expected = {"x": [0, 1, 2, 3, 4], "y": [5], "z": [6, 7, 8, 9, 10, 11]}
    assert parts == {k: v for k, v in expected.items() if len(set(fold[v])) == 3}
    assert "y" not in parts
    assert parts


def test_a_second_study_reads_no_episode_again(tmp_path: Path) -> None:
    collection = make_collection(members("a"))
    first = prepare(collection, tmp_path)
    assert reads(collection) == [1, 1]
    again = prepare(collection, tmp_path)
    assert reads(collection) == [1, 1]
    assert (again.frames["a"].data["action"] == first.frames["a"].data["action"]).all()
    assert again.folds["a"].tolist() == first.folds["a"].tolist()


@pytest.mark.parametrize("lost", ["0001.json", "0001"])
def test_what_a_killed_process_left_of_a_member_is_read_again(tmp_path: Path, lost: str) -> None:
    collection = make_collection(members("a"))  # 0000 is "a", 0001 is "clean"
    prepare(collection, tmp_path)
    os.replace(tmp_path / lost, tmp_path / "lost")
    (tmp_path / ".0001.partial").mkdir()
    study = prepare(collection, tmp_path)
    assert reads(collection) == [1, 2]
    assert study.frames["clean"].n_episodes == len(LENGTHS)
    assert sorted(p.name for p in tmp_path.iterdir() if p.name != "lost") == [
        *("0000", "0000.json", "0001", "0001.json", "study.json")
    ]


def test_a_study_opens_from_its_files_alone(tmp_path: Path) -> None:
    collection = make_collection(members("a"))
    first = prepare(collection, tmp_path)
    again = open_study(tmp_path)
    assert reads(collection) == [1, 1]
    assert list(again.frames) == list(first.frames)
    assert again.options == first.options
    assert again.normalizer.as_dict() == first.normalizer.as_dict()
    assert (again.reference, again.skipped) == (first.reference, first.skipped)
    assert again.sources == first.sources
    for population, other in zip(again.populations, first.populations, strict=True):
        assert (population.dataset, population.group) == (other.dataset, other.group)
        assert population.episodes.tolist() == other.episodes.tolist()
        assert population.fold.tolist() == other.fold.tolist()


def test_what_was_read_is_kept_with_what_did_not_stop_the_reader(tmp_path: Path) -> None:
    collection = make_collection(members("a"))
    (other,) = (member for member in collection.members if member.name == "a")
    assert isinstance(other.dataset, MemoryDataset)
    other.dataset.problems = ["its splits disagree"]
    expected = {
        "a": {"format": "memory", "problems": ["its splits disagree"]},
        "clean": {"format": "memory", "problems": []},
    }
    assert prepare(collection, tmp_path).sources == expected
    other.dataset.problems = []
    study = open_study(tmp_path)
    assert study.sources == expected
    assert describe_member(study, "a")["problems"] == ["its splits disagree"]


def test_who_does_the_work_and_where_leaves_the_same_study(tmp_path: Path) -> None:
    other = replace(OPTIONS, out=tmp_path / "out", workers=3, shard_index=1, num_shards=4)
    for name, options in (("one", OPTIONS), ("other", other)):
        prepare(make_collection(members("a")), tmp_path / name, options)
    one, two = ((tmp_path / name / "study.json").read_bytes() for name in ("one", "other"))
    assert one == two


@pytest.mark.parametrize(
    ("granularity", "expected"),
    [
        ("dataset", (False, False)),
        ("group", (False, False)),
        ("episode", (True, False)),
        ("datapoint", (True, True)),
    ],
)
def test_a_study_knows_whether_episodes_or_windows_have_rows(
    tmp_path: Path, granularity: str, expected: tuple[bool, bool]
) -> None:
    study = make_study(tmp_path, members("a"), granularity=granularity)
    assert (study.by_row, study.by_window) == expected


def test_a_damaged_cache_is_told_not_used(tmp_path: Path) -> None:
    collection = make_collection(members("a"))
    prepare(collection, tmp_path)
    (tmp_path / "0000" / EPISODES_FILE).write_bytes(b"PAR1")
    with pytest.raises(DatasetError, match="damaged or incomplete"):
        prepare(collection, tmp_path)


def test_what_was_skipped_is_listed_by_the_first_study_and_by_the_next(tmp_path: Path) -> None:
    bad = make_episodes("a", LENGTHS)
    bad[3].action[2, 0] = np.nan
    collection = replace(
        make_collection(members() | {"a": bad}), broken=(("b", DatasetError("b is damaged")),)
    )
    skip = replace(OPTIONS, on_error="skip")
    found = prepare(collection, tmp_path, skip).skipped
    assert found[0] == {"file": "b", "error": "b is damaged"}
    assert [entry["file"] for entry in found] == ["b", "a"]
    assert "episode demo_3 of a: action is not finite in 1 frame" in found[1]["error"]
    assert prepare(collection, tmp_path, skip).skipped == found


def test_a_limit_leaves_the_first_episodes(tmp_path: Path) -> None:
    study = make_study(tmp_path, members("a"), limit=4)
    assert list(study.frames["a"].ids) == ["demo_0", "demo_1", "demo_2", "demo_3"]


def test_a_member_is_described_in_numbers(tmp_path: Path) -> None:
    timed = make_episodes("a", (6, 2, 3, 5), rate_hz=[None, 20.0, 20.0, 20.0])
    study = make_study(tmp_path, members() | {"a": timed})
    low, high = study.normalizer.low, study.normalizer.high
    values = np.concatenate([e.action for e in timed])
    outside = np.mean([low[d] > v or v > high[d] for row in values for d, v in enumerate(row)])
    assert describe_member(study, "a") == {
        "episodes": 4,
        "frames": 16,
        "windows": 4 + 0 + 1 + 3,
        "too_short": 1,
        "action_dim": 2,
        "rate_hz": 20.0,
        "is_clean": False,
        "outside": pytest.approx(outside),
        "actions_sha256": sha256(b"".join(e.digest for e in timed)).hexdigest(),
        "format": "memory",
        "problems": [],
    }
    assert describe_member(study, "clean")["is_clean"] is True
    assert find_outside(study, "clean") == 0.0
    relative = make_study(tmp_path / "again", members("a"), represent="relative")
    assert find_outside(relative, "a") is None
