"""The whole path, from files to a manifest, on small collections."""

import functools
import hashlib
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import collection_writer
import numpy as np
import pytest
from small_worker import leave_network, make_small

from ambient_curate.annotation import assessment, part_writer, tasks
from ambient_curate.annotation.annotate import annotate, annotate_share, merge
from ambient_curate.annotation.curves import PopulationCurves
from ambient_curate.annotation.reliability import Finding
from ambient_curate.annotation.shards import Shard
from ambient_curate.classifier.channels import noise_channel
from ambient_curate.classifier.fit import FitOptions
from ambient_curate.errors import ConfigError, NotEnoughDataError, RunError
from ambient_curate.progress import Advance
from ambient_curate.run.directory import open_run
from ambient_curate.run.records import Run
from ambient_curate.statistics import boosting
from ambient_curate.training import TrainOptions

SHARED = {"group_by": "cluster:2", "store_curves": True}  # of runs that several tests read
GRANULARITIES = ("dataset", "group", "episode", "datapoint")
LENGTH, HORIZON = 20, 4
WINDOWS = LENGTH - HORIZON + 1


QUICK = functools.partial(
    FitOptions,
    train=TrainOptions(steps=20, warm_up=5),
    windows=256,
    held_out=128,
    calibration_rows=32,
    batch=64,
    every=10,
)


def make_quick(change: Callable[[Any, str, Any], None]) -> None:
    """Fit a network alone in a second: these tests are about the path, not about the numbers."""
    change(tasks, "FitOptions", QUICK)
    change(tasks, "noise_channel", leave_network)
    change(boosting, "TREES", (3, 4))


@pytest.fixture(autouse=True)
def quick_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    make_quick(monkeypatch.setattr)


