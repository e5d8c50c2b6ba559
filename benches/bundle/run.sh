#!/usr/bin/env bash
# Tests and measures this bundle's trainer on this machine's GPU in ten minutes, most valuable first. Needs libtorch
# 2.11 with CUDA, as PyTorch's wheel brings it, and NVIDIA's driver; no network, no compiler, no installation.
#
#   ./run.sh                    the libtorch of the PyTorch that python3 imports
#   PYTHON=venv/bin/python ./run.sh    that of another Python's PyTorch
#   ./run.sh DIR                the libtorch in DIR/lib, such as site-packages/torch
#   SECONDS_IN_ALL=1200 ./run.sh    more time (default: 600 seconds)
#   DEVICE=cpu ./run.sh         a dry run on the CPU: whatever needs a GPU fails, and figures mean nothing
#
# Everything is also written to results/, a file for each part. Each part has a time of its own after which it is ended;
# parts for which no time is left are named at the end. Exits with 1 if a part failed, was cut short or was left out.
set -uo pipefail
# Paths are from where the program was started.
if [[ ${PYTHON:-} == */* ]]; then PYTHON=$(cd "$(dirname "$PYTHON")" && pwd)/${PYTHON##*/} || exit 1; fi
if [[ ${1:---function} != --function ]]; then
    directory=$(cd "$1" && pwd) || exit 1
    set -- "$directory"
fi
cd "$(dirname "${BASH_SOURCE[0]}")" || exit 1

ALL=${SECONDS_IN_ALL:-600} DEVICE=${DEVICE:-cuda} PYTHON=${PYTHON:-python3}
STUDENT=$(<student) TEACHER=$(<teacher)
outcomes=() failed=0

say() { printf '\n== %s (%d s)\n' "$*" "$SECONDS"; }
die() {
    printf 'run.sh: %s\n' "$@" >&2
    exit 1
}

# --- parts -----------------------------------------------------------------------------------------------------------

# Runs a command with at most this many seconds, and no more than are left of all.
part() { # NAME SECONDS COMMAND…
    local name=$1 limit=$2 left=$((ALL - SECONDS)) begun=$SECONDS status=0
    shift 2
    if ((left < 5)); then
        outcomes+=("$name: NOT RUN, no time left")
        failed=1
        return
    fi
    ((limit < left)) || limit=$left
    say "$name, at most $limit s"
    timeout --kill-after=5 "$limit" "$@" 2>&1 | tee "results/$name.log"
    status=${PIPESTATUS[0]}
    case $status in
    0) outcomes+=("$name: ok, $((SECONDS - begun)) s") ;;
    124 | 137) outcomes+=("$name: CUT SHORT after $limit s") ;;
    *) outcomes+=("$name: FAILED with status $status") ;;
    esac
    ((status == 0)) || failed=1
}

# This file as a program of its own, so that `timeout` can end one of its functions with all that it started.
function_part() { # NAME SECONDS FUNCTION
    part "$1" "$2" bash "$PWD/run.sh" --function "$3"
}

tests() { # PATTERN…
    local output=results/tests.out status=0
    DISTILLERY_TEST_TRAINER=$PWD/distillery-trainer ./trainer-tests --nocapture "$@" >"$output" 2>&1 || status=$?
    grep -E '^test |not run:|panicked|test result|^  left:|^ right:' "$output"
    if grep -q 'not run:' "$output"; then
        echo "some tests did not find what they need"
        return 1
    fi
    if ((status == 0)) && ! grep -qE 'test result: ok\. [1-9]' "$output"; then
        echo "no test was run"
        return 1
    fi
    ((status == 0)) || tail -n 40 "$output"
    return "$status"
}

specification() { # EPOCHS PRECISION
    cat <<JSON
{"student": {"architecture": "$STUDENT"}, "teacher": {"architecture": "$TEACHER", "checkpoint": "$PWD/teacher.safetensors"},
 "dataset": {"path": "$PWD/cifar100"}, "distillation": {"method": "sdd_kd", "scales": [1, 2, 4]},
 "training": {"epochs": $1, "batch_size": 64, "augmentation": "crop_flip", "precision": "$2"}}
JSON
}

# Starts or resumes a run, with its events added to results/NAME.events.
start() { # NAME EPOCHS PRECISION FLAG…
    local name=$1
    specification "$2" "$3" >"results/$name.json"
    shift 3
    exec ./distillery-trainer train "results/$name.json" --output "results/$name" --device "$DEVICE" --events --no-samples "$@" \
        >>"results/$name.events" 2>>"results/$name.err"
}

train() { # NAME EPOCHS PRECISION FLAG…
    (start "$@") || {
        tail -n 3 "results/$1.events" "results/$1.err"
        return 1
    }
    grep '"level":"warning"' "results/$1.events" || true
}

top1() { # NAME
    grep '"name":"eval/top1"' "results/$1/metrics.ndjson" | tail -n 1 | sed -E 's/.*"value":([0-9.]+).*/\1/'
}

now() { echo "${EPOCHREALTIME/[.,]/}"; } # microseconds

# --- what the parts do -----------------------------------------------------------------------------------------------

gpu_tests() { tests gpu::; }
other_tests() { tests steps:: optim:: losses:: rows::; }

recorded_and_eager() {
    local flags
    for flags in "" "--graphs" "--graphs --own-kernels"; do
        echo "steps ${flags:-one by one}:"
        # shellcheck disable=SC2086
        ./step --device "$DEVICE" --pair resnet32x4 resnet8x4 --precision tf32 bfloat16 --steps 100 $flags || return 1
    done
}

