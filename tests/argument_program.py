"""Calls every public function with right and wrong arguments of each kind, and says what came.

A program of its own, since the suite checks the types of all arguments, which users do without.
"""

import json
import shutil
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import torch
from small_policy import HORIZON, SCHEDULE, Recorder, make_denoiser, make_interface, make_shape

import ambient_curate as ac
from ambient_curate.files import write_json_atomic
from ambient_curate.policy.acting import Policy
from ambient_curate.policy.checkpoints import POLICY, describe_policy, save_weights
from ambient_curate.run.records import SCHEMA_VERSION

NAN = float("nan")
PATH = "expected a path"
WHOLE = "expected a whole number"
UNKNOWN = "is unknown: did you mean"
PLACE = Path(sys.argv[1] if __name__ == "__main__" else ".")
SET, RUN, STORED = PLACE / "set", PLACE / "run", PLACE / "policy"

Call = Callable[[], Any]
RIGHT: dict[str, Call] = {}
WRONG: dict[str, tuple[Call, str, str]] = {}


def right(name: str, call: Callable[..., Any], *values: Any, **options: Any) -> None:
    RIGHT[name] = partial(call, *values, **options)


def wrong(
    name: str, expected: str, call: Callable[..., Any], *values: Any, kind: str = "", **options: Any
) -> None:
    WRONG[name] = (partial(call, *values, **options), kind or "ConfigError", expected)


def ask(name: str, **options: Any) -> Any:
    """Ask for a run of the small collection, of other inputs than the one that is there."""
    return ac.annotate(ac.open_collection(SET), out=PLACE / "new" / name, **options)


def run() -> Any:
    from ambient_curate.run.records import open_run_results

    return open_run_results(RUN)


def act(observation: Any, **options: Any) -> Any:
    """Act by a policy that observes a state of two numbers, and is conditioned on a mass."""
    interface = make_interface(columns={"mass": [1.0, 5.0]})
    policy = Policy(Recorder(torch.zeros(HORIZON, 2)), interface, horizon=HORIZON, steps=1)
    return policy.act(observation, **options)


def see(state: Any = ((0.0, 0.0),), mass: Any = (2.0,)) -> dict[str, Any]:
    return {"state": state, "mass": mass}


def admit(**changes: Any) -> Any:
    given = {
        "dataset": ["a", "b"],
        "size": [1, 2],
        "sigma_min": [0, 0.5, NAN],
        "sigma_max": [0] * 3,
    }
    return ac.Admission(**(given | changes))


def sample(**changes: Any) -> Any:
    return ac.LevelSampler(admit(), **({"sigma": [0.2, 0.8]} | changes)).draw(0, 4)


class Nothing:
    """An environment that ends at once."""

    def reset(self, *, seed: int) -> Any:
        assert type(seed) is int
        return np.full(2, NAN if seed == 9 else 0.0), {}

    def step(self, action: np.ndarray) -> Any:
        return np.zeros(2), 0.0, True, False, {}

    def close(self) -> None:
        pass


def roll(*values: Any, **options: Any) -> Any:
    policy = Policy(Recorder(torch.zeros(HORIZON, 2)), make_interface(), horizon=HORIZON, steps=1)
    return ac.roll_out(policy, *values, **options)


def noised(sigma: Any, z: Any = None, **options: Any) -> Any:
    x0 = torch.zeros(2, 3, 1)
    z = torch.zeros(2, 3, 1) if z is None else z
    if not options:
        return ac.noise_windows(x0, sigma, z)
    given = {"buffer": 4.0, "sigma_min": torch.zeros(2)} | options
    return ac.noise_further(x0, given["sigma_min"], sigma, z, z, buffer=given["buffer"])


LEVELS = torch.tensor([0.5, 1.0])

for given, kind in ((str(SET), "text"), (SET, "path")):
    right(f"open_collection {kind}", ac.open_collection, given, clean="far", on_error="skip")
