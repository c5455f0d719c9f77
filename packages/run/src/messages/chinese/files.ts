/** Chinese for files of any kind. Text, JSON, paths, and who uses a file. */
import type { Messages } from '../translator.js';

export const FILES: Messages = {
  // Characters.
  'a curly quotation mark': '弯引号',
  'a quotation mark of another kind': '其他样式的引号',
  'a single quotation mark': '单引号',
  'a full-width comma': '全角逗号',
  'a comma of another kind': '其他样式的逗号',
  'a full-width colon': '全角冒号',
  'a colon of another kind': '其他样式的冒号',
  'a full-width bracket': '全角方括号',
  'a full-width brace': '全角花括号',
  'a dash or minus sign of another kind': '其他样式的破折号或减号',
  'a full stop of another kind': '其他样式的句点',
  'a full-width character': '全角字符',
  'a NUL character': 'NUL 字符',
  'a vertical tab': '垂直制表符',
  'a form feed': '换页符',
  'a next line character': '下一行字符（NEL）',
  'a no-break space': '不换行空格',
  'a soft hyphen': '软连字符',
  'an Ogham space': '欧甘文空格',
  'a Mongolian vowel separator': '蒙古文元音分隔符',
  'a zero width space': '零宽空格',
  'a zero width non-joiner': '零宽不连字符',
  'a zero width joiner': '零宽连字符',
  'a left-to-right mark': '从左到右标记',
  'a right-to-left mark': '从右到左标记',
  'a line separator': '行分隔符',
  'a paragraph separator': '段落分隔符',
  'a narrow no-break space': '窄不换行空格',
  'a mathematical space': '数学空格',
  'a word joiner': '单词连接符',
  'an ideographic (full-width) space': '全角空格',
  'a byte order mark (zero width no-break space)': '字节顺序标记（零宽不换行空格）',
  'a space of another width': '其他宽度的空格',
  'a control character': '控制字符',
  '{1} (U+{2}), {3}, which cannot be seen: JSON wants an ordinary space or nothing':
    '{1}（U+{2}，{3}，不可见）：JSON 在此只接受普通空格，或什么都不写',
  '{1} (U+{2}), {3}: JSON wants {4}': '{1}（U+{2}，{3}）：JSON 应写 {4}',
  '{1} ({2} characters)': '{1}（共 {2} 个字符）',

  // Encodings.
  '{1} (LE, without byte order mark)': '{1}（LE，无字节顺序标记）',
  '{1} (BE, without byte order mark)': '{1}（BE，无字节顺序标记）',
  'text in {1}': '{1} 编码的文本',
  'Expected at most {1} bytes for {2} but received {3}.': '{2}最多应有 {1} 字节，但收到 {3} 字节。',
  'Expected UTF-8 text for {1} but received bytes that are not UTF-8: the first wrong one is 0x{2} (line {3}, byte {4} of the line).':
    '{1}应为 UTF-8 文本，但收到的字节不是 UTF-8：第一个错误的字节为 0x{2}（第 {3} 行，该行第 {4} 字节）。',
  'The text is {1}.': '文本的编码是 {1}。',
  'The text is probably {1}.': '文本的编码可能是 {1}。',

  // JSON.
  'Expected JSON for {1} but parsing failed: {2}.': '{1}应为 JSON，但解析失败：{2}。',
  'Expected {1} in the JSON of {2} but received {3} (line {4}, column {5}).':
    '{2}的 JSON 中此处应为{1}，但收到{3}（第 {4} 行，第 {5} 列）。',
  'The string before it does not end at {1} (character {2} of the text): write the ASCII character.':
    '它前面的字符串不会在 {1}（文本的第 {2} 个字符）处结束：请写成 ASCII 字符。',
  'The string before it does not end at {1} (character {2} of its line): write the ASCII character.':
    '它前面的字符串不会在 {1}（该行的第 {2} 个字符）处结束：请写成 ASCII 字符。',
  'The text is cut off there. Write the file again.': '文本在此处被截断。请重新写文件。',
  'Replace the character. An input method writes such characters, and copying from a web page or a chat does.':
    '请替换该字符。这样的字符来自输入法，或从网页、聊天中的复制。',
  'JSON has no comments. Remove them.': 'JSON 没有注释。请删去注释。',
  'Repair the text there, or write the file again with a JSON library.': '请修正该处文本，或用 JSON 库重新写文件。',

  // What a file is.
  'an empty file (0 bytes)': '空文件（0 字节）',
  'Copy or download it again.': '请重新复制或下载。',
  'a file of zero bytes only': '内容全为零字节的文件',
  'The copy or download was cut off: do it again.': '复制或下载时被中断：请重新进行。',
  'a Git LFS pointer, which stands for the file': 'Git LFS 指针（不是文件本身）',
  'a Git LFS pointer, which stands for the file (of {1} bytes)': 'Git LFS 指针（不是文件本身，文件为 {1} 字节）',
  'Fetch the file itself with `git lfs pull` in the repository it comes from, or download it again.':
    '请在其来源仓库中用 `git lfs pull` 取得文件本身，或重新下载。',
  'a photo of a phone in HEIC': '手机拍摄的 HEIC 照片',
  'a raw photo (CR3)': '原始照片（CR3）',
  'Convert it to JPEG.': '请转换为 JPEG。',
  'Convert it to PNG.': '请转换为 PNG。',
  'It is not read: convert it to PNG.': '不支持读取这种格式：请转换为 PNG。',
  'a {1} picture': '{1} 图片',
  'a {1} file': '{1} 文件',
  '{1} (icon)': '{1}（图标）',
  '{1} (cursor)': '{1}（光标）',
  'audio ({1})': '音频（{1}）',
  'a video ({1})': '视频（{1}）',
  'audio or video ({1})': '音频或视频（{1}）',
  'an HTML page': 'HTML 网页',
  'an HTML page: it says {1}': 'HTML 网页，内容为 {1}',
  'The download probably failed: download the file again.': '下载可能失败了：请重新下载文件。',
  'an SVG drawing': 'SVG 图形',
  'an XML text that begins with {1}': '以 {1} 开头的 XML 文本',
  'JSON text that begins with {1}': '以 {1} 开头的 JSON 文本',
  'text that begins with {1}': '以 {1} 开头的文本',
  'a Python pickle, which can run code when it is opened': 'Python 的 pickle（打开时可能运行代码）',
  'Convert it with save_pretrained(…, safe_serialization=True) of transformers.':
    '请用 transformers 的 save_pretrained(…, safe_serialization=True) 转换。',
  'a PDF document': 'PDF 文档',
  'Convert its pages to PNG pictures, for instance with pdftoppm -png.':
    '请把各页转换为 PNG 图片，例如用 pdftoppm -png。',
  'a PostScript document': 'PostScript 文档',
  'an old Microsoft Office document': '旧版 Microsoft Office 文档',
  'Export its pictures as PNG.': '请把其中的图片导出为 PNG。',
  'a parquet file': 'parquet 文件',
  'an Arrow file': 'Arrow 文件',
  'Write it as parquet or JSON, with to_parquet or to_json of datasets.':
    '请用 datasets 的 to_parquet 或 to_json 写成 parquet 或 JSON。',
  'an SQLite database': 'SQLite 数据库',
  'an HDF5 file': 'HDF5 文件',
  'a NumPy array': 'NumPy 数组',
  'an Avro file': 'Avro 文件',
  'a GGUF file of llama.cpp': 'llama.cpp 的 GGUF 文件',
  'Give the folder of the checkpoint in safetensors that it was made from.':
    '请给出生成它所用的 safetensors 检查点的目录。',
  'a safetensors file': 'safetensors 文件',
  'a program': '可执行程序',

  // Paths.
  'Did you mean {1} ({2})?': '是不是想写 {1}（{2}）？',
  'the path starts with white space': '路径以空白字符开头',
  'the path ends in white space': '路径以空白字符结尾',
  'the path ends in a space': '路径以空格结尾',
  'the path ends in a line break': '路径以换行结尾',
  'the path is in quotes': '路径带有引号',
  'the path has characters that cannot be seen': '路径含有不可见字符',
  'the path starts with file:': '路径以 file: 开头',
  'only a shell knows ~': '只有 shell 才认识 ~',
  'the path has \\ for /': '路径用 \\ 代替了 /',
  'the path is percent-encoded': '路径经过百分号编码',
  'upper and lower case differ': '大小写不同',
  'the Unicode normalisation differs': 'Unicode 规范化形式不同',
  'the path is a Windows path with a drive letter': '路径是带盘符的 Windows 路径',
  'the path is a Windows path; this is its end': '路径是 Windows 路径，这是它的末尾部分',
  'a Windows path with the drive letter {1}': 'Windows 路径（盘符 {1}）',
  'a Windows path of a server (\\\\server\\share)': '服务器上的 Windows 路径（\\\\server\\share）',
  '{1} is {2}: write the path as this machine has it.': '{1} 是{2}：请按本机上的写法写路径。',

  // Who uses a file.
  'Expected to take over {1} but other processes take it over all the time.':
    '应能接管 {1}，但其他进程一直在抢先接管。',
  'Start one process after the other.': '请逐个启动进程。',
  'Expected to write in {1} but received: {2}.': '应能写入 {1}，但出错：{2}。',
  'Name a folder that can be written, on a disk with free space.': '请换一个可写、所在磁盘有空间的目录。',
  'process {1} on this machine since {2} UTC ({3})': '进程 {1}（本机，自 {2} UTC，{3}）',
  'process {1} on {2} since {3} UTC ({4})': '进程 {1}（{2}，自 {3} UTC，{4}）',
  'Expected one process but {1} is in use by {2}.': '{1} 只能由一个进程使用，但{2}正在使用它。',
  'Wait until it has ended, or end it with `kill {1}`.': '请等它结束，或用 `kill {1}` 结束它。',
  'If that process does not use it, delete {1}.': '如果该进程并没有使用它，请删除 {1}。',
  'Wait until it has ended.': '请等它结束。',
  'From here nobody can see whether it still runs: if it has ended, delete {1}.':
    '从这里无法得知它是否仍在运行：如果它已结束，请删除 {1}。',
  'Expected no file, or the lock of a process, but received {1}, which is something else.':
    '此处应没有文件，或为进程的锁，但收到的 {1} 是别的内容。',
  'Move the file away: while it is in use, a file of this name is made there.':
    '请移走该文件：使用期间会在那里创建同名文件。',
  'Expected a new file for {1} but there is {2} with another content.': '{1} 应为新文件，但 {2} 已存在，且内容不同。',
  'Name another file, or delete this one.': '请换一个文件名，或删除这个文件。',
  'Expected to write {1} but received: {2}.': '应能写出 {1}，但出错：{2}。',
  'Name a file in a folder that can be written, on a disk with free space.':
    '请把文件放到可写、所在磁盘有空间的目录中。',
};
