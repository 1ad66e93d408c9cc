#!/bin/sh
# Makes a virtual environment with a trainer and ambient-curate, to run the checks beside this file:
#   sh examples/trainers/environments.sh lerobot DIR && DIR/bin/python examples/trainers/check_lerobot.py
set -eu
trainer=$1
place=$2
root=$(cd "$(dirname "$0")/../.." && pwd)
case $trainer in
    lerobot) package="lerobot==0.4.4" ;;
    robomimic) package="robomimic==0.3.0" ;;
    *) echo "known: lerobot, robomimic" >&2; exit 2 ;;
esac
python3.11 -m venv "$place"
"$place/bin/pip" install "$package"
"$place/bin/pip" install "$root" "$root/examples/lerobot_policy_ambient_diffusion"
