"""What `inspect` finds in collections whose faults are known."""

import json
from pathlib import Path

import h5py
import numbered_writer
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ambient_curate.data.collection import open_collection
from ambient_curate.data.inspection import MemberInspection, inspect_collection


def save(folder: Path, *actions: np.ndarray) -> None:
    folder.mkdir(parents=True)
    for index, action in enumerate(actions):
        np.save(folder / f"{index}.npy", action.astype(np.float32))


def noise(seed: int, frames: int = 64, dim: int = 2) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(frames, dim))


def inspect(path: Path, clean: str | None = None) -> dict[str, MemberInspection]:
    collection = open_collection(path, clean=clean, on_error="skip")
    return {member.name: member for member in inspect_collection(collection).members}


def test_counts_and_extremes(tmp_path: Path) -> None:
    save(tmp_path / "clean", noise(0, 10), noise(1, 30))
    save(tmp_path / "other", 0.5 * noise(2, 20))
    inspection = inspect_collection(open_collection(tmp_path))
    clean, other = inspection.members
    assert (clean.name, clean.is_clean, clean.episodes, clean.steps) == ("clean", True, 2, 40)
    assert (clean.shortest, clean.longest, clean.action_dim) == (10, 30, 2)
    assert (clean.state_dim, clean.rate_hz, clean.tasks) == (None, None, 0)
    assert (other.is_clean, other.problems, other.notes) == (False, (), ())
    assert (inspection.clean, inspection.problems, inspection.broken) == ("clean", (), ())


def test_duplicates_are_counted_within_and_across_members(tmp_path: Path) -> None:
    save(tmp_path / "a", noise(0), noise(0), noise(0), noise(1))
    save(tmp_path / "b", noise(1), noise(2), noise(0, 32))
    members = inspect(tmp_path)
    assert (members["a"].duplicates, members["a"].duplicates_elsewhere) == (2, 1)
    assert (members["b"].duplicates, members["b"].duplicates_elsewhere) == (0, 1)


def test_rates_are_compared_with_the_clean_set_s(tmp_path: Path) -> None:
    for name in ("clean", "near", "far", "silent"):
        save(tmp_path / name, noise(len(name)))
    (tmp_path / "ambient.toml").write_text(
        "[datasets.clean]\nrate_hz = 20\n[datasets.near]\nrate_hz = 20.9\n"
        "[datasets.far]\nrate_hz = 18.9\n"
    )
    members = inspect(tmp_path)
    assert members["clean"].problems == members["near"].problems == ()
    assert members["far"].problems[0].startswith("18.9 Hz against 20 Hz of clean")
    assert members["silent"].problems[0].startswith("its rate is unknown")


