"""The job: every member has a folder of its own inside of the export, whatever it is called."""

from pathlib import Path

import pytest

from ambient_curate.export.job import name_folder

NAMES = ["clean", "a b", "a_b", "a%20b", "..", ".", "...", "../../x", "/etc", "x" * 300, "x" * 301]
NAMES += ["ロボット", "<script>", "a:b", "A\nb", "‮abc", "", "\U0001f916" * 80]


@pytest.mark.parametrize("name", NAMES)
def test_a_folder_is_one_plain_name(tmp_path: Path, name: str) -> None:
    folder = tmp_path / name_folder(name)
    folder.mkdir()
    assert folder.parent == tmp_path
    assert folder.resolve() == folder
    assert name_folder(name) not in ("", ".", "..")


def test_names_that_are_plain_are_kept_and_no_two_meet() -> None:
    assert name_folder("franka_stack-1.0") == "franka_stack-1.0"
    assert len({name_folder(name) for name in NAMES}) == len(NAMES)
