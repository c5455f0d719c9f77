#!/bin/sh
# LoRA fine-tuning with the settings of the official finetune_lora.sh.
#
# Edit the variables, or set them when calling; further flags are passed on and override those below:
#
#     MODEL=openbmb/MiniCPM-V-2_6 DATA=train.json EVAL_DATA=held-out.json LLM_TYPE=qwen ./finetune_lora.sh --learning_rate 1e-5
#
# `npm run setup` has to have been run once. The processes are started by the command itself: no torchrun.
set -eu

# A folder or a Hugging Face id: MiniCPM-V-4, MiniCPM-o-2_6, MiniCPM-V-2_6, MiniCPM-Llama3-V-2_5 or MiniCPM-V-2.
MODEL="${MODEL:-openbmb/MiniCPM-V-2_6}"
# A JSON file with a list of conversations; see the README.
DATA="${DATA:-path/to/training_data.json}"
# The same for evaluation; empty: no evaluation.
EVAL_DATA="${EVAL_DATA:-}"
# minicpm for MiniCPM-V-2, llama3 for MiniCPM-Llama3-V-2_5, qwen for 2_6, llama for MiniCPM-V-4; empty: recognised.
LLM_TYPE="${LLM_TYPE:-}"
OUTPUT_DIR="${OUTPUT_DIR:-output/output_minicpmv_lora}"
# A DeepSpeed JSON file, if you have settings in one; not needed.
DEEPSPEED="${DEEPSPEED:-}"

# Processes on this machine, one per GPU; auto: one for each GPU there is.
GPUS_PER_NODE="${GPUS_PER_NODE:-1}"
# Machines; run the script on each of them, with its own NODE_RANK from 0 and the address and port of machine 0.
NNODES="${NNODES:-1}"
NODE_RANK="${NODE_RANK:-0}"
MASTER_ADDR="${MASTER_ADDR:-}"
MASTER_PORT="${MASTER_PORT:-}"

# Further flags come last, so that they override those below.
if [ -n "$EVAL_DATA" ]; then
  set -- --eval_data_path "$EVAL_DATA" --do_eval --eval_strategy steps --eval_steps 1000 "$@"
fi
if [ -n "$DEEPSPEED" ]; then set -- --deepspeed "$DEEPSPEED" "$@"; fi
if [ -n "$LLM_TYPE" ]; then set -- --llm_type "$LLM_TYPE" "$@"; fi
set -- --nproc_per_node "$GPUS_PER_NODE" "$@"
if [ "$NNODES" != 1 ]; then set -- --nnodes "$NNODES" --node_rank "$NODE_RANK" "$@"; fi
if [ -n "$MASTER_ADDR" ]; then set -- --master_addr "$MASTER_ADDR" "$@"; fi
if [ -n "$MASTER_PORT" ]; then set -- --master_port "$MASTER_PORT" "$@"; fi

HERE=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
exec node "$HERE/packages/finetune/bin/minicpm-finetune.js" train \
  --model_name_or_path "$MODEL" \
  --data_path "$DATA" \
  --output_dir "$OUTPUT_DIR" \
  --bf16 true \
  --tune_vision true \
  --tune_llm false \
  --use_lora true \
  --lora_target_modules 'llm\..*layers\.\d+\.self_attn\.(q_proj|k_proj|v_proj|o_proj)' \
  --model_max_length 2048 \
  --max_slice_nums 9 \
  --max_steps 10000 \
  --per_device_train_batch_size 2 \
  --per_device_eval_batch_size 1 \
  --gradient_accumulation_steps 1 \
  --save_strategy steps \
  --save_steps 1000 \
  --save_total_limit 10 \
  --learning_rate 1e-6 \
  --weight_decay 0.1 \
  --adam_beta2 0.95 \
  --warmup_ratio 0.01 \
  --lr_scheduler_type cosine \
  --logging_steps 1 \
  --gradient_checkpointing true \
  --report_to tensorboard \
  "$@"
