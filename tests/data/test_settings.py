"""Where members lie: directories, files, and the lines of ``ambient.toml``."""

from collections.abc import Callable
from pathlib import Path

import h5py
import lerobot_writer
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ambient_curate import readers
from ambient_curate.data.selection import MemberOptions
from ambient_curate.data.settings import (
    CollectionSettings,
    dataset_name,
    find_sources,
    read_collection_file,
)
from ambient_curate.errors import ConfigError, DatasetError
from ambient_curate.options import FILE_OPTIONS, AnnotateOptions


def write_npy(path: Path, dim: int = 2) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, np.zeros((3, 4, dim), np.float32))
    return path


def write_hdf5(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        file["data/demo_0/actions"] = np.zeros((4, 2), np.float32)
    return path


@pytest.fixture
def toml(tmp_path: Path) -> Callable[[str], Path]:
    def write(text: str) -> Path:
        path = tmp_path / "ambient.toml"
        path.write_text(text, encoding="utf-8")
        return path

    return write


def names(path: Path, clean: str | None = None) -> dict[str, str]:
    members = find_sources(path, clean).members
    return {name: source.resolve().name for name, (source, _) in members.items()}


def test_a_whole_file_is_read(toml: Callable[[str], Path]) -> None:
    settings = read_collection_file(
        toml(
            """
            clean = "human"
            group-by = "cluster:4"
            tv = 0.2
            limit = 5
            [datasets.human]
            path = "../x"
            episodes = "0:30"
            action = "actions"
            rate-hz = 20
            [datasets."two words"]
            episodes = [0, 2]
            where = "success == true"
            split = "val"
            action = ["a/b", "c"]
            state = "s"
            dims = [1, 0]
            exclude = ["demo_3", 4]
            """
        )
    )
    assert settings == CollectionSettings(
        {"clean": "human", "group_by": "cluster:4", "limit": 5, "epsilon": pytest.approx(0.02)},
        {
            "human": MemberOptions(path="../x", episodes="0:30", action=("actions",), rate_hz=20.0),
            "two words": MemberOptions(
                episodes=(0, 2),
                where="success == true",
                split="val",
                action=("a/b", "c"),
                state=("s",),
                dims=(1, 0),
                exclude=("demo_3", 4),
            ),
        },
    )


def test_every_wrong_line_is_told_with_its_key_and_the_file(toml: Callable[[str], Path]) -> None:
    path = toml(
        """
        horizn = 8
        folds = 2
        epsilon = 0.1
        delta = 0.4
        out = "x"
        [datasets.a]
        resample_hz = 10
        pth = "x"
        exclude = [1.5]
        dims = 3
        [datasets.b]
        where = "success"
        rate_hz = true
        """
    )
    with pytest.raises(ConfigError) as caught:
        read_collection_file(path)
    text = str(caught.value)
    assert text.startswith(f"{path}: ")
    for part in (
        "horizn is unknown: did you mean horizon?",
        "folds = 2: expected a whole number >= 3",
        "epsilon and delta say the same thing",
        "out is unknown",
        "datasets.a.resample_hz is not supported yet",
        "datasets.a.pth is unknown: did you mean path?",
        "datasets.a.exclude = [1.5]: expected",
        "datasets.a.dims = 3: expected",
        "datasets.b.where = 'success': expected",
        "datasets.b.rate_hz = true: expected",
    ):
        assert part in text
    assert text.count("; ") == 9


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("clean = ", "cannot be read as TOML"),
        ("datasets = 3", "datasets = 3: expected tables"),
        ("[datasets]\na = 3", "datasets.a = 3: expected a table"),
        ("group-by = 'task'\ngroup_by = 'task'", "group_by is given twice"),
        ("a = " + "[" * 5000, "cannot be read as TOML"),
    ],
)
def test_a_file_of_another_shape_is_refused(
    toml: Callable[[str], Path], text: str, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        read_collection_file(toml(text))


def test_a_file_that_is_not_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "ambient.toml"
    path.write_bytes(b'clean = "\xff"')
    with pytest.raises(ConfigError, match="cannot be read as TOML"):
        read_collection_file(path)
    with pytest.raises(ConfigError, match="cannot be read as TOML"):
        read_collection_file(tmp_path)


TOML_VALUES = st.sampled_from(
    [
        *("1", "-1", "0.5", "nan", "true", '"x"', '""', '":3"', "[]", "[1]", "[[1]]", "{a=1}"),
        *("1979-05-27", "99999999999999999999", '["a", 1]'),
    ]
)
KEYS = st.sampled_from([*FILE_OPTIONS, "datasets", "colour"])
TABLE_KEYS = st.sampled_from(["path", "episodes", "where", "split", "action", "dims", "rate_hz"])


@given(st.dictionaries(KEYS, TOML_VALUES), st.dictionaries(TABLE_KEYS, TOML_VALUES))
def test_any_file_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, top: dict[str, str], table: dict[str, str]
) -> None:
    path = tmp_path_factory.mktemp("toml") / "ambient.toml"
    lines = [f"{key} = {value}" for key, value in top.items()]
    lines += ["[datasets.x]"] + [f"{key} = {value}" for key, value in table.items()]
    path.write_text("\n".join(lines))
    try:
        settings = read_collection_file(path)
    except ConfigError as error:
        assert str(path) in str(error)
    else:
        assert settings.options.keys() <= AnnotateOptions.declared.keys()