@pytest.fixture(scope="module")
def collection(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Clean walks, the same walks with strong jitter, and a member of which one is too short."""
    root = tmp_path_factory.mktemp("collection") / "mixed"
    rng = np.random.default_rng(0)
    clean = collection_writer.make_episodes(9, LENGTH)
    jittered = [e + rng.normal(0, 3, e.shape).astype(np.float32) for e in clean[:6]]
    collection_writer.write_npz(root / "clean", clean)
    collection_writer.write_lerobot(root / "jitter", jittered)
    short = [*collection_writer.make_episodes(7, LENGTH), np.zeros((2, 3), np.float32)]
    collection_writer.write_npy(root / "walks", short)
    return root


@pytest.fixture(scope="module")
def finished(
    collection: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str, Callable[[Callable[[Any, str, Any], None]], None]], Run]:
    """An undisturbed run of a granularity, quick or small, made once: to be read, not written."""

    @functools.cache
    def make(granularity: str, change: Callable[..., None] = make_quick) -> Run:
        with pytest.MonkeyPatch.context() as patch:
            change(patch.setattr)
            out = tmp_path_factory.mktemp("finished") / "run"
            return run(collection, out, granularity=granularity, **SHARED)

    return make


def run(collection: Path, out: Path, **options: object) -> Run:
    return annotate(
        collection, out=out, **{"horizon": HORIZON, "folds": 3, "workers": 1, **options}
    )


def contents(path: Path) -> dict[str, str]:
    return {
        file.relative_to(path).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(path.rglob("*"))
        if file.is_file()
    }


@pytest.mark.parametrize("granularity", GRANULARITIES)
def test_every_granularity_gives_its_rows(
    collection: Path,
    tmp_path: Path,
    granularity: str,
    monkeypatch: pytest.MonkeyPatch,
    finished: Callable[..., Run],
) -> None:
    """One of them by the whole classifier."""
    if granularity == "datapoint":
        monkeypatch.setattr(tasks, "noise_channel", noise_channel)
        result = run(collection, tmp_path / "run", granularity=granularity, **SHARED)
    else:
        result = finished(granularity)
    rows = result.manifest().to_pylist()
    by_dataset = {
        name: [row for row in rows if row["dataset"] == name]
        for name in ("clean", "jitter", "walks")
    }
    expected = {
        "dataset": (1, 1, 1),
        "episode": (9, 6, 8),
        "datapoint": (9 * WINDOWS, 6 * WINDOWS, 7 * WINDOWS + 1),
    }
    if granularity in expected:
        assert tuple(map(len, by_dataset.values())) == expected[granularity]
    for row in by_dataset["clean"]:
        assert (row["is_clean"], row["sigma_min"], row["sigma_max"]) == (True, 0.0, 0.0)
    short = [row for row in by_dataset["walks"] if row["status"] == "too-short"]
    assert len(short) == (granularity in ("episode", "datapoint"))
    assert all(row["sigma_min"] is None and row["fold"] is None for row in short)
    assert not (result.path / ".work").exists()
    assert set(result.curves()["dataset"].to_pylist()) == {
        *("jitter", "walks", "planted shift", "planted spike")
    }
    verdict = {(row["dataset"], row["group"]): row for row in result.info["verdict"]}
    assert verdict["jitter", None]["windows"] == 6 * WINDOWS
    if granularity == "datapoint":
        frames = [row["index"] for row in by_dataset["jitter"][:3]]
        assert frames == [0, 1, 2]
        assert len(by_dataset["jitter"][0]["p_clean"]) == len(result.info["grid"])


@pytest.mark.parametrize("granularity", ["dataset", "datapoint"])
def test_windows_that_train_together_have_weights_and_shares(
    collection: Path, tmp_path: Path, granularity: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All that have an answer, clean ones too; here the jittered are not believed."""
    examine = assessment.examine_population

    def doubt(population: PopulationCurves, *arguments: object, **named: object) -> list[Finding]:
        found = [replace(each, passed=True) for each in examine(population, *arguments, **named)]
        return [*found, Finding("balance", population.dataset != "jitter", {}, "skewed")]

    monkeypatch.setattr(assessment, "examine_population", doubt)
    sound = Finding("planted shift", True, {}, "recovered")
    monkeypatch.setattr(assessment, "examine_control", lambda *_: sound)
    result = run(collection, tmp_path / "run", granularity=granularity)
    rows, verdict = result.manifest().to_pylist(), result.info["verdict"]
    told = {row["dataset"]: row["status"] for row in verdict}
    assert told == {"clean": "ok", "jitter": "classifier-unreliable", "walks": "ok"}
    assert [row["p_value"] is None for row in verdict] == [row["is_clean"] for row in verdict]
    if granularity == "dataset":
        assert result.info["shares"] == {}
        assert {row["weight"] for row in rows} | {row["tilt"] for row in verdict} == {None}
        return
    assert result.info["shares"] == {"clean": 9 / 16, "walks": 7 / 16}
    assert [row["tilt"] is not None for row in verdict] == [False, False, True]
    for row in rows:
        trains = row["status"] == "ok"
        assert trains == (row["dataset"] != "jitter" and row["fold"] is not None)
        assert (0.0 <= row["weight"] <= 16 / 9) if trains else row["weight"] is None


def test_jitter_is_found_and_walks_of_the_same_law_are_not(
    finished: Callable[..., Run],
) -> None:
    verdict = {row["dataset"]: row for row in finished("dataset").info["verdict"]}
    assert verdict["jitter"]["sigma_min"] > 0.2
    assert verdict["walks"]["sigma_min"] < verdict["jitter"]["sigma_min"] / 2


@pytest.mark.parametrize(
    ("granularity", "work", "call"),
    [
        pytest.param("dataset", (tasks, "score_piece"), 3, marks=pytest.mark.slow),
        pytest.param("datapoint", (tasks, "save_evidence"), 5, marks=pytest.mark.slow),
        pytest.param("episode", (part_writer, "draw_curves"), 2, marks=pytest.mark.slow),
        pytest.param("datapoint", (part_writer, "draw_curves"), 2, marks=pytest.mark.slow),
        ("datapoint", (part_writer, "write_part"), 2),
    ],
)
def test_an_interrupted_run_continues_to_the_same_bytes(
    collection: Path,
    tmp_path: Path,
    granularity: str,
    work: tuple[ModuleType, str],
    call: int,
    monkeypatch: pytest.MonkeyPatch,
    finished: Callable[..., Run],
) -> None:
    change = make_small if work == (part_writer, "write_part") else make_quick  # small: many parts
    plain = finished(granularity, change)
    change(monkeypatch.setattr)
    perform, calls = getattr(*work), []

    def interrupt_once(*args: object, **kwargs: object) -> object:
        calls.append(1)
        if len(calls) == call:
            raise KeyboardInterrupt
        return perform(*args, **kwargs)

    monkeypatch.setattr(*work, interrupt_once)
    with pytest.raises(KeyboardInterrupt):
        run(collection, tmp_path / "broken", granularity=granularity, **SHARED)
    assert not (tmp_path / "broken" / "run.json").exists()
    fits = contents(tmp_path / "broken" / ".work" / "classifier")
    assert len(fits) == 1 + 3 * 4  # two sets and two controls, in every fold
    resumed = run(collection, tmp_path / "broken", granularity=granularity, **SHARED)
    assert contents(resumed.path) == contents(plain.path)
    assert {f"classifier/{name}": digest for name, digest in fits.items()}.items() <= contents(
        plain.path
    ).items()


def test_two_processes_write_the_bytes_of_one(
    collection: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    finished: Callable[..., Run],
) -> None:
    """With students, and a dozen parts."""
    one = finished("datapoint", make_small)
    make_small(monkeypatch.setattr)
    two = run(collection, tmp_path / "two", granularity="datapoint", workers=2, **SHARED)
    assert contents(one.path) == contents(two.path)
    assert [student["dataset"] for student in one.info["students"]] == ["jitter", "walks"]
    assert len(list((one.path / "manifest").iterdir())) > 10


def test_a_piece_of_work_that_fails_twice_is_named_and_the_others_are_done(
    collection: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    finished: Callable[..., Run],
) -> None:
    plain = finished("datapoint", make_small)
    make_small(monkeypatch.setattr)
    write = tasks.PartWriter.write

    def fail(self: tasks.PartWriter, shard: Shard, advance: Advance) -> None:
        if shard.number == 3:
            raise ValueError("no luck")
        write(self, shard, advance)

    with monkeypatch.context() as patch:
        patch.setattr(tasks.PartWriter, "write", fail)
        with pytest.raises(RunError, match=r"1 of \d+ .* failed twice \(write 3: .*no luck"):
            run(collection, tmp_path / "run", granularity="datapoint", **SHARED)
    written = sorted(path.name for path in (tmp_path / "run/.work/manifest").iterdir())
    assert len(written) > 10 and "part-00003.parquet" not in written
    run(collection, tmp_path / "run", granularity="datapoint", **SHARED)
    assert contents(tmp_path / "run") == contents(plain.path)


def test_a_share_is_not_a_run(collection: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="annotate_share"):
        run(collection, tmp_path / "run", shard_index=0, num_shards=2)
    with pytest.raises(ValueError, match="num_shards"):
        annotate_share(collection, out=tmp_path / "run")
    with pytest.raises(ConfigError, match="give both"):
        run(collection, tmp_path / "run", shard_index=0)
    with pytest.raises(ConfigError, match="less than num_shards = 2"):
        run(collection, tmp_path / "run", shard_index=2, num_shards=2)
    with pytest.raises(RunError, match="is no run"):
        merge(tmp_path / "none")
    (tmp_path / "run/.work").mkdir(parents=True)
    inputs = {"options": {}, "sources": {}, "versions": {}, "threads": 1}
    with open_run(tmp_path / "run", inputs, "digest"):
        pass
    with pytest.raises(RunError, match="nothing to merge yet"):
        merge(tmp_path / "run")


@pytest.mark.parametrize(
    "granularity", [pytest.param("dataset", marks=pytest.mark.slow), "datapoint"]
)
def test_shares_one_after_another_and_a_merge_give_the_same_bytes(
    collection: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    granularity: str,
    finished: Callable[..., Run],
) -> None:
    plain = finished(granularity, make_small)
    make_small(monkeypatch.setattr)
    named = {"granularity": granularity, "horizon": HORIZON, "folds": 3, "workers": 1, **SHARED}
    out = tmp_path / "shared"
    shares = [
        annotate_share(collection, out=out, shard_index=i, num_shards=3, **named) for i in (2, 0)
    ]
    assert all(share.done < share.total or granularity == "dataset" for share in shares)
    if granularity == "datapoint":
        with pytest.raises(RunError, match=r"parts of .* are missing: 1, 4, 7, \.\.\."):
            merge(out)
        with pytest.raises(RunError, match="other inputs"):
            annotate_share(
                *(collection,), out=out, shard_index=1, num_shards=3, **{**named, "seed": 1}
            )
    last = annotate_share(collection, out=out, shard_index=1, num_shards=3, **named)
    assert last.done == last.total
    merged = merge(out)
    assert not merged.already_complete and merge(out).already_complete
    assert contents(merged.path) == contents(plain.path)
    late = annotate_share(collection, out=out, shard_index=1, num_shards=3, **named)
    assert (late.done, late.total) == (last.total, last.total)


def test_a_complete_run_is_recognised_and_another_refused(
    collection: Path, tmp_path: Path, finished: Callable[..., Run]
) -> None:
    first = finished("dataset")
    shutil.copytree(first.path, tmp_path / "run")
    before = contents(first.path)
    again = run(collection, tmp_path / "run", **SHARED)
    assert again.already_complete and not first.already_complete
    assert contents(again.path) == before
    with pytest.raises(RunError, match=r"epsilon: 0.05 -> 0.1"):
        run(collection, tmp_path / "run", epsilon=0.1, **SHARED)
    other = run(collection, tmp_path / "run", epsilon=0.1, force=True, **SHARED)
    assert other.info["epsilon"] == 0.1


@pytest.mark.slow
def test_another_seed_gives_other_numbers(collection: Path, tmp_path: Path) -> None:
    one, two = (run(collection, tmp_path / str(seed), seed=seed).curves() for seed in (0, 1))
    assert one["mean_c_corrupt"].to_pylist() != two["mean_c_corrupt"].to_pylist()


def test_too_few_corrupt_episodes_are_null_with_a_reason(tmp_path: Path) -> None:
    root = tmp_path / "mixed"
    for name, count in (("clean", 9), ("enough", 6), ("few", 2)):
        collection_writer.write_npz(root / name, collection_writer.make_episodes(count, LENGTH))
    result = run(root, tmp_path / "run", granularity="episode")
    rows = [row for row in result.manifest().to_pylist() if row["dataset"] == "few"]
    assert [(row["sigma_min"], row["status"]) for row in rows] == [(None, "too-few-episodes")] * 2
    few = next(row for row in result.info["verdict"] if row["dataset"] == "few")
    assert few["usable"] == 0.0 and few["nulls"] == 2 and "too few" in few["reason"]


@pytest.mark.parametrize("represent", [pytest.param("relative", marks=pytest.mark.slow), "delta"])
def test_relative_windows_say_what_they_refer_to(
    collection: Path, tmp_path: Path, represent: str
) -> None:
    info = run(collection, tmp_path / "run", represent=represent, normalize="gaussian").info
    assert info["representation"] == {"kind": represent, "reference": "first action"}
    assert any("from the first action" in text for text in info["assumptions"])


def test_bad_input_is_told_before_any_work(collection: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    with pytest.raises(ConfigError, match="schedule"):
        run(collection, out, schedule="cosine:10")
    with pytest.raises(NotEnoughDataError, match="folds"):
        annotate(collection, out=out, horizon=HORIZON, folds=10)
    with pytest.raises(NotEnoughDataError, match="no whole window of 21 frames"):
        annotate(collection, out=tmp_path / "other", horizon=21)
    assert not (out / "run.json").exists()
    with pytest.raises(ValueError, match="not both"):
        from ambient_curate.options import AnnotateOptions

        annotate(collection, AnnotateOptions(), horizon=3)
