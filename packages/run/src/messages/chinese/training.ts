/** Chinese for a run. Its log, its checkpoints, what it warns of, and resuming it. */
import type { Messages } from '../translator.js';

export const TRAINING: Messages = {
  // Fields of a step.
  'step {1}': '第 {1} 步',
  'loss {1}': '损失 {1}',
  'ETA {1}': '剩余 {1}',
  'lr {1}': '学习率 {1}',
  'grad norm {1}': '梯度范数 {1}',
  '{1} samples/s': '{1} 样本/秒',
  '{1} supervised tokens/s': '{1} 监督词元/秒',
  'wait {1} %': '等待数据 {1} %',
  'memory {1}': '内存 {1}',
  'epoch {1}': '第 {1} 轮',
  'loss scale {1}': '损失缩放 {1}',
  'skipped {1}': '跳过 {1} 步',
  'not finite': '不是有限数',

  // Tasks.
  Checking: '检查',
  'Reading records': '读取记录',
  'Loading weights': '加载权重',
  Evaluating: '评估',
  Answering: '生成回答',
  Measuring: '测量',
  '{1} steps': '{1} 步',
  '{1} tensors': '{1} 个张量',
  '{1} tokens': '{1} 个词元',
  '{1}: {2} in {3}': '{1}：{2}，用时 {3}',
  '{1}: {2} in {3}, {4}': '{1}：{2}，用时 {3}，{4}',

  // Events.
  '{1} of {2} parameters train ({3} %), on {4}': '{2} 个模型参数中训练 {1} 个（{3} %），设备 {4}',
  '{1} records, {2} steps': '{1} 条记录，{2} 步',
  'continuing after step {1}': '从第 {1} 步之后继续',
  'eval at step {1}: loss {2} ({3} records in {4})': '第 {1} 步评估：损失 {2}（{3} 条记录，用时 {4}）',
  'eval at step {1}: loss {2}, {3} ({4} records in {5})': '第 {1} 步评估：损失 {2}，{3}（{4} 条记录，用时 {5}）',
  'saved {1} ({2} in {3} s)': '已保存 {1}（{2}，用时 {3} 秒）',
  'saved {1} ({2} in {3} s), removed {4}': '已保存 {1}（{2}，用时 {3} 秒），已删除 {4}',
  'stopping after step {1}: {2}': '在第 {1} 步之后停止：{2}',
  'a STOP file in the run folder': '运行目录中有 STOP 文件',
  'the program asked for it': '程序要求停止',
  'a loss or gradient that is not finite': '损失或梯度不是有限数',
  'failed after step {1}, {2}': '在第 {1} 步之后失败，用时 {2}',
  'failed after step {1}, {2}, mean loss {3}': '在第 {1} 步之后失败，用时 {2}，平均损失 {3}',
  'finished after step {1}, {2}': '在第 {1} 步之后完成，用时 {2}',
  'finished after step {1}, {2}, mean loss {3}': '在第 {1} 步之后完成，用时 {2}，平均损失 {3}',
  'stopped after step {1}, {2}': '在第 {1} 步之后停止，用时 {2}',
  'stopped after step {1}, {2}, mean loss {3}': '在第 {1} 步之后停止，用时 {2}，平均损失 {3}',
  'This is {1}.': '这是 {1}。',
  'The saved model is the best one, {1}: eval {2} {3}.': '保存的是最好的模型 {1}：评估 {2} {3}。',

  // Device and memory.
  'This training runs on mps, which is untested. Compare its first losses with those of --device cpu, and report what is wrong.':
    '本次训练在 mps 上运行，mps 没有测试过。请把最初几步的损失与 --device cpu 的比较，发现问题请报告。',
  'Expected a device that is there for --device but received {1}.': '--device 应为现有的设备，但收到 {1}。',
  '`minicpm-finetune doctor` shows what there is; --device cpu always works.':
    '`minicpm-finetune doctor` 显示有哪些设备；--device cpu 总是可用。',
  'Expected memory for {1} on {2} but received none: tensors take {3} now and took {4} at most ({5}).':
    '{2} 上的内存放不下{1}：张量现占 {3}，最多时占 {4}（{5}）。',
  '{1} in all, {2} free': '共 {1}，空闲 {2}',
  'size unknown': '大小未知',
  'Expected memory for {1} on {2} but received none: a step takes at least {3} ({4}), the allocator keeps {5} for later, and the device has {6}.':
    '{2} 上的内存放不下{1}：每步至少需要 {3}（{4}），分配器为之后保留 {5}，设备共有{6}。',
  'Expected memory for {1} on {2} but received none: a step takes at least {3} ({4}), the allocator keeps {5} for later, and the device has {6}, of which other programs take {7}.':
    '{2} 上的内存放不下{1}：每步至少需要 {3}（{4}），分配器为之后保留 {5}，设备共有 {6}，其中其他程序占用 {7}。',
  '{1} more': '另外的 {1}',
  'another tensor': '另一个张量',
  'an unknown size': '未知大小的内存',
  'weights {1}': '权重 {1}',
  'optimizer {1}': '优化器 {1}',
  'gradients and activations at least {1}': '梯度和激活值至少 {1}',
  'Take a smaller --model_max_length or --max_slice_nums, or a device with more memory.':
    '请使用更小的 --model_max_length 或 --max_slice_nums，或内存更大的设备。',
  'a tensor': '一个张量',
  'Recompute with --gradient_checkpointing true, take a smaller --per_device_train_batch_size with more --gradient_accumulation_steps, a smaller --model_max_length or --max_slice_nums, --use_lora true, or --q_lora true with it.':
    '请用 --gradient_checkpointing true 重计算，用更小的 --per_device_train_batch_size 配合更大的 --gradient_accumulation_steps，用更小的 --model_max_length 或 --max_slice_nums，用 --use_lora true，或再加 --q_lora true。',
  '{1} of {2} blocks keep their graph, the others are recomputed, to stay within {3}.':
    '{2} 块中有 {1} 块保留计算图，其余重计算，以保持在 {3} 以内。',
  'Expected {1} at most for --memory_budget but received {2} at step {3} of this start: later batches may be recomputed more.':
    '--memory_budget 最多为 {1}，但本次启动的第 {3} 步用了 {2}：之后的批次可能会更多地重计算。',
  'Expected {1} at most for --memory_budget but received {2} at step {3} of this start.':
    '--memory_budget 最多为 {1}，但本次启动的第 {3} 步用了 {2}。',
  'Recompute what does not fit: give --gradient_checkpointing auto. Or allow more.':
    '放不下的部分可以重计算：请给出 --gradient_checkpointing auto。或允许更多内存。',
  'Allow more, or use smaller batches, a smaller --model_max_length, --use_lora or --fused_backward.':
    '请允许更多内存，或用更小的批次、更小的 --model_max_length、--use_lora 或 --fused_backward。',
  '--cache_vision {1}: without effect: {2}.': '--cache_vision {1}：没有作用：{2}。',
  'the vision tower trains, so its features change': '视觉编码器参与训练，特征会变化',
  'in {1} the pictures of a batch influence each other': '{1} 中同一批次的图片会互相影响',
  'Expected more room for vision features in {1} but it is full': '{1} 应有更多空间存放视觉特征，但已满',
  'Vision features cannot be stored in {1}: {2}': '视觉特征无法存入 {1}：{2}',
  '{1}. No more are stored; those not there are computed.': '{1}。不再存储新的特征；没有存储的会重新计算。',

  // The start.
  'q_lora: {1} linear weights of the language model are kept in {2}, {3} instead of {4}; each layer is computed again in the backward pass, with its {5} of dequantized weights freed behind it.':
    'q_lora：语言模型的 {1} 个线性层权重以 {2} 保存，占 {3} 而不是 {4}；反向传播时每层重新计算，用完即释放其 {5} 反量化的权重。',
  'Expected frozen linear weights in the language model for --q_lora but received none.':
    '--q_lora 需要语言模型中有冻结的线性层权重，但没有。',
  'All of them are in --lora_modules_to_save, and trained whole: name fewer modules there, or leave out --q_lora.':
    '它们都在 --lora_modules_to_save 中，整体训练：请少写一些模块，或不用 --q_lora。',
  'Expected something to train but received flags that freeze everything.':
    '应有可训练的部分，但收到的参数冻结了全部权重。',
  'Give --tune_vision true, --tune_llm true or --use_lora true.':
    '请给出 --tune_vision true、--tune_llm true 或 --use_lora true。',
  'Expected a new folder for --output_dir but received {1}, which holds an earlier run.':
    '--output_dir 应为新目录，但收到的 {1} 中有先前的运行。',
  'Name another folder, resume with --resume_from_checkpoint latest, or start over with --overwrite_output_dir true.':
    '请换一个目录，或用 --resume_from_checkpoint latest 继续，或用 --overwrite_output_dir true 重新开始。',

  // Resuming.
  'Expected a complete checkpoint for --resume_from_checkpoint but {1}.':
    '--resume_from_checkpoint 应为完整的检查点，但{1}。',
  '{1} is not there': '{1} 不存在',
  '{1} has none': '{1} 中没有',
  'Name a checkpoint-<step> folder, or leave the flag out to start from scratch.':
    '请写出 checkpoint-<步数> 目录，或不给这个参数以从头开始。',
  'Expected an adapter in {1} but received the other kind.': '{1} 中应为适配器，但收到的是全参数检查点。',
  'Expected a full checkpoint in {1} but received the other kind.': '{1} 中应为全参数检查点，但收到的是适配器。',
  'Resume with the value of --use_lora that the checkpoint was trained with.': '请使用训练该检查点时的 --use_lora 值。',
  'Expected the data the checkpoint was trained on for --data_path but received {1} with another content.':
    '--data_path 应为训练该检查点的数据，但收到的 {1} 内容不同。',
  'Give the same data files in the same order, or --resume_anyway true to continue with other data.':
    '请按相同顺序给出相同的数据文件，或用 --resume_anyway true 以其他数据继续。',
  "Expected the checkpoint's configuration but received other values: {1}.":
    '应与检查点的配置相同，但收到不同的值：{1}。',
  '{1} was {2} and is {3}': '{1} 原为 {2}，现为 {3}',
  'not there': '没有',
  'Steps are the same on {1} rank[s] with --per_device_train_batch_size {2} --gradient_accumulation_steps {3}.':
    '用 {1} 个进程时，--per_device_train_batch_size {2} --gradient_accumulation_steps {3} 的步相同。',
  'Rank {1} on {2}: {3}': '{2} 上的进程 {1}：{3}',
  'Give the same flags, or --resume_anyway true to continue with the new ones.':
    '请给出相同的参数，或用 --resume_anyway true 以新的参数继续。',
  'Expected {1} in the checkpoint but it is not there.': '检查点中应有 {1}，但没有。',
  'It was saved with --save_only_model: start a new run from its weights instead.':
    '它是用 --save_only_model 保存的：请以其权重开始新的运行。',
  'The checkpoint was changed or damaged: resume from another one.': '检查点被改动或损坏：请从另一个检查点继续。',
  'Expected a complete checkpoint in {1} but received one without {2}.': '{1} 应为完整的检查点，但其中没有 {2}。',
  'Name another checkpoint-<step> folder, or `latest` for the newest complete one.':
    '请写出另一个 checkpoint-<步数> 目录，或写 `latest` 使用最新的完整检查点。',
  'Expected {1} in the manifest of a checkpoint but it is not listed.': '检查点的清单中应有 {1}，但没有列出。',
  "Expected {1} bytes with the manifest's checksum for {2} but received {3}.":
    '{2} 应有 {1} 字节，且校验和与清单一致，但收到{3}。',
  'another content': '不同的内容',
  'Expected a list of files with checksums for {1} but it cannot be read.': '{1} 应为带校验和的文件列表，但无法读取。',

  // What could not be saved.
  'Expected {1} free for {2} in {3} but received {4}.': '{3} 应有 {1} 空闲空间来保存{2}，但只有 {4}。',
  'a checkpoint': '检查点',
  'offloaded states': '移出设备的状态',
  'Free some space, or name a folder of another disk.': '请腾出一些空间，或给出另一个磁盘上的目录。',
  'host memory': '主机内存',
  'Expected none for --{1} on mps but received {2}.': '在 mps 上 --{1} 应为 none，但收到 {2}。',
  'Give none there; cuda and cpu can do it.': '请在那里给出 none；cuda 和 cpu 支持此功能。',
  "offload_optimizer {1} has no effect: the training runs on the CPU, whose memory is the host's.":
    'offload_optimizer {1} 不起作用：训练在 CPU 上进行，其内存就是主机内存。',
  "offload_params {1} has no effect: the training runs on the CPU, whose memory is the host's.":
    'offload_params {1} 不起作用：训练在 CPU 上进行，其内存就是主机内存。',
  "offload_optimizer: the optimizer's states, {1}, are in {2}; the update runs on the CPU.":
    'offload_optimizer：优化器状态（{1}）在 {2} 中；更新在 CPU 上进行。',
  "offload_params: weights, {1}, are in {2}; a block's are on the device while it runs.":
    'offload_params：权重（{1}）在 {2} 中；每个模块的权重只在计算时位于设备上。',
  'the trained model': '训练好的模型',
  'Free some space, lower --save_total_limit, or use --save_only_model true.':
    '请腾出空间，减小 --save_total_limit，或使用 --save_only_model true。',
  'EVENTS ARE NOT RECORDED in {1}: {2}. The run goes on.': '事件没有记入 {1}：{2}。训练继续。',
  'ANSWERS NOT SAVED at step {1}: {2} The run goes on.': '第 {1} 步的回答没有保存：{2}训练继续。',
  'CHECKPOINT NOT SAVED at step {1}: {2} The run goes on; earlier checkpoints are intact.':
    '第 {1} 步的检查点没有保存：{2}训练继续；先前的检查点完好。',
  'OLD CHECKPOINTS NOT REMOVED in {1}: {2} The run goes on.': '{1} 中的旧检查点没有删除：{2}训练继续。',
  'THE LAST MODEL IS SAVED, not the best one: {1}.': '保存的是最后的模型，而不是最好的模型：{1}。',
  'none was evaluated and saved': '没有既评估又保存过的模型',
  'THE TRACE WAS NOT SAVED in {1}: {2}': '跟踪记录没有写入 {1}：{2}',
  'THE STEP WAS NOT SAVED in {1}: {2}': '这一步没有写入 {1}：{2}',
  'Expected to write the trained model but received: {1}': '应写出训练好的模型，但出错：{1}',
  'The training ended at step {1}; {2} is complete. Free some space, and resume with --resume_from_checkpoint latest.':
    '训练在第 {1} 步结束；{2} 是完整的。请腾出空间，再用 --resume_from_checkpoint latest 继续。',
  'The training ended at step {1}; there is no checkpoint. Free some space, and resume with --resume_from_checkpoint latest.':
    '训练在第 {1} 步结束；没有检查点。请腾出空间，再用 --resume_from_checkpoint latest 继续。',
  '{1} is {2} at step {3}: this model is not the best.': '第 {3} 步的 {1} 为 {2}：这个模型不是最好的。',
  unknown: '未知',

  // Steps that are not finite.
  'The step was skipped: {1}.': '已跳过这一步：{1}。',
  'The step is in {1}.': '这一步保存在 {1}。',
  'the loss was {1} and the gradient norm {2} at step {3} (records {4}); {5}':
    '第 {3} 步的损失为 {1}，梯度范数为 {2}（记录 {4}）；{5}',
  'Expected a finite loss and gradient but {1}.': '损失和梯度应为有限数，但{1}。',
  'Lower --learning_rate, set --max_grad_norm, or skip such steps with --on_nonfinite skip.':
    '请降低 --learning_rate，设置 --max_grad_norm，或用 --on_nonfinite skip 跳过这样的步。',
  'every value is finite when computed again, only the norm of all gradients is not':
    '重新计算时每个值都是有限数，只有全部梯度的范数不是',
  'the first value that was not finite is {1} of {2} in micro-batch {3}':
    '第一个不是有限数的值是第 {3} 个微批中 {2} 的{1}',
  'the first value that was not finite is {1} of {2} in micro-batch {3}, where {4} is not finite, too':
    '第一个不是有限数的值是第 {3} 个微批中 {2} 的{1}，其中 {4} 也不是有限数',
  'the first value that was not finite is {1} of {2} in micro-batch {3}, where {4} has it':
    '第一个不是有限数的值是第 {3} 个微批中 {2} 的{1}，出现在 {4}',
  'the loss': '损失',
  'the output': '输出',
  'a gradient': '梯度',

  // events.jsonl
  'The file was changed by hand or damaged; remove this line.': '文件被手工改动或已损坏；请删除这一行。',
  'Expected a JSON object for an event but received something else.': '事件应为 JSON 对象，但收到其他内容。',
  'Expected an object with the field "event" for an event but received something else.':
    '事件应为含 "event" 字段的对象，但收到其他内容。',
};