right("open_collection clean path", ac.open_collection, SET, clean=SET / "far")
right("open_collection bool", ac.open_collection, SET, checksums=np.bool_(False))
for value in (None, 3, np.int64(3), NAN, True):
    wrong(f"open_collection {value!r}", PATH, ac.open_collection, value)
    wrong(f"annotate {value!r}", PATH, ac.annotate, value)
    wrong(f"merge {value!r}", PATH, ac.merge, value)
    wrong(f"read_manifest {value!r}", PATH, ac.read_manifest, value)
    wrong(f"verify {value!r}", PATH, ac.verify, value)
    wrong(f"compare_runs {value!r}", PATH, ac.compare_runs, RUN, value)
    wrong(f"train_policy {value!r}", PATH, ac.train_policy, value)
    wrong(f"load_policy {value!r}", PATH, ac.load_policy, value)
wrong("open_collection empty", PATH, ac.open_collection, " ")
wrong(
    "open_collection clean number",
    "expected the name of a member",
    ac.open_collection,
    SET,
    clean=3,
)
wrong("open_collection on_error", "on_error = 'skipp'", ac.open_collection, SET, on_error="skipp")
wrong("open_collection checksums", "expected true or false", ac.open_collection, SET, checksums=1)

for name, value, expected in (
    ("clean", "zzz", "expected a member of the opened collection .*: clean, far, jitter"),
    ("clean", NAN, "expected the name of a member"),
    ("checksums", "no", "expected true or false"),
    ("on_error", "ignore", "expected fail, skip"),
    ("horizn", 8, "horizn is unknown: did you mean horizon"),
    ("horizon", 8.0, WHOLE),
    ("horizon", True, WHOLE),
    ("horizon", np.float64(8), WHOLE),
    ("horizon", NAN, WHOLE),
    ("epsilon", np.float32(NAN), r"expected a number in \(0, 0.5\)"),
    ("epsilon", np.bool_(True), r"expected a number in \(0, 0.5\)"),
    ("represent", "relativ", "expected absolute, relative, delta"),
    ("workers", np.int64(0), WHOLE),
    ("schedule", 100, "expected NAME:STEPS"),
):
    wrong(f"annotate {name}={value!r}", expected, ask, "x", **{name: value})
wrong("annotate out", "out = 3: expected a path", ac.annotate, SET, out=3)
wrong(
    "annotate options", "expected AnnotateOptions", ac.annotate, SET, {"seed": 1}, kind="TypeError"
)
wrong("annotate_share option", UNKNOWN, ac.annotate_share, SET, shard_indx=0)
wrong("annotate_share number", WHOLE, ac.annotate_share, SET, shard_index=NAN, num_shards=2)
wrong("AnnotateOptions name", UNKNOWN, ac.AnnotateOptions, horizn=8)
wrong("AnnotateOptions value", WHOLE, ac.AnnotateOptions, seed=NAN)
right("AnnotateOptions", ac.AnnotateOptions, horizon=np.int64(8), out="x", strict=np.bool_(True))
wrong("PolicyOptions name", UNKNOWN, ac.PolicyOptions, stepz=3)
wrong("PolicyOptions value", r"expected a number in \[0, 1\)", ac.PolicyOptions, clean_weight=NAN)
right(
    "PolicyOptions",
    ac.PolicyOptions,
    steps=np.uint8(3),
    out="p",
    data="d",
    clean_weight=np.float32(0),
)

for given, kind in ((str(RUN), "text"), (RUN, "path")):
    right(f"merge {kind}", ac.merge, given)
    right(f"read_manifest {kind}", ac.read_manifest, given)
    right(f"verify {kind}", ac.verify, given, data=str(SET), sources=np.bool_(True))
    right(f"compare_runs {kind}", ac.compare_runs, given, given, most=np.int64(1))
wrong("verify data", "data = 3: expected a path", ac.verify, RUN, data=3)
wrong("verify sources", "expected true or false", ac.verify, RUN, sources="no")
wrong("compare_runs most", WHOLE, ac.compare_runs, RUN, RUN, most=NAN)
wrong("read_manifest nowhere", "is no run", ac.read_manifest, "nowhere", kind="ManifestError")
wrong("load_policy nowhere", "is no policy", ac.load_policy, "nowhere", kind="RunError")

