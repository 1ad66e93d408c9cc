"""Data for the checks: a LeRobot dataset whose second half trembles, and its annotation."""

import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

STATE, ENVIRONMENT = "observation.state", "observation.environment_state"
CAMERA, PIXELS = "observation.images.none", 32
SETTINGS = """\
clean = "steady"

[datasets.steady]
path = "../lerobot"
episodes = "0:{half}"

[datasets.trembling]
path = "../lerobot"
episodes = "{half}:"
"""


def make_data(source: Path, out: Path, *, camera: bool = False) -> Path:
    """Copy a LeRobot v3.0 dataset; half of its actions get white noise of a tenth of their range.

    LeRobot's Diffusion Policy wants images or an environment's state: the robot's is given twice.
    SmolVLA wants a `camera`: it sees black.
    """
    root = out / "lerobot"
    shutil.copytree(source, root)
    info = json.loads((root / "meta/info.json").read_text())
    stats = json.loads((root / "meta/stats.json").read_text())
    info["features"] = {k: v for k, v in info["features"].items() if v["dtype"] != "video"}
    info["features"][ENVIRONMENT] = info["features"][STATE]
    stats[ENVIRONMENT] = stats[STATE]
    if camera:
        shape = {"shape": [PIXELS, PIXELS, 3], "names": ["height", "width", "channels"]}
        info["features"][CAMERA] = {"dtype": "image", **shape}
        stats[CAMERA] = {name: [[[0.0]]] * 3 for name in ("min", "max", "mean")}
        stats[CAMERA] |= {"std": [[[1.0]]] * 3, "count": stats["action"]["count"]}
    rng, half = np.random.default_rng(0), info["total_episodes"] // 2
    for file in sorted(root.glob("data/*/*.parquet")):
        table = pq.read_table(file)
        kind = table.schema.field("action").type
        action = np.stack(table["action"].to_numpy())
        spread = 0.1 * np.ptp(action, axis=0) * rng.normal(size=action.shape)
        late = np.asarray(table["episode_index"]) >= half
        action = (action + late[:, None] * spread).astype(np.float32)
        column = table.column_names.index("action")
        table = table.set_column(column, "action", pa.array(list(action), kind))
        table = table.append_column(ENVIRONMENT, table[STATE])
        if camera:
            image = {"bytes": black(), "path": None}
            kind = pa.struct({"bytes": pa.binary(), "path": pa.string()})
            table = table.append_column(CAMERA, pa.array([image] * len(table), kind))
        pq.write_table(table.replace_schema_metadata(None), file)
    (root / "meta/info.json").write_text(json.dumps(info))
    (root / "meta/stats.json").write_text(json.dumps(stats))
    (out / "set").mkdir()
    (out / "set/ambient.toml").write_text(SETTINGS.format(half=half))
    return root


def black() -> bytes:
    """Give a black image as PNG."""
    content = io.BytesIO()
    Image.new("RGB", (PIXELS, PIXELS)).save(content, "png")
    return content.getvalue()


def train(record: Path, root: Path, policy: str, *words: str, steps: int, batch: int) -> list:
    """Run ``lerobot-train`` on a dataset; give frame, time and weight of every row."""
    script = Path(__file__).with_name("record_training.py")
    command = [
        *(sys.executable, str(script), str(record)),
        *(f"--policy.type={policy}", "--policy.push_to_hub=false", "--policy.device=cpu"),
        *("--dataset.repo_id=local/tremor", f"--dataset.root={root}"),
        *(f"--output_dir={record.with_suffix('.out')}", "--save_checkpoint=false"),
        *(f"--steps={steps}", f"--batch_size={batch}", "--num_workers=0", "--log_freq=5"),
        *("--seed=0", *words),
    ]
    subprocess.run(command, check=True, env=os.environ | {"HF_HUB_OFFLINE": "1"})
    return json.loads(record.read_text())


def annotate(out: Path, command: str) -> Path:
    """Annotate by window, and give LeRobot the run's scale of actions."""
    annotate_as_is(out, command)
    scale = json.loads((out / "run/run.json").read_text())["normaliser"]
    file = out / "lerobot/meta/stats.json"
    stats = json.loads(file.read_text())
    stats["action"] |= {"min": scale["low"], "max": scale["high"]}
    file.write_text(json.dumps(stats))
    return out / "run"


def annotate_as_is(out: Path, command: str, *more: str) -> Path:
    """Annotate ``out/set`` by window; give the run."""
    words = ["--granularity", "datapoint", "--out", str(out / "run"), *more]
    subprocess.run([command, "annotate", str(out / "set"), *words], check=True)
    return out / "run"


def export(run: Path, command: str, to: str, *words: str, name: str = "") -> Path:
    """Export a run; give the files."""
    place = run.with_name(name or f"{to}_export")
    subprocess.run(
        [command, "export", str(run), "--to", to, "--out", str(place), *words], check=True
    )
    return place / "data"
