"""The known run, for all tests of exports."""

from collections.abc import Iterator

import pytest
from known_run import Known, annotate_known
from small_worker import make_small

from ambient_curate.run.records import Run


@pytest.fixture(scope="session")
def made_known(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Run, Known]]:
    """A run whose sigma_min of every window is known."""
    with pytest.MonkeyPatch.context() as patch:
        make_small(patch.setattr)
        yield annotate_known(tmp_path_factory.mktemp("exporters"))
