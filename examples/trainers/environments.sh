#!/bin/sh
# Makes a virtual environment with a trainer and ambient-curate, to run the checks beside this file:
#   sh examples/trainers/environments.sh lerobot DIR
#   DIR/bin/python examples/trainers/check_lerobot.py --data SO101 --out OUT --command DIR/bin/ambient-curate
#
# The trainers ask for versions of PyTorch with gigabytes of CUDA; their policies run with the one
# that ambient-curate is tested with. So they are installed without what they depend on, and that
# by name. torchvision's compiled operators do not load then, and no policy of states calls them:
# they are declared, so that its Python part can be imported.
set -eu
trainer=$1
place=$2
root=$(cd "$(dirname "$0")/../.." && pwd)
case $trainer in
    lerobot)
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
    *) echo "known: lerobot, robomimic" >&2; exit 2 ;;
esac
python3.11 -m venv "$place"
"$place/bin/pip" install torch==2.13.0
"$place/bin/pip" install "$@"
"$place/bin/pip" install --no-deps "$package" torchvision
"$place/bin/pip" install "$root"
if [ "$trainer" = lerobot ]; then
    "$place/bin/pip" install --no-deps "$root/examples/lerobot_policy_ambient_diffusion"
fi
cat > "$("$place/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/sitecustomize.py" <<'PYTHON'
import torch

operators = torch.library.Library("torchvision", "DEF")
for name in ("nms", "qnms"):
    operators.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
PYTHON
