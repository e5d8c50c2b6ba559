#!/bin/bash
# Stands in for the trainer: train SPEC --output OUT --events --supervised --device D --attempt N [--pause-after E].
# Does what that does for the files and the protocol, in no time, and notes what it did where no worker can lose it.
export LC_ALL=C TZ=UTC
if [ "$1" = probe ]; then
    [ ! -e "${0%/*}/scratch-full" ] && echo "distillery-trainer computes on $3"
    exit
fi
spec=$2 out=$4
directory=${out%/output}
attempt=${directory##*/}
attempt=${attempt%%-*}
directory=${directory%/*}
job=${directory##*/}
notes=${0%/*}/notes
steps=$(<"${0%/*}/steps")
text=$(<"$spec")
[[ $text =~ \"epochs\":\ ([0-9]+) ]] && epochs=${BASH_REMATCH[1]}
# The accuracies of a sweep's combinations differ by their batch size; that of other jobs is 32.
[[ $text =~ \"batch_size\":\ ([0-9]+) ]] && better=$((BASH_REMATCH[1] - 32))
[[ $text =~ \"seed\":\ ([0-9]+) ]] && seed=${BASH_REMATCH[1]}
pause_after=$epochs
while [ $# -gt 0 ]; do
    [ "$1" = --pause-after ] && pause_after=$2
    shift
done

say() { printf '%s\n' "$1"; }
note() { printf '%s %s %s %s %s\n' "$1" "$job" "$attempt" "$2" "$EPOCHREALTIME" >> "$notes/$job"; }
die() {
    say '{"type":"failed","class":"storage","message":"cannot write '"$1"'"}'
    exit 1
}
# Bash writes past the library that makes a worker's disk full.
room() { [ ! -e "${0%/*}/scratch-full" ]; }
point() {
    local now line value=$((step * 3))
    [ "$1" = eval/top1 ] && value=$((value + better))
    room || die metrics
    printf -v now '%(%Y-%m-%dT%H:%M:%SZ)T' -1
    line='{"name":"'$1'","step":'$step',"epoch":'$epoch',"time":"'$now'","value":'$value'}'
    printf '%s\n' "$line" >> "$out/metrics.ndjson" || die metrics
    say '{"type":"metrics","points":['"$line"']}'
}

epoch=0 step=0 hash=beginning
# No two jobs of a sweep have the same student.
[ "$better" = 0 ] || hash=beginning-$better-$seed
if [ -e "$out/state/checkpoint.safetensors" ]; then
    read -r epoch step hash < "$out/state/checkpoint.safetensors"
    # One point a step and one an epoch.
    head -n $((step + epoch)) "$out/metrics.ndjson" > "$out/metrics.part" && mv "$out/metrics.part" "$out/metrics.ndjson"
else
    : > "$out/metrics.ndjson"
fi
note from "$step"
echo $$ > "$notes/$job.$attempt.pid"
say '{"type":"started","device":"cpu","precision":"float32","threads":1,"train_images":240,"eval_images":100,"classes":4,"steps_per_epoch":'"$steps"',"epochs":'"$epochs"',"resumed_epochs":'"$epoch"',"resumed_step":'"$step"'}'
say '{"type":"log","level":"info","message":"this is attempt '"$attempt"'"}'
[[ $text == *'"name": "poison'* ]] && kill -SEGV $$

while [ "$epoch" -lt "$epochs" ]; do
    if [ "$epoch" -ge "$pause_after" ]; then
        say '{"type":"stopped","epoch":'"$epoch"',"step":'"$step"'}'
        exit 3
    fi
    for ((index = 0; index < steps; index++)); do
        # Waits for a command as long as a step takes. The worker's end is this trainer's.
        read -r -t 0.025 command
        status=$?
        if [ $status -eq 0 ]; then
            say '{"type":"stopped","epoch":'"$epoch"',"step":'"$step"'}'
            exit 3
        fi
        [ $status -gt 128 ] || exit 1
        step=$((step + 1))
        note step "$step"
        point train/loss
    done
    epoch=$((epoch + 1))
    point eval/top1
    hash=$(printf '%s %s' "$hash" "$epoch" | sha256sum)
    hash=${hash%% *}
    room && printf '%s %s %s\n' "$epoch" "$step" "$hash" > "$out/state/part" || die state
    mv "$out/state/part" "$out/state/checkpoint.safetensors" || die state
    note checkpoint "$step"
    say '{"type":"checkpoint","epoch":'"$epoch"',"step":'"$step"'}'
done
for name in student.safetensors student-last.safetensors manifest.json; do
    printf '%s' "$hash" > "$out/$name" || die "$name"
done
sum=$(sha256sum < "$out/student.safetensors")
best=$((step * 3 + better))
say '{"type":"finished","best_top1":'"$best"',"best_epoch":'"$epochs"',"last_top1":'"$best"',"student":{"parameters":1,"size_bytes":64,"sha256":"'"${sum%% *}"'"}}'
