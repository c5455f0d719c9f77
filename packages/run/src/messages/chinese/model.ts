/** Chinese for checkpoints, configurations and adapters. */
import type { Messages } from '../translator.js';

export const MODEL: Messages = {
  // config.json
  '0 (dropout is not supported)': '0（不支持 dropout）',
  'false (sliding windows are not supported)': 'false（不支持滑动窗口）',
  'at most 1000': '不大于 1000',
  'at most 1': '不大于 1',
  'three positive whole numbers': '三个正整数',
  'true (other layouts are not supported)': 'true（不支持其他排列方式）',
  '[2, 2] (other kernels are not supported)': '[2, 2]（不支持其他大小）',
  '"qwen3_5_text" (mixtures of experts are not supported)': '"qwen3_5_text"（不支持混合专家模型）',
  '1 (merging more often is not supported)': '1（不支持多次合并）',
  'a token id': '词元编号',
  'a whole number': '非负整数',
  "the model's preprocessor_config.json": '模型的 preprocessor_config.json',
  'an even number of rotated dimensions': '偶数个旋转维度',
  'one of {1} layers, counted from 0,': '{1} 层之一（从 0 数起）',
  'a multiple of {1} key heads': '键头数 {1} 的倍数',
  'float32, float16 or bfloat16': 'float32、float16 或 bfloat16',
  'the name of a timm model': 'timm 模型的名称',
  'true (models without vision are not supported)': 'true（不支持没有视觉部分的模型）',
  'Use the config.json of the model repository; it belongs beside the weights.':
    '请使用模型仓库里的 config.json；它应与权重放在一起。',
  'the file': '文件',
  'Expected a readable config.json for the model but received {1}.': '模型应有可读的 config.json，但收到{1}。',
  'Give the folder that holds config.json and the safetensors files.':
    '请给出存放 config.json 和 safetensors 文件的目录。',
  'a square number': '平方数',
  '--llm_type of {1}': '{1} 的 --llm_type',
  'Give --llm_type {1}, or leave the flag out: it follows from config.json.':
    '请给出 --llm_type {1}，或不给这个参数：它由 config.json 得出。',
  '{1} ({2}, version {3})': '{1}（{2}，版本 {3}）',
  'Expected one of {1} for the model but received {2}, version {3}, {4}, {5}.':
    '模型应为以下之一：{1}，但收到 {2}，版本 {3}，{4}，{5}。',
  'with {1}': '有 {1}',
  'without {1}': '没有 {1}',
  'no architecture': '无架构',
  'Use one of these models, with the config.json it was published with.':
    '请使用其中一个模型，以及它发布时的 config.json。',
  'an even number per head': '每个头为偶数',
  'a divisor of {1} heads': '头数 {1} 的约数',
  'at least {1} (one resampler head)': '不小于 {1}（一个重采样器头）',
  '"default" or "longrope"': '"default" 或 "longrope"',
  '{1} of the vision tower': '视觉编码器的{1}',
  'a divisor of {1}': '{1} 的约数',
  'the number of attention heads': '注意力头数',
  'at least 1 (beside the dropped one)': '不小于 1（去掉的那一层除外）',
  'the number of layers': '层数',
  'an image size of at least {1}': '不小于 {1} 的图片尺寸',
  'the positions': '位置数',
  '{1}, the patch size of slices': '{1}，即切片的 patch 尺寸',
  'the patch size': 'patch 尺寸',

  // Tokenizer
  'Give the folder of a complete checkpoint; transformers writes the file with tokenizer.save_pretrained.':
    '请给出完整检查点的目录；transformers 用 tokenizer.save_pretrained 写这个文件。',
  'Expected a tokenizer file at {1} but received: {2}.': '{1} 应为分词器文件，但收到：{2}。',
  'Expected a tokenizer in {1} but received: {2}.': '{1} 应有分词器，但收到：{2}。',
  'Expected the special tokens {1} in the tokenizer of {2} but it has none of that name.':
    '{2} 的分词器应有特殊词元 {1}，但没有。',
  'Use the tokenizer of the MiniCPM-V checkpoint that is trained, and its --llm_type.':
    '请使用所训练的 MiniCPM-V 检查点的分词器，以及对应的 --llm_type。',
  'Expected a chat template in the tokenizer of {1} but it has none.': '{1} 的分词器应有对话模板，但没有。',
  'Give the complete checkpoint, chat_template.jinja included, and its --llm_type.':
    '请给出完整的检查点（包括 chat_template.jinja），以及对应的 --llm_type。',

  // Weights
  'Copy or download the checkpoint again.': '请重新复制或下载检查点。',
  'Expected the {1} tensors of {2} for the checkpoint but received others: {3}.':
    '检查点应有 {2} 的 {1} 个张量，但收到其他张量：{3}。',
  '{1} missing: {2}': '缺少 {1} 个：{2}',
  '{1} of another shape or type: {2}': '形状或类型不同的有 {1} 个：{2}',
  '{1} unknown to the model: {2}': '模型没有的有 {1} 个：{2}',
  '{1}, … and {2} more': '{1}……以及另外 {2} 个',
  '{1} (expected floats, received {2})': '{1}（应为浮点数，收到 {2}）',
  '{1} (expected [{2}], received [{3}])': '{1}（应为 [{2}]，收到 [{3}]）',
  'This is an adapter: give the base model as the model and this folder as the adapter.':
    '这是适配器：请把基座模型作为模型给出，把这个目录作为适配器给出。',
  'The checkpoint is incomplete: copy or download all of its files again.':
    '检查点不完整：请重新复制或下载其全部文件。',
  "Weights and configuration belong to different models: put the weights' own config.json at {1}.":
    '权重和配置属于不同的模型：请把权重自己的 config.json 放到 {1}。',
  'Expected a folder without weights for the saved checkpoint but received one with {1}.':
    '保存检查点的目录中不应有权重，但收到的目录里有 {1}。',
  'Give another folder, or delete the old weights first.': '请换一个目录，或先删除旧的权重。',

  // Adapters
  'Give the folder that holds the adapter: it is where training saved it.':
    '请给出存放适配器的目录，即训练保存它的位置。',
  'Expected an adapter folder with adapter_config.json but received {1}.':
    '应为含 adapter_config.json 的适配器目录，但收到 {1}。',
  'Expected a LoRA configuration but {1} is {2}.': '应为 LoRA 配置，但 {1} 为 {2}。',
  'Expected an adapter without {1} but received {2}.': '适配器不应有 {1}，但收到 {2}。',
  'This kind of adapter is not supported: merge it with PEFT and use the merged model.':
    '不支持这种适配器：请用 PEFT 合并，再使用合并后的模型。',
  'Expected an adapter for the unchanged base but init_lora_weights is {1}.':
    '适配器应基于未改动的基座模型，但 init_lora_weights 为 {1}。',
  'Expected the weights of the adapter but {1}.': '应有适配器的权重，但{1}。',
  'the file is missing': '文件不存在',
  'Copy the adapter again; weights in other formats (adapter_model.bin) have to be converted with PEFT.':
    '请重新复制适配器；其他格式的权重（adapter_model.bin）须用 PEFT 转换。',
  '{1}: [{2}] expected, [{3}] received': '{1}：应为 [{2}]，收到 [{3}]',
  'Expected {1} tensors for the adapter on this model but received {2}: {3}.':
    '这个模型上的适配器应有 {1} 个张量，但收到 {2} 个：{3}。',
  '{1} missing ({2})': '缺少 {1} 个（{2}）',
  '{1} unknown ({2})': '未知的有 {1} 个（{2}）',
  '{1} of another shape ({2})': '形状不同的有 {1} 个（{2}）',
  '{1}, and {2} more': '{1}，以及另外 {2} 个',
  'The adapter belongs to another base model, or the file was edited: give the model it was trained on.':
    '适配器属于另一个基座模型，或文件被改动过：请给出训练它时的模型。',
  'Expected a manifest of format 1 or 2 for minicpm_manifest.json but it cannot be read.':
    'minicpm_manifest.json 应为格式 1 或 2 的清单，但无法读取。',
  'Remove the file to load the adapter unchecked, or copy the adapter again.':
    '请删除该文件以不经检查地加载适配器，或重新复制适配器。',
  'Expected the checksum of minicpm_manifest.json for the tensor {1} but the data differ.':
    '张量 {1} 的校验和应与 minicpm_manifest.json 一致，但数据不同。',
  'The file is damaged or was edited: copy it again, or remove minicpm_manifest.json if it was edited on purpose.':
    '文件已损坏或被改动过：请重新复制；如果是有意改动，请删除 minicpm_manifest.json。',
  'Expected modules_to_save to name modules of the model but received {1}.':
    'modules_to_save 应为模型中的模块名，但收到 {1}。',
  'Names are such as {1}.': '名称例如 {1}。',
  '{1}. Write it as JavaScript does, or give a list of names.': '{1}。请按 JavaScript 的写法，或给出名称列表。',
  'Expected layers_to_transform to select layers of the model but received {1}.':
    'layers_to_transform 应选中模型中的层，但收到 {1}。',
  'Layers are numbered {1}.': '层的编号：{1}。',
  'not at all in these modules': '这些模块没有编号',
  'A pattern has to match the whole name; names are such as {1}.': '模式必须匹配完整的名称；名称例如 {1}。',
  'A name is whole, or its last parts; names are such as {1}.': '名称可以是完整的，也可以是其结尾部分；名称例如 {1}。',
  '{1} lies in a module of modules_to_save, which trains whole: take that out, or choose other targets.':
    '{1} 位于 modules_to_save 的模块中，该模块整体训练：请去掉它，或选择其他目标。',
  'PEFT would not apply an adapter on {1}: name resampler in --lora_modules_to_save to train it whole.':
    'PEFT 不会在 {1} 上使用适配器：请在 --lora_modules_to_save 中写 resampler，整体训练它。',
  '{1} is {2}: name it in --lora_modules_to_save to train it whole. Linear layers are such as {3}.':
    '{1} {2}：请在 --lora_modules_to_save 中写出它，整体训练。线性层例如 {3}。',
  'an embedding': '是嵌入层',
  'no linear layer': '不是线性层',
  'Expected target_modules to match linear layers but {1} matches none.':
    'target_modules 应匹配线性层，但 {1} 没有匹配任何一个。',
  'It is no linear layer outside of modules_to_save and layers_to_transform.':
    '在 modules_to_save 和 layers_to_transform 允许的范围内，它不是线性层。',
  'Expected at least one adapter to merge but received none.': '至少应给出一个要合并的适配器，但没有收到。',
  'Give the folder of an adapter.': '请给出适配器的目录。',
  'Expected a new or empty folder for {1} but received one with files.':
    '{1}应写入新目录或空目录，但收到的目录里有文件。',
  'Expected a new or empty folder for {1} but received the root of a disk.':
    '{1}应写入新目录或空目录，但收到的是一个磁盘的根目录。',
  'Give a folder inside it.': '请给出其中的一个目录。',
  'Expected {1} for {2} in {3} but the disk is full: {4} free.': '{3} 应有 {1} 来保存{2}，但磁盘已满：剩余 {4}。',
  'Expected room for {1} in {2} but the disk is full: {3} free.': '{2} 应有空间来保存{1}，但磁盘已满：剩余 {3}。',
  'Free some space, or give a folder on another disk.': '请释放一些空间，或给出另一个磁盘上的目录。',
  'Expected a new or empty folder for {1} but received a file.': '{1}应写入新目录或空目录，但收到的是文件。',
  'Give a folder.': '请给出一个目录。',
  'the merged model': '合并后的模型',
  'Give another folder, or empty this one.': '请换一个目录，或清空这个目录。',
  "Expected the merged model to compute the adapters' logits within {1} but they differ by {2} of the largest.":
    '合并后的模型算出的 logits 与适配器的差应在 {1} 以内，但相对最大值相差 {2}。',
  'Save in float32, or keep the adapter beside its base.': '请以 float32 保存，或保留适配器与基座模型，不合并。',

  // Answers
  'Expected {1} for the prompt but received {2} tokens.': '提示应有{1}，但收到 {2} 个词元。',
  'at least one token': '至少一个词元',
  "fewer than the model's {1} positions": '少于模型 {1} 个位置的词元',
  'Ask something shorter, or give --max_slice_nums a smaller number.': '请缩短问题，或给 --max_slice_nums 更小的值。',
  'Expected numbers for the scores of the next token but received NaN.': '下一个词元的分数应为数值，但收到 NaN。',
  'The weights hold NaN, or float16 overflows: try --dtype float32, then an earlier checkpoint.':
    '权重中有 NaN，或 float16 溢出：请先试 --dtype float32，再试更早的检查点。',

  // Folders that are no checkpoint; quantized checkpoints.
  'Expected the folder of a checkpoint for {1} but received {2}.': '{1} 应为检查点的目录，但收到{2}。',
  '{1}, which does not exist': '不存在的 {1}',
  'the file {1}': '文件 {1}',
  'the file {1}, {2}': '文件 {1}（{2}）',
  'that of an adapter, {1}': '适配器的目录 {1}',
  '{1}, which holds other checkpoints': '{1}（其中有其他检查点）',
  '{1}, which holds {2} of llama.cpp': '{1}（其中有 llama.cpp 的 {2}）',
  '{1}, which has no config.json: it is empty': '没有 config.json 的空目录 {1}',
  '{1}, which has no config.json': '没有 config.json 的 {1}',
  'Give it as --adapter, and its base as {1}.': '请用 --adapter 给出它，用 {1} 给出它的基座模型。',
  'Give it as --adapter, and its base as {1}: {2}.': '请用 --adapter 给出它，用 {1} 给出它的基座模型：{2}。',
  "Give the adapter's base as {1}.": '请用 {1} 给出适配器的基座模型。',
  "Give the adapter's base as {1}: {2}.": '请用 {1} 给出适配器的基座模型：{2}。',
  "Give the adapter's base as {1}, or continue it with --lora_weight_path {2} beside it.":
    '请用 {1} 给出适配器的基座模型；如果要继续训练它，再加上 --lora_weight_path {2}。',
  "Give the adapter's base as {1}: {2}, or continue it with --lora_weight_path {3} beside it.":
    '请用 {1} 给出适配器的基座模型：{2}；如果要继续训练它，再加上 --lora_weight_path {3}。',
  "the model's config.json": '模型的 config.json',
  'the tokenizer': '分词器',
  'the chat template': '对话模板',
  'Expected unquantized weights for the model but received a checkpoint in {1} (quantization_config).':
    '模型的权重应未经量化，但收到的检查点为 {1}（quantization_config）。',
  'Start from the unquantized model; --q_lora keeps it in 4 bits.': '请从未量化的模型开始；--q_lora 会以 4 位保存它。',
  'an unknown method': '未知方法',
  'int{1} of {2}': '{2} 的 int{1}',
  'the quantization of {1}': '{1} 的量化',
  'Expected a tokenizer of at most {1} tokens, the vocab_size of config.json, but received one of {2}.':
    '分词器最多应有 {1} 个词元（config.json 的 vocab_size），但收到的有 {2} 个。',
  'Tokenizer and model belong to different checkpoints: use the tokenizer files that the weights were published with.':
    '分词器和模型属于不同的检查点：请使用与权重一同发布的分词器文件。',
  'Expected weights in {1} but received {2}.': '{1} 应为权重，但收到{2}。',
  'Only safetensors are read, and {1} is a pickle, which can run code.':
    '只读取 safetensors，而 {1} 是 pickle，可能会运行代码。',
  'The weights are quantized by {1}: start from the unquantized model; --q_lora keeps it in 4 bits.':
    '权重已用 {1} 量化：请从未量化的模型开始；--q_lora 会以 4 位保存它。',
  'GPTQ or AWQ': 'GPTQ 或 AWQ',
};
