/** Chinese for adapters. Files, base, effect, slices, and flags beside them. */
import type { Messages } from '../translator.js';

export const ADAPTERS: Messages = {
  'adapter {1}: {2}': '适配器 {1}：{2}',

  // adapter_config.json
  '{1} {2}: without effect: it only says how the adapter started.': '{1} {2}：没有作用：它只说明适配器如何初始化。',
  'revision {1}: the adapter names this revision of its base; it is not compared.':
    'revision {1}：适配器写明了其基座模型的版本；不做比较。',
  '{1} {2}: the key is not known here, and not used; PEFT may compute something else.':
    '{1} {2}：这里不认识这个键，没有使用；PEFT 的计算结果可能不同。',
  "Expected known keys for the adapter's configuration but received {1}: {2}.":
    '适配器的配置应只有已知的键，但收到 {1}：{2}。',
  'A newer PEFT may know it: merge the adapter there and use the merged model, or remove {1} if it changes nothing.':
    '更新版本的 PEFT 可能支持它：请用它合并适配器，再使用合并后的模型；如果 {1} 不起作用，请删去它。',
  'This start changes the weights of the base: convert the adapter with PEFT (save_pretrained(…, path_initial_model_for_weight_conversion=…)), or merge it there and use the merged model.':
    '这种初始化会改动基座模型的权重：请用 PEFT 转换适配器（save_pretrained(…, path_initial_model_for_weight_conversion=…)），或用它合并，再使用合并后的模型。',
  'Expected an adapter folder with adapter_config.json but received {1}, a run folder that has checkpoints only.':
    '应为含 adapter_config.json 的适配器目录，但收到的 {1} 是只有检查点的运行目录。',
  'The run was not finished. Give its newest checkpoint: {1}.': '该运行没有完成。请给出其最新的检查点：{1}。',
  'Expected a folder with config.json and weights but received {1}, a run folder that has checkpoints only.':
    '应为含 config.json 和权重的目录，但收到的 {1} 是只有检查点的运行目录。',
  'The run trains an adapter and was not finished. Give its base as the model, and its newest checkpoint as the adapter: {1}.':
    '该运行训练适配器，但没有完成。请把其基座模型作为模型给出，把其最新的检查点作为适配器给出：{1}。',
  '{1} {2}: {3}: without effect: no layer with an adapter has such a name.':
    '{1} {2}：{3}：没有作用：带适配器的层都没有这样的名称。',
  'Expected a regular expression for {1} but received {2}.': '{1} 应为正则表达式，但收到 {2}。',
  "Names mean the language model, and {1} is in {2}: give the pattern '{3}\\..*\\.{4}', or whole names.":
    "名称指语言模型中的模块，而 {1} 在 {2} 中：请给出模式 '{3}\\..*\\.{4}'，或完整的名称。",

  // What an adapter changes.
  "Expected finite numbers in the adapter's tensors but {1} has NaN or infinite ones.":
    '适配器的张量应全是有限数，但 {1} 中有 NaN 或无穷大。',
  'Its training went wrong before it was saved: use an earlier checkpoint, and see the losses of that training.':
    '它在保存之前训练就已出错：请使用更早的检查点，并查看那次训练的损失。',
  'its alpha is 0': '其 alpha 为 0',
  'its lora_B are all zero': '其 lora_B 全为零',
  'its lora_A are all zero': '其 lora_A 全为零',
  '{1} of the {2} layers with an adapter are not changed by it: {3} there ({4}).':
    '带适配器的 {2} 层中有 {1} 层没有因适配器而改变：{3}（{4}）。',
  '{1}: it was saved before it learned anything, or in parts that were empty':
    '{1}：它在学到内容之前就已保存，或保存的是空的分片',
  'THE ADAPTER CHANGES NOTHING: {1}.': '适配器不改变任何内容：{1}。',
  'the low-rank part of the adapter changes nothing: {1}.': '适配器的低秩部分不改变任何内容：{1}。',
  'Only the modules saved whole ({1}) change the model.': '只有整体保存的模块（{1}）改变模型。',
  'Only the biases change the model.': '只有偏置改变模型。',
  'THE MERGE CHANGES NOTHING: all changes are below the rounding of {1}, the type of the weights: {2}.':
    '合并不改变任何内容：所有改动都小于权重类型 {1} 的舍入误差：{2}。',
  'merge with --dtype float32, or keep the adapter beside its base':
    '请用 --dtype float32 合并，或保留适配器与基座模型，不合并',
  'compute with --dtype float32': '请用 --dtype float32 计算',

  // The base of an adapter.
  'Its {1} says so.': '其 {1} 如此写明。',
  'Its base is {1}.': '其基座模型为 {1}。',
  'If that name is wrong, correct base_model_name_or_path in the file.':
    '如果这个名称有误，请改正该文件中的 base_model_name_or_path。',
  'Expected an adapter of {1} for this model but received one of {2}.':
    '这个模型应使用 {1} 的适配器，但收到 {2} 的适配器。',
  'Give the model that it was trained on.': '请给出训练它时的模型。',
  'another kind of model': '另一种模型',
  'Its tensors have names such as {1}.': '其张量的名称例如 {1}。',
  "Its language model is {1} wide; this model's is {2}.": '其语言模型的宽度为 {1}；这个模型的为 {2}。',
  '{1} {2} there and {3} here': '{1} 在那里为 {2}，在这里为 {3}',
  'Expected the base that the adapter was trained on, {1}, but received one of other sizes: {2}.':
    '应为训练适配器时的基座模型 {1}，但收到的模型尺寸不同：{2}。',
  'Expected the base that the adapter was trained on, {1}, but received one with other weights (fingerprint {2} there and {3} here).':
    '应为训练适配器时的基座模型 {1}，但收到的模型权重不同（指纹在那里为 {2}，在这里为 {3}）。',
  'The sizes are the same, but the weights were trained further, or are of another revision: give {1}.':
    '尺寸相同，但权重经过继续训练，或属于另一个版本：请给出 {1}。',
  'To use the adapter on this model all the same, remove the file.': '如果仍要在这个模型上使用该适配器，请删除该文件。',
  'it was trained on quantized weights ({1}): on unquantized ones its answers differ a little from those in training.':
    '它是在量化权重（{1}）上训练的：在未量化的权重上，回答会与训练时略有不同。',

  // Its tensors.
  '{1} names were read without additions: {2} as {3}.': '读取 {1} 个名称时去掉了附加部分：把 {2} 读作 {3}。',
  'received adapter_model.bin, a pickle, which can run code': '收到的 adapter_model.bin 是 pickle，可能会运行代码',
  'received {1}': '收到{1}',
  'Only safetensors are read: save the adapter again with save_pretrained(…, safe_serialization=True) of PEFT.':
    '只读取 safetensors：请用 PEFT 的 save_pretrained(…, safe_serialization=True) 重新保存适配器。',
  '{1} unexpected ({2})': '多余的有 {1} 个（{2}）',
  'If only names differ, rename the tensors: {1} should be {2}.': '如果只是名称不同，请给张量改名：{1} 应为 {2}。',
  "In the adapter's folder:": '在适配器的目录中运行：',
  'Otherwise the adapter belongs to another base model: give the model it was trained on.':
    '否则适配器属于另一个基座模型：请给出训练它时的模型。',

  // Other files with weights in its folder.
  '{1} is not read: {2} beside it is.': '不读取 {1}：读取的是旁边的 {2}。',
  'NOT READ: {1} beside {2}.': '没有读取 {2} 旁边的 {1}。',
  'If it was trained with the adapter, put its tensors into {1} with load_file and save_file of safetensors.torch, and name their modules in modules_to_save of adapter_config.json; if not, move it to another folder.':
    '如果它与适配器一起训练，请用 safetensors.torch 的 load_file 和 save_file 把其张量放进 {1}，并在 adapter_config.json 的 modules_to_save 中写出其模块；否则请把它移到别的目录。',
  'Expected the weights of the adapter in {1} but {2}.': '适配器的权重应在 {1} 中，但{2}。',
  'Copy the adapter again, with all of its files.': '请重新复制适配器的全部文件。',
  'Only safetensors are read.': '只读取 safetensors。',
  "Turn {1} into it, in the adapter's folder:": '请在适配器的目录中把 {1} 转换为 safetensors：',
  'Expected all weights of the adapter in {1} but received {2} beside it: without it the adapter is only a part of what was trained.':
    '适配器的全部权重应在 {1} 中，但旁边还有 {2}：没有它，适配器只是训练结果的一部分。',
  'Expected all weights of the adapter in {1} but received {2} beside it: without them the adapter is only a part of what was trained.':
    '适配器的全部权重应在 {1} 中，但旁边还有 {2}：没有它们，适配器只是训练结果的一部分。',
  'If the adapter does not need this file, move it to another folder.':
    '如果适配器不需要这个文件，请把它移到别的目录。',
  'If the adapter does not need these files, move them to another folder.':
    '如果适配器不需要这些文件，请把它们移到别的目录。',
  "Otherwise put its tensors into {1}, as modules that are saved whole, with Python in the adapter's folder:":
    '否则请在适配器的目录中用 Python 把其张量放进 {1}，作为整体保存的模块：',
  "Otherwise put their tensors into {1}, as modules that are saved whole, with Python in the adapter's folder (for each file):":
    '否则请在适配器的目录中用 Python 把其张量放进 {1}，作为整体保存的模块（每个文件各运行一次）：',

  // Where adapters are.
  'adapters: {1}': '适配器：{1}',
  '{1} layer[s]': '{1} 层',
  '{1} of {2} layer[s]': '{2} 层中的 {1} 层',
  '{1} layers × {2}': '{1} 层 × {2}',
  '{1} {2} layer × {3}': '{1} {2} 层 × {3}',
  '{1} of {2} layers × {3}': '{1}/{2} 层 × {3}',
  '{1} in {2} layer[s]': '{1} 在 {2} 层',
  '{1} in {2} of {3} layer[s]': '{1} 在 {3} 层中的 {2} 层',
  '{1} and {2} more': '{1} 以及另外 {2} 个',

  // Slices.
  '{1} slice[s] at {2}': '{1} 个切片（分辨率 {2}）',
  '{1} with {2}': '{1} 为 {2}',
  'the adapters were trained with different slices: {1}; pictures are cut as for the last, {2}.':
    '各适配器训练时的切片不同：{1}；图片按最后一个的 {2} 切分。',
  'adapter {1} was trained with {2}, the base says {3}: pictures are cut as in the training.':
    '适配器 {1} 训练时为 {2}，基座模型写的是 {3}：图片按训练时的方式切分。',
  'what it saved whole replaces that of an earlier adapter: {1}.': '它整体保存的模块取代了前一个适配器的：{1}。',
  'the adapters were trained with videos read differently: {1}; videos are read as for the last, {2}.':
    '各适配器训练时读取视频的方式不同：{1}；视频按最后一个的 {2} 读取。',
  'adapter {1} was trained with {2}, the base says {3}: videos are read as in the training.':
    '适配器 {1} 训练时为 {2}，基座模型写的是 {3}：视频按训练时的方式读取。',
  'the model: {1}': '模型：{1}',
  "trained with --compat official: prompts are not written as the official training code writes them, but as the model's own chat code does.":
    '训练时使用 --compat official：提示不按官方训练代码的方式书写，而按模型自带的对话代码书写。',
  'trained with --thinking every_turn: earlier answers of a prompt have no think blocks, those of the training had.':
    '训练时使用 --thinking every_turn：提示中先前的回答没有思考块，训练时则有。',
  'trained with --thinking as_written: a prompt ends with an empty think block, which answers without a thought did not have in training.':
    '训练时使用 --thinking as_written：提示以空的思考块结尾，而训练中没有思考内容的回答并无思考块。',
  'records are encoded as in the training: {1}.': '记录按训练时的方式编码：{1}。',
  'records are encoded with {1}, the checkpoint was trained with {2}.': '记录按 {1} 编码，检查点训练时为 {2}。',
  'the adapter was trained with --compat official, which knows no pairs: records are encoded as at inference.':
    '适配器训练时使用 --compat official，它不支持成对回答：记录按推理时的方式编码。',
  'trained with {1}, asked with {2}.': '训练时为 {1}，提问时为 {2}。',

  // Flags beside --lora_weight_path.
  'the adapter {1} keeps what it has: {2}.': '适配器 {1} 保持原有的设置：{2}。',
  'scale {1} / {2} = {3}': '缩放 {1} / {2} = {3}',
  'scale {1} / {2} = {3} (rsLoRA)': '缩放 {1} / {2} = {3}（rsLoRA）',
  'other values for {1} pattern[s]': '{1} 个模式另有取值',
  'targets {1}': '目标 {1}',
  'saved whole {1}': '整体保存 {1}',
  'nothing saved whole': '没有整体保存的模块',
  'bias {1}': '偏置：{1}',
  'the adapter was trained with {1}; the given one is used.': '适配器训练时为 {1}；使用给出的值。',
  'the adapter was trained with {1}; the given value is used.': '适配器训练时为 {1}；使用给出的值。',
  '{1} is {2} there and {3} here': '{1} 在那里为 {2}，在这里为 {3}',
  '{1} ({2} is saved whole)': '{1}（整体保存了 {2}）',
  'Expected the values of the adapter {1} but received others: {2}.': '应与适配器 {1} 的值相同，但收到不同的值：{2}。',
  'An adapter keeps what it was made with: leave these flags out, or give its values. Other values need a new run, with new adapters.':
    '适配器的设置在创建时已定：请不给这些参数，或给出与它相同的值。其他的值需要用新的适配器开始新的运行。',
  'Expected the {1} layers of the adapter {2} for --lora_target_modules but received {3}, which selects {4}.':
    '--lora_target_modules 应选中适配器 {2} 的 {1} 层，但收到的 {3} 选中 {4} 层。',
  'Expected the {1} layers of the adapter {2} for --lora_target_modules but received {3}, which selects {4}, among them {5}.':
    '--lora_target_modules 应选中适配器 {2} 的 {1} 层，但收到的 {3} 选中 {4} 层，其中有 {5}。',
  'Leave it out: an adapter keeps its layers. For other layers start a new adapter, without --lora_weight_path.':
    '请去掉它：适配器所在的层不变。要用其他层，请不用 --lora_weight_path，开始新的适配器。',
};
