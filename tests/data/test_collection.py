"""Opening a collection, and reading the episodes a user asked for."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ambient_curate.data.collection import (
    Member,
    check_action_dims,
    open_collection,
    read_episodes,
    require_clean,
)
from ambient_curate.data.selection import MemberOptions
from ambient_curate.errors import ConfigError, DatasetError
from ambient_curate.progress import Update
from ambient_curate.readers.episodes import ALL, Episode, EpisodeName, ReadRequest


@dataclass
class FakeDataset:
    """Shards of given episodes; one in `damaged` ends after its first, those in `bad` are bad."""

    content: dict[str, list[Episode]]
    damaged: set[str] = field(default_factory=set)
    bad: set[str] = field(default_factory=set)
    opened: list[str] = field(default_factory=list)
    read: list[str] = field(default_factory=list)
    path: Path = Path("fake")
    format: str = "fake"
    metadata_files: Sequence[Path] = ()
    problems: Sequence[str] = ()
    is_numbered: bool = False

    @property
    def shards(self) -> list[Path]:
        return [Path(name) for name in self.content]

    def list_episodes(self, shard: Path) -> list[EpisodeName]:
        return [EpisodeName(each.id, each.number) for each in self.content[shard.name]]

    def read_shard(self, shard: Path, request: ReadRequest = ALL) -> Iterator[Episode]:
        self.opened.append(shard.name)
        for episode in self.content[shard.name]:
            name = EpisodeName(episode.id, episode.number)
            yield from request.read(name, partial(self.read_episode, episode))
            if shard.name in self.damaged:
                raise DatasetError(f"{shard} is damaged", "copy it again")

    def read_episode(self, episode: Episode) -> Episode:
        self.read.append(episode.id)
        if episode.id in self.bad:
            raise DatasetError("no action", "record one")
        return episode


def episode(index: int, *, frames: int = 3, bad: tuple[int, ...] = ()) -> Episode:
    action = np.full((frames, 2), index, np.float32)
    action[list(bad), 1] = np.nan
    shard = Path("abc"[index // 2])
    return Episode(f"e{index}", index, action, shard, labels={"odd": index % 2 == 1})


def member(options: MemberOptions | None = None, **changes: Episode) -> Member:
    """Six episodes in the shards a, b and c; a change e3=... replaces one."""
    episodes = [changes.get(f"e{index}", episode(index)) for index in range(6)]
    dataset = FakeDataset({name: episodes[2 * i : 2 * i + 2] for i, name in enumerate("abc")})
    return Member("fake", dataset, options or MemberOptions())


def fake(of: Member) -> FakeDataset:
    assert isinstance(of.dataset, FakeDataset)
    return of.dataset


def ids(*args: Member, **options: object) -> list[str]:
    return [read.id for read in read_episodes(*args, **options)]  # type: ignore[arg-type]


@given(
    positions=st.none() | st.lists(st.integers(0, 7), unique=True, min_size=1),
    bounds=st.none() | st.tuples(st.integers(-7, 7), st.integers(-7, 7)),
    odd=st.none() | st.booleans(),
    exclude=st.sets(st.integers(0, 5) | st.sampled_from([f"e{i}" for i in range(6)])),
    limit=st.none() | st.integers(1, 7),
)
def test_selection_equals_its_definition(
    positions: list[int] | None,
    bounds: tuple[int, int] | None,
    odd: bool | None,
    exclude: set[str | int],
    limit: int | None,
) -> None:
    wanted = list(range(6))
    text: str | tuple[int, ...] | None = None
    if positions is not None:
        wanted, text = [i for i in wanted if i in positions], tuple(positions)
    elif bounds is not None:
        wanted, text = wanted[slice(*bounds)], f"{bounds[0]}:{bounds[1]}"
    wanted = [i for i in wanted if odd is None or (i % 2 == 1) == odd]
    wanted = [i for i in wanted if i not in exclude and f"e{i}" not in exclude][:limit]
    where = None if odd is None else f"odd == {str(odd).lower()}"
    options = MemberOptions(episodes=text, where=where, exclude=tuple(exclude))
    if wanted:
        assert ids(member(options), limit=limit) == [f"e{i}" for i in wanted]
    else:
        with pytest.raises(DatasetError, match="gives no episode"):
            ids(member(options), limit=limit)


def test_no_shard_is_read_beyond_the_last_wanted_episode() -> None:
    one = member()
    assert ids(one, limit=2) == ["e0", "e1"]
    assert fake(one).opened == ["a"]
    two = member(MemberOptions(episodes="0:3"))
    assert ids(two) == ["e0", "e1", "e2"]
    assert fake(two).opened == ["a", "b"]


def test_no_shard_is_read_without_a_wanted_number() -> None:
    one = member(MemberOptions(episodes="-2:"))
    assert ids(one) == ["e4", "e5"]
    assert fake(one).opened == ["c"]


@given(st.permutations(range(6)), st.lists(st.integers(0, 9), min_size=6, max_size=6, unique=True))
def test_numbers_are_the_episodes_own_in_any_order(places: list[int], numbers: list[int]) -> None:
    episodes = [replace(episode(i), number=number) for i, number in enumerate(numbers)]
    shards = {name: [episodes[i] for i in places[2 * k :][:2]] for k, name in enumerate("abc")}
    read = [each for shard in shards.values() for each in shard]

    def found(**options: Any) -> list[int]:
        chosen = Member("fake", FakeDataset(shards), MemberOptions(**options))
        return [each.number for each in read_episodes(chosen)]

    ordered = sorted(numbers)
    middle, last = ordered[3], ordered[-2:]
    assert found() == [each.number for each in read]
    assert found(episodes=f"{middle}:") == [e.number for e in read if e.number >= middle]
    assert found(episodes=f":{middle}") == [e.number for e in read if e.number < middle]
    assert found(episodes="-2:") == [e.number for e in read if e.number in last]
    assert found(episodes=(middle,)) == [middle]
    assert found(exclude=(middle,)) == [e.number for e in read if e.number != middle]


def test_dims_choose_and_order_the_action() -> None:
    first = next(read_episodes(member(MemberOptions(dims=(1,)))))
    assert first.action.shape == (3, 1)
    with pytest.raises(ConfigError, match=r"dims = \[2\]"):
        ids(member(MemberOptions(dims=(2,))))


def test_a_shard_that_cannot_be_read_on_fails_or_costs_the_rest_of_it() -> None:
    broken = member()
    fake(broken).damaged.add("b")
    with pytest.raises(DatasetError, match="b is damaged"):
        ids(broken)
    reports: list[tuple[str, str]] = []
    kept = ids(
        broken,
        on_error="skip",
        on_skip=lambda path, error: reports.append((str(path), str(error))),
    )
    assert kept == ["e0", "e1", "e2", "e4", "e5"]
    assert reports == [("b", "b is damaged; not read: e3")]


def test_a_damaged_episode_fails_or_is_left_out_alone() -> None:
    broken = member()
    fake(broken).bad |= {"e2", "e5"}
    with pytest.raises(DatasetError, match=r"^episode e2: no action$") as caught:
        ids(broken)
    assert caught.value.hint == 'record one; exclude = ["e2"] leaves the episode out'
    reports: list[tuple[str, str]] = []
    kept = ids(broken, on_error="skip", on_skip=lambda p, e: reports.append((str(p), str(e))))
    assert kept == ["e0", "e1", "e3", "e4"]
    assert reports == [("b", "episode e2: no action"), ("c", "episode e5: no action")]


@pytest.mark.parametrize("on_error", ["fail", "skip"])
@pytest.mark.parametrize("options", [{"exclude": ("e2", 5)}, {"episodes": (0, 1, 3, 4)}])
def test_an_episode_that_is_left_out_is_not_read(on_error: str, options: dict[str, Any]) -> None:
    broken = member(MemberOptions(**options))
    fake(broken).bad |= {"e2", "e5"}
    reports: list[DatasetError] = []
    kept = ids(broken, on_error=on_error, on_skip=lambda path, error: reports.append(error))
    assert kept == fake(broken).read == ["e0", "e1", "e3", "e4"]
    assert reports == []


def test_a_shard_of_excluded_episodes_is_not_opened() -> None:
    broken = member(MemberOptions(exclude=("e2", "e3")))
    fake(broken).damaged.add("b")
    assert ids(broken) == ["e0", "e1", "e4", "e5"]
    assert fake(broken).opened == ["a", "c"]


def test_a_skip_nobody_listens_to_is_a_warning() -> None:
    updates: list[Update] = []
    broken = member()
    fake(broken).damaged.add("b")
    assert len(ids(broken, on_error="skip", progress=updates.append)) == 5
    warnings = [each.note for each in updates if each.state == "warning"]
    assert warnings == ["left out b: b is damaged; not read: e3"]


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (episode(3, frames=0), r"episode e3 of b is empty: action of shape \(0, 2\)"),
        (
            episode(3, bad=(1, 2)),
            "episode e3 of b: action is not finite in 2 frames, the first is 1",
        ),
        (
            Episode(
                "e3", 3, np.zeros((2, 2), np.float32), Path("b"), np.full((2, 1), -np.inf, "f4")
            ),
            "episode e3 of b: state is not finite in 2 frames, the first is 0",
        ),
    ],
)
def test_an_unusable_episode_fails_or_is_left_out_alone(bad: Episode, message: str) -> None:
    with pytest.raises(DatasetError, match=message) as caught:
        ids(member(e3=bad))
    assert caught.value.hint == "exclude = ['e3'] leaves it out"
    reports: list[Path] = []
    kept = ids(member(e3=bad), on_error="skip", on_skip=lambda path, error: reports.append(path))
    assert (kept, reports) == (["e0", "e1", "e2", "e4", "e5"], [Path("b")])
    assert ids(member(MemberOptions(exclude=("e3",)), e3=bad)) == kept


def test_an_emptied_member_says_what_emptied_it() -> None:
    options = MemberOptions(where="odd == true", exclude=(1, 3, 5))
    with pytest.raises(DatasetError) as caught:
        ids(member(options))
    reasons = str(caught.value).partition(": ")[2].split("; ")
    assert sorted(reasons) == ["exclude = [1, 3, 5] left out 3", "where = 'odd == true' left out 3"]
    broken = member(MemberOptions(episodes="2:4"))
    fake(broken).bad |= {"e2", "e3"}
    with pytest.raises(DatasetError, match="damage left out 2"):
        ids(broken, on_error="skip")
    empty = Member("fake", FakeDataset({}), MemberOptions())
    with pytest.raises(DatasetError, match="gives no episode: it holds none"):
        ids(empty)


def test_an_exclusion_that_names_no_episode_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"exclude names no episode: \['e9', 6\]"):
        ids(member(MemberOptions(exclude=("e9", "e1", 6))))


def test_action_dims_that_differ_name_both_and_the_lines() -> None:
    check_action_dims({})
    check_action_dims({"a": 3, "b": 3})
    with pytest.raises(ConfigError, match="human has 7 dimensions, bridge has 8") as caught:
        check_action_dims({"human": 7, "same": 7, "bridge": 8})
    hint = str(caught.value.hint)
    assert "[datasets.bridge]: dims = [0, 1, 2, 3, 4, 5, 6]" in hint
    assert "action = [" in hint


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, rows in (("human", 2), ("failed", 5)):
        (tmp_path / name).mkdir()
        np.save(tmp_path / name / "a.npy", np.ones((rows, 4, 2), np.float32))
    return tmp_path


def test_members_are_opened_in_the_order_of_their_names(folder: Path) -> None:
    collection = open_collection(folder)
    assert [one.name for one in collection.members] == ["failed", "human"]
    assert [len(ids(one)) for one in collection.members] == [5, 2]
    assert (collection.name, collection.clean, collection.broken) == (folder.name, None, ())


def test_the_clean_set_must_be_named_and_a_member(folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"no clean set is named; .*: failed, human") as caught:
        require_clean(open_collection(folder))
    assert 'clean = "failed"' in str(caught.value.hint)
    assert "--clean" in str(caught.value.hint)
    with pytest.raises(ConfigError, match="the clean set 'humans' is no member"):
        require_clean(open_collection(folder, clean="humans"))
    assert require_clean(open_collection(folder, clean="human")) == "human"


def test_a_broken_member_fails_or_is_recorded(folder: Path) -> None:
    (folder / "robot" / "meta").mkdir(parents=True)
    (folder / "robot" / "meta" / "info.json").write_text("{")
    with pytest.raises(DatasetError, match=r"^robot: .*info\.json"):
        open_collection(folder)
    collection = open_collection(folder, clean="robot", on_error="skip")
    assert [one.name for one in collection.members] == ["failed", "human"]
    assert [name for name, _ in collection.broken] == ["robot"]
    with pytest.raises(ConfigError, match="the clean set robot was skipped as broken"):
        require_clean(collection)


def test_no_member_left_is_an_error(folder: Path) -> None:
    for name in ("human", "failed"):
        (folder / name / "a.npy").write_bytes(b"")
    with pytest.raises(
        DatasetError, match=r"no member of .* can be opened: failed: .*1 more"
    ) as caught:
        open_collection(folder, on_error="skip")
    assert caught.value.hint == "copy or download it again"


def test_a_single_dataset_is_to_be_split(tmp_path: Path) -> None:
    np.save(tmp_path / "pick.npy", np.ones((4, 3, 2)))
    for path in (tmp_path, tmp_path / "pick.npy"):
        with pytest.raises(ConfigError, match="no clean set is named") as caught:
            require_clean(open_collection(path))
        place = "." if path.is_dir() else "pick.npy"
        assert f'[datasets.clean] with path = "{place}" and episodes = ":30"' in str(
            caught.value.hint
        )
    text = "[datasets.clean]\npath = '{0}'\nepisodes = ':2'\n[datasets.rest]\npath = '{0}'"
    (tmp_path / "ambient.toml").write_text(text.format("."))
    assert require_clean(open_collection(tmp_path)) == "clean"


def test_all_episodes_lost_to_damage_say_what_to_do_about_it(folder: Path) -> None:
    (folder / "sim").mkdir()
    for name in ("0.npy", "1.npy"):
        np.save(folder / "sim" / name, np.full((3, 2), np.nan))
    collection = open_collection(folder)
    (member,) = (member for member in collection.members if member.name == "sim")
    with pytest.raises(
        DatasetError, match=r"gives no episode: .*not finite.*\(and 1 more"
    ) as caught:
        list(read_episodes(member, on_error="skip"))
    assert str(caught.value.hint).startswith("exclude = ")


def test_options_reach_the_reader(tmp_path: Path) -> None:
    np.savez(tmp_path / "clean.npz", left=np.ones((4, 2)), right=np.ones((4, 3)), s=np.ones((4, 1)))
    (tmp_path / "ambient.toml").write_text(
        '[datasets.clean]\naction = ["right", "left"]\nstate = "s"\nrate_hz = 5\ndims = [4, 0]'
    )
    (one,) = open_collection(tmp_path).members
    (read,) = read_episodes(one)
    assert (read.action.shape, read.rate_hz) == ((4, 2), 5.0)
    assert read.state is not None and read.state.shape == (4, 1)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (
            "open_x",
            {
                "bridge_dataset": (25, 250),
                "franka_stack_failed": (16, 3736),
                "franka_stack_generated": (10, 2328),
                "franka_stack_human": (10, 2163),
            },
        ),
        ("g1_inspire", {"g1_inspire": (100, 35965)}),
        ("so101_tape", {"so101_tape": (50, 14954)}),
        ("gr00t_pick_place", {"gr00t_pick_place": (5, 2096)}),
    ],
)
def test_real_collections(
    shared_data: Path, name: str, expected: dict[str, tuple[int, int]]
) -> None:
    collection = open_collection(shared_data / name)
    lengths = {one.name: [e.length for e in read_episodes(one)] for one in collection.members}
    assert {key: (len(value), sum(value)) for key, value in lengths.items()} == expected


def test_a_real_folder_of_arrays_has_a_member_a_file(shared_data: Path) -> None:
    collection = open_collection(shared_data / "kinesthetic")
    assert len(collection.members) == 11
    assert sum(len(ids(one)) for one in collection.members) == 92
    with pytest.raises(ConfigError, match="bottle2shelf has 7 dimensions, d has 2"):
        check_action_dims(
            {one.name: next(read_episodes(one)).action.shape[1] for one in collection.members}
        )