def test_a_directory_of_datasets_in_any_mix(tmp_path: Path) -> None:
    write_npy(tmp_path / "arrays" / "a.npy")
    write_hdf5(tmp_path / "robomimic" / "demos.hdf5")
    write_hdf5(tmp_path / "loose.hdf5")
    (tmp_path / "notes").mkdir()
    (tmp_path / "README.md").write_text("hello")
    write_npy(tmp_path / ".cache" / "a.npy")
    write_npy(tmp_path / "old_run" / "a.npy")
    (tmp_path / "old_run" / "run.json").write_text('{"schema": "ambient-curate/run"}')
    target = write_npy(tmp_path / ".elsewhere" / "pool" / "a.npy").parent
    (tmp_path / "linked").symlink_to(target, target_is_directory=True)
    assert sorted(names(tmp_path)) == ["arrays", "linked", "loose", "robomimic"]


def test_files_beside_directories_of_datasets_are_members(tmp_path: Path) -> None:
    write_hdf5(tmp_path / "loose.hdf5")
    write_hdf5(tmp_path / "robomimic" / "demos.hdf5")
    assert set(names(tmp_path)) == {"loose", "robomimic"}


def test_files_of_one_directory_are_one_dataset_or_members(tmp_path: Path) -> None:
    write_npy(tmp_path / "a.npy")
    write_npy(tmp_path / "b.npy")
    assert names(tmp_path) == {tmp_path.name: tmp_path.name}
    assert names(tmp_path, clean="b") == {"a": "a.npy", "b": "b.npy"}
    assert names(tmp_path, clean=str(tmp_path / "b.npy")) == {"a": "a.npy", "b": "b.npy"}
    assert find_sources(tmp_path, clean=str(tmp_path / "b.npy")).clean == "b"
    write_npy(tmp_path / "clean.npy")
    assert find_sources(tmp_path).clean == "clean"
    assert len(names(tmp_path)) == 3


def test_files_of_differing_dimension_or_format_are_members(tmp_path: Path) -> None:
    write_npy(tmp_path / "x" / "a.npy", dim=2)
    write_npy(tmp_path / "x" / "b.npy", dim=3)
    assert names(tmp_path / "x") == {"a": "a.npy", "b": "b.npy"}
    write_npy(tmp_path / "y" / "a.npy")
    write_hdf5(tmp_path / "y" / "a.hdf5")
    assert names(tmp_path / "y") == {"a.npy": "a.npy", "a.hdf5": "a.hdf5"}


def test_a_damaged_file_is_left_for_opening_to_tell(tmp_path: Path) -> None:
    write_npy(tmp_path / "a.npy")
    (tmp_path / "b.npy").write_bytes(b"")
    assert names(tmp_path) == {tmp_path.name: tmp_path.name}


