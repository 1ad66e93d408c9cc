"""The report: one HTML page of a run that opens offline and can be sent."""

import json
import shlex
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ambient_curate.errors import ConfigError, CurateError, write_count
from ambient_curate.files import replace_whole, to_json
from ambient_curate.noise import flow_from_sigma, ve_from_sigma
from ambient_curate.option_fields import check_path
from ambient_curate.progress import Progress, silent
from ambient_curate.report.page_content import (
    Gathered,
    Ranked,
    Ranking,
    as_rows,
    gather,
    list_curves,
    list_histograms,
    list_reliability,
    list_tilts,
    threshold,
)
from ambient_curate.report.sentences import list_advice, summarize_controls, write_bracket
from ambient_curate.run.records import Run
from ambient_curate.run.source_data import read_normalizers, reopen_data
from ambient_curate.run.tables import find_parts

NAME = "report.html"
COLUMNS = (
    *("dataset", "group", "episode_id", "episode_index", "start", "sigma_min", "status"),
    "p_clean",
)


def write_report(
    run: Run,
    out: Path | str | None = None,
    *,
    data: Path | str | None = None,
    progress: Progress = silent,
) -> Path:
    """Write a page that shows a finished run: self-contained, of bounded size.

    Parameters
    ----------
    run : Run
        A finished run.
    out : Path, str or None
        The file; None: ``report.html`` in the run's directory.
    data : Path, str or None
        Where the collection lies now; None: where the run found it. Where it is gone, the traces
        of actions are left out and the page says so.
    progress : Progress
        Told of the episodes read.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    CurateError
        If the run is damaged, `data` is not what was annotated, or the extra is missing.
    """
    page, plotly = _load_page()
    ranking = Ranking(_Parts(find_parts(run.path)))
    picked = ranking.pick(run.info["clean"])
    seen, missing = _gather(run, data, picked, progress)
    curves, left_out = list_curves(run.curves())
    content = {
        "threshold": threshold(run.info["epsilon"]),
        "curves": curves,
        "histograms": list_histograms(ranking.histograms, run.info["clean"]),
        "reliability": list_reliability(run.reliability()),
        "tilts": list_tilts(run.info["verdict"]),
        "locality": run.info.get("locality", []),
        "spectra": seen.spectra,
        "grid": [round(level, 6) for level in run.info["grid"]],
        "episodes": _with_commands(run, as_rows(picked, seen.traces)),
    }
    notes = [f"no traces of actions and no spectra: {missing}"] if missing else []
    if left_out:
        notes.append(
            f"in curves.parquet alone: the curves of {write_count(left_out, 'more group')}"
        )
    text = page.render(
        info=run.info,
        name=run.path.resolve().name,
        advice=list(list_advice(run.info)),
        tested=summarize_controls(run.info),
        absent=_list_absent(run.info, content, missing),
        verdict=[_times(row) for row in run.info["verdict"]],
        command=_command(run.info),
        notes=notes,
        grouped=any(row["group"] is not None for row in run.info["verdict"]),
        content=content,
        plotly=plotly,
    )
    out = run.path / NAME if out is None else check_path("out", out)
    with replace_whole(out) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return out


def _list_absent(
    info: Mapping[str, Any], content: Mapping[str, Any], missing: str
) -> dict[str, str]:
    """Say of every panel without content why it has none, by its name in the page."""
    by_row = info["granularity"] in ("episode", "datapoint")
    untilted = info["granularity"] == "datapoint"
    reasons = {
        "curves": "no dataset was compared with the clean set",
        "reliability": "no dataset was compared with the clean set",
        "histograms": "no row has one"
        if by_row
        else f"a row is a whole {info['granularity']}: see the table",
        "tilts": "no corrupt window is usable at the lowest noise"
        if untilted
        else "known of windows only: annotate with --granularity datapoint",
        "locality": "not asked for: annotate with --locality",
        "spectra": missing or "no dataset has episodes that are long enough",
        "episodes": "rows speak for whole sets: annotate with --granularity episode or datapoint",
    }
    shown = {name: bool(content[name]) for name in reasons}
    shown["histograms"] &= by_row
    shown["tilts"] = any(tilt["usable"] > 0 for tilt in content["tilts"])
    return {name: reason for name, reason in reasons.items() if not shown[name]}


class _Parts(Sequence[pa.Table]):
    """Parts of the manifest, each read when it is looked at."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = paths

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, number: int) -> pa.Table:  # type: ignore[override]
        return pq.read_table(self.paths[number], columns=list(COLUMNS))


def _load_page() -> tuple[Any, str]:
    try:
        import jinja2
        import plotly
    except ImportError as error:
        raise ConfigError(
            f"a report needs {error.name}, which is not installed",
            "pip install 'ambient-curate[report]'",
        ) from error
    folder = files("ambient_curate") / "report"
    environment = jinja2.Environment(
        loader=jinja2.DictLoader(
            {name: (folder / name).read_text("utf-8") for name in ("page.html",)}
        ),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
    )
    for name in ("page.css", "page.js"):
        environment.globals[name.replace(".", "_")] = (folder / name).read_text("utf-8")
    environment.policies["json.dumps_function"] = to_json
    environment.policies["json.dumps_kwargs"] = {"separators": (",", ":")}
    script = Path(plotly.__file__).parent / "package_data" / "plotly.min.js"
    return environment.get_template("page.html"), script.read_text("utf-8")


def _gather(
    run: Run, data: Path | str | None, picked: Sequence[Ranked], progress: Progress
) -> tuple[Gathered, str]:
    """Read what is shown of the data itself; else say why not."""
    try:
        collection = reopen_data(run, data)
    except CurateError as error:
        if data is not None:
            raise
        return Gathered({}, []), str(error)
    wanted = [(each.dataset, each.episode_id) for each in picked]
    scales = {name: each.scale for name, each in read_normalizers(run).items()}
    return gather(collection, wanted, scales, progress), ""


def _with_commands(run: Run, episodes: list[Any]) -> list[Any]:
    """Add the commands that show an episode in a viewer."""
    base = (run.path / run.info["collection"]["path"]).resolve()
    for episode in episodes:
        name, of = episode["dataset"], run.info["sources"][episode["dataset"]]
        words = ["ambient-curate", "view", str(run.path), "--dataset", name]
        episode["commands"] = [shlex.join([*words, "--episode", episode["episode_id"]])]
        if of["format"].startswith("LeRobot"):
            root = base if base.joinpath("meta").exists() else base / name
            words = ["lerobot-dataset-viz", "--repo-id", f"local/{name}", "--root", str(root)]
            words += ["--episode-index", str(episode["index"])]
            episode["commands"].append(shlex.join(words))
    return episodes


def _times(row: Mapping[str, Any]) -> dict[str, Any]:
    """Add a trainer's time at the edge of usable levels, and the bracket, to a verdict's row."""
    sigma = row["sigma_min"]
    times = ""
    if sigma is not None and sigma < 1.0:
        ve, flow = float(ve_from_sigma(sigma)), float(flow_from_sigma(sigma))
        times = f"EDM {ve:.3f}, flow {flow:.3f}"
    return {"sigma_max": 0.0, **row, "times": times, "bracket": write_bracket(row)}


def _command(info: Mapping[str, Any]) -> str:
    """Write the command that makes this run again."""
    given = {key: value for key, value in info["options"].items() if value not in (None, False)}
    words = ["ambient-curate", "annotate", info["collection"]["path"]]
    for key, value in given.items():
        flag = f"--{key.replace('_', '-')}"
        words += [flag] if value is True else [flag, _text(value)]
    return shlex.join(words)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
