"""Looking: one episode of a run, its rows of the manifest and its data."""

from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from ambient_curate.collection import read_episodes
from ambient_curate.episodes import Episode
from ambient_curate.errors import CurateError, RunError
from ambient_curate.origins import reopen_data
from ambient_curate.results import Run

_SHOWN = 5


@dataclass(frozen=True, eq=False)
class Sight:
    """One episode of a run.

    Parameters
    ----------
    rows : pyarrow.Table
        Its rows of the manifest, by start.
    episode : Episode or None
        Its data; None where that is gone.
    """

    rows: pa.Table
    episode: Episode | None


def look_up(run: Run, dataset: str, episode: str, data: Path | None = None) -> Sight:
    """Find an episode of a run by episode or window.

    Parameters
    ----------
    run : Run
        A finished run.
    dataset, episode : str
        Name of the dataset, and id of the episode; empty: the first there is.
    data : Path or None
        Where the collection lies now; None: where the run found it, if it is still there.

    Raises
    ------
    RunError
        If the run's rows do not speak for episodes, it has no such episode, or `data` is not what
        was annotated.
    """
    rows = run.manifest()
    if rows["episode_id"].null_count == rows.num_rows:
        raise RunError(
            f"the rows of {run.path} speak for whole datasets or groups, not for episodes",
            "annotate with --granularity episode or datapoint",
        )
    name = dataset or next(r["dataset"] for r in run.info["verdict"] if not r["is_clean"])
    own = rows.filter(pc.equal(rows["dataset"].cast(pa.string()), name))
    ids = own["episode_id"].unique().to_pylist()
    if not ids:
        known = ", ".join(run.info["members"])
        raise RunError(f"{run.path} has no dataset {name!r}", f"its datasets are {known}")
    wanted = episode or ids[0]
    if wanted not in ids:
        shown = ", ".join(ids[:_SHOWN]) + (", ..." if len(ids) > _SHOWN else "")
        raise RunError(f"{name} has no episode {wanted!r}", f"its episodes are {shown}")
    return Sight(own.filter(pc.equal(own["episode_id"], wanted)), _read(run, name, wanted, data))


def _read(run: Run, dataset: str, episode: str, data: Path | None) -> Episode | None:
    try:
        collection = reopen_data(run, data)
    except CurateError:
        if data is not None:
            raise
        return None
    member = next(member for member in collection.members if member.name == dataset)
    return next((e for e in read_episodes(member, on_error="skip") if e.id == episode), None)