def test_tables_place_members_elsewhere_and_divide_them(
    tmp_path: Path, toml: Callable[[str], Path]
) -> None:
    write_npy(tmp_path / "pool" / "a.npy")
    write_npy(tmp_path / "other" / "a.npy")
    toml(
        """
        [datasets.good]
        path = "pool"
        where = "success == true"
        [datasets.bad]
        path = "pool"
        where = "success == false"
        [datasets.other]
        dims = [0]
        """
    )
    sources = find_sources(tmp_path)
    assert names(tmp_path) == {"good": "pool", "bad": "pool", "other": "other"}
    assert sources.members["other"][1].dims == (0,)
    assert sources.members["bad"][1].where == "success == false"
    toml('[datasets.twin]\npath = "pool"\n[datasets.pool]\ndims = [0]')
    assert names(tmp_path) == {"twin": "pool", "pool": "pool", "other": "other"}


def test_one_dataset_can_be_divided_by_its_own_file(
    tmp_path: Path, toml: Callable[[str], Path]
) -> None:
    write_npy(tmp_path / "a.npy")
    toml(
        'clean = "first"\n[datasets.first]\npath = "."\nepisodes = ":1"\n'
        '[datasets.rest]\npath = "."\nepisodes = "1:"'
    )
    assert set(names(tmp_path)) == {"first", "rest"}
    assert find_sources(tmp_path).clean == "first"


def test_the_file_beside_a_dataset_speaks_of_it_only(
    tmp_path: Path, toml: Callable[[str], Path]
) -> None:
    write_npy(tmp_path / "one" / "a.npy")
    write_npy(tmp_path / "two" / "a.npy")
    toml('clean = "two"\nhorizon = 8\n[datasets.one]\nrate_hz = 5\n[datasets.two]\nrate_hz = 6')
    sources = find_sources(tmp_path / "one")
    assert sources.settings.options == {"horizon": 8}
    assert sources.members["one"][1].rate_hz == 5.0
    assert (sources.clean, set(sources.members)) == (None, {"one"})
    assert find_sources(tmp_path / "two").clean == "two"


def test_the_order_of_clean(tmp_path: Path, toml: Callable[[str], Path]) -> None:
    for name in ("clean", "human", "failed"):
        write_npy(tmp_path / "all" / name / "a.npy")
    elsewhere = write_npy(tmp_path / "elsewhere" / "gold.npy")
    folder = tmp_path / "all"
    assert find_sources(folder).clean == "clean"
    (folder / "ambient.toml").write_text('clean = "human"')
    assert find_sources(folder).clean == "human"
    assert find_sources(folder, clean="failed").clean == "failed"
    found = find_sources(folder, clean=str(elsewhere))
    assert (found.clean, found.members["gold"][0]) == ("gold", elsewhere)
    assert find_sources(folder, clean=str(folder / "failed")).clean == "failed"
    assert find_sources(folder, clean="nothing").clean == "nothing"
    (folder / "ambient.toml").write_text('clean = "../elsewhere/gold.npy"')
    assert find_sources(folder).clean == "gold"


def test_a_clean_set_elsewhere_never_replaces_a_member(tmp_path: Path) -> None:
    for name in ("clean", "gold"):
        write_npy(tmp_path / "all" / name / "a.npy")
    elsewhere = write_npy(tmp_path / "elsewhere" / "gold" / "a.npy").parent
    with pytest.raises(ConfigError, match="would be called clean"):
        find_sources(tmp_path / "all", clean=str(elsewhere))


def test_what_is_missing_is_named(tmp_path: Path, toml: Callable[[str], Path]) -> None:
    with pytest.raises(DatasetError, match="does not exist"):
        find_sources(tmp_path / "nothing")
    with pytest.raises(DatasetError, match="it is empty"):
        find_sources(tmp_path)
    (tmp_path / "notes.txt").write_text("x")
    for path in (tmp_path, tmp_path / "notes.txt"):
        with pytest.raises(DatasetError, match=r"found notes\.txt") as caught:
            find_sources(path)
        assert "LeRobot" in str(caught.value.hint)
    write_npy(tmp_path / "here" / "a.npy")
    toml('[datasets.x]\npath = "nowhere"')
    with pytest.raises(ConfigError, match=r"\[datasets.x\] path = 'nowhere': .* does not exist"):
        find_sources(tmp_path)
    toml("[datasets.x]\nrate_hz = 5")
    with pytest.raises(ConfigError, match="no dataset of that name; it holds: here"):
        find_sources(tmp_path)
    write_npy(tmp_path / "x" / "a.npy")
    toml('[datasets.x]\npath = "here"')
    with pytest.raises(ConfigError, match="two members are called x"):
        find_sources(tmp_path)


