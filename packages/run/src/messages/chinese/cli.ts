/** Chinese for the command line. Unknown words, hints of failures, doctor, chat, generate, merge. */
import type { Messages } from '../translator.js';

export const CLI: Messages = {
  // Words that are not understood.
  'Expected a command but received {1}.': '应为一个命令，但收到 {1}。',
  'Write the command first: {1}': '请先写命令：{1}',
  'a command': '一个命令',
  'The commands are {1}.': '可用的命令：{1}。',
  'Expected a flag but received {1}.': '应为一个参数，但收到 {1}。',
  'Write its flag before it, and quote values with spaces.': '请在它前面写上参数名；含空格的值请加引号。',
  '`minicpm-finetune {1} --help` lists all flags.': '`minicpm-finetune {1} --help` 列出全部参数。',
  'See --help.': '请看 --help。',
  'a known flag': '已知的参数',
  'a known key for {1}': '{1}的已知键',
  'command line': '命令行',
  'Keys are the flags of `minicpm-finetune train --help` without dashes.':
    '键名就是 `minicpm-finetune train --help` 中的参数名，不带短横线。',
  'It is called {1} here.': '这里称为 {1}。',
  'Write {1} instead.': '请改写为 {1}。',
  'Write --lang en or --lang zh.': '请写 --lang en 或 --lang zh。',
  'Give it as {1} <{2}>.': '请这样给出：{1} <{2}>。',
  'Give it as {1} <{2}>, or in a recipe.': '请这样给出：{1} <{2}>，或写在配置文件里。',

  // Hints of failures.
  'The disk is full. Free some space, or write to another one.':
    '磁盘已满。请腾出空间，或用 --output_dir 写到别的磁盘。',
  'The file or folder may not be written or read. Check its permissions.': '文件或目录无法读写。请检查权限。',
  'Too many files are open. Raise the limit (`ulimit -n 4096`).': '打开的文件太多。请提高上限（`ulimit -n 4096`）。',
  'Run what the message above names.': '请运行上面信息中给出的命令。',
  'Something is not built or installed. Run `npm run setup` in a clone, `npm install` in a project that uses the package.':
    '有部分没有构建或安装。在克隆的仓库里请运行 `npm run setup`；在使用本包的项目里请运行 `npm install`。',
  'Memory ran out. Try --gradient_checkpointing, a smaller --per_device_train_batch_size with more --gradient_accumulation_steps, a smaller --model_max_length or --max_slice_nums, or --use_lora.':
    '内存不足。请尝试 --gradient_checkpointing、更小的 --per_device_train_batch_size 配合更大的 --gradient_accumulation_steps、更小的 --model_max_length 或 --max_slice_nums，或使用 --use_lora。',
  'This is an unexpected error. If it happens again, please report it with the command line and the lines above.':
    '这是意外错误。如果再次出现，请附上命令行和以上内容报告给我们。',
  'Stopping: this step is finished first. Once more ends at once, without saving.':
    '正在停止：先完成当前这一步。再按一次立即结束，不保存。',

  // doctor
  ok: '正常',
  note: '注意',
  missing: '缺少',
  'processor: {1}': '处理器：{1}',
  'memory: {1}': '内存：{1}',
  'compiler: {1}': '编译器：{1}',
  'devices: {1}': '设备：{1}',
  'threads: {1}': '线程：{1}',
  'disk of the run folder: {1}': '运行目录所在磁盘：{1}',
  'disk of the Hugging Face cache: {1}': 'Hugging Face 缓存所在磁盘：{1}',
  'matmul {1}: {2}': '矩阵乘法 {1}：{2}',
  'Node: {1}': 'Node：{1}',
  'libtorch: {1}': 'libtorch：{1}',
  'unknown processor': '未知处理器',
  '{1}, {2} usable cores': '{1}，可用核心 {2} 个',
  '{1}, {2} free': '{1}，空闲 {2}',
  '{1} free in {2}': '{2} 有 {1} 空闲',
  '{1} on {2} {3}, {4}': '{1}，{2} {3}，{4}',
  '{1} for one operator': '每个算子 {1} 个',
  '{1} GFLOP/s on {2}': '{2} 上 {1} GFLOP/s',
  'Install Node {1} or newer.': '请安装 Node {1} 或更新的版本。',
  'Close other programs, or use --use_lora, --gradient_checkpointing and small batches.':
    '请关闭其他程序，或使用 --use_lora、--gradient_checkpointing 和较小的批次。',
  'Full checkpoints take 16 bytes per parameter; free some space.':
    '全参数训练的检查点每个参数占 16 字节；请腾出一些空间。',
  'Needed only to compile the addon: install one, such as `apt install g++` or the Xcode command line tools.':
    '只有编译原生部分时才需要：请安装一个，例如 `apt install g++` 或 Xcode 命令行工具。',
  '{1} does not run': '{1} 无法运行',
  '{1}; {2} is not used': '{1}；没有使用 {2}',
  'libtorch was built for the CPU alone. Set-up fetches a CUDA build when neither LIBTORCH nor a Python torch is there: unset or uninstall that one (or replace it by a CUDA build) and run set-up again.':
    '这个 libtorch 只支持 CPU。没有 LIBTORCH 也没有 Python 的 torch 时，安装过程会下载 CUDA 版：请取消或卸载现有的那个（或换成 CUDA 版），然后重新安装。',

  // chat
  'Write a question and press Enter. Also:': '输入问题后按回车。也可以：',
  '/image PATH   show a picture with the next question (any number of times)':
    '/image 路径   在下一个问题中展示图片（可多次使用）',
  '/video PATH   show a video, a file or a folder of frames, likewise':
    '/video PATH   随下一个问题展示视频：文件或帧目录（同样可多次）',
  '/reset        forget the conversation, its pictures and videos': '/reset        忘掉当前对话及其中的图片和视频',
  '/quit         end; Ctrl-D and Ctrl-C do, too (Ctrl-C during an answer ends the answer)':
    '/quit         结束；Ctrl-D 和 Ctrl-C 也可以（回答过程中按 Ctrl-C 则结束这次回答）',
  'Forgotten.': '已忘掉。',
  'There is no {1}.': '没有 {1} 这个命令。',
  'There is no file {1}.': '没有文件 {1}。',
  '/image needs the path of a picture.': '/image 需要图片的路径。',
  '/video needs the path of a video.': '/video 需要视频的路径。',
  'the path of a picture': '图片的路径',
  'No such file or folder: check the path.': '没有这个文件或目录：请检查路径。',
  'Expected a chat template with think blocks for --enable_thinking true but received one of {1} without them.':
    '--enable_thinking true 需要有思考块的对话模板，但 {1} 的模板没有思考块。',
  'Leave it out, or take MiniCPM-V 4.5, 4.6 or 4.7 or MiniCPM-o 4.5 with the chat template that they come with.':
    '请去掉它，或使用带有原对话模板的 MiniCPM-V 4.5、4.6、4.7 或 MiniCPM-o 4.5。',
  'One picture for the next question.': '下一个问题附带 1 张图片。',
  '{1} pictures for the next question.': '下一个问题附带 {1} 张图片。',
  'One video for the next question.': '下一个问题附带 1 个视频。',
  '{1} videos for the next question.': '下一个问题附带 {1} 个视频。',
  'Take --dtype bfloat16, a smaller --max_slice_nums or --max_new_tokens, or --device cpu.':
    '请使用 --dtype bfloat16、更小的 --max_slice_nums 或 --max_new_tokens，或 --device cpu。',

  // generate, merge
  '{1} answers in {2}.': '{2} 中有 {1} 个回答。',
  '{1} answers in {2}, {3} of them by an earlier run.': '{2} 中有 {1} 个回答，其中 {3} 个来自先前的运行。',
  'Take a smaller --batch_size, --dtype bfloat16, a smaller --max_slice_nums or --max_new_tokens, or --device cpu.':
    '请使用更小的 --batch_size、--dtype bfloat16、更小的 --max_slice_nums 或 --max_new_tokens，或 --device cpu。',
  'Delete the line: its record is then asked again.': '请删除这一行：对应的记录会重新提问。',
  '{1} tensors in {2}, {3} of them changed.': '{2} 中有 {1} 个张量，其中 {3} 个有改动。',
  'Their logits differ from those of base and adapter by at most {1} of the largest.':
    '其 logits 与基座模型加适配器的结果相比，相对最大值的差不超过 {1}。',
};
