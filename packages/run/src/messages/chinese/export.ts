/** Chinese for the command export. */
import type { Messages } from '../translator.js';

export const EXPORT: Messages = {
  '{1}: tensor {2}: Expected a range of its {3} bytes but received {4} from {5}':
    '{1}：张量 {2}：应为其 {3} 字节中的一段，但收到从 {5} 开始的 {4} 字节',
  'llama.cpp writes a new line between rows of slices; the training, whose tokenizer puts a space in front of it, two tokens: pictures that are cut into more than one row have other prompts there.':
    'llama.cpp 在切片的行之间写一个换行；训练的分词器会在前面加空格，得到两个词元：切成多行的图片在那里提示词不同。',
  'Expected a linear_value_head_dim equal to linear_key_head_dim {1}, as llama.cpp has one size for both, but received {2}.':
    'llama.cpp 对两者只有一个大小：linear_value_head_dim 应等于 linear_key_head_dim {1}，但收到 {2}。',
  'Expected layer_types with one full_attention after equally many linear_attention each, as llama.cpp has them, but received {1}.':
    'llama.cpp 要求 layer_types 中每隔同样多的 linear_attention 有一个 full_attention，但收到 {1}。',
  'llama.cpp gives the tokens of pictures other positions than {1} was trained with: answers about pictures differ there from those of chat and serve. Answers about text do not.':
    'llama.cpp 给图片词元的位置与 {1} 训练时不同：在那里关于图片的回答与 chat 和 serve 不同；关于文本的回答相同。',
  'Give --format safetensors, which vLLM, SGLang and transformers take.':
    '请给出 --format safetensors，vLLM、SGLang 和 transformers 都能读取。',
  'llama.cpp does not read videos as {1} was trained with them: frames are pictures there.':
    'llama.cpp 不按 {1} 训练的方式读取视频：在那里帧只是图片。',
  '{1}: The file became shorter while it was read.': '{1}：读取时文件变短了。',
  '{1} has no {2}: vLLM and SGLang need these files. Copy them from the published model into {3}.':
    '{1} 没有 {2}：vLLM 和 SGLang 需要这些文件。请从发布的模型复制到 {3}。',
  'the exported model': '导出的模型',
  'the exported adapter': '导出的适配器',
  'Expected an adapter without DoRA, which servers of adapters refuse, but {1} has it.':
    '应为不带 DoRA 的适配器（适配器服务器不接受 DoRA），但 {1} 带有 DoRA。',
  'Leave --lora out: the adapter is then merged.': '请去掉 --lora：适配器会被合并。',
  'Expected low-rank parts alone, as servers of adapters take them, but {1} has modules that were trained whole: {2}.':
    '适配器服务器只接受低秩部分，但 {1} 含有整体训练的模块：{2}。',
  'Leave --lora out: the adapter is then merged. Or give --strip_modules_to_save, which changes the answers.':
    '请去掉 --lora：适配器会被合并。或给出 --strip_modules_to_save，但回答会改变。',
  'Leave --lora out: the adapter is then merged, and the files have all of it.':
    '请去掉 --lora：适配器会被合并，文件中包含它的全部内容。',
  'Expected an adapter without DoRA for a LoRA file of llama.cpp, which has no magnitudes, but {1} has use_dora true.':
    'llama.cpp 的 LoRA 文件没有幅度，适配器应不带 DoRA，但 {1} 的 use_dora 为 true。',
  'Expected low-rank parts alone for a LoRA file of llama.cpp but the adapter {1} has modules that were trained whole: {2}.':
    'llama.cpp 的 LoRA 文件只能有低秩部分，但适配器 {1} 含有整体训练的模块：{2}。',
  'Expected an adapter on the language model alone for a LoRA file of llama.cpp but {1} has low-rank parts on {2}.':
    'llama.cpp 的 LoRA 文件只能用于语言模型，但 {1} 在 {2} 上有低秩部分。',
  'llama.cpp does not read the vision tower of {1}: the file answers text alone. For pictures use serve, or vLLM with --format safetensors.':
    'llama.cpp 不读取 {1} 的视觉塔：该文件只能回答文本。图片请用 serve，或以 --format safetensors 导出后用 vLLM。',
  'llama.cpp gives the patches of a picture two-dimensional positions; {1} was trained as published, with every picture as one row of patches: answers about pictures are worse there than with chat or serve.':
    'llama.cpp 给图片块二维位置；{1} 按发布的代码训练，每张图片是一行图片块：在 llama.cpp 中关于图片的回答比 chat 或 serve 差。',
  'llama.cpp cuts pictures into at most {1} slices, the training into at most {2}: large pictures get more tokens there than they were trained with. Make pictures smaller before you send them.':
    'llama.cpp 把图片最多切成 {1} 片，训练时最多 {2} 片：大图在那里的词元数与训练不同。请先缩小图片再发送。',
  'llama.cpp cuts large pictures into slices; the model was trained without slices.':
    'llama.cpp 会把大图切片；该模型训练时不切片。',
  'llama.cpp cuts a picture into slices if one of its sides is longer than {1} pixels, the training if its area is larger than that of a square of this side: long pictures have more tokens there. It stretches smaller pictures to that square, and resizes with other filters. Squares of this side, and of twice or three times it, are read alike.':
    'llama.cpp 在图片某一边超过 {1} 像素时切片，训练则在面积超过以此为边的正方形时切片：长图在那里有更多词元。它把较小的图片拉伸为该正方形，并用其他滤波器缩放。边长为此值或其两倍、三倍的正方形图片读法相同。',
  'llama.cpp chooses the long rotary factors if the context size (-c) is larger than {1}, transformers if the text is longer: give a larger -c only for longer texts.':
    'llama.cpp 在上下文大小（-c）超过 {1} 时使用长旋转因子，transformers 则在文本超过时使用：只有文本更长时才给更大的 -c。',
  "Expected a hidden_size that is a multiple of {1}, which llama.cpp's resampler needs, but received {2}.":
    'hidden_size 应为 {1} 的倍数（llama.cpp 的重采样器需要），但收到 {2}。',
  'the message ends within a field': '消息在字段中间结束',
  'Use the tokenizer files that the weights were published with.': '请使用与权重一起发布的分词器文件。',
  'llama.cpp does not normalise text (Unicode NFC) as this tokenizer does: text with combining characters gets other tokens there.':
    'llama.cpp 不像该分词器那样规范化文本（Unicode NFC）：含组合字符的文本在那里得到其他词元。',
  'Expected a SentencePiece model but received a damaged file: {1}.': '应为 SentencePiece 模型，但文件已损坏：{1}。',
  'Expected tokens of different texts for llama.cpp but received {1} as the tokens {2} and {3}.':
    'llama.cpp 要求各词元的文本不同，但 {1} 同时是词元 {2} 和 {3}。',
  'Expected finite numbers in {1} but received {2}.': '{1} 中应为有限数值，但收到 {2}。',
  'The weights are damaged: export an earlier checkpoint.': '权重已损坏：请导出更早的检查点。',
  'Expected numbers of at most {1} in {2} for {3} but received {4}.': '{2} 以 {3} 保存时数值最大为 {1}，但收到 {4}。',
  'Give --outtype bf16 or f32.': '请给出 --outtype bf16 或 f32。',
  'Expected the written file to be read back as it was written but {1} differs.':
    '读回的文件应与写入的相同，但 {1} 不同。',
  'The disk or its file system may be damaged: export to another disk.':
    '磁盘或其文件系统可能已损坏：请导出到另一个磁盘。',
  'its header': '文件头',
  'its size': '文件大小',
  '--format gguf': '--format gguf',
  'a model, not with --lora: adapters are written in float32': '模型，不与 --lora 一起：适配器以 float32 写出',
  '--format safetensors, without --lora': '--format safetensors，且不带 --lora',
  '--lora --format safetensors': '--lora --format safetensors',
  'Expected one --adapter for --lora but received {1}.': '--lora 应有一个 --adapter，但收到 {1} 个。',
  'Give one adapter, or leave --lora out: all are merged then.':
    '请给出一个适配器，或去掉 --lora：那样会合并全部适配器。',
  'Expected --{1} only with {2}.': '--{1} 只能与 {2} 一起使用。',
  'Leave it out.': '请去掉它。',
  Exporting: '正在导出',
  '{1}: {2}, written and read back.': '{1}：{2}，已写入并读回。',
  'Run it with llama.cpp:': '用 llama.cpp 运行：',
  'Or with Ollama:': '或用 Ollama：',
  'Run it with llama.cpp, on the GGUF files of its base:': '用 llama.cpp 运行，配合其基座的 GGUF 文件：',
  '{1} tensors in {2}, {3} of them changed by adapters.': '{2} 中有 {1} 个张量，其中 {3} 个被适配器改变。',
  'Run it with vLLM or SGLang:': '用 vLLM 或 SGLang 运行：',
  '{1} tensors of low-rank parts in {2}.': '{2} 中有 {1} 个低秩部分的张量。',
  'Run it with vLLM:': '用 vLLM 运行：',
  "{1} tensors that were trained whole are left out: {2}. The server's answers are not those of the adapter; without --lora they are.":
    '{1} 个整体训练的张量被去掉：{2}。服务器的回答与适配器的不同；去掉 --lora 则相同。',
};