def test_a_dangling_link_is_a_member(tmp_path: Path) -> None:
    write_npy(tmp_path / "a" / "a.npy")
    (tmp_path / "gone").symlink_to(tmp_path / "nowhere")
    assert set(names(tmp_path)) == {"a", "gone"}


def test_a_zarr_dataset_is_called_without_its_suffix(tmp_path: Path) -> None:
    (tmp_path / "push.zarr").mkdir()
    (tmp_path / "lift.zarr.zip").touch()
    assert dataset_name(tmp_path / "push.zarr") == "push"
    assert dataset_name(tmp_path / "lift.zarr.zip") == "lift"
    (tmp_path / ".zarr").mkdir()
    assert dataset_name(tmp_path / ".zarr") == ".zarr"


def test_a_minari_dataset_given_itself_is_one_dataset(tmp_path: Path) -> None:
    file = tmp_path / "hopper" / "data" / "main_data.hdf5"
    file.parent.mkdir(parents=True)
    with h5py.File(file, "w") as content:
        content["episode_0/actions"] = np.zeros((5, 2))
    assert list(find_sources(tmp_path / "hopper").members) == ["hopper"]
    assert list(find_sources(tmp_path).members) == ["hopper"]


def write_episode(path: Path, dim: int = 2) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, action=np.zeros((4, dim), np.float32))
    return path


def write_minari(path: Path) -> None:
    path.parent.mkdir(parents=True)
    with h5py.File(path, "w") as content:
        content["episode_0/actions"] = np.zeros((5, 2))


def test_datasets_are_found_where_hubs_and_tools_put_them(tmp_path: Path) -> None:
    frames = lerobot_writer.make_frames([3, 3])
    lerobot_writer.write_dataset(tmp_path / "ann" / "pick", "v2.1", frames)
    lerobot_writer.write_dataset(tmp_path / "datasets--me--x/snapshots/abc12", "v3.0", frames)
    write_minari(tmp_path / "door" / "human-v2" / "data" / "main_data.hdf5")
    write_hdf5(tmp_path / "wipe" / "panda" / "demo.hdf5")
    write_npy(tmp_path / "aloha" / "day1" / "a.npy")
    write_npy(tmp_path / "a" / "b" / "c" / "d" / "a.npy")
    (tmp_path / "toy" / "big" / "1.0.0").mkdir(parents=True)
    (tmp_path / "toy" / "big" / "1.0.0" / "dataset_info.json").touch()
    assert sorted(names(tmp_path)) == [
        *("a/b/c/d", "aloha/day1", "ann/pick", "datasets--me--x", "door/human-v2", "toy/big"),
        "wipe/panda",
    ]
    assert find_sources(tmp_path).unread == ()
    assert find_sources(tmp_path, clean="ann/pick").clean == "ann/pick"


def test_two_revisions_of_a_dataset_are_two_members(tmp_path: Path) -> None:
    for revision in ("abc1", "def2"):
        write_npy(tmp_path / "models--me--x" / "snapshots" / revision / "a.npy")
    found = names(tmp_path)
    assert sorted(found) == [f"models--me--x/snapshots/{each}" for each in ("abc1", "def2")]