right("plot_delta", lambda: ac.plot_delta(run().curves(), epsilon=np.float64(0.05)))
right("plot_sigma_min", lambda: ac.plot_sigma_min(run().manifest()))
for value in (NAN, 0.5, None, True, "0.05"):
    for plot in (ac.plot_delta, ac.plot_tv):
        call = partial(lambda plot, value: plot(run().curves(), epsilon=value), plot, value)
        wrong(f"{plot.__name__} {value!r}", r"epsilon = .*: expected a number in \(0, 0.5\)", call)
for name, options in (
    ("accuracy", {}),
    ("delta", {"epsilon": 0.05}),
    ("tv", {"epsilon": 0.05}),
    ("sigma_min", {}),
    ("reliability", {}),
):
    plot = getattr(ac, f"plot_{name}")
    for given, kind in ((None, "nothing"), (str(RUN), "text"), (RUN, "path")):
        wrong(f"plot_{name} {kind}", "expected a table", plot, given, kind="TypeError", **options)
    table = "manifest" if name != "sigma_min" else "curves"
    other = partial(lambda plot, table, options: plot(getattr(run(), table)(), **options), plot)
    wrong(
        f"{plot.__name__} {table}",
        "has no column",
        partial(other, table, options),
        kind="ValueError",
    )
right("plot_bracket", lambda: ac.plot_bracket(run().info["verdict"], schedule=SCHEDULE))
wrong(
    "plot_bracket nothing",
    "rows of a verdict",
    ac.plot_bracket,
    None,
    schedule=SCHEDULE,
    kind="TypeError",
)
wrong(
    "plot_bracket info",
    "rows of a verdict",
    ac.plot_bracket,
    {},
    schedule=SCHEDULE,
    kind="TypeError",
)
for value in ("squaredcos:100", 100, NAN):
    call = partial(lambda value: ac.plot_bracket(run().info["verdict"], schedule=value), value)
    wrong(f"plot_bracket {value!r}", "schedule .* is not known", call)

wrong("train_policy option", UNKNOWN, ac.train_policy, RUN, stepz=3)
wrong("train_policy number", WHOLE, ac.train_policy, RUN, steps=np.float64(3))
wrong("train_policy data", "data = 3: expected a path", ac.train_policy, RUN, data=3)
wrong("train_policy options", "expected PolicyOptions", ac.train_policy, RUN, 3, kind="TypeError")
for given, kind in ((str(STORED), "text"), (STORED, "path")):
    right(
        f"load_policy {kind}", ac.load_policy, given, steps=np.int64(2), n_action_steps=np.int32(2)
    )
for name, value, expected in (
    ("steps", 0, WHOLE),
    ("steps", NAN, WHOLE),
    ("solver", "dimm", "expected ddim, ddpm"),
    ("seed", np.float64(1), WHOLE),
    ("n_action_steps", True, "1 to 7 actions"),
    ("n_action_steps", 99, "1 to 7 actions"),
    ("device", "gpu", "device = 'gpu' cannot be used"),
    ("device", 1.5, "device = 1.5 cannot be used"),
):
    wrong(f"load_policy {name}={value!r}", expected, ac.load_policy, STORED, **{name: value})

right("act", act, see(), environments=[np.int64(3)])
value_error = {"kind": "ValueError"}
for state in ([[NAN, 0.0]], [[1e39, 0.0]], np.array([[0.0, np.inf]])):
    wrong(
        f"act state {state}",
        r"state of environments \[0\] is not finite",
        act,
        see(state),
        **value_error,
    )
wrong("act mass", "mass = nan: expected a finite number", act, see(mass=[NAN]), **value_error)
wrong("act shape", "state has shape", act, see(state=[0.0, 0.0]), **value_error)
for value in (2, NAN, True, np.int64(1), [0, 0]):
    wrong(
        f"act environments={value!r}",
        "such as range",
        act,
        see(),
        environments=value,
        **value_error,
    )
wrong("act environment names", WHOLE, act, see(), environments=["a"])
wrong("act nothing", "lacks", act, {}, **value_error)

right("roll_out", roll, Nothing, np.arange(2), most_frames=np.int64(3))
for value in (None, 3, [], [NAN], [1.0], ["a"]):
    wrong(f"roll_out seeds={value!r}", "seeds = .*: expected", roll, Nothing, value)
for value in (0, NAN, None, True):
    wrong(f"roll_out most_frames={value!r}", WHOLE, roll, Nothing, [0], most_frames=value)
