#!/bin/sh
# Install what tests/cluster needs of Slurm (Debian, Ubuntu), after asking; CI=true is a yes.
set -eu
PATH="$PATH:/usr/sbin:/sbin"
packages="slurmctld slurmd slurm-client munge"
missing=""
for program in munged slurmctld slurmd sbatch srun squeue scancel; do
    command -v "$program" >/dev/null || missing="$missing $program"
done
[ -n "$missing" ] || exit 0

ask() {
    [ "${CI:-}" = true ] && return 0
    if [ ! -t 0 ]; then
        echo "Slurm is not installed (no$missing), and there is nobody to ask." >&2
        return 1
    fi
    printf 'Slurm is not installed (no%s). Install %s with apt-get? [y/N] ' "$missing" "$packages"
    read -r answer
    [ "$answer" = y ] || [ "$answer" = Y ]
}

give_up() {
    echo "test-cluster: $1" >&2
    # in CI the tests themselves are skipped, with this reason
    [ "${CI:-}" = true ] && exit 0
    exit 1
}

ask || give_up "not run; install $packages, or set CI=true to have them installed"
command -v apt-get >/dev/null || give_up "no apt-get here to install $packages with"
as_root=""
if [ "$(id -u)" -ne 0 ]; then
    command -v sudo >/dev/null || give_up "installing $packages needs root or sudo"
    as_root="sudo"
    if [ "${CI:-}" = true ]; then
        as_root="sudo -n" # nobody is there to type a password
    fi
fi
export DEBIAN_FRONTEND=noninteractive
# the daemons that the packages bring are not wanted: the tests start their own
quick="-o Acquire::Retries=0 -o Acquire::http::Timeout=20 -o Acquire::https::Timeout=20"
{ $as_root apt-get update -qq $quick &&
    $as_root apt-get install -y -qq --no-install-recommends $quick $packages; } >/dev/null 2>&1 ||
    give_up "apt-get could not install $packages"
