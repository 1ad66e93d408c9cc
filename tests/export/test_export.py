"""Exports: written once and whole, by the trainer's scale and time, or refused."""

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from command import check_failure, run_command, snapshot

from ambient_curate.errors import ConfigError, CurateError
from ambient_curate.export import export
from ambient_curate.export.export import CHECKS, WRITERS, export_lines, export_run
from ambient_curate.export.job import Job
from ambient_curate.export.trainers import TRAINERS
from ambient_curate.run.records import Run


@pytest.fixture(scope="module")
def made(place_small: Callable[..., Run], tmp_path_factory: pytest.TempPathFactory) -> Run:
    return place_small(tmp_path_factory.mktemp("exports"))


def scale_file(path: Path, made: Run, factor: float | list[float]) -> Path:
    scale = np.array(made.info["normaliser"]["scale"]) * factor
    path.write_text(json.dumps({"scale": scale.tolist()}))
    return path


def test_an_export_is_whole_and_the_same_command_finds_it(made: Run, tmp_path: Path) -> None:
    before = snapshot(made.path.parent)
    words = ["export", str(made.path), "--to", "parquet", "--out", str(tmp_path / "e")]
    code, stdout, stderr = run_command(*words)
    assert code == 0, stderr
    assert sorted(os.listdir(tmp_path / "e")) == ["data", "export.json"]
    assert "never usable" in stdout and "usable at steps t >= t_min" in stdout
    written = snapshot(tmp_path / "e")
    code, again, stderr = run_command(*words)
    assert (code, again) == (0, stdout)
    assert "already complete" in stderr
    assert snapshot(tmp_path / "e") == written
    assert snapshot(made.path.parent) == before
    check_failure(run_command(*words, "--schedule", "flow"), "export of other inputs", "--force")
    code, stdout, _ = run_command(*words, "--schedule", "flow", "--force")
    assert code == 0 and "usable at times" in stdout


@pytest.mark.parametrize("to", sorted(set(TRAINERS) - {"robomimic"}))
def test_every_export_has_the_same_bytes_again(made: Run, tmp_path: Path, to: str) -> None:
    one, other = (export_run(made, to=to, out=tmp_path / name) for name in "ab")
    files = [file.relative_to(one.path) for file in one.path.rglob("*") if file.is_file()]
    assert len(files) >= 2
    for file in files:
        assert (one.path / file).read_bytes() == (other.path / file).read_bytes(), file


def test_a_dataset_without_an_answer_is_named_with_its_reason(made: Run, tmp_path: Path) -> None:
    first, *others = made.info["verdict"]
    (row, *rest) = [dict(row) for row in others]
    row |= {"status": "not-compared", "reason": "action dimension 2 moves in 48.0% of the frames"}
    run = replace(made, info=made.info | {"verdict": [first, row, *rest]})
    notes = export_run(run, out=tmp_path / "e").info["notes"]
    name = row["dataset"]
    assert f"{name}: never usable, not-compared: {row['reason']}" in notes
    sound = [each for each in rest if each["status"] == "ok"]
    assert not any(note.startswith(f"{each['dataset']}: never") for each in sound for note in notes)


def test_an_export_of_a_first_look_says_so(made: Run, tmp_path: Path) -> None:
    options = made.info["options"] | {"limit": 99}
    run = replace(made, info=made.info | {"options": options})
    notes = export_run(run, out=tmp_path / "e").info["notes"]
    assert any("--limit 99: it speaks of the first 99 episodes" in note for note in notes)
    assert not any("--limit" in n for n in export_run(made, out=tmp_path / "f").info["notes"])


def test_a_trainer_that_scales_twice_as_much_needs_twice_the_noise(
    made: Run, tmp_path: Path
) -> None:
    plain = export_run(made, out=tmp_path / "plain", schedule="edm")
    scale = scale_file(tmp_path / "scale.json", made, 2.0)
    scaled = export_run(made, out=tmp_path / "scaled", schedule="edm", normalizer=scale)
    one, other = (
        pq.read_table(each.path / "data/windows.parquet")["t_min"].to_numpy()
        for each in (plain, scaled)
    )
    assert one.max() > 0.0
    np.testing.assert_allclose(other, 2.0 * one)
    assert scaled.info["options"]["factor"] == pytest.approx(2.0)


