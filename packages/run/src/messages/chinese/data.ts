/** Chinese for data files and what their records say. */
import type { Messages } from '../translator.js';

export const DATA: Messages = {
  // Files of records.
  'Expected at least one data file but received none.': '至少应给出一个数据文件，但没有收到。',
  'Give a JSON, JSON Lines or parquet file.': '请给出 JSON、JSON Lines 或 parquet 文件。',
  'Expected at least one record in a data file but received an empty {1}.':
    '数据文件中至少应有一条记录，但收到空的 {1}。',
  'Expected at least one record in a data file but the file is empty (0 bytes).':
    '数据文件中至少应有一条记录，但文件是空的（0 字节）。',
  'JSON array': 'JSON 数组',
  'Expected a data file but there is no {1}.': '应为数据文件，但没有 {1}。',
  'Paths are relative to the working folder, here {1}.': '路径相对于工作目录，即 {1}。',
  'Name the JSON, JSON Lines or parquet file itself, or several of them.':
    '请直接写出 JSON、JSON Lines 或 parquet 文件，可以写多个。',
  'a data file': '数据文件',
  'a JSON array, JSON Lines or parquet': 'JSON 数组、JSON Lines 或 parquet',
  'only white space': '只有空白字符的文件',
  'a file that starts with {1}': '以 {1} 开头的文件',
  'A JSON array starts with [, JSON Lines with {. Convert the file to one of them.':
    'JSON 数组以 [ 开头，JSON Lines 以 { 开头。请把文件转换成其中一种。',
  'Unpack it first ({1}).': '请先解压（{1}）。',
  'one JSON object with the keys {1}': '一个 JSON 对象，键为 {1}',
  'Save the list under {1} as the file: {2}.': '请把 {1} 中的列表单独存成文件：{2}。',
  "Put {1}'s object in square brackets if it is a record: [ {…} ].":
    '如果 {1} 中的对象就是一条记录，请加上方括号：[ {…} ]。',
  '{1} has row groups of up to {2} MiB; each is decoded to read one record. Reading is much faster from a file written with row_group_size=100.':
    '{1} 的行组（row group）最大有 {2} MiB；每读一条记录都要解码一整个。用 row_group_size=100 写出的文件读起来快得多。',
  'Expected at least {1} records (one batch) for --dataloader_drop_last but received {2}.':
    '--dataloader_drop_last 至少需要 {1} 条记录（一个批次），但收到 {2} 条。',
  'Use a smaller batch or keep the last batch.': '请用更小的批次，或保留最后一批。',

  // JSON.
  'the end of the value': '值的结尾',
  'the end': '结尾',
  'a value ({, [, a string in double quotes, a number, true, false or null)':
    '一个值（{、[、双引号中的字符串、数值、true、false 或 null）',
  '{1} or {2}': '{1} 或 {2}',
  'a key in double quotes': '双引号中的键',
  'a character of a string or its closing double quote (line breaks are written \\n)':
    '字符串中的字符或结尾的双引号（换行写作 \\n）',
  'JSON strings have double quotes. Write the file with json.dump, not with str().':
    'JSON 字符串使用双引号。请用 json.dump 写文件，不要用 str()。',
  'JSON has no NaN or Infinity. Write null or leave the key out.':
    'JSON 没有 NaN 和 Infinity。请写 null，或去掉这个键。',
  'Write null, true and false. json.dump does so.': '请写 null、true 和 false。json.dump 就是这样写的。',
  'Remove the comma before the closing bracket.': '请删去右括号前的逗号。',
  'Expected records below 4 GiB but record {1} has {2} bytes.': '每条记录应小于 4 GiB，但第 {1} 条记录有 {2} 字节。',
  'JSON Lines has one whole record {…} per line; a JSON array starts with [ and separates its records by commas. Do not mix the two in one file.':
    'JSON Lines 每行是一条完整的记录 {…}；JSON 数组以 [ 开头，记录之间用逗号隔开。请不要在一个文件里混用。',
  'The file is probably cut off, or a " or } is missing in this record. Write the file again.':
    '文件可能被截断，或这条记录缺少 " 或 }。请重新写文件。',
  'The file is probably cut off. Write it again, or use JSON Lines, one record per line.':
    '文件可能被截断。请重新写文件，或使用 JSON Lines，每行一条记录。',
  'Close every bracket of the record in the order in which it was opened.': '请按打开的顺序闭合记录中的每个括号。',
  'a record {…} or "]"': '一条记录 {…} 或 "]"',
  'a record {…}': '一条记录 {…}',
  'the end of the file after the array\'s "]"': '数组的 "]" 之后是文件结尾',
  'Remove the comma after the last record.': '请删去最后一条记录后的逗号。',
  'A JSON array is [ {record}, {record}, … ]; JSON Lines has one {record} per line and neither [ nor commas. Do not mix the two in one file.':
    'JSON 数组写作 [ {记录}, {记录}, … ]；JSON Lines 每行一条 {记录}，没有 [ 也没有逗号。请不要在一个文件里混用。',
  '[ {record}, … ]': '[ {记录}, … ]',

  // Parquet.
  'Expected a column conversations or messages in a parquet file but received {1}.':
    'parquet 文件应有 conversations 或 messages 列，但收到{1}。',
  'no columns': '零个列',
  'the columns {1}': '以下列：{1}',
  'the column {1}': '列 {1}',
  'Rename the column that holds the turns; images belong into a column image or images.':
    '请给存放对话的列改名；图片应放在 image 或 images 列。',
  'Expected row groups below 1 GiB in a parquet file but received {1} GiB for group {2} ({3} rows).':
    'parquet 文件的行组（row group）应小于 1 GiB，但第 {2} 组有 {1} GiB（{3} 行）。',
  'Write the file with smaller row groups, for instance row_group_size=100 in pyarrow or pandas.':
    '请用更小的行组写文件，例如在 pyarrow 或 pandas 中用 row_group_size=100。',
  'Expected a complete parquet file but reading it failed: {1}.': '应为完整的 parquet 文件，但读取失败：{1}。',
  'The file is probably cut off or damaged. Write or download it again.': '文件可能被截断或损坏。请重新写出或下载。',

  // Bad records.
  'Expected at most {1} of {2} records to be bad but received {3} bad ones ({4}); the last: {5}':
    '{2} 条记录中坏记录最多应占 {1}，但已有 {3} 条坏记录（{4}）；最后一条：{5}',
  'Repair the records (check-data lists all of them) or raise --max_bad_fraction.':
    '请修正这些记录（check-data 会列出全部），或提高 --max_bad_fraction。',
  'All of them are in {1}.': '全部列在 {1} 中。',
  '{1}, record {2}: {3} Further records of this kind are counted, not named; check-data lists them.':
    '{1}，第 {2} 条记录：{3}其他同类记录只计数，不逐一列出；check-data 会列出它们。',

  // Mistakes between the records of a JSON file.
  'a JSON object for line {1}': '第 {1} 行为 JSON 对象',
  "record {1}, which starts on line {2}, to be closed before the file's end (byte {3})":
    '从第 {2} 行开始的第 {1} 条记录在文件结尾（第 {3} 字节）之前闭合',
  'its end where a string is still open': '文件结尾，此时还有一个字符串没有闭合',
  'its end where {1} brackets are still open': '文件结尾，此时还有 {1} 个括号没有闭合',
  'its end where 1 bracket is still open': '文件结尾，此时还有 1 个括号没有闭合',
  '{1} after {2} records': '{2} 条记录之后为 {1}',
  'the end of the file (byte {1})': '文件结尾（第 {1} 字节）',
  '{1} in record {2}': '第 {2} 条记录中为 {1}',
  'Expected {1} but received {2} (line {3}, column {4}).': '应为{1}，但收到 {2}（第 {3} 行，第 {4} 列）。',
  'Expected {1} after {2} records but received {3} (line {4}, column {5}).':
    '{2} 条记录之后应为{1}，但收到 {3}（第 {4} 行，第 {5} 列）。',
  '{1} has NaN or Infinity, which JSON does not have; they are read as null.':
    '{1} 含有 NaN 或 Infinity，JSON 中没有它们；按 null 读取。',
  'Expected a data file but received {1}.': '应为数据文件，但收到{1}。',
  'something that is not a file': '不是文件的东西',
  'text or a number': '文本或数值',
  'Write text or a number, or leave the key out.': '请写文本或数值，或去掉这个键。',
  'Expected a JSON object for line {1} but received {2} (line {3}, column {4}).':
    '第 {1} 行应为 JSON 对象，但收到 {2}（第 {3} 行，第 {4} 列）。',
  "Expected record {1}, which starts on line {2}, to be closed before the file's end (byte {3}) but received {4}.":
    '从第 {2} 行开始的第 {1} 条记录应在文件结尾（第 {3} 字节）之前闭合，但收到{4}。',
  'Expected {1} in record {2} but received {3} (line {4}, column {5}).':
    '第 {2} 条记录中应为 {1}，但收到 {3}（第 {4} 行，第 {5} 列）。',
  'Expected {1} after {2} records but received {3}.': '{2} 条记录之后应为 {1}，但收到{3}。',
};
