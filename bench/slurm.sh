#!/usr/bin/env bash
# A real Slurm on one node, in a folder that is thrown away, and a small study launched on it.
#
#   apt-get install slurm-wlm munge
#   PYTHON=.venv/bin/python bench/slurm.sh          # as root, two minutes on two cores
#
# Shows: a script that is refused, workers that bring a study to its end, an element that is
# requeued and goes on, and `--stop`. Nothing outside the folder is changed.
set -euo pipefail
cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."

python=$(readlink -f -- "$(dirname -- "${PYTHON:-.venv/bin/python}")")/python
export PYTHONPATH=$PWD
folder=$(mktemp -d /tmp/skiptune-slurm-XXXXXX)
chmod 755 "$folder"
host=$(hostname -s)
mkdir "$folder"/{munge,state,spool,work}
chown munge: "$folder/munge"
chown slurm: "$folder/state"

finish() {
    local name
    for name in slurmd slurmctld munged; do
        [ -s "$folder/state/$name.pid" ] && kill "$(cat "$folder/state/$name.pid")" || true
        [ -s "$folder/munge/$name.pid" ] && kill "$(cat "$folder/munge/$name.pid")" || true
    done
    sleep 2
    rm -rf -- "$folder"
}
trap finish EXIT

head -c 1024 /dev/urandom >"$folder/munge/key"
chown munge: "$folder/munge/key"
chmod 400 "$folder/munge/key"
setpriv --reuid=munge --regid=munge --clear-groups munged --key-file="$folder/munge/key" \
    --socket="$folder/munge/socket" --pid-file="$folder/munge/munged.pid" \
    --log-file="$folder/munge/log" --seed-file="$folder/munge/seed"

cat >"$folder/slurm.conf" <<CONF
ClusterName=tiny
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=26817
SlurmdPort=26818
AuthInfo=socket=$folder/munge/socket
SlurmUser=slurm
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
ReturnToService=2
SlurmctldPidFile=$folder/state/slurmctld.pid
SlurmdPidFile=$folder/state/slurmd.pid
SlurmctldLogFile=$folder/state/slurmctld.log
SlurmdLogFile=$folder/slurmd.log
SlurmdSpoolDir=$folder/spool
StateSaveLocation=$folder/state
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
DefMemPerCPU=1000
NodeName=$host NodeAddr=127.0.0.1 CPUs=2 RealMemory=4000 State=UNKNOWN
PartitionName=main Nodes=$host Default=YES MaxTime=INFINITE State=UP
CONF
export SLURM_CONF=$folder/slurm.conf
slurmctld
slurmd
until sinfo --noheader | grep -q idle; do sleep 0.5; done

cd "$folder/work"
skiptune() { "$python" -m skiptune "$@"; }
small=(-s search.evaluations=1 -s 'search.rungs=[500]' -s objective.extractor=fashion-cnn
    -s confirm.images=500 -s confirm.candidates=1 -s confirm.controls=false
    -s confirm.second_opinion=null -s space.intervals=1 -s search.sampler=tpe
    -s launch.one_host=true)

echo "== refused"
skiptune create fashion "${small[@]}" -q
skiptune launch fashion --executor slurm --workers 1 -s launch.slurm.partition=nowhere || echo "exit $?"

echo "== requeued and ended"
skiptune launch fashion --executor slurm --workers 1 --detach -q
until squeue --noheader --states=RUNNING | grep -q .; do sleep 0.5; done
sleep 10
scontrol requeue "$(squeue --noheader --format=%A | head -n 1)"
skiptune launch fashion --stop

echo "== to the end of the study"
skiptune launch fashion --executor slurm --workers 2
skiptune status fashion
