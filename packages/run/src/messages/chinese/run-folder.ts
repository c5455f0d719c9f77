/** Chinese for the run folder. Owners, --dry_run, and the end of a run. */
import type { Messages } from '../translator.js';

export const RUN_FOLDER: Messages = {
  // The run folder.
  'THE RUN FOLDER WAS REMOVED: {1} is made again, with what is saved from now on.':
    '运行目录被删除了：{1} 已重新创建，保存此后的内容。',
  'THE FIRST STEP IS NOT RECORDED in {1}: {2}. The run goes on.': '第一步没有记入 {1}：{2}。训练继续。',
  'left in place, because someone changed it: {1}': '保留不动，因为被改动过：{1}',
  'there is no folder {1}: a start would download the model of that name from the hub.':
    '没有目录 {1}：正式运行时会从 Hub 下载同名模型。',
  'Name another folder.': '请换一个目录。',
  'Expected a folder for {1} but received {2}, which is a file.': '{1} 应为目录，但收到的 {2} 是文件。',
  'Expected a folder that can be written for {1} but received {2}: {3}.': '{1} 应为可写的目录，但收到 {2}：{3}。',
  'Check its permissions, or name another folder.': '请检查其权限，或换一个目录。',
  'Expected a folder of its own for --output_dir but received {1}, which is that of {2} {3}.':
    '--output_dir 应为单独的目录，但收到的 {1} 就是 {2} {3} 的目录。',
  'Name another folder, which may be a new one inside of it: a run never writes over the weights that it starts from.':
    '请换一个目录，也可以是其中的新目录：训练绝不覆盖它所用的初始权重。',
  'Expected a folder without the model for --output_dir but received {1}, which holds {2} {3}.':
    '--output_dir 的目录中不应有模型，但收到的 {1} 中有 {2} {3}。',
  'Name another output folder, or leave out --overwrite_output_dir.':
    '请换一个输出目录，或不用 --overwrite_output_dir。',
  'Expected files of its own for {1} but {2} belongs to the earlier run in {3}, which would be removed.':
    '{1} 应使用单独的文件，但 {2} 属于 {3} 中先前的运行，会被删除。',
  'Name another output folder, or copy the file to another place.': '请换一个输出目录，或把该文件复制到别处。',
  'Expected a run that lists its files for --overwrite_output_dir but received {1}, whose run of an earlier version has no run_files.jsonl: nobody can tell whose {2} are.':
    '--overwrite_output_dir 要求先前的运行列出了它的文件，但 {1} 中的运行来自旧版本，没有 run_files.jsonl：无法判断 {2} 属于谁。',
  'Name another folder, or remove these files yourself.': '请换一个目录，或自行删除这些文件。',
  'Expected a folder for --output_dir in which nothing is replaced but received {1}, which holds {2}: this run did not write it, or it was changed since.':
    '--output_dir 中不应有会被替换的内容，但收到的 {1} 中有 {2}：它不是这次运行写的，或写出后被改动过。',
  'Expected a folder for --output_dir in which nothing is replaced but received {1}, which holds {2}: this run did not write them, or they were changed since.':
    '--output_dir 中不应有会被替换的内容，但收到的 {1} 中有 {2}：它们不是这次运行写的，或写出后被改动过。',
  'Name another folder, or move what is in the way to another place.': '请换一个目录，或把这些内容移到别处。',
  'Expected the base that {1} was trained from for --model_name_or_path but received {2}, whose config.json differs.':
    '--model_name_or_path 应为训练 {1} 时的基座模型，但收到的 {2} 的 config.json 不同。',
  'Give the base of the run, or --resume_anyway true to continue with this one.':
    '请给出该运行的基座模型，或用 --resume_anyway true 以这个模型继续。',

  'Expected pictures of its own for a record but {1} belongs to the earlier run in {2}, which would be removed.':
    '记录应有自己的图片，但 {1} 属于 {2} 中之前的运行，会被删除。',
  'Name another output folder, or copy the picture to another place and name it there.':
    '请换一个输出目录，或把图片复制到别处并使用那里的路径。',

  // --dry_run
  '--max_slice_nums and --scale_resolution: without effect: slice_mode is false in config.json, so pictures are never cut.':
    '--max_slice_nums 和 --scale_resolution：没有作用：config.json 中 slice_mode 为 false，图片从不切分。',
  'pictures are cut into {1}, the checkpoint says {2}.': '图片切分为 {1}，检查点写的是 {2}。',
  'videos are read with {1}, the checkpoint says {2}.': '视频按 {1} 读取，检查点写的是 {2}。',
  'The result says so to chat, generate, merge, render and serve.':
    '训练结果会把这一点告诉 chat、generate、merge、render 和 serve。',
  'The result says so to chat, generate, merge, render and Python.':
    '训练结果会把这一点告诉 chat、generate、merge、render 和 Python。',
  '{1} of {2} parameters train ({3} %)': '{2} 个模型参数中训练 {1} 个（{3} %）',
  'training data: {1}': '训练数据：{1}',
  'evaluation data: {1}': '评估数据：{1}',
  '{1}, {2} to {3} tokens in each, {4} on average': '{1}，每条 {2} 到 {3} 个词元，平均 {4} 个',
  'bad records, left out: {1}, the first: record {2} of {3}': '有错而略去的记录：{1} 条，第一条：{3} 的第 {2} 条记录',
  '{1} has no weights: a start would download them from the hub.': '{1} 中没有权重：开始训练时会从 hub 下载。',
  'layers, patterns, records and memory are not checked: {1} is not on this machine.':
    '没有检查层、模式、记录和内存：{1} 不在本机上。',

  // The end.
  'The trained {1} is in {2}.': '训练好的{1}在 {2}。',
  model: '模型',
  adapter: '适配器',
  'Stopped before the first step; there is nothing to save.': '在第一步之前停止；没有可保存的内容。',
  'Start again with the same command.': '请用同样的命令重新开始。',
  'Stopped after step {1}; nothing was saved.': '在第 {1} 步之后停止；没有保存任何内容。',
  'Stopped after step {1}; nothing was saved (--save_on_stop false).':
    '在第 {1} 步之后停止；没有保存任何内容（--save_on_stop false）。',
  'Start over with the same command and --overwrite_output_dir true.':
    '请用同样的命令加上 --overwrite_output_dir true 重新开始。',
  'Stopped after step {1}; {2} has everything.': '在第 {1} 步之后停止；{2} 保存了全部内容。',
  'Stopped after step {1}; the newest checkpoint is {2}, what came after it was not saved.':
    '在第 {1} 步之后停止；最新的检查点是 {2}，其后的内容没有保存。',
  'Stopped after step {1}; the newest checkpoint is {2}, what came after it was not saved (--save_on_stop false).':
    '在第 {1} 步之后停止；最新的检查点是 {2}，其后的内容没有保存（--save_on_stop false）。',
  'Resume with the same command and --resume_from_checkpoint latest, or use {1} as it is.':
    '请用同样的命令加上 --resume_from_checkpoint latest 继续，或直接使用 {1}。',
  'It has no optimizer (--save_only_model), so it cannot be resumed; use {1} as it is.':
    '其中没有优化器状态（--save_only_model），不能从它继续；请直接使用 {1}。',
  'The run in {1} is finished: all {2} steps were taken, and the trained {3} is there.':
    '{1} 中的运行已完成：全部 {2} 步都已执行，训练好的{3}也在那里。',
  'Nothing is left to do.': '没有剩下要做的。',
};
