/** Chinese for what a record says. Forms, turns, roles, tags, lengths, chat templates. */
import type { Messages } from '../translator.js';

export const RECORDS: Messages = {
  // Forms.
  'a form of answers to compare (without messages or conversations)':
    '比较回答的格式（没有 messages 或 conversations）',
  'the seed form (conversations with role and content)': '官方格式（conversations，内含 role 和 content）',
  'the messages form (messages with role and content)': 'messages 格式（messages，内含 role 和 content）',
  'the LLaVA form (conversations with from and value)': 'LLaVA 格式（conversations，内含 from 和 value）',
  'Use one of {1}.': '请使用其中之一：{1}。',
  'a record': '记录',
  'a turn': '对话轮',
  'a list of turns': '对话轮列表',
  'the key {1}': '键 {1}',
  'the keys {1}': '键 {1}',
  'the key {1} of a turn': '对话轮的键 {1}',
  'the key {1} of a turn after the first': '第一轮之后的对话轮的键 {1}',
  'an empty object': '空对象',
  'role and content': 'role 和 content',
  'from and value': 'from 和 value',
  'an object with role and content': '含 role 和 content 的对象',
  'Expected conversations or messages for a record but received both.':
    '记录应有 conversations 或 messages 之一，但两者都有。',
  'Expected the key conversations or messages for a record but received {1}.':
    '记录应有键 conversations 或 messages，但收到{1}。',
  'Expected at least a user and an assistant turn for the key {1} but received an empty list.':
    '键 {1} 至少应有一轮 user 和一轮 assistant，但收到空列表。',
  'Remove the record or add its turns.': '请删去这条记录，或补上对话。',
  'Expected {1} for every turn as in turn 0 but received {2}.': '每一轮都应像第 0 轮那样有 {1}，但收到 {2}。',
  'Expected role and content for the turns of messages but received from and value.':
    'messages 的对话轮应有 role 和 content，但收到 from 和 value。',
  'Rename messages to conversations (the LLaVA form) or the keys of the turns.':
    '请把 messages 改名为 conversations（LLaVA 格式），或给对话轮的键改名。',
  'Expected role and content, or from and value, for a turn but received {1}.':
    '对话轮应有 role 和 content，或 from 和 value，但收到{1}。',
  'Expected role and content for a turn but received {1}.': '对话轮应有 role 和 content，但收到{1}。',
  'human or gpt (or system first)': 'human 或 gpt（首轮也可以是 system）',
  'user or assistant (or system first)': 'user 或 assistant（首轮也可以是 system）',
  'user or assistant (or system for the first turn)': 'user 或 assistant（首轮也可以是 system）',
  'user or assistant': 'user 或 assistant',
  'Rename the role, or put what it says into a user turn.': '请给角色改名，或把内容放进 user 轮。',
  'Move the system turn to the front of the conversation.': '请把 system 轮移到对话开头。',
  'the content of a turn': '对话轮的内容',
  'Write content as one string.': '请把 content 写成一个字符串。',
  'Write the content as one string.': '请把 content 写成一个字符串。',
  'Expected one system prompt for a record but received the key system and a system turn.':
    '一条记录只应有一个系统提示，但既有键 system 又有 system 轮。',
  'text or a list of parts': '文本或部分列表',
  'an object with type': '含 type 的对象',
  'part {1} of the content': '内容的第 {1} 部分',
  'the type of part {1}': '第 {1} 部分的类型',

  // Pictures in the text.
  'the image {1}': '图片 {1}',
  'image {1}': '图片 {1}',
  'a path, or an object of placeholders and paths': '路径，或由占位符和路径组成的对象',
  'Several images are written {"<image_00>": path, "<image_01>": path}, with the placeholders in the text.':
    '多张图片写作 {"<image_00>": 路径, "<image_01>": 路径}，并在文本中写上占位符。',
  'Expected image or images for a record but received both.': '记录应有 image 或 images 之一，但两者都有。',
  'Put all paths into images.': '请把所有路径放进 images。',
  'Expected one <image> in the text for each of the {1} images of a record but received {2} of them.':
    '记录的 {1} 张图片在文本中应各有一个 <image>，但收到 {2} 个。',
  'Write <image> where each image belongs, in the order of the list.':
    '请按列表顺序，在每张图片所在的位置写上 <image>。',
  'Expected <image> for an image in the text but received {1}.': '文本中的图片应写作 <image>，但收到 {1}。',
  'Numbered placeholders belong to the seed form {1}; here write <image>.':
    '带编号的占位符属于官方格式{1}；这里请写 <image>。',
  'Expected an image for every <image> of the text but received {1} image[s] for at least {2} of them.':
    '文本中每个 <image> 都应有图片，但只有 {1} 张图片，而 <image> 至少有 {2} 个。',
  "Add the missing image to the record's list or remove the <image>.":
    '请在记录的列表中补上图片，或删去多余的 <image>。',
  'Expected images in the list of the record or in the parts of the content but received both.':
    '图片应在记录的列表中或在内容的各部分中，但两处都有。',
  'Put all of them into one of the two.': '请全部放在其中一处。',
  'Expected tags like <image_00> for the images of a record but received {1}.':
    '记录的图片应使用 <image_00> 这样的标记，但收到 {1}。',
  'Name the images <image_00>, <image_01>, … and write these tags where the images belong in the text.':
    '请把图片命名为 <image_00>、<image_01>……，并在文本中图片所在的位置写上这些标记。',
  'Expected an image for the tag {1} in the text but the record has no image.':
    '文本中的标记 {1} 应有对应的图片，但记录没有图片。',
  'Expected an image for the tag {1} in the text but the record has {2}.':
    '文本中的标记 {1} 应有对应的图片，但记录只有 {2}。',
  'Expected an image for the tag {1} in the text but received none.': '文本中的标记 {1} 应有对应的图片，但没有收到。',
  'Add the image to the record\'s "image", or take {1} out of the text.':
    '请在记录的 "image" 中补上图片，或从文本中删去 {1}。',
  'Expected images in user turns only but received {1} in the turn of {2}.':
    '图片只应出现在 user 轮，但 {2} 轮中有 {1}。',
  'Show the image in the user turn before.': '请把图片放到前面的 user 轮。',
  'Expected the tag {1} in the text for its image but it is in none of the {2} turns.':
    '图片的标记 {1} 应出现在文本中，但 {2} 轮对话中都没有。',
  'Write {1} where the image belongs, or take the image out of the record.':
    '请在图片所在的位置写上 {1}，或从记录中删去这张图片。',
  'Expected a place in the text for each of the {1} pictures but received {2}.':
    '{1} 张图片在文本中应各有一个位置，但只有 {2} 个。',
  'Use each image tag once, raise --model_max_length, or leave out --compat official.':
    '每个图片标记请只用一次，或提高 --model_max_length，或不用 --compat official。',

  // Roles and templates.
  'Expected a turn of the assistant to learn from but received {1} turns without one.':
    '应有可供学习的 assistant 轮，但 {1} 轮对话中没有。',
  'Expected a turn of the assistant but received none.': '应有 assistant 轮，但没有收到。',
  'Add the answer as a turn with role "assistant", or remove the record.':
    '请把回答加成 role 为 "assistant" 的一轮，或删去这条记录。',
  'the role of a turn': '对话轮的角色',
  'the role of the first turn': '第一轮的角色',
  'the role of a turn of --llm_type {1}': '--llm_type {1} 的对话轮角色',
  'Expected user for the role of the first turn but received assistant.': '第一轮的角色应为 user，但收到 assistant。',
  'The model knows no {1} turn. Put its text in front of the first user turn.':
    '这个模型没有 {1} 轮。请把其中的文本放到第一个 user 轮之前。',
  'Expected the system turn first but received it later.': 'system 轮应在最前，但出现在后面。',
  'Move it to the front.': '请移到最前。',
  'Put the question in front, or remove the turn.': '请把问题放在前面，或删去这一轮。',
  'Expected text without special tokens in the turn of {1} but received {2}.':
    '{1} 轮的文本中不应有特殊词元，但收到 {2}。',
  'Take {1} out of the text, or give --allow_special_text to have it read as plain text.':
    '请从文本中删去 {1}，或给出 --allow_special_text，把它当作普通文字。',
  'Take these tokens out of the text.': '请从文本中删去这些词元。',
  'Expected as many <|start_header_id|> as <|end_header_id|> but received {1} and {2}.':
    '<|start_header_id|> 与 <|end_header_id|> 的个数应相同，但分别为 {1} 和 {2}。',
  'Expected as many image starts as image ends but received {1} and {2}.':
    '图片的开始与结束标记的个数应相同，但分别为 {1} 和 {2}。',
  'An image was cut at the maximal length, or the text holds a stray mark.':
    '有图片在最大长度处被截断，或文本中有多余的标记。',
  'Expected tokens to learn among the first {1} but received none.': '前 {1} 个词元中应有可学习的，但没有。',
  'Raise --model_max_length, or add an answer.': '请提高 --model_max_length，或加上回答。',
  'The official code knows no records without images; leave out --compat official, or write "image": {}.':
    '官方代码不支持没有图片的记录；请不用 --compat official，或写 "image": {}。',
  'Expected a slice configuration for --llm_type qwen but received none.': '--llm_type qwen 应有切片设置，但没有收到。',
  'The official code fails without slicing; leave out --compat official.':
    '不切片时官方代码会出错；请不用 --compat official。',
  'at least two turns': '至少两轮对话',
  user: 'user',
  'Expected messages that the chat template of {1} takes but it says: {2}.':
    '应为 {1} 的对话模板接受的消息，但模板报告：{2}。',
  'Check the roles and their order.': '请检查角色及其顺序。',
  'the path of an image, or an object of tags and paths such as {1}': '图片的路径，或由标记和路径组成的对象，例如 {1}',
  'a list of turns with role and content': '含 role 和 content 的对话轮列表',
  'Write records as {"id", "image", "conversations": [{"role": "user", "content"}, {"role": "assistant", "content"}]}.':
    '请把记录写成 {"id", "image", "conversations": [{"role": "user", "content"}, {"role": "assistant", "content"}]}。',

  // Length.
  'Expected at most {1} tokens for a record but received {2}.': '一条记录最多应有 {1} 个词元，但收到 {2} 个。',
  'Expected at most {1} tokens for a record but received {2}; it is left out.':
    '一条记录最多应有 {1} 个词元，但收到 {2} 个；已跳过。',
  'Expected at most {1} tokens for a record but received {2}; its end is cut off.':
    '一条记录最多应有 {1} 个词元，但收到 {2} 个；已截去结尾。',
  'Expected at most {1} tokens for a record but received {2}, and nothing to learn is left of it when it is cut.':
    '一条记录最多应有 {1} 个词元，但收到 {2} 个，截断后没有可学习的内容。',
  '{1} ({2} of them for {3} pictures of {4} images)': '{1}（其中 {2} 个用于 {4} 张图的 {3} 个切片）',
  '{1} pictures became {2}, so that {3} tokens became {4}.': '切片从 {1} 个减到 {2} 个，词元从 {3} 个减到 {4} 个。',
  'Raise --model_max_length, shorten the record, or choose another --overlong.':
    '请提高 --model_max_length，缩短记录，或换一种 --overlong。',
  'Raise --model_max_length, or shorten what comes before the first answer.':
    '请提高 --model_max_length，或缩短第一个回答之前的内容。',
  // Marks of answers, keys, pictures in the text, empty values, counts.
  'Expected at least one answer to learn in a record but its only answer is marked as not to be learned.':
    '记录应至少有一个要学习的回答，但其唯一的回答被标记为不学习。',
  'Expected at least one answer to learn in a record but all of its {1} answers are marked as not to be learned.':
    '记录应至少有一个要学习的回答，但其 {1} 个回答都被标记为不学习。',
  'Remove the record, or the mark of the answer that is to be learned.': '请删除该记录，或去掉要学习的回答的标记。',
  'Expected no answer that is marked as not to be learned for --compat official but received one.':
    '--compat official 不能有标记为不学习的回答，但收到一个。',
  'The official code learns every answer. Leave out --compat official, or remove the record.':
    '官方代码会学习每个回答。请去掉 --compat official，或删除该记录。',
  'Expected {1} once in the text for its picture but received it again.':
    '文本中每张图片的 {1} 应只出现一次，但又出现了。',
  'Keep the first {1} and remove the others: later turns see the picture, too.':
    '请保留第一个 {1}，去掉其余的：之后的对话轮也能看到该图片。',
  'Expected whole characters in the text of a turn but received half of one, \\u{1}, as character {2}: {3}.':
    '对话轮的文本应由完整的字符组成，但第 {2} 个字符只有一半（\\u{1}）：{3}。',
  'The text was cut inside a character. Cut texts between characters, not between UTF-16 units.':
    '文本在字符中间被截断。请在字符之间截断，而不是在 UTF-16 单元之间。',
  'Expected <image> for a picture in the text but received {1}, and the record has no picture.':
    '文本中的图片应写作 <image>，但收到 {1}，且该记录没有图片。',
  'Expected <image> for a picture in the text but received {1}, and the record has no such picture.':
    '文本中的图片应写作 <image>，但收到 {1}，且该记录没有这张图片。',
  'Write <image> in its place and the path under the key image, or give --allow_special_text to have it read as plain text.':
    '请在该处写 <image>，并把路径写在键 image 下；或加上 --allow_special_text，把它当作普通文本。',
  'Write <image> in its place and {1} under the key image, or give --allow_special_text to have it read as plain text.':
    '请在该处写 <image>，并把 {1} 写在键 image 下；或加上 --allow_special_text，把它当作普通文本。',
  'Add its turns, or remove the record.': '请补上对话轮，或删除该记录。',
  'Rename {1} to conversations or messages. Use one of {2}.':
    '请把 {1} 改名为 conversations 或 messages。请使用其中之一：{2}。',
  'Write the system prompt as one string.': '请把系统提示写成一个字符串。',
  'Tools are not trained here. Write what the model shall see and say into the turns as text, or remove {1}.':
    '这里不训练工具调用。请把模型要看到和要说的内容作为文本写进对话轮，或去掉 {1}。',
  'Write the earlier turns in front of the others, as user and assistant, and remove {1}.':
    '请把先前的对话轮以 user 和 assistant 写在其他轮之前，并去掉 {1}。',
  'Rename {1} to system, or remove it.': '请把 {1} 改名为 system，或去掉它。',
  'Write what the model shall see into the user turn, or remove {1}.': '请把模型要看到的内容写进用户轮，或去掉 {1}。',
  'Expected pictures beside the turns of a record but received {1}: {2} in a turn.':
    '图片应与对话轮并列写在记录中，但对话轮里有 {1}：{2}。',
  'Move it to the key images of the record and write <image> where it belongs in the text.':
    '请把它移到记录的键 images 下，并在文本中相应位置写 <image>。',
  'a part': '内容片段',
  'Expected the key image for the picture of a part but received {1}: {2}.':
    '内容片段的图片应写在键 image 下，但收到 {1}：{2}。',
  'Rename {1} to image, with the path of the picture.': '请把 {1} 改名为 image，值为图片路径。',
  'Expected {1} without the key {2}, which is not trained here, but received {3}.':
    '{1}不应有键 {2}（这里不训练它），但收到 {3}。',
  'Expected a record without the key {1}, which is not trained here, but received {2}.':
    '记录不应有键 {1}（这里不训练它），但收到 {2}。',
  'Write the words and coordinates into the text, in place of <ref-object> and <bbox>, and remove {1}.':
    '请在文本中用实际的词语和坐标替换 <ref-object> 和 <bbox>，并去掉 {1}。',
  'Expected the key images for the pictures of a record but received {1}: {2}.':
    '记录的图片应写在键 images 下，但收到 {1}：{2}。',
  'Expected the key image for the pictures of a record but received {1}: {2}.':
    '记录的图片应写在键 image 下，但收到 {1}：{2}。',
  'Rename {1} to images.': '请把 {1} 改名为 images。',
  'Rename {1} to image.': '请把 {1} 改名为 image。',
  'Write 0 or false for an answer that is not to be learned, 1 or true for one that is, or remove the key.':
    '不学习的回答写 0 或 false，要学习的写 1 或 true，或去掉该键。',
  'Expected {1} without the key mask but received {2}.': '{1}不应有键 mask，但收到 {2}。',
  'Tools do not agree on what mask says. Mark an answer that is not to be learned with "weight": 0.':
    '各工具对 mask 的含义不一致。请用 "weight": 0 标记不学习的回答。',
  'Expected one value for each of the {1} turns in the key {2} of a record but received {3}: {4}.':
    '记录的键 {2} 应为 {1} 轮对话各给一个值，但收到 {3} 个：{4}。',
  '0 or 1 (or false or true)': '0 或 1（或 false、true）',
  'Write it as one string.': '请写成一个字符串。',
  'nothing but text': '只有文本',
  'nothing but an image': '只有图片',
  'JSON Lines, {1} records, the first in {2}': 'JSON Lines，{1} 条记录，第一条为{2}',
  'JSON array, {1} records, the first in {2}': 'JSON 数组，{1} 条记录，第一条为{2}',
  'parquet, {1} records, the first in {2}': 'parquet，{1} 条记录，第一条为{2}',
  'the key system': '键 system',
  'The answer in {1} is empty: the model learns to say nothing there.': '{1}的回答为空：模型会在此学到什么都不说。',
  'The text of {1} has the replacement character U+FFFD as character {2}: what stood there was lost when the file was written.':
    '{1}的文本第 {2} 个字符是替换字符 U+FFFD：原来的字符在写文件时已丢失。',
  'The text of {1} (assistant) names a picture, {2}, and is read as text.':
    '{1}（assistant）的文本提到图片 {2}，按文本处理。',
  'The text of {1} (system) names a picture, {2}, and is read as text.':
    '{1}（system）的文本提到图片 {2}，按文本处理。',
  'The text of {1} (user) names a picture, {2}, and is read as text.': '{1}（user）的文本提到图片 {2}，按文本处理。',
  '{1}: records without a picture, learned as text: {2} of {3} (first: record {4}).':
    '{1}：没有图片、按纯文本学习的记录：{3} 条中的 {2} 条（第一条：记录 {4}）。',
  '{1}: records without a picture whose questions speak of one: {2} (first: record {3}).':
    '{1}：问题提到图片却没有图片的记录：{2} 条（第一条：记录 {3}）。',
  '{1}: answers marked as not to be learned, context only: {2}, in records: {3} (first: record {4}).':
    '{1}：标记为不学习、只作上下文的回答：{2} 个，涉及记录 {3} 条（第一条：记录 {4}）。',
  '{1}: records with the key {2}, which is not read: {3} (first: record {4}).':
    '{1}：含有不读取的键 {2} 的记录：{3} 条（第一条：记录 {4}）。',
  '{1}: records refused for the key {2}: {3} (first: record {4}).':
    '{1}：因键 {2} 被拒绝的记录：{3} 条（第一条：记录 {4}）。',
  'Write all turns of a record in one form.': '请把一条记录的所有对话轮写成同一种格式。',
  'Rename {1} to "{2}".': '请把 {1} 改名为 "{2}"。',
  'Character {1} of {2} is the replacement character U+FFFD: what stood there was no UTF-8.':
    '{2} 的第 {1} 个字符是替换字符 U+FFFD：原来的内容不是 UTF-8。',
  'The answer in {1} is marked as not to be learned: it is context only.': '{1}的回答被标记为不学习：只作上下文。',
};
