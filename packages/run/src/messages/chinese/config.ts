/** Chinese for flags against each other, and recipes. DeepSpeed files too, and what follows from the flags. */
import type { Messages } from '../translator.js';

export const CONFIG: Messages = {
  // Flags against each other.
  'either --use_lora or --tune_llm': '--use_lora 和 --tune_llm 二者之一',
  'Adapters take the place of training the language model itself: give --tune_llm false.':
    '适配器代替对语言模型本身的训练：请给出 --tune_llm false。',
  '--use_lora with --q_lora': '--q_lora 与 --use_lora 一起使用',
  'Quantized weights cannot be trained, only adapters on them: give --use_lora true.':
    '量化后的权重不能训练，只能训练其上的适配器：请给出 --use_lora true。',
  'a regular expression for --lora_target_modules': '--lora_target_modules 的值为正则表达式',
  'Check brackets and backslashes, and quote the pattern in the shell.':
    '请检查括号和反斜杠，并在 shell 中给模式加引号。',
  'only the resampler trains: tune_vision and tune_llm are false and there is no LoRA.':
    '只训练重采样器：tune_vision 和 tune_llm 为 false，且没有使用 LoRA。',
  'evaluation data for {1}': '{1} 所需的评估数据',
  'Give --eval_data_path <file>.': '请给出 --eval_data_path <file>。',
  'the same strategy for evaluation and saving with --load_best_model_at_end':
    '使用 --load_best_model_at_end 时评估与保存的策略相同',
  'Give both --eval_strategy and --save_strategy the same value, steps or epoch.':
    '请给 --eval_strategy 和 --save_strategy 相同的值：steps 或 epoch。',
  '--save_steps to be a multiple of --eval_steps with --load_best_model_at_end':
    '使用 --load_best_model_at_end 时 --save_steps 是 --eval_steps 的倍数',
  'an integer, or a share below 1, for {1}': '{1} 的值为整数或小于 1 的比例',
  'one of {1} for --metric_for_best_model': '--metric_for_best_model 的值为以下之一：{1}',
  'loss without --eval_generate for --metric_for_best_model':
    '没有 --eval_generate 时 --metric_for_best_model 的值为 loss',
  'The metric needs answers: give --eval_generate 32, or another number of records.':
    '这个指标需要生成回答：请给出 --eval_generate 32 或其他记录数。',
  '-1 or at least 1 for --max_steps': '--max_steps 的值为 -1 或不小于 1',
  'Give -1 to go by epochs.': '请给 -1，表示由轮数决定。',
  'auto, off or a folder for --cache_vision': '--cache_vision 的值为 auto、off 或目录',
  'Give auto, or a folder: ./true if it is called so.': '请给出 auto，或目录（若目录名就是 true，写 ./true）。',
  'Give off, or a folder: ./false if it is called so.': '请给出 off，或目录（若目录名就是 false，写 ./false）。',
  'a file for --data_path': '--data_path 的值为文件',
  'Give --data_path <file>.': '请给出 --data_path <file>。',
  '{1} numbers for --data_weights, one per training file,': '--data_weights 有 {1} 个数值（每个训练文件一个）',
  'Give one weight for each file of --data_path, in the same order.':
    '请按相同顺序为 --data_path 的每个文件给一个权重。',
  '{1} with --offload_params': '使用 --offload_params 时{1}',
  '--zero_stage 3 or auto': '--zero_stage 为 3 或 auto',
  'Weights that are not whole come and go: give --zero_stage 3.': '不完整保留的权重随用随取：请给出 --zero_stage 3。',
  '--offload_optimizer cpu or a folder': '--offload_optimizer 为 cpu 或目录',
  'Weights are updated where they are kept: leave --offload_optimizer out, or give cpu or a folder.':
    '权重在存放之处更新：请不要给出 --offload_optimizer，或将它设为 cpu 或目录。',
  'no --q_lora': '不使用 --q_lora',
  'Quantized weights stay on the device: give --q_lora false, or leave --offload_params out.':
    '量化后的权重留在设备上：请给出 --q_lora false，或不要给出 --offload_params。',
  'offload_params: what is updated is there': 'offload_params：要更新的内容就在那里',
  'Set one of them, or remove the section.': '请设为其中之一，或删除这一节。',
  'With the device "nvme", name a folder of a fast disk.': '设备为 "nvme" 时，请给出高速磁盘上的目录。',
  '{1} with --fused_backward': '使用 --fused_backward 时{1}',
  'no accumulation': '不做梯度累积',
  'bfloat16 or float32': '使用 bfloat16 或 float32',
  'Gradients are used as they come: give --gradient_accumulation_steps 1 and a larger batch.':
    '梯度算出后立即使用：请给出 --gradient_accumulation_steps 1 和更大的批次。',
  'A step that was begun cannot be skipped: give --on_nonfinite stop.':
    '已经开始的一步无法跳过：请给出 --on_nonfinite stop。',
  'A loss scale needs steps that can be skipped: give --bf16.': '损失缩放要求能够跳过某一步：请给出 --bf16。',
  'fused_backward: max_grad_norm {1} is applied to the gradients of each block by itself.':
    'fused_backward：max_grad_norm {1} 分别作用于每一块的梯度。',
  'Expected one answer for {1} but received {2} and {3}.': '{1} 只能有一个值，但收到 {2} 和 {3}。',
  'tensorboard or none': 'tensorboard 或 none',
  'The log is always in events.jsonl as well.': '日志总会写入 events.jsonl。',

  // Without effect.
  '{1}: without effect: {2}.': '{1}：没有作用：{2}。',
  '{1}: accepted, without effect: {2}.': '{1}：已接受，但没有作用：{2}。',
  '{1} is {2}': '{1} 为 {2}',
  'the log goes to events.jsonl, and to TensorBoard if asked': '日志写入 events.jsonl，需要时也写入 TensorBoard',

  // Flags of other tools.
  'attention chooses its kernel itself': '注意力会自行选择内核',
  'the resampler always trains': '重采样器始终参与训练',
  'evaluation data are files of their own; give --eval_data_path': '评估数据是单独的文件；请给出 --eval_data_path',
  'records are read and encoded while the run trains': '记录在训练过程中读取和编码',
  'supervised fine-tuning is the only stage': '只有监督微调这一个阶段',
  'answers alone are learned': '只学习回答部分',
  'code of a model is never run': '绝不运行模型附带的代码',
  'devices share out the records, and with --zero_stage the model': '各设备分摊记录，并用 --zero_stage 分摊模型',
  'CUDA_VISIBLE_DEVICES chooses the GPUs': '由 CUDA_VISIBLE_DEVICES 选择 GPU',
  'paths of pictures are relative to the data file': '图片路径相对于数据文件',
  '--temperature above 0 samples': '--temperature 大于 0 即为采样',
  'answers are sampled or greedy, without beams': '回答由采样或贪心生成，没有束搜索',
  'chat always shows an answer as it is generated': 'chat 总是边生成边显示回答',
  'adapters are used as they are; the command merge writes a merged checkpoint':
    '适配器按原样使用；merge 命令会写出合并后的检查点',
  'there is one backend': '只有一个后端',

  // Recipes.
  'the recipe': '配置文件',
  'an error': '错误',
  'Expected a readable file for {1} but received {2} ({3}).': '{1} 应为可读的文件，但收到 {2}（{3}）。',
  'Check the path; it is relative to the folder the command runs in.': '请检查路径；它相对于命令运行时所在的目录。',
  'Expected keys with values for a recipe but received something else.': '配置文件应由键和值组成，但收到其他内容。',
  'Write one `key: value` per line, such as `learning_rate: 1e-5`.':
    '请每行写一个 `key: value`，例如 `learning_rate: 1e-5`。',
  'Expected YAML or JSON but received something else: {1}': '应为 YAML 或 JSON，但收到其他内容：{1}',
  'Write one `key: value` per line, without tabs.': '请每行写一个 `key: value`，不要用制表符。',
  'Expected keys of the group {1} but received something else.': '应为 {1} 组中的键，但收到其他内容。',
  "Write the group's keys indented below {1}, or leave the group out.": '请把该组的键缩进写在 {1} 下面，或去掉这一组。',
  'Expected a key of the group {1} but received {2}.': '应为 {1} 组中的键，但收到 {2}。',
  'Move it to the group {1}.': '请移到 {1} 组。',
  'Move it to the outermost level.': '请移到最外层。',
  'Expected {1} once but received it twice.': '{1} 只应出现一次，但出现了两次。',
  'Expected a name as the key but received something else.': '键应为名称，但收到其他内容。',
  'Keys are the names of flags.': '键就是参数名。',
  'Expected one recipe but received both --recipe and --config.':
    '只能给出一个配置文件，但同时收到 --recipe 和 --config。',
  'Expected a configuration made by resolveConfig but received another object.':
    '应为 resolveConfig 生成的配置，但收到其他对象。',
  'Give the values to resolveConfig, and pass on the `config` that it returns.':
    '请把各个值交给 resolveConfig，再传入它返回的 `config`。',

  // DeepSpeed files.
  'Give a DeepSpeed configuration such as the official ds_config_zero2.json.':
    '请给出 DeepSpeed 配置，例如官方的 ds_config_zero2.json。',
  '--deepspeed {1}: {2}.': '--deepspeed {1}：{2}。',
  '{1} of zero_optimization.{2}: nothing to set here, ignored': 'zero_optimization.{2} 的 {1}：这里无需设置，已忽略',
  '{1}: nothing to set here, ignored': '{1}：这里无需设置，已忽略',
  'transformers would have refused to start': 'transformers 会拒绝启动',
  'transformers would have trained with {1} and ignored it': 'transformers 会用 {1} 训练，并忽略它',
  '{1} sets {2} to {3}': '{1} 把 {2} 设为 {3}',
  '{1} is {2}, but {3} was given and wins, being the more explicit of the two ({4})':
    '{1} 为 {2}，但另外给出了 {3}，以更明确的后者为准（{4}）',
  "the recipe's {1}": '配置文件中的 {1}',
  'true, false or "auto"': 'true、false 或 "auto"',
  'Write "auto" to follow the flags.': '请写 "auto"，表示与命令行参数一致。',
  'Expected one precision but received both bf16.enabled and fp16.enabled.':
    '只能有一种精度，但同时收到 bf16.enabled 和 fp16.enabled。',
  'Set one of them to false or "auto".': '请把其中一个设为 false 或 "auto"。',
  '{1} is false, but {2} was asked for and wins': '{1} 为 false，但另外要求了 {2}，以后者为准',
  'AdamW is the optimizer there is; set the type to "AdamW", or remove the section.':
    '这里的优化器只有 AdamW；请把 type 设为 "AdamW"，或删去这一节。',
  'Remove the scheduler section and use --lr_scheduler_type instead.':
    '请删去 scheduler 一节，改用 --lr_scheduler_type。',
  '--deepspeed {1}: train_batch_size is {2}, but per_device_train_batch_size × gradient_accumulation_steps × devices is {3} and wins (transformers would have refused to start).':
    '--deepspeed {1}：train_batch_size 为 {2}，但 per_device_train_batch_size × gradient_accumulation_steps × 设备数 为 {3}，以后者为准（transformers 会拒绝启动）。',

  // What follows from the flags.
  '{1} = {2} ({3})': '{1} = {2}（{3}）',
  'use_lora trains adapters instead': 'use_lora 改为训练适配器',
  'use_lora with tune_vision {1}': 'use_lora 且 tune_vision 为 {1}',
  'use_lora with tune_vision {1}, the token embeddings stay as they are: --compat official trains them':
    'use_lora 且 tune_vision 为 {1}；词元嵌入保持不变，--compat official 会训练它们',
  'fused_backward is for the least memory': 'fused_backward 旨在使内存最少',
  'the metric is {1}': '指标为 {1}',
  'steps per epoch = ceil({1} packed sequences / ({2})) = {3}': '每轮步数 = ceil({1} 条打包序列 / ({2})) = {3}',
  'steps per epoch = ceil({1}) = {2}': '每轮步数 = ceil({1}) = {2}',
  '{1} × {2} × {3} devices': '{1} × {2} × {3} 个设备',
  'epochs = {1} steps / {2} = {3}': '轮数 = {1} 步 / {2} = {3}',
  'total steps = ceil({1}) = {2}': '总步数 = ceil({1}) = {2}',
  'warmup steps = ceil({1}) = {2}': '预热步数 = ceil({1}) = {2}',
  'total batch = {1} packed sequences × {2} accumulation × {3} device[s] = {4}':
    '总批次 = {1} 条打包序列 × {2} 次累积 × {3} 个设备 = {4}',
  'total batch = {1} records × {2} accumulation × {3} device[s] = {4}':
    '总批次 = {1} 条记录 × {2} 次累积 × {3} 个设备 = {4}',
  'LoRA scale = {1}': 'LoRA 缩放 = {1}',

  // Schedules.
  'a number for {1} of the {2} schedule': '调度 {2} 的 {1} 为数值',
  'an option of the {1} schedule': '调度 {1} 的选项',
  'one of {1} for {2}': '{2} 的值为以下之一：{1}',
  'a number of at least {1} for {2}': '{2} 的值为不小于 {1} 的数值',
  'less than --learning_rate ({1}) for lr_end': 'lr_end 小于 --learning_rate（{1}）',
  'Give it as --lr_scheduler_kwargs {1}.': '请这样给出：--lr_scheduler_kwargs {1}。',
  'Give a smaller lr_end, or a larger --learning_rate.': '请给出更小的 lr_end，或更大的 --learning_rate。',
  'It has no options.': '它没有选项。',
  'It knows {1}.': '它的选项有 {1}。',
  'Write it without quotes, such as 0.5.': '请不加引号，例如 0.5。',

  // More of flags, recipes and DeepSpeed files.
  'the DeepSpeed file': 'DeepSpeed 文件',
  'a file for {1}': '{1} 的文件',
  'kernels are chosen for the device': '按设备选择内核',
  'all records are used; --max_steps ends a run earlier': '使用全部记录；--max_steps 可提前结束运行',
  'losses are in events.jsonl; --report_to tensorboard draws them':
    '损失记在 events.jsonl 中；--report_to tensorboard 会画出曲线',
  'models come from the Hugging Face hub, or from the mirror that HF_ENDPOINT names':
    '模型来自 Hugging Face Hub，或 HF_ENDPOINT 指定的镜像',
  'Leave it out: it means {1}, which a recipe does not have.': '请去掉它：它相当于 {1}，配置文件中没有这个键。',
  'Leave it out: it means {1}, which this command does not have.': '请去掉它：它相当于 {1}，这个命令没有该参数。',
};
