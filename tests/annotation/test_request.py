"""Orders: what decides the numbers of a run, and what does not."""

from pathlib import Path

import numpy as np
import pytest

from ambient_curate.annotation.request import make_request
from ambient_curate.data.collection import open_collection
from ambient_curate.data.study import prepare_study
from ambient_curate.errors import ConfigError, DatasetError
from ambient_curate.options import AnnotateOptions, digest
from ambient_curate.progress import silent


@pytest.fixture
def place(tmp_path: Path) -> Path:
    for name in ("clean", "other"):
        (tmp_path / name).mkdir()
        for number in range(3):
            np.savez(tmp_path / name / f"{number}.npz", action=np.ones((20, 1), np.float32))
    return tmp_path


def sign(place: Path, **changes: object) -> str:
    return digest(make_request(place, None, changes).inputs)


def test_options_that_decide_no_number_leave_the_digest_alone(place: Path) -> None:
    same = {sign(place), sign(place, workers=2, out="x", strict=True), sign(place, group_by="task")}
    assert len(same) == 1
    assert sign(place, seed=1) not in same
    assert sign(place, granularity="group") != sign(
        place, granularity="group", group_by="cluster:2"
    )


def test_later_options_are_named_only_where_they_are_asked_for(place: Path) -> None:
    asked = {"locality": True, "legibility": True, "condition": "state"}
    assert not asked.keys() & make_request(place, None, {}).inputs["options"].keys()
    for name, value in asked.items():
        assert make_request(place, None, {name: value}).inputs["options"][name] == value
    with pytest.raises(ConfigError, match="a single frame has no neighbourhood"):
        make_request(place, None, {"locality": True, "horizon": 1})


def test_options_are_given_once(place: Path) -> None:
    with pytest.raises(ValueError, match="not both"):
        make_request(place, AnnotateOptions(), {"seed": 1})
    request = make_request(place, AnnotateOptions(seed=3, out=place / "run"), {})
    assert (request.options.seed, request.path) == (3, place / "run")
    assert make_request(place, None, {}).path == Path(f"{place.name}_run")


LATE = [{"clean": "other"}, {"checksums": False}, {"on_error": "skip"}]


@pytest.mark.parametrize("late", LATE)
def test_an_opened_collection_takes_options_as_its_path_does(
    place: Path, late: dict[str, object]
) -> None:
    by_path = make_request(place, None, late)
    for request in (
        make_request(open_collection(place), None, late),
        make_request(open_collection(place, **late), None, {}),  # type: ignore[arg-type]
        make_request(open_collection(place), AnnotateOptions(**late), {}),  # type: ignore[arg-type]
    ):
        assert request.inputs == by_path.inputs
        assert request.inputs != make_request(place, None, {}).inputs or "checksums" in late
        for name in ("clean", "checksums", "on_error"):
            assert getattr(request.collection, name) == getattr(by_path.collection, name)
        checked = [member.checksums for member in request.collection.members]
        assert checked == [request.options.checksums] * 2 == [by_path.options.checksums] * 2


def test_a_clean_set_that_comes_late_is_a_member_or_refused(place: Path, tmp_path: Path) -> None:
    opened = open_collection(place)
    for name in ("other", str(place / "other"), place / "other"):
        assert make_request(opened, None, {"clean": name}).inputs["options"]["clean"] == "other"
    outside = tmp_path.parent / f"{tmp_path.name}_elsewhere"
    (outside / "good").mkdir(parents=True)
    np.savez(outside / "good" / "0.npz", action=np.ones((20, 1), np.float32))
    for name in ("zzz", str(outside / "good")):
        with pytest.raises(ConfigError, match=r"expected a member of .*: clean, other") as caught:
            make_request(opened, None, {"clean": name})
        assert "open_collection(path, clean=" in (caught.value.hint or "")
    with_it = open_collection(place, clean=str(outside / "good"))
    assert make_request(with_it, None, {}).inputs["options"]["clean"] == "good"
    with pytest.raises(ConfigError, match="expected a member"):
        make_request(with_it, None, {"clean": "other"})  # `good` is there as the clean set only


def test_a_member_left_out_as_broken_fails_where_that_is_asked_late(place: Path) -> None:
    (place / "torn").mkdir()
    (place / "torn" / "0.npz").write_bytes(b"PK")
    opened = open_collection(place, on_error="skip")
    assert make_request(opened, None, {}).options.on_error == "skip"
    with pytest.raises(DatasetError, match="torn"):
        make_request(opened, None, {"on_error": "fail"})


@pytest.mark.parametrize("named", ["argument", "file"])
def test_a_run_says_where_a_clean_set_elsewhere_lies(
    tmp_path: Path, named: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)
    for folder in ("all/bad", "gold"):
        (tmp_path / folder).mkdir(parents=True)
        for number in range(3):
            action = rng.normal(size=(20, 1)).astype(np.float32)
            np.savez(tmp_path / folder / f"{number}.npz", action=action)
    clean = str(tmp_path / "gold") if named == "argument" else None
    if named == "file":
        (tmp_path / "all" / "ambient.toml").write_text('clean = "../gold"')
    monkeypatch.chdir(tmp_path / "gold")
    opened = open_collection(tmp_path / "all", clean=clean)
    options = make_request(opened, None, {"folds": 3}).options
    study = prepare_study(opened, options, tmp_path / "frames", silent)
    assert study.opened == {"path": str(tmp_path / "all"), "clean": str(tmp_path / "gold")}
