"""The commands: parse, call, print. Data goes to stdout, everything else to stderr."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from ambient_curate.cli.console import (
    GATE_NOT_MET,
    CurateGroup,
    echo_json,
    print_below,
    quote,
    tell,
)
from ambient_curate.cli.options import take_options
from ambient_curate.errors import DatasetError, name_some
from ambient_curate.export.trainers import TRAINERS, ExportOptions
from ambient_curate.options import ANNOTATE_OPTIONS, FILE_OPTIONS
from ambient_curate.policy.options import PolicyOptions
from ambient_curate.report.figures import (
    ALL_FIGURES,
    AnyFigure,
    list_figures,
    save_any,
    save_run_figure,
)

if TYPE_CHECKING:  # each of these loads in a second, which --help must not cost
    from ambient_curate.data.inspection import Inspection
    from ambient_curate.policy.level_sampler import LevelSampler
    from ambient_curate.run.records import Run

Format = Literal["table", "json"]

FormatOption = Annotated[Format, typer.Option(help="What stdout gets.")]
CollectionArgument = Annotated[
    Path,
    typer.Argument(
        metavar="COLLECTION", readable=False, help="A dataset, or a directory of datasets."
    ),
]
RunArgument = Annotated[
    Path, typer.Argument(metavar="RUN", help="A directory that `annotate` wrote.")
]
DatasetOption = Annotated[str, typer.Option(help="Of the episode. Default: the first.")]
EpisodeOption = Annotated[str, typer.Option(help="Its id. Default: the first.")]
DataOption = Annotated[
    Path | None, typer.Option(help="The collection. Default: where the run found it.")
]


# brackets are brackets: no rich markup
options: dict[str, Any] = {"pretty_exceptions_enable": False, "rich_markup_mode": None}
app = typer.Typer(cls=CurateGroup, no_args_is_help=True, **options)


def main() -> None:
    """Run ``ambient-curate``."""
    app(prog_name="ambient-curate")


def _print_version(wanted: bool) -> bool:
    if wanted:
        from ambient_curate import __version__

        typer.echo(f"ambient-curate {__version__}")
        raise typer.Exit
    return wanted


@app.callback()
def ambient_curate(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Show the version and exit."
        ),
    ] = False,
) -> None:
    """Find the noise levels at which imperfect robot data may train a diffusion policy.

    Exit codes: 0 done; 1 failed; 2 wrong usage; 3 done, but --strict is not met; 130 interrupted.
    """


@app.command("inspect")
def inspect_command(
    collection: CollectionArgument,
    clean: Annotated[str | None, typer.Option(help=ANNOTATE_OPTIONS["clean"].help)] = None,
    format: FormatOption = "table",
) -> None:
    """Show what a collection holds and what would mislead."""
    from ambient_curate.cli.console import ConsoleProgress
    from ambient_curate.data.collection import open_collection
    from ambient_curate.data.inspection import inspect_collection

    opened = open_collection(collection, clean=clean, on_error="skip")
    inspection = inspect_collection(opened, progress=ConsoleProgress())
    if format == "json":
        echo_json(inspection.as_dict())
    else:
        _print_inspection(inspection)
    failed = {member.name: member.hint for member in inspection.members if not member.episodes}
    failed |= {name: error.hint for name, error in opened.broken}
    if failed:
        hint = next(filter(None, failed.values()), None)
        raise DatasetError(f"nothing can be read of {name_some(list(failed))}", hint)


@app.command("annotate")
@take_options(ANNOTATE_OPTIONS, FILE_OPTIONS)
def annotate_command(
    collection: CollectionArgument,
    format: FormatOption = "table",
    **values: Any,
) -> None:
    """Train the classifier, then find sigma_min everywhere.

    Options come from the command line, else from ambient.toml (same names), else the defaults.
    """
    from ambient_curate.cli.console import ConsoleProgress
    from ambient_curate.data.collection import open_collection, require_clean

    given = {name: values[name] for name in ("clean", "checksums", "on_error")}
    opened = open_collection(collection, **given)
    require_clean(opened)  # before torch is loaded, which takes seconds
    from ambient_curate.annotation.annotate import annotate, annotate_share

    if values["num_shards"] is not None or values["shard_index"] is not None:
        share = annotate_share(opened, progress=ConsoleProgress(), **values)
        tell(f"{share.done} of {share.total} parts of the manifest are there")
        tell(f"next, when all jobs have ended: ambient-curate merge {quote(share.path)}")
        return
    run = annotate(opened, progress=ConsoleProgress(), **values)
    if run.already_complete:
        tell("already complete")
    _print_run(run, format)
    _tell_next(run)
    if values["strict"] and any(row["status"] != "ok" for row in run.info["verdict"]):
        raise typer.Exit(GATE_NOT_MET)


@app.command("merge")
def merge_command(run: RunArgument, format: FormatOption = "table") -> None:
    """Finish a run that several jobs wrote, and print the verdict."""
    from ambient_curate.annotation.annotate import merge

    merged = merge(run)
    if merged.already_complete:
        tell("already complete")
    _print_run(merged, format)
    _tell_next(merged)


@app.command("show")
def show_command(
    run: RunArgument,
    details: Annotated[
        bool, typer.Option("--details", help="Say what each number means, and all warnings.")
    ] = False,
    format: FormatOption = "table",
) -> None:
    """Show the verdict of a finished run again."""
    from ambient_curate.run.records import open_run_results

    _print_run(open_run_results(run), format, details=details)


@app.command("plot")
def plot_command(
    run: Annotated[
        Path, typer.Argument(metavar="RUN", help="What `annotate` or `probe` wrote, or a dataset.")
    ],
    figure: Annotated[
        AnyFigure, typer.Argument(metavar="FIGURE", help=f"{', '.join(ALL_FIGURES)}.")
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            help="File to write, or replace: .png, .svg or .pdf. Default: ./<run>_<figure>.png."
        ),
    ] = None,
    policy: Annotated[
        Path | None,
        typer.Option(help="Of field and jacobian: a policy trained on the run, drawn beside."),
    ] = None,
    dataset: DatasetOption = "",
    episode: EpisodeOption = "",
    data: DataOption = None,
) -> None:
    """Draw one figure of a finished run, or of data, and print its path."""
    from ambient_curate.cli.console import ConsoleProgress

    out = out or Path(f"{run.resolve().name}_{figure}.png")
    of = {"dataset": dataset, "episode": episode, "data": data}
    typer.echo(save_any(run, figure, out, progress=ConsoleProgress(), policy=policy, **of))


@app.command("view")
def view_command(
    run: RunArgument,
    dataset: DatasetOption = "",
    episode: EpisodeOption = "",
    save: Annotated[Path | None, typer.Option(help="Write this .rrd; start no viewer.")] = None,
    data: DataOption = None,
) -> None:
    """Show an episode in Rerun: its actions, sigma_min and curves."""
    from ambient_curate.report.rerun import view_episode
    from ambient_curate.run.records import open_run_results

    results = open_run_results(run)
    if (written := view_episode(results, dataset, episode, save=save, data=data)) is not None:
        typer.echo(written)


@app.command("report")
def report_command(
    run: RunArgument,
    out: Annotated[
        Path | None, typer.Option(help="File to write. Default: report.html in the run.")
    ] = None,
    data: DataOption = None,
) -> None:
    """Write one page that shows a run, opens anywhere and can be sent."""
    from ambient_curate.cli.console import ConsoleProgress
    from ambient_curate.report.page import write_report
    from ambient_curate.run.records import open_run_results

    results = open_run_results(run)
    typer.echo(write_report(results, out, data=data, progress=ConsoleProgress()))


@app.command("probe")
def probe_command(
    collection: CollectionArgument,
    of: Annotated[str, typer.Option(help="task, goal, dataset, cluster:K or a column.")] = "task",
    out: Annotated[
        Path | None, typer.Option(help="File to write. Default: ./<collection>_probe.json.")
    ] = None,
    format: FormatOption = "table",
) -> None:
    """Measure up to which noise a task can be read."""
    from ambient_curate.analysis.survey import probes_table, survey_probes, write_probes
    from ambient_curate.cli.console import ConsoleProgress, render_table

    found = survey_probes(collection, of, progress=ConsoleProgress())
    out = out or Path(f"{collection.resolve().name}_probe.json")
    write_probes(found, out)
    if format == "json":
        echo_json([probe.as_dict() for probe in found])
    else:
        render_table(*probes_table(found))
    tell(f"probes: {out}", f"next: ambient-curate plot {quote(out)} probe")


@app.command("verify")
def verify_command(
    run: RunArgument,
    data: DataOption = None,
    no_sources: Annotated[
        bool, typer.Option("--no-sources", help="Check the run alone: the data is gone.")
    ] = False,
    format: FormatOption = "table",
) -> None:
    """Check that a run, and its data, are still what they were."""
    from ambient_curate.cli.console import ConsoleProgress, render_table
    from ambient_curate.cli.tables import verification_lines, verification_table
    from ambient_curate.run.verify import verify

    found = verify(run, data=data, sources=not no_sources, progress=ConsoleProgress())
    if format == "json":
        echo_json(found.as_dict())
    else:
        render_table(*verification_table(found))
        print_below(verification_lines(found))
    found.raise_findings()


@app.command("diff")
def diff_command(
    a: Annotated[Path, typer.Argument(metavar="A", help="A directory that `annotate` wrote.")],
    b: Annotated[Path, typer.Argument(metavar="B", help="Another one.")],
    rows: Annotated[int, typer.Option(min=0, help="Rows to list that moved most.")] = 10,
    format: FormatOption = "table",
) -> None:
    """Compare two finished runs: what went in, and every sigma_min."""
    from ambient_curate.cli.console import render_table
    from ambient_curate.cli.tables import comparison_lines, comparison_tables
    from ambient_curate.run.compare import compare_runs

    found = compare_runs(a, b, most=rows)
    if format == "json":
        echo_json(found.as_dict())
        return
    typer.echo("\n".join(comparison_lines(found)))
    for title, table in comparison_tables(found):
        typer.echo()
        render_table(*table, title=title)


@app.command("export")
@take_options(ExportOptions.declared)
def export_command(
    run: Annotated[
        Path | None, typer.Argument(metavar="RUN", help="A directory that `annotate` wrote.")
    ] = None,
    **values: Any,
) -> None:
    """Write a run for another trainer. `--to list` shows what each can make of it."""
    from ambient_curate.cli.console import ConsoleProgress, render_table
    from ambient_curate.cli.tables import export_table, trainers_table

    if values["to"] == "list":
        render_table(*trainers_table(TRAINERS))
        return
    if run is None:
        raise typer.BadParameter("give the RUN to export, or --to list")
    from ambient_curate.export.export import export_lines, export_run

    done = export_run(run, progress=ConsoleProgress(), **values)
    if done.already_complete:
        tell("already complete")
    render_table(*export_table(done.info))
    print_below(export_lines(done.info))
    tell(f"files: {done.path / 'data'}, where README.md says the same")


@app.command("train")
@take_options(PolicyOptions.declared)
def train_command(run: RunArgument, **values: Any) -> None:
    """Train a diffusion policy on a finished run."""
    from ambient_curate.cli.console import ConsoleProgress, render_table
    from ambient_curate.cli.tables import coverage_lines, policy_table
    from ambient_curate.policy.train import train_policy

    def cover(sampler: "LevelSampler") -> None:
        admission = sampler.admission
        sizes = {
            name: (size, admission.effective_sizes()[name])
            for name, size in zip(admission.dataset, admission.size, strict=True)
        }
        coverage = {name: share.tolist() for name, share in sampler.coverage().items()}
        tell(*coverage_lines(coverage, sampler.sigma.tolist(), sizes))

    trained = train_policy(run, progress=ConsoleProgress(), tell=cover, **values)
    if trained.rank == 0:  # of several processes one speaks
        if trained.already_complete:
            tell("already complete")
        render_table(*policy_table(trained.info))
        tell(f"policy: {trained.path}")
        tell(f"next: ambient-curate rollout {quote(trained.path)} --env MODULE:NAME")


@app.command("rollout")
def rollout_command(
    policy: Annotated[
        Path, typer.Argument(metavar="POLICY", help="A directory that `train` wrote.")
    ],
    env: Annotated[
        str, typer.Option(help="What makes a gymnasium environment: MODULE:NAME.", metavar="ENV")
    ],
    episodes: Annotated[int, typer.Option(min=1, help="Episodes to run.")] = 50,
    seed: Annotated[int, typer.Option(min=0, help="Of the first episode; others follow.")] = 0,
    steps: Annotated[int, typer.Option(min=1, help="Denoising steps.")] = 10,
    solver: Annotated[Literal["ddim", "ddpm"], typer.Option(help="How noise is undone.")] = "ddim",
    format: FormatOption = "table",
) -> None:
    """Let a policy act in a gymnasium environment."""
    from ambient_curate.cli.console import ConsoleProgress, render_table
    from ambient_curate.cli.tables import rollout_table
    from ambient_curate.policy.acting import load_policy
    from ambient_curate.policy.rollouts import find_environment, roll_out

    make = find_environment(env)
    loaded = load_policy(policy, steps=steps, solver=solver, seed=seed)
    found = roll_out(loaded, make, range(seed, seed + episodes), progress=ConsoleProgress())
    if format == "json":
        echo_json(vars(found) | {"interval": found.interval})
    else:
        render_table(*rollout_table(vars(found), found.interval))


@app.command("demo")
def demo_command(
    out: Annotated[
        Path, typer.Option(help="Directory for the data, the run and the figures.")
    ] = Path("ambient_demo"),
    force: Annotated[bool, typer.Option("--force", help="Replace the run that is there.")] = False,
) -> None:
    """Do the whole path on data it makes itself."""
    from ambient_curate.cli.console import ConsoleProgress
    from ambient_curate.cli.demo import run_demo

    run = run_demo(out, force=force, progress=ConsoleProgress())
    _print_run(run, "table")
    _tell_next(run)
    for figure in list_figures(run):
        tell(f"figure: {save_run_figure(run, figure, out / f'{figure}.png')}")


def _print_run(run: "Run", format: Format, *, details: bool = False) -> None:
    """Print the verdict to stdout; a person also gets its warnings and assumptions, on stderr."""
    if format == "json":
        parts = ("verdict", "controls", "students", "assumptions", "warnings", "skipped")
        echo_json({part: run.info[part] for part in parts})
        return
    from ambient_curate.cli import tables
    from ambient_curate.cli.console import render_table

    render_table(*tables.verdict_table(run.info["verdict"]))
    if details:
        print_below(tables.verdict_details(run.info))
        tell(*tables.all_caveats(run.info))
    else:
        print_below(tables.verdict_lines(run.info))
        tell(*tables.caveats(run.info), f"details: ambient-curate show {quote(run.path)} --details")


def _tell_next(run: "Run") -> None:
    """Say where a run is, and what it is for."""
    path = quote(run.path)
    tell(
        f"run: {run.path}",
        f"next: ambient-curate train {path}",
        f"or, for another trainer: ambient-curate export {path} --to NAME (list shows all)",
    )


def _print_inspection(inspection: "Inspection") -> None:
    from ambient_curate.cli.console import render_table
    from ambient_curate.cli.tables import inspection_lines, inspection_table

    render_table(*inspection_table(inspection))
    print_below(inspection_lines(inspection))
