#!/bin/sh
# Makes a virtual environment with a trainer and ambient-curate, to run the checks beside this file:
#   sh examples/trainers/environments.sh lerobot06 DIR         # or: lerobot04, robomimic
#   DIR/bin/python examples/trainers/check_lerobot.py --data SO101 --out OUT --command DIR/bin/ambient-curate
# PYTHON names the interpreter, if it is not the one below: LeRobot 0.6 needs 3.12 or newer.
#
# lerobot06 is what `pip install` gives, within LeRobot's own pins: PyTorch below 2.12, with
# gigabytes of CUDA on Linux.
#
# lerobot04 and robomimic are not. LeRobot 0.4.4 asks for PyTorch below 2.11 and ambient-curate's
# tensordict for 2.11 or newer, so that no resolver puts them together: both trainers are installed
# without what they depend on, and that by name, on the PyTorch that ambient-curate is tested with,
# outside of LeRobot's pin. torchvision's compiled operators do not load then, and no policy of
# states calls them: they are declared, so that its Python part can be imported.
set -eu
trainer=$1
place=$2
root=$(cd "$(dirname "$0")/../.." && pwd)
plugin=$root/examples/lerobot_policy_ambient_diffusion
version=3.11
if [ "$trainer" = lerobot06 ]; then version=3.12; fi
python=${PYTHON:-python$version}
if ! "$python" -c "" 2>/dev/null; then # pyenv's command exists for versions that are not chosen too
    python=$(ls "$HOME/.pyenv/versions/$version".*/bin/python 2>/dev/null | tail -n 1)
fi
if [ -z "$python" ]; then echo "no Python $version: name one by PYTHON=" >&2; exit 2; fi
"$python" -m venv "$place"
pip=$place/bin/pip
case $trainer in
    lerobot06)
        "$pip" install --upgrade pip # that of Python 3.12.1 takes minutes to resolve
        "$pip" install "lerobot[training,diffusion,smolvla]==0.6.1" torch==2.11.0 "$root" "$plugin"
        "$pip" check
        exit
        ;;
    lerobot04)
        package="lerobot==0.4.4"
        set -- "datasets>=4.0,<4.2" draccus==0.10.0 einops "diffusers<0.36" jsonlines gymnasium \
            "huggingface-hub<0.36" packaging termcolor deepdiff "transformers>=4.57.1,<5" num2words \
            accelerate av imageio pyserial opencv-python-headless pynput
        ;;
    robomimic)
        package="robomimic==0.3.0"
        set -- h5py psutil tqdm termcolor tensorboard tensorboardX imageio imageio-ffmpeg \
            matplotlib "diffusers<0.36" "transformers<5" huggingface-hub
        ;;
    *) echo "known: lerobot04, lerobot06, robomimic" >&2; exit 2 ;;
esac
"$pip" install torch==2.13.0
"$pip" install "$@"
"$pip" install --no-deps "$package" torchvision
"$pip" install "$root"
if [ "$trainer" = lerobot04 ]; then "$pip" install --no-deps "$plugin"; fi
cat > "$("$place/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/sitecustomize.py" <<'PYTHON'
import torch

operators = torch.library.Library("torchvision", "DEF")
for name in ("nms", "qnms"):
    operators.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
PYTHON
