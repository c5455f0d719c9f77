/** Chinese for preference tuning. Records, references, metrics, checks. */
import type { Messages } from '../translator.js';

export const PREFERENCE: Messages = {
  // The training line.
  'accuracy {1}': '准确率 {1}',
  'margin {1}': '奖励差 {1}',
  'chosen {1}': '选中奖励 {1}',

  // Flags.
  '--compat inference': '--compat inference',
  'The official code knows no pairs: leave --compat out.': '官方代码不支持回答对：请去掉 --compat。',
  'no --neftune_noise_alpha': '不带 --neftune_noise_alpha',
  'Noise would be a difference from the reference: leave it out.': '噪声会造成与参考模型的差异：请去掉它。',
  'Copies of offloaded weights would be on the device: give --precompute_ref true, or leave --offload_params out.':
    '已卸载权重的副本会占用设备：请使用 --precompute_ref true，或去掉 --offload_params。',
  'preference {1}': 'preference 为 {1}',

  // Records.
  'Expected at most {1} tokens for both answers of a record, but nothing to learn is left of one of them when it is cut.':
    '一条记录的两个回答应不超过 {1} 个词元，但截断后其中一个没有可学习的内容。',
  'Raise --model_max_length, or shorten what comes before the answers.':
    '请增大 --model_max_length，或缩短回答之前的内容。',
  'the key label of a record': '记录的键 label',
  'the key {1} of a record': '记录的键 {1}',
  'Write true for an answer that is good, false for one that is bad.': '好的回答写 true，坏的回答写 false。',
  'Expected the key {1} beside {2} of a record but received none.': '记录中除 {2} 外还应有键 {1}，但没有。',
  'Write both answers, or remove the record.': '请写出两个回答，或删除该记录。',
  'Write the answer as text, or as a turn of the assistant.': '请把回答写成文本，或写成 assistant 的一轮。',
  'an answer': '一个回答',
  'Remove the record: nothing can be learned from it.': '请删除该记录：从中学不到任何东西。',
  'Expected two different answers in a record but chosen and rejected are the same: {1}.':
    '一条记录应有两个不同的回答，但 chosen 与 rejected 相同：{1}。',
  'Expected text for the chosen answer of a record but received {1}.': '记录的选中回答应为文本，但收到 {1}。',
  'Expected text for the rejected answer of a record but received {1}.': '记录的拒绝回答应为文本，但收到 {1}。',
  'Expected an answer to learn for a record but received answers to compare, by the key {1}.':
    '记录应含有要学习的回答，但由键 {1} 得到的是要比较的回答。',
  'Give --preference dpo (or kto, for answers called good or bad), or remove {1}.':
    '请使用 --preference dpo（标为好或坏的单个回答用 kto），或删除 {1}。',
  'Expected true or false under the key label for a record of --preference kto but received neither.':
    '--preference kto 的记录应在键 label 下写 true 或 false，但两者都没有。',
  'Write "label": true for an answer that is good, false for one that is bad; pairs are for --preference dpo.':
    '好的回答写 "label": true，坏的写 false；回答对用于 --preference dpo。',
  'Expected a rejected answer for a record of --preference {1} but received none.':
    '--preference {1} 的记录应有被拒绝的回答，但没有。',
  'Write "rejected" beside the conversation, or "chosen" and "rejected" beside a prompt; answers called good or bad are for --preference kto.':
    '请在对话旁写 "rejected"，或在 prompt 旁写 "chosen" 和 "rejected"；标为好或坏的单个回答用于 --preference kto。',
  'Both answers of a pair are about the same video, under the key video or videos: remove {1}, or the record.':
    '一对回答针对同一个视频，写在键 video 或 videos 下：请删除 {1}，或删除该记录。',
  'Rename {1} to rejected or chosen, with --preference; or remove it.':
    '请把 {1} 改名为 rejected 或 chosen，并使用 --preference；或删除它。',
  'Expected at least 2 records for --preference kto but received 1.':
    '--preference kto 至少需要 2 条记录，但只有 1 条。',
  'KTO compares each answer with an answer to another question: add records.':
    'KTO 把每个回答与另一个问题的回答比较：请增加记录。',
  'The prompts of the two answers differ: each is computed with its own, and the pictures twice.':
    '两个回答的提示不同：各用各的提示计算，图片计算两次。',

  // The reference.
  'Expected the record as it was when its log-probabilities under the reference were computed but it was not there then.':
    '记录应与计算参考模型对数概率时相同，但当时还没有它。',
  'Expected the record as it was when its log-probabilities under the reference were computed but it had other pictures then.':
    '记录应与计算参考模型对数概率时相同，但当时它的图片不同。',
  'Start the training again: what was changed is computed again then.': '请重新启动训练：改动的部分会重新计算。',
  'The reference is the base with the adapters off, with a copy of what else trains ({1}).':
    '参考模型是关闭适配器的基础模型，另加其余训练参数的副本（{1}）。',
  'The reference is the base with the adapters off.': '参考模型是关闭适配器的基础模型。',
  'The reference is a copy of what trains as it was before the first step ({1}).':
    '参考模型是训练参数在第一步之前的副本（{1}）。',
  'The reference is the model as it is before the first step: its log-probabilities are computed once ({1} of {2} records are known already).':
    '参考模型是第一步之前的模型：其对数概率只计算一次（{2} 条记录中已知 {1} 条）。',
  'weights of the reference': '参考模型的权重',
  'log-probabilities of the reference': '参考模型的对数概率',
  'data of the reference': '参考模型的数据',
  'Computing the reference': '计算参考模型',
  'next batch of the reference': '参考模型的下一批',
  'what answers have in common': '回答的共同量',
  'preference metrics': '偏好指标',
  'compared answers': '比较的回答',
  'compared records': '比较的记录',

  // What surprises.
  'The rewards of chosen answers fall: the model makes them less likely than the reference does, and rejected ones still less.':
    '选中回答的奖励在下降：模型给它们的概率低于参考模型，被拒绝的回答则更低。',
  'The rewards of chosen answers fall: the model makes them less likely than it did at first.':
    '选中回答的奖励在下降：模型给它们的概率低于开始时。',
  'That is usual, for only the margin is learned.': '这很常见，因为学习的只是两者的差。',
  'To keep chosen answers likely give --rpo_alpha 1, a smaller --learning_rate, or train on the chosen answers first.':
    '要保持选中回答的概率，请使用 --rpo_alpha 1、减小 --learning_rate，或先用选中回答训练。',
  'logps/chosen fell from {1} to {2}, more than 20 %: chosen answers become unlikely.':
    'logps/chosen 从 {1} 降到 {2}，超过 20 %：选中回答变得不太可能。',
  'Give --rpo_alpha 1, a larger --beta or a smaller --learning_rate.':
    '请使用 --rpo_alpha 1、增大 --beta 或减小 --learning_rate。',
  'rewards/accuracies has been near 0.5 for {1} steps: the model does not tell the answers apart.':
    'rewards/accuracies 已有 {1} 步接近 0.5：模型分不清两个回答。',
  'Give a larger --learning_rate, or look at the pairs with check-data and render.':
    '请增大 --learning_rate，或用 check-data 和 render 查看回答对。',

  // check-data, render.
  '{1}: chosen answers have {2} tokens on average, rejected ones {3}; the chosen one is longer in {4}, the rejected one in {5}':
    '{1}：选中回答平均 {2} 个词元，被拒绝的 {3} 个；选中的更长占 {4}，被拒绝的更长占 {5}',
  'The model may learn to answer longer instead of better: compare with --preference simpo or ipo, which count by token.':
    '模型可能学会回答得更长而不是更好：请与按词元计的 --preference simpo 或 ipo 比较。',
  'The model may learn to answer shorter instead of better: compare with --preference simpo or ipo, which count by token.':
    '模型可能学会回答得更短而不是更好：请与按词元计的 --preference simpo 或 ipo 比较。',
  'The rejected answer with its own prompt begins at token {1}.': '被拒绝的回答连同自己的提示从第 {1} 个词元开始。',
  'The rejected answer begins at token {1}: it follows the first {2} tokens, as the chosen one does.':
    '被拒绝的回答从第 {1} 个词元开始：与选中的回答一样，接在前 {2} 个词元之后。',
};
