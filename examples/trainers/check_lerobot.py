"""Trains LeRobot's Diffusion Policy on an export, and looks at every noise level it was given.

``python check_lerobot.py --data SO101 --out DIR [--command ambient-curate]``, in an environment of
`environments.sh`. ``lerobot-train`` runs for 20 steps with the plug-in: once with the tables of the
export, and in LeRobot 0.6 once on the dataset that was exported ``--as features`` and once with
``weights.parquet`` too. Of each, every (frame, step) that the network was given
is recorded: none may be forbidden by the manifest, and those that are admitted have to occur as
often as chance says.
"""

import importlib.metadata
import json
import os

import numpy as np
from answers import Answers, compare, read_arguments, say
from tremor import annotate, export, make_data, train

from ambient_curate.noise import schedule_levels

STEPS, BATCH = 20, 500
LEVELS = schedule_levels("squaredcos_cap_v2:100")
SMALL = ("--policy.down_dims=[32,64,128]",)


def judge(answers: Answers, drawn: list[tuple[int, int, float]], n_obs_steps: int = 2) -> None:
    """Compare the draws with the manifest itself, not with the export."""
    assert len(drawn) == STEPS * BATCH
    forbidden, own = 0, 0.0
    seen: dict[str, np.ndarray] = {}
    law: dict[str, np.ndarray] = {}
    for index, step, weight in drawn:
        name, episode, frame = answers.find(index)
        usable = answers.of(name, episode, frame - (n_obs_steps - 1)) < LEVELS
        assert abs(weight - usable.mean()) < 1e-6
        if weight > 0:
            forbidden += not usable[step]
            own += 1 - usable.mean()
            seen.setdefault(name, np.zeros(LEVELS.shape))[step] += 1
            law[name] = law.get(name, 0.0) + usable / usable.sum()
    say(f"{len(drawn)} draws, forbidden: {forbidden}; steps drawn evenly: {own:.0f}")
    for name, count in sorted(seen.items()):
        compare(name, count, law[name])
    assert forbidden == 0 and own > 50


def main() -> None:
    """Make the data, annotate, export, train, judge."""
    given = read_arguments(__doc__)
    root = make_data(given.data, given.out)
    run = annotate(given.out, given.command)
    scale = ("--normalizer", str(root / "meta/stats.json"))
    files = export(run, given.command, "lerobot", "--as", "features", *scale)
    answers = Answers(run)
    version = importlib.metadata.version("lerobot")
    tables = ",".join(map(str, sorted(files.glob("*/ambient.parquet"))))
    (weights,) = files.glob("*/weights.parquet")
    kept = json.dumps(json.loads(weights.with_name("episodes.json").read_text()))
    ways = {
        "tables": (root, f"--policy.annotations={tables}", f"--dataset.episodes={kept}"),
    }
    if version >= "0.6":  # before, its preprocessing drops features, and there are no weights
        ways["features"] = (weights.with_name("dataset"),)
        ways["weights"] = (*ways["tables"][:2], "--sample_weighting.type=static")
    for name, (place, *words) in ways.items():
        if name == "weights":
            os.environ["WEIGHTS"] = str(weights)
        say(f"LeRobot {version}, {name}")
        record = given.out / f"{name}.json"
        drawn = train(record, place, "ambient_diffusion", *SMALL, *words, steps=STEPS, batch=BATCH)
        judge(answers, drawn)


if __name__ == "__main__":
    main()