def test_without_a_clean_set_rates_are_told_once(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        save(tmp_path / name, noise(ord(name)))
    toml = "[datasets.a]\nrate_hz = 20\n[datasets.b]\nrate_hz = {}\n"
    (tmp_path / "ambient.toml").write_text(toml.format(21))
    assert inspect_collection(open_collection(tmp_path)).problems == ()
    (tmp_path / "ambient.toml").write_text(toml.format(22))
    (problem,) = inspect_collection(open_collection(tmp_path)).problems
    assert problem.startswith("rates differ: a 20 Hz, b 22 Hz;")


def test_action_dims_are_compared_with_the_clean_set_s(tmp_path: Path) -> None:
    save(tmp_path / "a", noise(0, dim=3))
    save(tmp_path / "z", noise(1, dim=2))
    (problem,) = inspect_collection(open_collection(tmp_path, clean="z")).problems
    assert problem.startswith("actions cannot be compared: z has 2 dimensions, a has 3")
    assert "[datasets.a]: dims = [0, 1]" in problem


def test_a_clean_set_that_is_no_member_is_told(tmp_path: Path) -> None:
    save(tmp_path / "a", noise(0))
    inspection = inspect_collection(open_collection(tmp_path, clean="b"))
    assert inspection.clean is None
    assert inspection.problems == (f"the clean set 'b' is no member; members of {tmp_path}: a",)


def test_constant_and_absolute_dimensions_are_named(tmp_path: Path) -> None:
    steps = noise(0, 320, 6)
    steps[:, 0] = 0.3  # constant
    steps[:, 1] = np.cumsum(0.01 * steps[:, 1]) + 2.0  # a position away from the origin
    steps[:, 2] = np.linspace(-1, 1, 320)  # a position that passes through the origin
    steps[:, 3] = np.repeat([-1.0, 1.0], 160)  # a gripper command
    steps[:, 5] = steps[:, 5] + 2.0  # far from zero, but it moves as far
    save(tmp_path / "a", steps)
    member = inspect(tmp_path / "a")["a"]
    assert member.problems == ("constant: action dimension 0",)
    (note,) = member.notes
    assert note.endswith("absolute positions: action dimensions 1-2")


def test_episodes_that_never_move_are_named_with_the_line_that_leaves_them_out(
    tmp_path: Path,
) -> None:
    still = np.zeros((64, 2))
    save(tmp_path / "few" / "a", still, noise(0), still, noise(1))
    (problem,) = inspect(tmp_path / "few")["a"].problems
    assert problem == ('2 of 4 episodes never move: 0, 2; exclude = ["0", "2"] leaves them out')
    line = problem.partition("; ")[2].removesuffix(" leaves them out")
    (tmp_path / "few" / "ambient.toml").write_text(f"[datasets.a]\n{line}\n")
    member = inspect(tmp_path / "few")["a"]
    assert (member.episodes, member.problems) == (2, ())
    save(tmp_path / "many", *[still + n for n in range(101)], noise(0))
    constant = inspect(tmp_path / "many")["many"].problems
    assert constant[0].startswith("101 of 102 episodes never move: 0, 1, ")
    assert constant[0].endswith(", ...")


def test_what_moves_where_the_clean_set_is_constant_is_a_problem(tmp_path: Path) -> None:
    values = {name: noise(number) for number, name in enumerate(("b", "clean", "z"))}
    values["clean"][:, 1] = values["z"][:, 1] = 1.0
    for name, action in values.items():
        save(tmp_path / name, action)
    members = inspect(tmp_path)
    told = [text for text in members["b"].problems if "constant in the clean set" in text]
    assert told == [
        "constant in the clean set and not here: action dimension 1: annotate compares nothing "
        "there, and gives no sigma_min to a set that moves there"
    ]
    assert members["clean"].problems == members["z"].problems == ("constant: action dimension 1",)
    assert inspect(tmp_path, clean="b")["clean"].problems == ("constant: action dimension 1",)


def test_held_idle_copied_and_cut_off_actions_are_noted(tmp_path: Path) -> None:
    walk = np.cumsum(noise(0, 200, 3), axis=0)
    walk[:, 2] = np.clip(walk[:, 0], *np.quantile(walk[:, 0], [0.2, 1.0]))
    walk[:, 1] = walk[:, 0]
    held = np.repeat(np.concatenate([walk[:1].repeat(50, axis=0), walk]), 2, axis=0)
    save(tmp_path / "clean", 0.5 * held)
    save(tmp_path / "a", held)
    low, high = 0.5 * held.min(axis=0), 0.5 * held.max(axis=0)
    outside = np.mean((held < low - 1e-6) | (held > high + 1e-6))
    repeated = np.mean(np.r_[False, (np.diff(held, axis=0) == 0).all(axis=1)])
    absolute, *notes = inspect(tmp_path)["a"].notes
    assert absolute.startswith("far from zero")
    assert notes == [
        f"{repeated:.0%} of its frames repeat the action of the frame before",
        f"{101 / 500:.0%} of its frames are an idle start or end of an episode",
        "copies of each other: action dimensions 0-1",
        "often at the end of their range, so perhaps cut off: action dimension 2",
        f"{outside:.1%} of its action values lie outside the clean set's range",
    ]


def test_damage_is_a_problem_and_left_out_of_the_numbers(tmp_path: Path) -> None:
    broken = noise(2)
    broken[5, 1] = np.nan
    save(tmp_path / "a", noise(0), noise(1), broken, noise(3, 0))
    member = inspect(tmp_path / "a")["a"]
    assert (member.episodes, member.steps) == (2, 128)
    assert any(
        "2.npy: action is not finite in 1 frame, the first is 5" in p for p in member.problems
    )
    assert any("3.npy is empty" in problem for problem in member.problems)
    save(tmp_path / "b", *[broken] * 8)
    member = inspect(tmp_path / "b")["b"]
    assert (member.episodes, member.steps, member.shortest, member.action_dim) == (0, 0, 0, None)
    assert member.problems[0].endswith("(and 7 more like it)") and len(member.problems) == 1
    assert member.hint is not None and member.hint.startswith("exclude = ")


def test_files_that_are_one_dataset_are_named_with_what_makes_them_several(tmp_path: Path) -> None:
    for name in ("failed", "generated"):
        with h5py.File(tmp_path / f"{name}.hdf5", "w") as file:
            for number in range(3):
                file[f"data/demo_{number}/actions"] = noise(number)
    ((member,),) = [inspect(tmp_path).values()]
    (note,) = (note for note in member.notes if "one dataset" in note)
    assert "its 2 files are read as one dataset: failed, generated" in note
    assert set(inspect(tmp_path, clean="failed")) == {"failed", "generated"}  # what it advises
    save(tmp_path / "episodes", noise(0), noise(1))
    assert not any(
        "one dataset" in note for note in inspect(tmp_path / "episodes")["episodes"].notes
    )


def test_a_member_that_cannot_be_opened_is_listed(tmp_path: Path) -> None:
    save(tmp_path / "a", noise(0))
    (tmp_path / "robot" / "meta").mkdir(parents=True)
    (tmp_path / "robot" / "meta" / "info.json").write_text("{")
    inspection = inspect_collection(open_collection(tmp_path, on_error="skip"))
    ((name, reason),) = inspection.broken
    assert name == "robot"
    assert "info.json" in reason


def test_as_dict_is_json(tmp_path: Path) -> None:
    save(tmp_path / "a", noise(0), noise(0))
    inspection = inspect_collection(open_collection(tmp_path))
    content = inspection.as_dict()
    assert json.loads(json.dumps(content)) == content
    assert content["members"][0]["duplicates"] == 1
    assert content["members"][0]["path"] == str(tmp_path / "a")


@pytest.fixture(scope="module")
def open_x(shared_data: Path) -> dict[str, MemberInspection]:
    return inspect(shared_data / "open_x")


def test_the_open_x_sample(open_x: dict[str, MemberInspection]) -> None:
    assert {name: (m.episodes, m.steps, m.action_dim, m.rate_hz) for name, m in open_x.items()} == {
        "bridge_dataset": (25, 250, 7, 5.0),
        "franka_stack_failed": (16, 3736, 7, 20.0),
        "franka_stack_generated": (10, 2328, 7, 20.0),
        "franka_stack_human": (10, 2163, 7, 20.0),
    }
    assert [name for name, member in open_x.items() if member.is_clean] == ["franka_stack_human"]
    assert all(m.duplicates == m.duplicates_elsewhere == 0 for m in open_x.values())
    unread, rate, split = open_x["bridge_dataset"].problems
    assert unread == "of the splits train, val, train is read: 25 of 50 episodes"
    assert rate.startswith("5 Hz against 20 Hz of franka_stack_human")
    assert split == "split val repeats 25 of 25 episodes of train"
    notes = {name: member.notes for name, member in open_x.items() if member.notes}
    outside = "of its action values lie outside the clean set's range"
    assert notes == {
        "franka_stack_failed": (f"3.9% {outside}",),
        "franka_stack_generated": (f"2.0% {outside}",),
    }


def test_real_joint_positions_are_noted_and_a_broken_template_told(shared_data: Path) -> None:
    (member,) = inspect(shared_data / "gr00t_pick_place").values()
    assert (member.episodes, member.steps, member.tasks) == (5, 2096, 5)
    assert any("data_path" in problem and "4 of 5" in problem for problem in member.problems)
    assert any(problem.startswith("constant: ") for problem in member.problems)
    (member,) = inspect(shared_data / "so101_tape").values()
    assert (member.episodes, member.steps) == (50, 14954)
    assert member.notes[0].endswith("absolute positions: action dimensions 1-4")


def test_numbers_and_ids_are_shown_and_a_repeated_index_is_a_problem(tmp_path: Path) -> None:
    walk = dict.fromkeys((0, 2, 7, 30, 31), noise(0, 6, numbered_writer.DIM))
    root = numbered_writer.write_lerobot3(tmp_path / "set", walk)
    member = inspect(root)["set"]
    assert member.is_numbered
    assert [(name.number, name.id) for name in member.names] == [(n, str(n)) for n in sorted(walk)]
    assert member.numbering == (
        "numbers of its episodes, the source's own: 0 is '0', 2 is '2', 7 is '7', ..., 31 is '31'"
    )
    assert not any("index" in problem for problem in member.problems)
    for file in (root / "data").rglob("*.parquet"):
        table = pq.read_table(file)
        place = table.column_names.index("index")
        frames = pa.array(np.arange(len(table)))  # counted in each file anew
        pq.write_table(table.set_column(place, "index", frames), file)
    problems = inspect(root)["set"].problems
    assert any(
        "dataset_from_index contradicts index" in p and "in 4 of 5 episodes" in p for p in problems
    )
    assert any(
        "index repeats (episode 0 begins at 0, episode 2 begins at 0)" in p for p in problems
    )
