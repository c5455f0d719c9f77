/** Chinese for what check-data, render and bench print. */
import type { Messages } from '../translator.js';

export const REPORTS: Messages = {
  // check-data
  'JSON Lines, {1} record[s] in {2}': 'JSON Lines，{1} 条记录，{2}',
  'JSON array, {1} record[s] in {2}': 'JSON 数组，{1} 条记录，{2}',
  'parquet, {1} record[s] in {2}': 'parquet，{1} 条记录，{2}',
  '{1} record[s]': '{1} 条记录',
  '{1} text-only record[s]': '{1} 条纯文本记录',
  '{1} error[s]': '{1} 个错误',
  '{1} warning[s]': '{1} 个警告',
  '{1} more error[s]': '另外 {1} 个错误',
  '{1} more warning[s]': '另外 {1} 个警告',
  '{1} image[s]': '{1} 张图片',
  '{1} checked in {2} s ({3} records/s): {4}, {5}': '{2} 秒内检查了{1}（{3} 条/秒）：{4}，{5}',
  '{1} checked in {2} s ({3} records/s, {4} images/s): {5}, {6}':
    '{2} 秒内检查了{1}（{3} 条/秒，{4} 张图片/秒）：{5}，{6}',
  'Tokens per record: min {1}, median {2}, mean {3}, 90 % up to {4}, 99 % up to {5}, max {6}':
    '每条记录的词元数：最小 {1}，中位数 {2}，平均 {3}，90 % 不超过 {4}，99 % 不超过 {5}，最大 {6}',
  '{1} to {2}': '{1} 到 {2}',
  'Supervised (what the model learns to produce): {1} of the tokens': '监督部分（模型学习产生的内容）：占词元的 {1}',
  '--model_max_length {1} holds every record; suggested: {2}': '--model_max_length {1} 容得下每条记录；建议值：{2}',
  '--model_max_length {1} is too short for {2} ({3}); suggested: {4}':
    '--model_max_length {1} 对 {2}（{3}）来说太短；建议值：{4}',
  'No images': '没有图片',
  'No images, {1}': '没有图片，{1}',
  '{1}; slices per image beside its overview:': '{1}；每张图片除缩略图外的切片数：',
  '{1}, {2}; slices per image beside its overview:': '{1}，{2}；每张图片除缩略图外的切片数：',
  '… and {1}; --json lists all of them': '……{1}；--json 列出全部',

  // render
  'tokens  role  * = learned  |text of each token|  (⇒x: learns to produce x here, not the token itself)':
    '词元  角色  * = 参与学习  |每个词元的文字|  （⇒x：此处学习产生的是 x，而不是该词元本身）',
  'No difference: the same tokens, all learned alike, {1}.': '没有差别：词元相同，学习的部分相同，{1}。',
  'Differences ({1}):': '差别（{1}）：',
  'the same pixels': '像素相同',
  'other pixels': '像素不同',
  '--compat {1}: {2} tokens, {3} learned, {4}': '--compat {1}：{2} 个词元，其中 {3} 个参与学习，{4}',
  'no pictures': '没有图片',
  '{1} pictures ({2})': '{1} 张图片（{2}）',
  '[{1} features of a picture]': '[图片的 {1} 个特征]',
  'the record has no pictures; {1} is not written': '这条记录没有图片；不写 {1}',
  '{1} pictures written to {2}': '{1} 张图片已写入 {2}',
  'Expected a record below {1} for --record but received {2}.': '--record 应小于 {1}，但收到 {2}。',
  'Records are counted from 0.': '记录从 0 开始编号。',
  'an integer from 0 to {1}': '0 到 {1} 的整数',
  'a list of at most {1} numbers': '最多 {1} 个数的列表',
  'a request': '请求',
  'the key {1} of a request': '请求的键 {1}',

  // bench
  'A step, mean of {1}:': '每步用时（{1} 步平均）：',
  'in all': '合计',
  'Speed: {1} samples/s, {2} tokens/s': '速度：{1} 样本/秒，{2} 词元/秒',
  'Blocks of the language model: {1} = {2} % of the {3} of plain matrix products':
    '语言模型各块：{1}，为单纯矩阵乘法 {3} 的 {2} %',
  'Memory, each at its highest:': '内存（各自的最高值）：',
  'vision forward': '视觉前向',
  'vision recompute': '视觉重计算',
  'vision backward': '视觉反向',
  'language forward': '语言前向',
  'language recompute': '语言重计算',
  'language backward': '语言反向',
  'gradient norm': '梯度范数',
  'all tensors but mapped weights': '除映射权重外的全部张量',
  'all tensors on {1}': '{1} 上的全部张量',
  'the whole process': '整个进程',
  'stopped before a step was counted: there are no figures.': '在计入第一步之前就停止了：没有数据。',
};
