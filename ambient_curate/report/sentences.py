"""The verdict in words: one sentence a dataset or group that says what to do, why, and how sure."""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from ambient_curate.run.records import explain_missed, has_own_numbers, list_controls, name_set

TILTED = 0.05  # by how much choosing by window moves the mixture, that is printed
LIKELY = 0.05  # a p-value from which on chance alone explains a difference
ROWS = {"episode": "episodes", "datapoint": "windows"}


def write_sigma(value: float | None) -> str:
    """Write a noise level; the exact ends have a meaning of their own."""
    if value is None:
        return "-"
    return f"{value:g}" if value in (0.0, 1.0) else f"{value:.3f}"


def write_range(low: float | None, high: float | None) -> str:
    """Write an interval of noise levels."""
    return "-" if low is None or high is None else f"[{write_sigma(low)}, {write_sigma(high)}]"


def write_bracket(row: Mapping[str, Any]) -> str:
    """Write the bracket of a verdict's row; ``-`` also where it says nothing: [0, 1]."""
    ends = row["bracket_lower"], row["bracket_upper"]
    return "-" if row["is_clean"] or ends == (0.0, 1.0) else write_range(*ends)


def summarize_sets(info: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield a name and a sentence for every row of a verdict but a sound clean set's.

    Parameters
    ----------
    info : mapping
        Content of ``run.json``, also of a version without ``cautions``.
    """
    for row in _list_rows(info):
        parts = [_advise(row, info), *_warn(row, info)]
        yield name_set(row["dataset"], row["group"]), "; ".join(parts)


class Advice(NamedTuple):
    """What to do with a dataset or group, at a glance and in a sentence.

    Parameters
    ----------
    dataset, group : str, str or None
        Which one.
    name, sentence : str
        Of `summarize_sets`.
    answered : bool
        Whether it has a sigma_min.
    share, first : str
        The share of the trainer's noise levels that is usable, and the first of its steps that is.
    """

    dataset: str
    group: str | None
    name: str
    sentence: str
    answered: bool
    share: str
    first: str


def list_advice(info: Mapping[str, Any]) -> Iterator[Advice]:
    """Yield what to do for every row of a verdict but a sound clean set's; `info` is run.json's."""
    for row, (name, sentence) in zip(_list_rows(info), summarize_sets(info), strict=True):
        answered = row["status"] == "ok"
        share = f"{100 * row['usable']:.0f} %" if answered else "not usable"
        first = _find_first(row, info) if answered else f"no sigma_min: {row['status']}"
        yield Advice(row["dataset"], row["group"], name, sentence, answered, share, first)


def _find_first(row: Mapping[str, Any], info: Mapping[str, Any]) -> str:
    """Say from where on it trains."""
    below = f", and up to sigma {write_sigma(row['sigma_max'])}" if row.get("sigma_max") else ""
    whole = ("at no step" if row["index"] is None else f"from step {row['index']} on") + below
    if row["quantiles"] is None:
        return whole
    return f"each {ROWS[info['granularity']].removesuffix('s')} from its own; as a whole {whole}"


def _list_rows(info: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [row for row in info["verdict"] if not (row["is_clean"] and row["status"] == "ok")]


def _advise(row: Mapping[str, Any], info: Mapping[str, Any]) -> str:
    """Say what to do, why, and how sure that is."""
    if row["status"] != "ok":
        return f"do not train on it, {row['status']}: {row['reason']}"
    why = "; ".join([*_give_away(row), *_how_sure(row)])
    return f"{_what_to_do(row, info)}; {why}"


def _what_to_do(row: Mapping[str, Any], info: Mapping[str, Any]) -> str:
    schedule, never = info["schedule"], row["sigma_min"] >= 1.0
    level = f"sigma {write_sigma(row['sigma_min'])} {write_range(row['lower'], row['upper'])}"
    below = f", and up to sigma {write_sigma(row['sigma_max'])} too" if row.get("sigma_max") else ""
    if row["quantiles"] is not None:
        whole = "at no noise level" if never else f"above {level}"
        return f"{_choose_rows(row, info)}; as a whole it is usable {whole}{below}"
    if never and below:
        return f"train on it up to sigma {write_sigma(row['sigma_max'])} only"
    if row["index"] is None:
        where = "at no noise level" if never else f"above {level} only: {schedule} has no such step"
        return f"leave it out: usable {where}{below}"
    if row["sigma_min"] == 0.0:
        above = (
            f"; sigma_min may still be up to {write_sigma(row['upper'])}" if row["upper"] else ""
        )
        return f"train on it at every noise level: no difference beyond the margin was found{above}"
    return (
        f"train on it from step {row['index']} of {schedule} on, {100 * row['usable']:.0f} % of "
        f"the noise levels: above {level}{below}"
    )


def _choose_rows(row: Mapping[str, Any], info: Mapping[str, Any]) -> str:
    kind = ROWS[info["granularity"]]
    low, _, high = row["quantiles"]
    nulls = f" ({row['nulls']:,} have none)" if row["nulls"] else ""
    return (
        f"choose by {kind.removesuffix('s')}: {100 * row['usable']:.0f} % of the noise levels are "
        f"usable on average, with sigma_min {write_sigma(low)} to {write_sigma(high)} for the "
        f"middle 80 % of its {kind}{nulls}"
    )


def _give_away(row: Mapping[str, Any]) -> Iterator[str]:
    """Say what distinguished the dataset from clean data."""
    if row.get("challenger_sigma_min") is not None:
        yield (
            "gradient boosting distinguished it from clean data where the network did not, "
            f"which raised sigma_min from {write_sigma(row['network_sigma_min'])}"
        )
    elif row["sigma_min"] >= 1.0:
        yield "the classifier tells it from clean data at every noise level"
    elif row["sigma_min"] > 0.0:
        yield "below, the classifier tells it from clean data"


def _how_sure(row: Mapping[str, Any]) -> Iterator[str]:
    """Say what is certified of the difference, and what cannot be ruled out."""
    if row["bracket_lower"] > 0.0:
        yield f"that it differs is certified up to sigma {write_sigma(row['bracket_lower'])}"
    elif row["tv_lower"]:
        yield f"that it differs is certified at the lowest noise only (TV >= {row['tv_lower']:.3f})"
    else:
        yield _uncertified(row["p_value"])
    if row["bracket_upper"] < 1.0:
        yield (
            "that what is left is within the margin is certified from sigma "
            f"{write_sigma(row['bracket_upper'])} on"
        )
    elif row["sigma_min"] == 0.0 and row["tv_floor"] is not None:
        yield (
            f"with so few episodes a total variation of {row['tv_floor']:.3f} cannot be ruled out"
        )


def _uncertified(p_value: float | None) -> str:
    """Say what is known of a difference for which no bound holds whatever the classifier."""
    if p_value is None:
        return "that it differs is not certified"
    if p_value < LIKELY:
        return (
            f"a test without the classifier finds a difference (p = {p_value:.3f}), but how large "
            "it is at least is not certified"
        )
    return (
        "that it differs is not certified, and a test without the classifier finds no difference "
        f"(p = {p_value:.3f})"
    )


def _warn(row: Mapping[str, Any], info: Mapping[str, Any]) -> Iterator[str]:
    """Yield the end of a sentence: what may mislead, in a few words."""
    name = row["dataset"], row["group"]
    for caution in info.get("cautions", ()):
        if (caution["dataset"], caution["group"]) == name:
            yield caution["short"]
    if (tilt := row["tilt"]) is not None and abs(tilt["mixture"] - tilt["clean"]) > TILTED:
        yield (
            f"choosing by window puts {tilt['mixture']:.0%} of the training windows where the "
            f"clean set has {tilt['clean']:.0%}: draw them by column weight"
        )
    for key in ("locality", "legibility"):
        for each in info.get(key, ()):
            if (each["dataset"], each["group"]) == name and each["status"] != "ok":
                yield f"no sigma_max by {key}, {each['status']}"


def summarize_controls(info: Mapping[str, Any]) -> str:
    """Say where the planted controls were found, and of those missed what to do."""
    found, advice = [], dict[str, None]()  # said once, in order
    for control in list_controls(info):
        ends = write_sigma(control["found"]), write_sigma(control["expected"])
        text = "{} found at {}, expected at {}".format(control["name"], *ends)
        if not control["recovered"]:
            side, _, rest = explain_missed(control["expected"], control["found"]).partition(": ")
            text += f" ({side})"
            advice[rest] = None
        found.append(text)
    return "; ".join([*found, *advice])


def list_run_warnings(info: Mapping[str, Any]) -> list[str]:
    """List the warnings that no sentence of `summarize_sets` and `summarize_controls` holds."""
    names = {(row["dataset"], row["group"]) for row in _list_rows(info)} | {(None, None)}
    printed = {
        caution["text"]
        for caution in info.get("cautions", ())
        if (caution["dataset"], caution["group"]) in names
    }
    return [*_explain_numbers(info), *(text for text in info["warnings"] if text not in printed)]


def _explain_numbers(info: Mapping[str, Any]) -> Iterator[str]:
    """Say what numbers of episodes are in a run of schema version 1, where it has any."""
    if not has_own_numbers(info) and info["granularity"] in ("episode", "datapoint"):
        yield (
            "the run is of schema version 1: its episode_index is the position of an episode, not "
            "the source's own number; join by episode_id, or export, which writes the numbers"
        )
