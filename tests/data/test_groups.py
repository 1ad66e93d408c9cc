"""Labels of episodes: tasks, columns, and clusters of motions that differ to the eye."""

from pathlib import Path

import numpy as np
import pytest
from small_study import ACTION, make_collection, make_episodes, make_study

from ambient_curate.data.populations import UNNAMED, label_groups
from ambient_curate.data.study import Study, prepare_study
from ambient_curate.errors import ConfigError
from ambient_curate.options import AnnotateOptions
from ambient_curate.progress import silent
from ambient_curate.readers.episodes import Episode

LENGTHS = (6, 7, 8)


def ramps(name: str, slopes: list[float]) -> list[Episode]:
    """Straight motions, of lengths and offsets of their own."""
    rng = np.random.default_rng(list(name.encode()))
    return [
        Episode(
            f"demo_{i}",
            i,
            (
                slope * np.linspace(0.0, 1.0, 5 + 2 * i)[:, None]
                + 0.05 * rng.normal(size=(5 + 2 * i, ACTION))
            ).astype(np.float32),
            Path(name),
        )
        for i, slope in enumerate(slopes)
    ]


@pytest.fixture
def labelled(tmp_path: Path) -> Study:
    members = {
        "clean": make_episodes("clean", LENGTHS, task=["pick", None, ""]),
        "sim": make_episodes("sim", LENGTHS, labels=[{"who": "ann"}, {"who": 3}, {"ok": True}]),
    }
    return make_study(tmp_path / "frames", members)


def label(study: Study, group_by: str, seed: int = 0) -> dict[str, list[str]]:
    return label_groups(study.frames, study.windows, group_by, seed=seed)


def test_a_task_is_a_label_and_none_or_empty_is_unnamed(labelled: Study) -> None:
    assert label(labelled, "task") == {
        "clean": ["pick", UNNAMED, UNNAMED],
        "sim": [UNNAMED, UNNAMED, UNNAMED],
    }


def test_a_column_is_a_label_as_text_and_unnamed_where_it_is_missing(labelled: Study) -> None:
    assert label(labelled, "who") == {
        "clean": [UNNAMED, UNNAMED, UNNAMED],
        "sim": ["ann", "3", UNNAMED],
    }
    assert label(labelled, "ok")["sim"] == [UNNAMED, UNNAMED, "True"]


def test_an_unknown_column_is_refused_with_those_there_are(labelled: Study) -> None:
    with pytest.raises(ConfigError, match="no episode has a column 'whom'") as error:
        label(labelled, "whom")
    assert error.value.hint == "use task, cluster:K, or one of: ok, who"


def test_the_hint_says_so_where_there_is_no_column(tmp_path: Path) -> None:
    members = {name: make_episodes(name, LENGTHS) for name in ("clean", "sim")}
    with pytest.raises(ConfigError) as error:
        label(make_study(tmp_path / "frames", members), "who")
    assert str(error.value.hint).endswith("(no columns)")


def test_clusters_part_motions_that_differ_in_all_members_alike(tmp_path: Path) -> None:
    """Up and down, in lengths that never agree: one label each, whatever the member."""
    slopes = {"clean": [1.0, -1.0, 1.0], "sim": [-1.0, -1.0, 1.0, 1.0]}
    members = {name: ramps(name, each) for name, each in slopes.items()}
    found = label(make_study(tmp_path / "frames", members), "cluster:2")
    up, down = found["clean"][0], found["clean"][1]
    assert {up, down} == {"cluster 0", "cluster 1"}
    assert found == {name: [up if s > 0 else down for s in each] for name, each in slopes.items()}


@pytest.mark.parametrize("seed", [0, 2**63 - 1])
def test_clusters_are_the_same_for_the_same_seed(tmp_path: Path, seed: int) -> None:
    members = {name: make_episodes(name, (6, 9, 7, 8, 5, 12)) for name in ("clean", "sim")}
    study = make_study(tmp_path / "frames", members)
    first = label(study, "cluster:4", seed)
    assert label(study, "cluster:4", seed) == first
    assert len({name for labels in first.values() for name in labels}) == 4


def test_the_normaliser_gives_every_dimension_its_say(tmp_path: Path) -> None:
    """The small dimension parts the motions; the large one is alike in all but for noise."""
    slopes = {"clean": [1.0, -1.0, 1.0, -1.0], "sim": [1.0, -1.0, -1.0, 1.0]}
    members = {}
    for name, each in slopes.items():
        members[name] = ramps(name, each)
        for episode in members[name]:
            episode.action[:, 1] = 0.0
            episode.action[0, 1] = 1e4  # the range of the clean set, in one frame of each
    study = make_study(tmp_path / "frames", members)
    for name, labels in label(study, "cluster:2").items():
        ups = {text for text, slope in zip(labels, slopes[name], strict=True) if slope > 0}
        downs = set(labels) - ups
        assert (len(ups), len(downs)) == (1, 1)


@pytest.mark.filterwarnings("error")
def test_fewer_different_episodes_than_clusters_are_refused(tmp_path: Path) -> None:
    members = {"clean": make_episodes("clean", LENGTHS), "sim": make_episodes("clean", LENGTHS)}
    study = make_study(tmp_path / "frames", members)  # six episodes, three different ones
    assert len(set(label(study, "cluster:3")["sim"])) == 3
    with pytest.raises(ConfigError, match="3 different episodes cannot make 4 clusters") as error:
        label(study, "cluster:4")
    assert error.value.hint == "use a smaller cluster:K"


def test_a_study_labels_only_at_granularity_group(tmp_path: Path) -> None:
    collection = make_collection(
        {
            "clean": make_episodes("clean", LENGTHS, task=["a", "b", "a"]),
            "sim": make_episodes("sim", LENGTHS, task=["a", "a", "a"]),
        }
    )
    options = AnnotateOptions(horizon=3, folds=3, granularity="group")
    study = prepare_study(collection, options, tmp_path / "frames", silent)
    assert study.groups == {"clean": ["a", "b", "a"], "sim": ["a", "a", "a"]}