def test_another_scale_is_refused_with_both_shown(made: Run, tmp_path: Path) -> None:
    scale = scale_file(tmp_path / "scale.json", made, [1.0, 3.0])
    words = ["export", str(made.path), "--out", str(tmp_path / "e"), "--normalizer", str(scale)]
    check_failure(run_command(*words), "the run multiplies .* the trainer by", "normalize")
    assert not (tmp_path / "e").exists()


def test_all_trainers_are_listed_without_a_run() -> None:
    code, stdout, _ = run_command("export", "--to", "list")
    assert code == 0
    assert all(name in stdout for name in TRAINERS)
    assert run_command("export")[0] == 2


def test_what_cannot_be_exported_is_refused(made: Run, tmp_path: Path) -> None:
    out = ["--out", str(tmp_path / "e")]
    run = str(made.path)
    check_failure(run_command("export", run, *out, "--to", "gr01t"), "one of lerobot")
    check_failure(run_command("export", run, *out, "--schedule", "cosine:9"), "not known")
    check_failure(run_command("export", run, *out, "--n-obs-steps", "0"), "number >= 1")
    check_failure(run_command("export", run, *out, "--to", "robomimic"), "robomimic reads HDF5")
    check_failure(run_command("export", str(tmp_path), *out), "is no run")
    assert not (tmp_path / "e").exists()


@pytest.mark.parametrize("to", TRAINERS)
def test_a_refused_export_leaves_nothing_and_harms_nothing(
    made: Run, tmp_path: Path, to: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before any data is read, or while it is written; others' files and an earlier export stay."""
    gone = tmp_path / "gone"
    with pytest.raises(CurateError):
        export_run(made, to=to, out=tmp_path / "e", data=gone)
    assert not (tmp_path / "e").exists()
    earlier = export_run(made, out=tmp_path / "e")
    before = snapshot(earlier.path)
    with pytest.raises(CurateError):
        export_run(made, to=to, out=tmp_path / "e", data=gone, force=True)
    assert snapshot(earlier.path) == before

    def fail(job: Job) -> None:
        (job.out / "half").write_text("half")
        raise ConfigError("no")

    monkeypatch.setitem(WRITERS, to, fail)
    monkeypatch.delitem(CHECKS, to, raising=False)
    with pytest.raises(ConfigError, match="no"):
        export_run(made, to=to, out=tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_formats_are_compared_before_anything_is_read(
    made: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export, "reopen_study", lambda *_, **__: pytest.fail("was read"))
    with pytest.raises(ConfigError, match="is Parquet: robomimic reads HDF5"):
        export_run(made, to="robomimic", out=tmp_path / "e")


def test_lerobot_is_told_what_it_cannot_use(made: Run, tmp_path: Path) -> None:
    """What the output says stands beside the files too."""
    done = export_run(made, to="lerobot", out=tmp_path / "e")
    text = "\n\n".join(export_lines(done.info))
    assert "without the plug-in everything: LeRobot itself reads none of these files" in text
    names = ", ".join(made.info["members"])
    assert f"lerobot does not train on Parquet ({names}): rows are of use once" in text
    readme = (done.path / "data/README.md").read_text()
    assert readme == f"# Export for lerobot\n\n{text}\n"
    plain = export_run(made, to="csv", out=tmp_path / "plain")
    assert "does not train on" not in (plain.path / "data/README.md").read_text()


def test_options_come_whole_or_by_name(made: Run) -> None:
    from ambient_curate.export.trainers import ExportOptions

    with pytest.raises(ValueError, match="not both"):
        export_run(made, ExportOptions(), to="csv")
