/** Chinese for checks before the first step. And for data that change. */
import type { Messages } from '../translator.js';

export const SAME_DATA: Messages = {
  // Bad records.
  'Repair or remove the record.': '请修正或删除这条记录。',
  '{1} Or leave bad records out with --on_bad_record skip. check-data lists all of them.':
    '{1}也可以用 --on_bad_record skip 跳过坏记录。check-data 会列出全部坏记录。',

  // Checks before the first step.
  'The pictures of {1} records are decoded beside the training; --preflight full decodes them before the first step.':
    '有 {1} 条记录的图片在训练的同时解码；--preflight full 会在第一步之前解码它们。',
  'What was checked of the data cannot be remembered in {1}: {2}.': '无法在 {1} 中记住对数据的检查结果：{2}。',
  'The next start checks it again.': '下次启动会重新检查。',

  // A data file that changes during a run.
  'Expected the data file as when it was opened but it cannot be read any more: {1}.':
    '应为打开时的数据文件，但已无法读取：{1}。',
  'Put the file back as it was.': '请恢复该文件。',
  'Expected the data file as when it was opened ({1} bytes) but received another content: it was changed meanwhile.':
    '应为打开时的数据文件（{1} 字节），但内容已不同：它在运行期间被修改。',
  'Expected the data file as when it was opened ({1} bytes) but received {2} bytes: it was changed meanwhile.':
    '应为打开时的数据文件（{1} 字节），但实际为 {2} 字节：它在运行期间被修改。',
  'Put the file back as it was, and do not change it during a run: write a new version under another name.':
    '请恢复该文件，运行期间不要修改它：新版本请写到另一个文件名下。',

  // The data of a resumed run.
  '{1} no step has used yet changed since the checkpoint, the first: record {2} of {3}.':
    '自检查点以来，{1}尚未使用的数据有变化，第一条是 {3} 的第 {2} 条记录。',
  'They are used as they are now.': '将按现在的内容使用。',
  '1 record that': '1 条记录',
  '{1} records that': '{1} 条记录',
  '{1} data files': '{1} 个数据文件',
  'Expected {1} for --data_path, as when the checkpoint was saved, but received {2}.':
    '--data_path 应与保存检查点时一样为 {1}，实际为 {2}。',
  'Give the same data files in the same order, with as many records: repair a bad record in its place instead of removing it.':
    '请按相同顺序给出相同的数据文件，记录数也相同：坏记录请原地修正，不要删除。',
  'Or give --resume_anyway true to continue with other data.': '或用 --resume_anyway true 以其他数据继续。',
  'Expected the records the checkpoint was trained on for --data_path but received another content for {1} a step has used.':
    '--data_path 应为该检查点训练所用的记录，但已使用过的数据中有{1}内容不同。',
  'Give the data as they were (records that were not used yet may be repaired), or --resume_anyway true to continue with other data.':
    '请给出原来的数据（尚未使用的记录可以修正），或用 --resume_anyway true 以其他数据继续。',
  'Comparing pictures': '比较图片',

  // A run that fails saves first.
  'The run fails.': '运行失败。',
  'The step before it is saved in {1}.': '此前的 1 步已保存在 {1}。',
  'The {1} steps before it are saved in {2}.': '此前的 {1} 步已保存在 {2}。',
  'It has no optimizer (--save_only_model), so it cannot be resumed.':
    '其中没有优化器状态（--save_only_model），不能从它继续。',
  'Resume with the same command and --resume_from_checkpoint latest.':
    '请用同样的命令加上 --resume_from_checkpoint latest 继续。',
  'Resume with the same command and --resume_from_checkpoint latest, with the record repaired in its place or with --on_bad_record skip.':
    '请用同样的命令加上 --resume_from_checkpoint latest 继续：原地修正该记录，或加上 --on_bad_record skip。',
};