def test_what_belongs_to_no_dataset_is_listed(tmp_path: Path) -> None:
    write_npy(tmp_path / "good" / "a.npy")
    write_npy(tmp_path / "lab" / "pick" / "a.npy")
    write_npy(tmp_path / "too" / "far" / "down" / "to" / "find" / "a.npy")
    for name in ("bags/a.mcap", "lab/raw/a.bag", "lost.csv", "README.md", "LICENSE", "plot.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).touch()
    sources = find_sources(tmp_path)
    assert list(sources.members) == ["good", "lab/pick"]
    assert sources.unread == tuple(tmp_path / x for x in ("bags", "lab/raw", "lost.csv", "too"))
    (sentence,) = sources.describe_unread(tmp_path)
    assert sentence.endswith("not read, since in no dataset: bags/, lab/raw/, lost.csv, too/")


def test_data_below_a_directory_of_episodes_is_listed(tmp_path: Path) -> None:
    write_npy(tmp_path / "a.npy")
    write_npy(tmp_path / "extra" / "more" / "b.npy")
    (tmp_path / "videos").mkdir()
    assert list(names(tmp_path)) == [tmp_path.name]
    assert find_sources(tmp_path).unread == (tmp_path / "extra",)


@pytest.mark.parametrize("suffix", [".npz", ".hdf5"])
def test_a_directory_of_directories_with_an_episode_each_is_one_dataset(
    tmp_path: Path, toml: Callable[[str], Path], suffix: str
) -> None:
    write = write_episode if suffix == ".npz" else write_hdf5
    for number in range(3):
        for kind in ("won", "lost"):
            write(tmp_path / "task" / kind / f"episode_{number:03d}" / f"t{suffix}")
    (tmp_path / "task" / "won" / "videos").mkdir()
    assert sorted(names(tmp_path / "task")) == ["lost", "won"]
    assert list(names(tmp_path / "task" / "won")) == ["won"]
    assert sorted(names(tmp_path)) == ["task/lost", "task/won"]
    toml('[datasets.x]\npath = "task/won"\nepisodes = ":1"')
    assert sorted(names(tmp_path)) == ["task/lost", "x"]
    dataset = readers.open_dataset(tmp_path / "task" / "won")
    ids = [episode.id for shard in dataset.shards for episode in dataset.read_shard(shard)]
    ends = "" if suffix == ".npz" else "/demo_0"
    assert ids == [f"episode_{number:03d}{ends}" for number in range(3)]


def test_directories_of_datasets_are_no_episodes(tmp_path: Path) -> None:
    for name in ("first", "second"):  # called otherwise
        write_episode(tmp_path / "x" / name / "a.npz")
    for name in ("set_1", "set_2"):  # of three episodes each
        write_npy(tmp_path / "y" / name / "a.npy")
    for name in ("1", "2"):
        write_episode(tmp_path / "z" / name / "a.npz")
    assert sorted(names(tmp_path / "x")) == ["first", "second"]
    assert sorted(names(tmp_path / "y")) == ["set_1", "set_2"]
    assert sorted(names(tmp_path / "z", clean="1")) == ["1", "2"]
    for number in range(10):
        write_episode(tmp_path / "x" / f"{chr(97 + number)}" / "a.npz")
    assert list(names(tmp_path / "x")) == ["x"]


@pytest.mark.parametrize("record", ["run.json", "policy.json", "export.json", ".work/options.json"])
def test_what_this_program_wrote_is_no_dataset(tmp_path: Path, record: str) -> None:
    write_npy(tmp_path / "data" / "a.npy")
    write_npy(tmp_path / "any" / "name" / "a.npy")
    file = tmp_path / "any" / "name" / record
    file.parent.mkdir(exist_ok=True)
    for foreign in ("{}", "[]", "", '{"schema": 1}'):
        file.write_text(foreign)
        assert sorted(names(tmp_path)) == ["any/name", "data"]
    file.write_text('{"schema": "ambient-curate/any"}')
    assert list(names(tmp_path)) == ["data"]
    assert find_sources(tmp_path).unread == ()
    with pytest.raises(DatasetError, match="was written by this program"):
        find_sources(tmp_path / "any" / "name")


def test_a_path_above_one_dataset_means_it(tmp_path: Path, toml: Callable[[str], Path]) -> None:
    write_npy(tmp_path / "lab" / "pick" / "a.npy")
    other = write_npy(tmp_path / "elsewhere" / "hub" / "gold" / "a.npy").parent
    folder = tmp_path / "lab"
    (folder / "ambient.toml").write_text('[datasets.x]\npath = "../elsewhere"')
    assert find_sources(folder).members["x"][0] == other
    (folder / "ambient.toml").unlink()
    found = find_sources(folder, clean=str(tmp_path / "elsewhere"))
    assert found.members["elsewhere"][0] == other
    toml('[datasets.x]\npath = "."')
    with pytest.raises(ConfigError, match="holds 2 datasets: elsewhere/hub/gold, lab/pick"):
        find_sources(tmp_path)


def test_a_zip_of_zarr_has_one_name_alone_and_among_others(
    tmp_path: Path, toml: Callable[[str], Path]
) -> None:
    (tmp_path / "own.zarr.zip").touch()
    toml("[datasets.own]\nrate_hz = 10")
    for path in (tmp_path, tmp_path / "own.zarr.zip"):
        assert find_sources(path).members["own"][1].rate_hz == 10
