"""Normalisers: one that is fitted on all datasets is fitted on their values together."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from small_study import make_episodes, make_study

from ambient_curate.data import study
from ambient_curate.data.normalizer import fit_normalizer, fit_normalizer_on_all
from ambient_curate.options import Normalization

KINDS: tuple[Normalization, ...] = ("minmax", "quantile", "gaussian", "none")
VALUES = arrays(
    np.float32,
    st.tuples(st.integers(2, 60), st.just(3)),
    elements=st.floats(-(2.0**60), 2.0**60, width=32, allow_subnormal=False),
)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=25)  # a pass counts 65,536 halves a dimension
@given(values=VALUES, cut=st.integers(1, 59), data=st.data())
def test_all_together_is_one_array(
    kind: Normalization, values: np.ndarray, cut: int, data: st.DataObject
) -> None:
    """In whatever parts the values come; the clean set's range stays what is kept."""
    size = data.draw(st.integers(1, len(values)))

    def parts() -> Iterator[np.ndarray]:
        yield from (values[at : at + cut] for at in range(0, len(values), cut))

    found = fit_normalizer_on_all(kind, values[:size], parts)
    expected = fit_normalizer(kind, values)
    rtol = 1e-6 if kind == "gaussian" else 1e-12
    with np.errstate(all="ignore"):
        scale = float(np.abs(values.astype(np.float64)).max())
    np.testing.assert_allclose(found.scale, expected.scale, rtol=rtol)
    np.testing.assert_allclose(found.offset, expected.offset, rtol=rtol, atol=rtol * scale)
    assert found.low.tolist() == values[:size].min(axis=0).tolist()
    assert found.high.tolist() == values[:size].max(axis=0).tolist()


@pytest.mark.parametrize("represent", ["absolute", "relative", "delta"])
@pytest.mark.parametrize("kind", KINDS)
def test_all_datasets_of_a_collection_are_read(tmp_path: Path, kind: str, represent: str) -> None:
    members = {name: make_episodes(name, (6, 3, 9, 5, 4, 7)) for name in ("clean", "a", "b")}
    given = {"normalize": kind, "represent": represent}
    plain = make_study(tmp_path / "none", members, represent=represent, normalize="none")
    values = np.concatenate(
        [
            plain.windows[name].action.numpy()
            if represent == "absolute"
            else plain.windows[name].of_episode(episode).flatten(0, 1).numpy()
            for name in members
            for episode in range(6)
        ][:: 6 if represent == "absolute" else 1]
    )
    expected = fit_normalizer(kind, values)  # type: ignore[arg-type]
    found = make_study(tmp_path / "all", members, normalize_on="all", **given).normalizer
    np.testing.assert_allclose(found.scale, expected.scale, rtol=1e-9)
    clean = make_study(tmp_path / "clean", members, **given).normalizer
    assert (found.low.tolist(), found.high.tolist()) == (clean.low.tolist(), clean.high.tolist())
    assert kind == "none" or found.scale.tolist() != clean.scale.tolist()


def test_all_datasets_are_read_once_and_not_by_every_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    members = {name: make_episodes(name, (6, 3, 9, 5, 4, 7)) for name in ("clean", "a")}
    prepared = make_study(tmp_path, members, normalize_on="all").normalizer

    def read_values(windows: object) -> None:
        raise AssertionError("all values are read again")

    monkeypatch.setattr(study, "read_values", read_values)
    found = study.open_study(tmp_path)
    assert found.normalizer.as_dict() == prepared.as_dict()
    assert not found.scaled_apart


def test_where_only_the_clean_set_is_constant_a_scale_of_all_compares() -> None:
    clean = np.zeros((4, 2), np.float32) + np.arange(4, dtype=np.float32)[:, None] * (1, 0)
    other = clean + np.float32(3.0) * np.arange(4, dtype=np.float32)[:, None]
    found = fit_normalizer_on_all(
        "minmax", clean.astype(np.float32), lambda: iter([clean.astype(np.float32), other])
    )
    assert found.constant == [] and found.still == [1]