wrong("roll_out NaN state", "does not suit the policy: the state", roll, Nothing, [9])
wrong("roll_out make", "makes an environment", roll, "maze", [0], kind="TypeError")
wrong("roll_out policy", "what load_policy gives", ac.roll_out, "p", Nothing, [0], kind="TypeError")

right("Admission", admit, size=[np.int64(1), np.int32(2)], weight=[1, 2, np.float32(3)])
wrong("Admission size", WHOLE, admit, size=[1.0, 2.0])
wrong("Admission range", "leaves", admit, sigma_min=[0, 0.5, 1.5], **value_error)
wrong(
    "Admission weight",
    "weight is negative or not a number",
    admit,
    weight=[1, NAN, 1],
    **value_error,
)
wrong("Admission length", "one value a datum", admit, sigma_min=[0.5], **value_error)
wrong("Admission names", "none twice", admit, dataset=["a", "a"], **value_error)
wrong("Admission text", "none twice", admit, dataset="ab", **value_error)
right("LevelSampler", sample, shares={"a": np.float64(0.5), "b": 1}, seed=np.int64(3))
for value, expected in (
    ({"a": 0.5}, "shares lacks 'b': expected one share for each of a, b"),
    ({"a": 0.5, "b": 0.5, "c": 1}, "shares names 'c'"),
    ({"a": 0.5, "b": -1}, r"shares\['b'\] = -1: expected a number >= 0"),
    ({"a": 0.5, "b": NAN}, r"shares\['b'\] = nan"),
    ({"a": 0.5, "b": True}, r"shares\['b'\] = true"),
):
    wrong(f"LevelSampler {value}", expected, sample, shares=value)
for levels in ([0.2, NAN], [0.0, 0.5], [0.5, 1.5], []):
    wrong(f"LevelSampler {levels}", r"expected noise levels in \(0, 1\]", sample, sigma=levels)
wrong("LevelSampler falling", "does not rise", sample, sigma=[0.8, 0.2])
wrong("LevelSampler seed", WHOLE, sample, seed=NAN)

right("noise_windows", noised, LEVELS)
right("noise_further", noised, LEVELS, buffer=2)
for options in ({}, {"buffer": 4.0}):
    name = "noise_further" if options else "noise_windows"
    for levels in ([NAN, 0.5], [0.0, 0.5], [0.5, 1.5]):
        sigma = torch.tensor(levels)
        wrong(f"{name} {levels}", r"sigma leaves \(0, 1\]", noised, sigma, **value_error, **options)
    wrong(f"{name} levels", "shapes", noised, torch.tensor([0.5]), **value_error, **options)
    wrong(f"{name} noise", "shapes", noised, LEVELS, torch.zeros(3, 1), **value_error, **options)
for value in (NAN, 1.0):
    wrong(
        f"noise_further buffer={value}",
        "never below 1",
        noised,
        LEVELS,
        buffer=value,
        **value_error,
    )
wrong(
    "noise_further sigma_min",
    r"sigma_min leaves \[0, 1\]",
    partial(noised, sigma_min=torch.tensor([NAN, 0.1])),
    LEVELS,
    **value_error,
)


def store_policy() -> None:
    shape = make_shape()
    card = describe_policy(shape, make_interface(), SCHEDULE)
    card |= {"schema": POLICY.schema, "schema_version": SCHEMA_VERSION}
    STORED.mkdir()
    write_json_atomic(STORED / POLICY.record, card)
    save_weights(make_denoiser(shape), STORED / POLICY.results[0])


def describe(call: Call) -> list[str]:
    try:
        call()
    except Exception as error:
        return [type(error).__name__, str(error), str(getattr(error, "hint", None))]
    return ["", "", ""]


if __name__ == "__main__":
    mpl.use("Agg")
    torch.set_num_threads(1)
    store_policy()
    calls = RIGHT | {name: call for name, (call, _, _) in WRONG.items()}
    found = {name: describe(call) for name, call in calls.items()}
    (PLACE / "found.json").write_text(json.dumps(found))
    left = [path.name for path in PLACE.iterdir()]
    shutil.rmtree(STORED)
    print(sorted(left))
