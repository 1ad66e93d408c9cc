"""Trains LeRobot's SmolVLA, a flow, on an export, and looks at every time that its network saw.

``python check_flow.py --data SO101 --out DIR [--command ambient-curate]``, in an environment of
LeRobot that `environments.sh` makes; SO101 is a LeRobot v3.0 dataset without gaps. Half of the
episodes are made to tremble; `ambient-curate` tells by how much noise that is hidden.
``lerobot-train`` runs for 20 steps with the plug-in policy, whose language model is tiny and
random. Of 10,000 pairs of a frame and the time at which the network saw it

* none may be at a time that the manifest forbids;
* each tenth of a window's own law over the times it is admitted at must occur, as often as chance
  says, for clean windows and for corrupt ones of low, middle and high sigma_min alike.
"""

from itertools import pairwise
from pathlib import Path

import numpy as np
from answers import Answers, compare, read_arguments, say
from tiny_vlm import write_tiny_vlm
from tremor import annotate, export, make_data, train

STEPS, BATCH, TENTHS = 20, 500, 10
EXPONENT, FLOOR = 1.5, 0.001  # of VLAFlowMatching.sample_time


def share_below(time: np.ndarray | float) -> np.ndarray:
    """Share of SmolVLA's own times that lie below one."""
    return np.clip((np.asarray(time) - FLOOR) / (1 - FLOOR), 0, 1) ** EXPONENT


def judge(answers: Answers, drawn: list[tuple[int, float, float]]) -> None:
    """Compare the draws with the manifest itself, not with the export."""
    assert len(drawn) == STEPS * BATCH
    found = [answers.find(index) for index, _, _ in drawn]
    name = np.array([dataset for dataset, _, _ in found])
    sigma_min = np.array([answers.of(*where) for where in found])
    time, weight = np.array([(t, w) for _, t, w in drawn]).T
    bound = sigma_min / (sigma_min + np.sqrt(1 - sigma_min**2))
    share = 1 - share_below(bound)
    assert np.abs(weight - share).max() < 1e-5
    usable = sigma_min < 1
    forbidden = int((time <= bound - 1e-6)[usable].sum())
    own = share_below(bound)[usable].sum()
    say(f"{len(drawn)} draws, forbidden: {forbidden}; SmolVLA's own times: {own:.0f}")
    place = (share_below(time) - share_below(bound)) / np.where(usable, share, 1)
    tenth = np.clip((place * TENTHS).astype(int), 0, TENTHS - 1)
    for label, rows in sorted(classes(name, sigma_min).items()):
        count = np.bincount(tenth[rows & usable], minlength=TENTHS)
        compare(label, count, np.full(TENTHS, count.sum() / TENTHS))
    assert forbidden == 0 and own > 100


def classes(name: np.ndarray, sigma_min: np.ndarray) -> dict[str, np.ndarray]:
    """Split the rows by dataset, and each by thirds of sigma_min where it has several."""
    found = {}
    for dataset in sorted(set(name.tolist())):
        rows = name == dataset
        edges = np.unique(np.quantile(sigma_min[rows], [0, 1 / 3, 2 / 3, 1]))
        for low, high in pairwise(edges) if len(edges) > 1 else [(edges[0], 2.0)]:
            inside = (sigma_min >= low) & ((sigma_min < high) | (high == edges[-1]))
            text = f"{low:.3f}" if len(edges) == 1 else f"{low:.3f} to {high:.3f}"
            found[f"{dataset}, sigma_min {text}"] = rows & inside
    return found


def main() -> None:
    """Make the data, annotate, export, train, judge."""
    given = read_arguments(__doc__)
    root = make_data(given.data, given.out, camera=True)
    run = annotate(given.out, given.command)
    words = ("--schedule", "flow", "--n-obs-steps", "1")
    scale = ("--normalizer", str(root / "meta/stats.json"))
    files = export(run, given.command, "lerobot", *words, *scale)
    answers = Answers(run)
    tables = ",".join(map(str, sorted(files.glob("*/ambient.parquet"))))
    horizon = answers.options["horizon"]
    drawn = train(
        given.out / "draws.json",
        root,
        "ambient_smolvla",
        *(f"--policy.annotations={tables}", *small_policy(given.out / "vlm", horizon)),
        steps=STEPS,
        batch=BATCH,
    )
    judge(answers, drawn)


def small_policy(vlm: Path, horizon: int) -> tuple[str, ...]:
    """Give the options of a SmolVLA of a few thousand random weights, written to `vlm`."""
    scaling = '{"VISUAL": "IDENTITY", "STATE": "MEAN_STD", "ACTION": "MIN_MAX"}'
    return (
        f"--policy.vlm_model_name={write_tiny_vlm(vlm)}",
        "--policy.num_vlm_layers=2",
        f"--policy.chunk_size={horizon}",
        f"--policy.n_action_steps={horizon}",
        "--policy.resize_imgs_with_padding=null",
        f"--policy.normalization_mapping={scaling}",  # as the run scaled them
    )


if __name__ == "__main__":
    main()
