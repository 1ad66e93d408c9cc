#!/bin/sh
# From nothing to figures: makes the environment of a trainer in OUT/environment, and runs its checks.
#   sh examples/trainers/check.sh lerobot06 SO101 OUT          # or: lerobot04, robomimic
# SO101 is a LeRobot v3.0 dataset of real demonstrations; OUT is made.
set -eu
trainer=$1
data=$2
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$3"
out=$(cd "$3" && pwd)
sh "$here/environments.sh" "$trainer" "$out/environment"
case $trainer in
    robomimic) checks="robomimic" ;;
    *) checks="lerobot flow datasets" ;;
esac
for check in $checks; do
    "$out/environment/bin/python" "$here/check_$check.py" --data "$data" --out "$out/$check" \
        --command "$out/environment/bin/ambient-curate"
done
