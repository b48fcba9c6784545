#!/bin/bash
# What no machine without a GPU can tell: whether all computes the same there, and how fast. In at most 8 minutes on one
# H100, without a network; the results are small files of text.
#
#     benchmarks/gpu.sh RESULTS [WHEELS]
#     DEVICE=cpu SIZE=tiny benchmarks/gpu.sh RESULTS          rehearses it
#     PARTS="step memory" benchmarks/gpu.sh RESULTS           leaves out the others
#     DATA=CIFAR10 benchmarks/gpu.sh RESULTS                  takes the time left to pre-train an encoder on the images of
#                                                             this folder, and for the table of defences of it
#
# WHEELS is a folder with packages that are missing there or too old, as of
#     pip download --no-deps --only-binary=:all: --python-version 3.12 --platform manylinux_2_28_x86_64 \
#         --platform manylinux2014_x86_64 -d WHEELS transformers huggingface_hub tokenizers datasets evaluate httpx2 \
#         httpcore2 truststore dill multiprocess optuna sqlalchemy alembic colorlog mako
# Correctness comes first; each part has its own limit, and one that fails or takes too long leaves the others their time.
set -u
cd "$(dirname "$0")/.."
results=$(realpath -m "$1") wheels=${2:-}
device=${DEVICE:-cuda} size=${SIZE:-full}
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
mkdir -p "$results"
export HF_HOME="$scratch/home" HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false PYTHONPATH="$PWD"
if [ -n "$wheels" ]; then
  python3 -m pip install -q --no-index --no-deps --no-compile --target "$scratch/packages" "$wheels"/*.whl || exit
  export PYTHONPATH="$PWD:$scratch/packages"
fi

failed=0
part() {  # NAME SECONDS COMMAND...: writes what it prints to NAME.txt
  local name=$1 limit=$(($2 * slow)) start=$SECONDS
  [[ " ${PARTS:-$name} " == *" $name "* ]] || return
  shift 2
  timeout "$limit" "$@" > "$results/$name.txt" 2> "$scratch/$name.err"
  local code=$?
  echo "$name: $((SECONDS - start)) s, $([ $code = 0 ] && echo done || echo "ended with $code")" | tee -a "$results/parts.txt"
  if [ $code != 0 ]; then
    failed=1
    tail -c 4000 "$scratch/$name.err" > "$results/$name.err"
  fi
}

left() { echo $((SECONDS < 480 * slow ? 480 - SECONDS / slow : 1)); }  # seconds; 0 would be no limit

: > "$results/parts.txt"
if [ "$size" = tiny ]; then
  real="--model digits --image_size 8 --patch_size 2 --batch_size 8 --images 16 --rounds 1 --crafting_steps 2"
  real="$real --defences universal" small=$real slow=15
  loader="--images 40 --size 40 30 --image_size 16 --batch_size 4 --workers 0 --rounds 1"
  memory="--models vit-small --batch_sizes 1 --image_size 32"
  encoder=(pretrain_digits_simclr.yaml --max_steps 20)
  rows=(--rows none universal --steps 10 --precision fp32 --test_images 50 --attacker_images 100)
  rows+=(--public 'l4a:{"steps": 5}' --far --adaptive 'upgd:{"steps": 5}' --per_image 'pgd:{"steps": 2}')
else
  real="--model vit-base --image_size 224 --patch_size 16 --images 256 --bf16 --peak_tflops 990 --rounds 3
    --crafting_steps 10"
  small="--model vit-small --images 6400 --epochs 3 --rounds 1 --bf16 --defences universal" slow=1
  memory="--batch_sizes 16 64"
  loader="--workers 0 4 8 16 --rounds 1 --epochs 2"
  vit='{"patch_size": 4, "hidden_size": 384, "num_attention_heads": 6, "intermediate_size": 1536}'
  encoder=(--method simclr --model_settings "$vit" --image_size 32 --no_blur --bf16)
  encoder+=(--max_steps 1500 --per_device_train_batch_size 512 --learning_rate 1e-3)
  rows=(--rows none universal gen-af --random_flip --public l4a ssp uapgd fff --far --adaptive uapgd upgd)
  rows+=(--per_image 'pgd-20 at 4/255:{"attack": "pgd", "steps": 20, "eps": "4/255"}')
fi

part correct 190 python3 benchmarks/gpu.py --device "$device"
part step 60 python3 benchmarks/speed.py --device "$device" $real --parts straightforward attacks
part defences 50 python3 benchmarks/speed.py --device "$device" $real --parts training crafting
part compiled 60 python3 benchmarks/speed.py --device "$device" $real --parts straightforward --torch_compile
part whole 60 python3 benchmarks/speed.py --device "$device" $small --parts whole
part memory 30 python3 benchmarks/memory.py --device "$device" $memory
part loader 30 python3 benchmarks/loader.py $loader
if [ -n "${DATA:-}" ]; then
  part pretraining $(($(left) / 2 + 1)) python3 -m genaf_hf.cli pretrain "${encoder[@]}" --dataset_name "$DATA" \
    --output_dir "$scratch/encoder"
  part rows "$(left)" python3 benchmarks/defences.py "$scratch/encoder" "$DATA" "${rows[@]}" \
    --title "SimCLR on $(basename "$DATA")" --found "$results/rows" --models "$scratch/models"
fi
cat "$results/parts.txt"
exit $failed
