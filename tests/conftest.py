"""Fixtures shared by the whole suite."""

import os
from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path

import pytest
import torch
from hypothesis import settings
from small_run import place_run
from small_study import make_staged
from threadpoolctl import threadpool_limits

from ambient_curate.data.study import Study
from ambient_curate.run.records import Run

# One thread a process, those that tests start too: threads of small products wait for each other on
# busy cores, and the suite took several times as long.
os.environ |= dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
torch.set_num_threads(1)
threadpool_limits(1)

settings.register_profile("project", deadline=None)  # a busy machine is no failure
settings.load_profile("project")


LONGEST = (  # files of a minute and more: last, one worker would wait for another
    "test_example_maze",
    "test_notebooks",
    "test_annotate",
    "test_sigma_max",
    "test_survey",
    "test_power",
    "test_example_sorting",
    "test_hidden_by_noise",
    "test_fit",
    "test_interrupt",
    "test_train",
    "test_ranks",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the longest files."""
    rank = {name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: rank.get(item.path.stem, len(rank)))


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of real robot data beside the checkout; tests that need it are skipped without it."""
    folder = Path(__file__).resolve().parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("real robot data is not beside this checkout (../shared/data)")
    return folder


@pytest.fixture
def closed_figures() -> Iterator[None]:
    """No window opens, no figure stays open, and no setting of matplotlib is changed."""
    import matplotlib as mpl
    import matplotlib.pyplot as plt

    mpl.use("Agg")
    plt.close("all")  # of other tests in this process
    before = dict(mpl.rcParams)
    yield
    plt.close("all")
    assert dict(mpl.rcParams) == before


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """As `annotate` computes: the same bytes are promised for one number of threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with threadpool_limits(1):
        yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def study_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Study]:
    """`small_study.make_staged`, each kind of study made once."""
    return cache(lambda *kind: make_staged(tmp_path_factory.mktemp("frames"), *kind))


@pytest.fixture(scope="session")
def place_small(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Run]:
    """`small_run.place_run`, for all processes of the session."""
    base = tmp_path_factory.getbasetemp()
    return partial(
        place_run, (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "small"
    )


@pytest.fixture(scope="session")
def finished_demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Directory and stdout of `ambient-curate demo`: minutes, for slow tests only."""
    from typer.testing import CliRunner

    from ambient_curate.cli.app import app

    directory = tmp_path_factory.mktemp("finished") / "ambient_demo"
    done = CliRunner(env={"TERM": "dumb"}).invoke(app, ["demo", "--out", str(directory)])
    assert done.exit_code == 0, done.stderr
    return directory, done.stdout
