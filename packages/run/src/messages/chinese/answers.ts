/** Chinese for output files of answers, and what makes answers. */
import type { Messages } from '../translator.js';

export const ANSWERS: Messages = {
  'Hashing weights': '正在计算权重的哈希',
  'Stopping: the answers under way are finished first. Once more ends at once.':
    '正在停止：先完成正在生成的回答。再按一次立即结束。',
  '{1} is complete: {2} answer by an earlier run, nothing was asked.':
    '{1} 已完成：{2} 个回答来自先前的运行，没有提出新的问题。',
  '{1} is complete: {2} answers by an earlier run, nothing was asked.':
    '{1} 已完成：{2} 个回答来自先前的运行，没有提出新的问题。',
  '{1} answer in {2}.': '{2} 中有 {1} 个回答。',
  '{1} answer in {2}, {3} of them by an earlier run.': '{2} 中有 {1} 个回答，其中 {3} 个来自先前的运行。',
  '{1} record could not be asked: see "error" there. The same command asks again.':
    '{1} 条记录无法提问：原因见文件中的 "error"。再次运行同一命令会重新提问。',
  '{1} records could not be asked: see "error" there. The same command asks again.':
    '{1} 条记录无法提问：原因见文件中的 "error"。再次运行同一命令会重新提问。',
  'Stopped: {1} records are left. The same command asks them.': '已停止：还剩 {1} 条记录。再次运行同一命令会继续提问。',
  '{1} % equal the reference ({2} of {3}).': '{1} % 与参考答案相同（{3} 个中的 {2} 个）。',
  '{1} has {2} more than once ({3}, …); each is counted once.': '{1} 中有 {2}出现不止一次（{3}，…）；每条只计一次。',
  '{1} has {2} more than once ({3}); each is counted once.': '{1} 中有 {2}出现不止一次（{3}）；每条只计一次。',
  '{1} to records that changed since moved to {2}.': '{1}所对应的记录已改变，已移到 {2}。',
  '{1} that could not be asked before is asked again.': '先前无法提问的 {1}现在重新提问。',
  '{1} that could not be asked before are asked again.': '先前无法提问的 {1}现在重新提问。',
  'Expected a record that can be asked but all {1} are bad; the first: {2}':
    '应至少有一条可以提问的记录，但全部 {1} 条都有问题；第一条：{2}',
  'Expected the weights of the model as they were at the start but they were written meanwhile.':
    '模型的权重应与开始时相同，但期间被改写了。',
  'The answers that are in {1} are those of the model before. Let the training end first, or copy the model aside.':
    '{1} 中已有的回答属于改写之前的模型。请先等训练结束，或把模型另存一份。',
  '{1} Or give --on_bad_record skip: such records are left out, with the error in the place of their answers.':
    '{1}或使用 --on_bad_record skip：跳过这样的记录，并在回答的位置写上错误。',
  'Give --on_bad_record skip: such records are left out, with the error in the place of their answers.':
    '请使用 --on_bad_record skip：跳过这样的记录，并在回答的位置写上错误。',
  'record {1} cannot be asked now: {2}': '记录 {1} 现在无法提问：{2}',
  'record {1}: its question is not in the data now': '记录 {1}：它的问题已不在数据中',
  'Expected answers to the records as they are now in the output file but {1} of them are to others: {2}; and {3} more.':
    '输出文件中的回答应对应现在的记录，但其中 {1} 个对应其他记录：{2}；另有 {3} 个。',
  'Expected answers to the records as they are now in the output file but {1} of them are to others: {2}.':
    '输出文件中的回答应对应现在的记录，但其中 {1} 个对应其他记录：{2}。',
  'Give another file, or the data as they were when they were answered. Or give --ask_changed true: these answers move to {1}, and what is in their place now is asked.':
    '请换一个文件，或使用回答时的数据。也可使用 --ask_changed true：这些回答会移到 {1}，并对现在的记录重新提问。',
  'record {1}: {2}': '记录 {1}：{2}',
  'its number differs, and drawn answers depend on it': '它的序号变了，而采样得到的回答与序号有关',
  'the picture {1} has another content': '图片 {1} 的内容变了',
  'the video {1} has another content': '视频 {1} 的内容变了',
  'Expected settings with the content of model and records but received those of an earlier version.':
    '设置文件应记有模型与记录的内容，但收到的是旧版本的设置文件。',
  'Give another file: nobody can know whether these answers are those of the model as it is now.':
    '请换一个文件：无法知道这些回答是否出自现在的模型。',
  'Expected {1} as it was written here but something else removed it.':
    '{1} 应与这里写入的一致，但它被其他程序删除了。',
  'Expected {1} as it was written here but something else changed it.':
    '{1} 应与这里写入的一致，但它被其他程序改动了。',
  'Leave the file alone while it is written, and give the same command again: what is missing is asked.':
    '写入期间请不要动这个文件；再次运行同一命令会补上缺少的回答。',
  'Free some space or repair the permissions, and give the same command again: what is missing is asked.':
    '请腾出空间或修正权限，再次运行同一命令会补上缺少的回答。',
  'Expected a folder for {1} but received: {2}.': '{1} 所在的目录应可用，但收到：{2}。',
  'Name a file in a folder that can be made and written.': '请给出一个可以建立并写入的目录中的文件。',
  'It is a link to what is not there.': '它是一个指向不存在之处的链接。',
  'Expected a file for --output but received {1}, which is a device or a pipe.':
    '--output 应为文件，但收到 {1}，它是设备或管道。',
  'Expected a file for --output but received {1}, which is a folder.': '--output 应为文件，但收到 {1}，它是目录。',
  'Name a file: the answers are resumed from it.': '请给出一个文件：续写时要从中读取回答。',
  'Expected a new file, or one that this command wrote, but received one with another content.':
    '应为新文件，或本命令写过的文件，但收到内容不同的文件。',
  'Give another file: what others wrote is never changed.': '请换一个文件：别人写的内容绝不改动。',
  'the last line of {1} was cut off: it is removed, and its record is asked again.':
    '{1} 的最后一行不完整：已删去，并重新提问对应的记录。',
  'Expected the answer to a record for a line of the output but received something else.':
    '输出的每一行应为对一条记录的回答，但收到其他内容。',
  '{1} of --model {2}: the content differs': '--model {2} 的{1}：内容不同',
  'the weights': '权重',
  'the tokenizer or its chat template': '分词器或对话模板',
  '--adapter: {1} then, {2} now': '--adapter：当时为 {1}，现在为 {2}',
  '--adapter {1}: the content differs': '--adapter {1}：内容不同',
  '--adapter {1}: the content is not that of {2}': '--adapter {1}：内容与 {2} 不同',
  '{1}: {2} then, {3} now': '{1}：当时为 {2}，现在为 {3}',
  'Expected the answers of the same model and settings in the output file but received answers made with other ones: {1}.':
    '输出文件中的回答应出自相同的模型和设置，但收到的回答出自不同的模型或设置：{1}。',
  'Give another file for the answers asked now, or what made those in {1} to resume it.':
    '请为现在的回答换一个文件，或使用生成 {1} 时的模型和设置来续写。',
  'notice: no font of this machine has {1}: they are written as numbers in the label of {2}':
    '提示：本机没有含 {1} 的字体：在 {2} 的标签中写作编号',
  '{1} is another checkpoint now': '{1} 现在是另一个检查点',
  '{1} is damaged: {2}': '{1} 已损坏：{2}',
  'answers marked as not to be learned, with which none is compared: {1} (first: record {2}).':
    '标记为不学习的回答不用于比较：{1} 个（第一个：第 {2} 条记录）。',
};
