#!/usr/bin/env bash
# The whole benchmark on one GPU, a stage a call; each goes on from what the last one left:
#   benchmarks/smollm2/run.sh models|adapters|methods|few|rates|likelihood|whole|settings|advice|results
# JOBS: how many jobs share the GPU (each holds 4 to 7 GB of its memory).
set -euo pipefail
cd "$(dirname "$0")/../.."
JOBS=${JOBS:-8}
HERE=benchmarks/smollm2
BUILT=$HERE/built
MODELS=artifacts/models
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} TOKENIZERS_PARALLELISM=false

workflow() { # by the main workflow
    snakemake --configfile $HERE/config.yaml ${EXTRA:+$EXTRA} --cores "$JOBS" --max-threads 1 \
        --resources gpu="$JOBS" --rerun-incomplete --keep-going --retries 1 "$@"
}

likelihood() { # MODEL RECORDS OUT ADAPTERS...
    mkdir -p $BUILT/likelihood
    python $HERE/likelihood.py "$BUILT/$1" "$BUILT/sets/$2.jsonl" "$BUILT/likelihood/$3.json" "${@:4}"
}

case ${1:-} in
models) OMP_NUM_THREADS=4 snakemake -s $HERE/Snakefile --cores "$JOBS" --rerun-incomplete ;;
adapters) workflow -- $MODELS/smollm2{,_next,_small}/{math,arc}/eval/lora.json ;;
methods) workflow -- artifacts/{explicit,implicit}/tables/{arc,math}.methods.csv ;;
few) for app in arc math; do python $HERE/few.py explicit $app; done ;;
rates) # of light fine-tuning, for both sides; told apart on held-out training records
    workflow -- artifacts/explicit/{arc,math}/sweeps/learning_rate/{0.0003,0.001,0.003}/lora_{finetuned,small_matched}
    for app in arc math; do
        likelihood smollm2 $app.heldout heldout.$app artifacts/explicit/$app/sweeps/learning_rate
    done ;;
likelihood)
    for app in arc math; do
        likelihood smollm2 $app.worked explicit.$app artifacts/explicit/$app $MODELS/smollm2/$app \
            $BUILT/few/explicit/$app
        likelihood next $app.worked implicit.$app artifacts/implicit/$app $MODELS/smollm2_next/$app
    done ;;
whole) python $HERE/whole.py explicit arc ;;
settings) # of the methods that are fitted, told apart on held-out training records
    python $HERE/settings.py explicit $BUILT/settings/explicit.json --vary aligned aligned_sequential ;;
advice) workflow -- artifacts/{explicit,implicit}/{distance.json,{arc,math}/advice.json} ;;
results) python $HERE/results.py ;;
*) sed -n '2,4s/^# //p' "$0" >&2; exit 1 ;;
esac
