"""The results of a finished run, read without loading what computed them."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from ambient_curate.run.records import read_run
from ambient_curate.run.tables import read_curves, read_manifest, read_reliability


@dataclass(frozen=True)
class Run:
    """A finished run.

    Parameters
    ----------
    path : Path
        Its directory.
    info : dict
        Content of ``run.json``: options, sources, members, verdict, control, assumptions, ...
    already_complete : bool
        It was there before, of the same inputs; nothing was computed.
    """

    path: Path
    info: dict[str, Any]
    already_complete: bool = False

    def manifest(self) -> pa.Table:
        """Read the manifest (columns: `schema.MANIFEST_FIELDS`)."""
        return read_manifest(self.path)

    def curves(self) -> pa.Table:
        """Read the curves over noise levels."""
        return read_curves(self.path)

    def reliability(self) -> pa.Table:
        """Read the reliability of the predicted probabilities."""
        return read_reliability(self.path)


def open_run_results(path: Path | str) -> Run:
    """Open a finished run; `RunError` where there is none."""
    return Run(Path(path), read_run(path))


def list_controls(info: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """List the planted controls of a run; runs of earlier versions have one at most."""
    if "controls" in info:
        return list(info["controls"])
    return [{"name": "planted control"} | info["control"]] if info.get("control") else []
