"""Options: defaults, checks, precedence, digests."""

import hashlib
import math
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ambient_curate.errors import ConfigError
from ambient_curate.options import (
    ALIASES,
    ANNOTATE_OPTIONS,
    FILE_OPTIONS,
    AnnotateOptions,
    digest,
    epsilon_from,
    resolve_options,
)

NAMES = [option.name for option in fields(AnnotateOptions)]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=6,
)


def test_what_may_be_given_are_the_fields_and_other_ways_to_say_epsilon() -> None:
    assert list(AnnotateOptions.declared) == NAMES
    after = NAMES.index("epsilon") + 1
    assert list(ANNOTATE_OPTIONS) == [*NAMES[:after], *ALIASES, *NAMES[after:]]
    of_a_call = {"out", "force", "workers", "strict", "normalizer"}
    assert ANNOTATE_OPTIONS.keys() - FILE_OPTIONS.keys() == of_a_call


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("clean", " ", "the name of a member"),
        ("granularity", "window", "dataset, group, episode, datapoint"),
        ("granularity", ["dataset"], "dataset, group, episode, datapoint"),
        ("group_by", "cluster:1", "cluster:K with K >= 2"),
        ("group_by", "cluster:", "cluster:K with K >= 2"),
        ("group_by", "", "an episode column"),
        ("epsilon", 0.5, "(0, 0.5)"),
        ("epsilon", 0.0, "(0, 0.5)"),
        ("epsilon", math.nan, "(0, 0.5)"),
        ("epsilon", "0.05", "(0, 0.5)"),
        ("horizon", 0, ">= 1"),
        ("horizon", 16.0, ">= 1"),
        ("stride", True, ">= 1"),
        ("represent", "differences", "absolute, relative, delta"),
        ("normalize", "zscore", "minmax, quantile, gaussian, none"),
        ("normalize_on", "corrupt", "clean, all"),
        ("normalizer", 3, "a path"),
        ("weighting", "frame", "episode, window"),
        ("folds", 2, ">= 3"),
        ("schedule", "squaredcos_cap_v2", "NAME:STEPS"),
        ("schedule", "linear:0", "NAME:STEPS"),
        ("seed", -1, ">= 0"),
        ("seed", 2**63, ">= 0"),
        ("limit", 0, ">= 1"),
        ("out", "", "a path"),
        ("force", 1, "true or false"),
        ("on_error", "ignore", "fail, skip"),
        ("workers", 0, ">= 1"),
    ],
)
def test_a_wrong_value_is_named_with_what_was_expected(
    name: str, value: object, expected: str
) -> None:
    with pytest.raises(ConfigError, match=f"^{name} = ") as caught:
        resolve_options({}, {name: value})
    assert expected in str(caught.value)
    assert caught.value.hint


def test_options_cannot_be_built_wrong() -> None:
    with pytest.raises(ConfigError, match=r"^epsilon = 0\.5: .*; folds = 2: "):
        AnnotateOptions(epsilon=0.5, folds=2)


def test_all_problems_are_told_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        resolve_options({"folds": 1, "sed": 3}, {"epsilon": 0.7, "colour": "red", "force": None})
    text = str(caught.value)
    assert text.count("; ") == 3
    for part in ("folds = 1", "sed is unknown: did you mean seed?", "epsilon = 0.7", "colour is"):
        assert part in text


@given(name=st.sampled_from(NAMES), value=JSON)
def test_any_value_is_accepted_or_a_config_error(name: str, value: object) -> None:
    try:
        options = resolve_options({}, {name: value})
    except ConfigError as error:
        assert str(error).startswith(f"{name} = ")
    else:
        is_path = name in ("out", "normalizer") and isinstance(value, str)
        expected = Path(value) if is_path else value
        assert value is None or getattr(options, name) == expected


def test_given_beats_file_beats_default() -> None:
    file = {"horizon": 8, "folds": 3, "checksums": False}
    options = resolve_options(file, {"horizon": 32, "folds": None, "out": Path("x")})
    assert options == AnnotateOptions(horizon=32, folds=3, checksums=False, out=Path("x"))


def test_a_trainers_file_leaves_nothing_to_fit() -> None:
    file = {"normalizer": Path("stats.json")}
    assert AnnotateOptions(**file, normalize="gaussian").normalizer == Path("stats.json")
    for other in ({"normalize": "none"}, {"normalize_on": "all"}):
        with pytest.raises(ConfigError, match="normalizer with normalize"):
            AnnotateOptions(**file, **other)


def test_tv_and_delta_are_other_ways_to_say_epsilon() -> None:
    assert resolve_options({"epsilon": 0.01}, {"tv": 0.4}).epsilon == pytest.approx(0.08)
    assert resolve_options({"epsilon": 0.01}, {"delta": 0.4}).epsilon == pytest.approx(0.1)
    with pytest.raises(ConfigError, match="epsilon and tv say the same thing"):
        resolve_options({}, {"epsilon": 0.1, "tv": 0.4})
    with pytest.raises(ConfigError, match=r"tv = 1.0: expected a number in \(0, 1\)"):
        resolve_options({}, {"tv": 1.0})


@given(st.floats(1e-6, 1, exclude_max=True))
def test_epsilon_from_inverts_the_bounds_it_cites(value: float) -> None:
    assert math.sqrt(2 * epsilon_from(tv=value)) == pytest.approx(value)
    assert 4 * epsilon_from(delta=2 * value) == pytest.approx(2 * value)


def test_epsilon_from_takes_exactly_one() -> None:
    with pytest.raises(TypeError):
        epsilon_from()
    with pytest.raises(TypeError):
        epsilon_from(tv=0.1, delta=0.1)
    with pytest.raises(ConfigError, match=r"delta = 2\.0"):
        epsilon_from(delta=2.0)


@given(st.dictionaries(st.text(), st.integers() | st.text() | st.lists(st.integers())))
def test_digest_does_not_depend_on_the_order_of_keys(mapping: dict[str, object]) -> None:
    backwards = dict(reversed(mapping.items()))
    assert digest(backwards) == digest(mapping)
    assert digest(mapping | {"\0": 1}) != digest(mapping)


def test_digest_is_sha256_of_canonical_json() -> None:
    text = b'{"a":[1,2.5,null],"b":{"c":"\\u00e9","d":true}}'
    mapping = {"b": {"d": True, "c": "é"}, "a": [1, 2.5, None]}
    assert digest(mapping) == hashlib.sha256(text).hexdigest()
    with pytest.raises(ValueError, match="JSON"):
        digest({"a": math.nan})


def test_a_notebook_may_give_text_for_a_path_and_numbers_of_numpy() -> None:
    assert resolve_options({}, {"out": "runs/a"}).out == Path("runs/a")
    with pytest.raises(ConfigError, match="out = 3: expected a path"):
        resolve_options({}, {"out": 3})
    numbers = {"horizon": np.int64(8), "epsilon": np.float32(0.25)}
    options = resolve_options({}, numbers)
    assert options == AnnotateOptions(horizon=8, epsilon=0.25)
    assert (type(options.horizon), type(options.epsilon)) == (int, float)  # as JSON has them
    assert resolve_options({}, {"tv": np.float64(0.5)}).epsilon == 0.125
    with pytest.raises(ConfigError, match="horizon = 0: expected a whole number >= 1"):
        resolve_options({}, {"horizon": np.int64(0)})