# One pair, in turn with PyTorch as published.
steps_of() { # TEACHER STUDENT
    "$PYTHON" -c "import torch" || {
        echo "$PYTHON has no PyTorch to compare with, so only this side is measured: name another one, PYTHON=… ./run.sh"
        ./step --device "$DEVICE" --pair "$1" "$2" --precision bfloat16 --steps 100 --graphs
        return 1
    }
    "$PYTHON" benches/gpu.py --python "$PYTHON" --program ./step --trainer ./distillery-trainer --device "$DEVICE" \
        --pair "$1" "$2" --precision bfloat16 --steps 100 --rounds 3 --skip tests --skip compiled \
        --findings results/steps.ndjson
}

# PyTorch as one would write it today. On its own, since compiling takes a minute, and a C compiler.
compiled() { # TEACHER STUDENT
    "$PYTHON" benches/pytorch/step.py --device "$DEVICE" --modern --pair "$1" "$2" --steps 100 |
        sed -E 's/^\[([0-9.]+).*/PyTorch, compiled, bfloat16, channels last: \1 ms per step/'
}

epoch() {
    local begun short long
    begun=$(now)
    train epoch-1 1 auto || return 1
    short=$(($(now) - begun))
    begun=$(now)
    train epoch-6 6 auto || return 1
    long=$(($(now) - begun))
    awk -v short=$short -v long=$long 'BEGIN { epoch = (long - short) / 5e6
        printf "seconds per epoch of 15,000 images, with the evaluation of 5,000: %.2f; a run of one epoch: %.1f\n", epoch, short / 1e6 }'
}

kill_and_resume() {
    local process
    train whole 4 float32 || return 1
    start killed 4 float32 & # which becomes the trainer
    process=$!
    # After the first checkpoint, within a later epoch.
    until grep -qs '"type":"checkpoint"' results/killed.events; do
        kill -0 "$process" 2>/dev/null || {
            tail -n 3 results/killed.events results/killed.err
            echo "the run ended before its first checkpoint"
            return 1
        }
        sleep 0.05
    done
    kill -KILL "$process" 2>/dev/null || {
        echo "the run ended before it could be killed: nothing was shown"
        return 1
    }
    wait "$process" 2>/dev/null
    train killed 4 float32 || return 1
    grep -q '"resumed_epochs":[1-9]' results/killed.events || {
        echo "the second start did not resume"
        return 1
    }
    cmp results/whole/student-last.safetensors results/killed/student-last.safetensors || return 1
    echo "killed after its first epoch and resumed: the same bytes, $(sha256sum <results/whole/student-last.safetensors | cut -c1-16)"
}

# Against float32 one by one, since bfloat16 in graphs is what users get.
accuracy() {
    local exact fast
    train exact 8 float32 --no-cuda-graphs || return 1
    train fast 8 bfloat16 || return 1
    exact=$(top1 exact) fast=$(top1 fast)
    echo "top-1 of $STUDENT after 8 epochs of 15,000 images: float32, one by one $exact %; bfloat16 in graphs $fast %"
    awk -v exact="$exact" -v fast="$fast" 'BEGIN { exit !(exact > 8 && fast > 8 && fast - exact > -3) }' || {
        echo "expected: both above 8 %, and bfloat16 at most 3 points below float32"
        return 1
    }
}

# --- all together ----------------------------------------------------------------------------------------------------

if [[ ${1:-} == --function ]]; then
    shift
    "$@"
    exit
fi

torch=${1:-$("$PYTHON" -c 'import importlib.util as util; print(util.find_spec("torch").submodule_search_locations[0])' 2>/dev/null)}
[[ -n $torch ]] || die "$PYTHON has no PyTorch: name the directory of libtorch, ./run.sh DIR (with DIR/lib/libtorch_cuda.so)"
[[ -f $torch/lib/libtorch_cuda.so || $DEVICE == cpu ]] || die "$torch/lib has no libtorch_cuda.so: a libtorch for GPUs is needed"
version=$(sed -nE "s/^__version__ = '([^']*)'.*/\1/p" "$torch/version.py" 2>/dev/null || cat "$torch/build-version")
[[ $version == 2.11.* ]] || die "$torch is libtorch ${version:-of an unknown version}; the bundle needs 2.11"
export LD_LIBRARY_PATH=$torch/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH} DEVICE PYTHON
# So that a Python of PyTorch's version compares with it even if its own packages are elsewhere.
[[ ! -f $torch/__init__.py ]] || export PYTHONPATH=${torch%/*}${PYTHONPATH:+:$PYTHONPATH}
export OMP_WAIT_POLICY=passive

rm -rf results
mkdir results || die "$PWD cannot be written to: copy the bundle elsewhere"
say "libtorch $version in $torch; $(nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader 2>&1 | tr '\n' ';')"
./distillery-trainer --version || die "the trainer does not start on this machine"

# The first to load CUDA's libraries, gigabytes that a slow disk may take long to read.
part doctor 60 ./distillery-trainer doctor
function_part gpu-tests 120 gpu_tests
function_part recorded-and-eager 60 recorded_and_eager
pairs=("resnet32x4 resnet8x4" "resnet56 resnet20" "resnet32x4 shufflenet_v1" "vgg13 vgg8")
for pair in "${pairs[@]}"; do
    # shellcheck disable=SC2086
    part "steps-${pair// /-}" 60 bash "$PWD/run.sh" --function steps_of $pair
done
function_part epoch 45 epoch
function_part kill-and-resume 60 kill_and_resume
function_part accuracy 75 accuracy
for pair in "${pairs[@]}"; do
    # shellcheck disable=SC2086
    part "compiled-${pair// /-}" 90 bash "$PWD/run.sh" --function compiled $pair
done
function_part other-tests 60 other_tests

say "done"
printf '%s\n' "${outcomes[@]}" | tee results/summary.txt
exit "$failed"
