/** Chinese for videos and thoughts. Their places in records, files, frames, flags without effect. */
import type { Messages } from '../translator.js';

export const VIDEOS: Messages = {
  // Records.
  'a video': '视频',
  'a thought': '思考内容',
  'no video': '没有视频',
  'the video {1}': '视频 {1}',
  'video {1}': '视频 {1}',
  'frame {1} of {2}': '{2}的第 {1} 帧',
  'frames in the list': '列表中的帧',
  'the path of a video': '视频的路径',
  'a video file': '视频文件',
  'the path of a video, or the paths of its frames': '视频的路径，或其各帧的路径',
  'the path of a video, or an object of tags and paths such as {1}': '视频的路径，或由标记和路径组成的对象，例如 {1}',
  'Expected video or videos for a record but received both.': '记录应有 video 或 videos 之一，但两者都有。',
  'Put all paths into videos.': '请把所有路径放进 videos。',
  'Several videos are written {"<video_00>": path, "<video_01>": path}, with the placeholders in the text.':
    '多个视频写作 {"<video_00>": 路径, "<video_01>": 路径}，并在文本中写上占位符。',
  'Expected one <video> in the text for each of the {1} videos of a record but received {2} of them.':
    '记录的 {1} 个视频在文本中应各有一个 <video>，但收到 {2} 个。',
  'Write <video> where each video belongs, in the order of the list.':
    '请按列表顺序，在每个视频所在的位置写上 <video>。',
  'Expected <video> for a video in the text but received {1}.': '文本中的视频应写作 <video>，但收到 {1}。',
  'Numbered placeholders belong to the seed form {1}; here write <video>.':
    '带编号的占位符属于官方格式{1}；这里请写 <video>。',
  'Expected a video for every <video> of the text but received {1} video[s] for at least {2} of them.':
    '文本中每个 <video> 都应有视频，但只有 {1} 个视频，而 <video> 至少有 {2} 个。',
  "Add the missing video to the record's list or remove the <video>.":
    '请在记录的列表中补上视频，或删去多余的 <video>。',
  'Expected videos in the list of the record or in the parts of the content but received both.':
    '视频应在记录的列表中，或在内容片段中，但两处都有。',
  'Expected tags like <video_00> for the videos of a record but received {1}.':
    '记录的视频应使用 <video_00> 这样的标记，但收到 {1}。',
  'Name the videos <video_00>, <video_01>, … and write these tags where the videos belong in the text.':
    '请把视频命名为 <video_00>、<video_01>……，并在文本中视频所在的位置写上这些标记。',
  'Expected a video for the tag {1} in the text but the record has no video.':
    '文本中的标记 {1} 应有对应的视频，但该记录没有视频。',
  'Expected a video for the tag {1} in the text but the record has {2}.':
    '文本中的标记 {1} 应有对应的视频，但该记录只有 {2}。',
  'Add the video to the record\'s "video", or take {1} out of the text.':
    '请在记录的 "video" 中补上视频，或从文本中删去 {1}。',
  'Write its path under the key video, or give --allow_special_text to have {1} read as plain text.':
    '请把它的路径写在键 video 下；或加上 --allow_special_text，把 {1} 当作普通文本。',
  'Expected videos in user turns only but received {1} in the turn of {2}.':
    '视频只应出现在 user 轮，但在 {2} 的轮次收到 {1}。',
  'Show the video in the user turn before.': '请把视频放到前面的 user 轮。',
  'Expected {1} once in the text for its video but received it again.':
    '视频标记 {1} 在文本中应只出现一次，但又出现了。',
  'Keep the first {1} and remove the others: later turns see the video, too.':
    '请保留第一个 {1} 并删去其余的：后面的轮次也能看到这个视频。',
  'Expected the tag {1} in the text for its video but it is in none of the {2} turns.':
    '视频的标记 {1} 应写在文本中，但 {2} 轮对话中都没有。',
  'Write {1} where the video belongs, or take the video out of the record.':
    '请在视频所在的位置写上 {1}，或从记录中去掉这个视频。',
  'Write each part as {"type": "text", "text"}, {"type": "image", "image": path} or {"type": "video", "video": path}.':
    '请把每个内容片段写成 {"type": "text", "text"}、{"type": "image", "image": 路径} 或 {"type": "video", "video": 路径}。',
  'text, image, image_url, video or video_url': 'text、image、image_url、video 或 video_url',
  'nothing but a video': '只有视频',
  'Write text, images and videos as parts of their own.': '请把文本、图片和视频各写成单独的内容片段。',
  'Write the path of a video file, of a folder of frames, or a list of the paths of its frames.':
    '请写视频文件的路径、帧目录的路径，或其各帧路径的列表。',
  'Videos are not read from {1} addresses. Save them once and write their paths relative to the data file.':
    '不从 {1} 地址读取视频。请先保存一次，并写相对于数据文件的路径。',
  'Remove {1} or the record: the models are trained on text, images and videos here.':
    '请去掉 {1} 或删除该记录：这里只用文本、图片和视频训练。',
  'Leave out --compat official, or remove the record.': '请不用 --compat official，或删除该记录。',
  'Expected text, pictures and answers alone for --compat official but received {1}.':
    '--compat official 只接受文本、图片和回答，但收到{1}。',
  'Leave --compat out: the official scripts do not train this model.': '请去掉 --compat：官方脚本不训练这个模型。',
  // Thoughts.
  'Expected a thought before an answer of the assistant but received reasoning_content in the turn of {1}.':
    '思考内容应在 assistant 的回答之前，但在 {1} 的轮次收到 reasoning_content。',
  'Move it to the turn of the answer, or remove it.': '请把它移到回答所在的轮次，或删去。',
  'Write it as reasoning_content into the turn of its answer, for a model that thinks, or into the answer itself, or remove {1}.':
    '对会思考的模型，请把它作为 reasoning_content 写进回答所在的轮次；也可写进回答本身，或去掉 {1}。',
  'Expected no thought before an answer for --llm_type {1}, whose models do not think, but received {2}.':
    '--llm_type {1} 的模型不思考，回答之前不应有思考内容，但收到 {2}。',
  'Write the thought into the answer itself, in the form in which the model shall say it, or remove it.':
    '请把思考内容按模型应说的形式写进回答，或去掉它。',
  // Files.
  'Expected pictures for a model that reads no videos but received the video {1}.':
    '该模型不读取视频，应为图片，但收到视频 {1}。',
  'Take MiniCPM-V 4.5, 4.6 or 4.7, or show some of its frames as pictures.':
    '请使用 MiniCPM-V 4.5、4.6 或 4.7，或把其中一些帧作为图片。',
  'Expected a video in {1} but there is no such file.': '{1} 应为视频，但没有这个文件。',
  'the list of frames that begins with {1}': '以 {1} 开头的帧列表',
  'Expected the frames of a video in {1} but received no picture.': '{1} 中应有视频的各帧，但没有图片。',
  'Put its frames there as pictures whose names are in their order, or give the path of a video file.':
    '请把各帧作为图片放在其中，文件名按帧的顺序排列；或给出视频文件的路径。',
  'Expected frames of one size, {1}x{2} as the first one, in {3} but received {4}x{5} in {6}.':
    '{3} 中各帧大小应与第一帧相同，为 {1}x{2}，但 {6} 为 {4}x{5}。',
  'Give all frames of a video the same size, or show them as pictures.': '请让视频各帧大小相同，或把它们作为图片。',
  'Expected a video in {1} but received a file without moving pictures.': '{1} 应为视频，但该文件没有画面。',
  'Replace the file, or remove the record. It may hold sound alone.': '请替换该文件，或删除该记录。它可能只有声音。',
  'Expected a video in {1} but received a picture.': '{1} 应为视频，但收到图片。',
  'Show it as a picture: write <image> and its path under the key image.':
    '请把它作为图片：写 <image>，并把路径写在键 image 下。',
  'Expected a video with frames of at most {1} pixels in {2} but received larger ones, or none.':
    '视频 {2} 的帧应不超过 {1} 像素，实际更大，或没有帧。',
  'Expected a video of at most {1} frames in {2} but it has more.': '视频 {2} 应不超过 {1} 帧，实际更多。',
  'Give a shorter part of it, or one with fewer frames per second.': '请给出其中较短的一段，或每秒帧数更少的视频。',
  'Expected a whole video in {1} but received one that is cut off after {2} of its {3} frames.':
    '{1} 应为完整的视频，但它在 {3} 帧中的第 {2} 帧之后中断。',
  'Expected a whole video in {1} but received one that is cut off after frame {2}.':
    '{1} 应为完整的视频，但它在第 {2} 帧之后中断。',
  'Replace the file, or remove the record.': '请替换该文件，或删除该记录。',
  'Replace the file, or remove the record. Perhaps its download or copy stopped early.':
    '请替换该文件，或删除该记录。下载或复制可能提前中断了。',
  'Expected a video with frames in {1} but received frames: {2}, size: {3}x{4}, frames per second: {5}.':
    '{1} 应为有画面的视频，但收到：帧数 {2}，大小 {3}x{4}，每秒帧数 {5}。',
  'Expected a video in {1} but received {2} (ffprobe: {3}).': '{1} 应为视频，但收到{2}（ffprobe：{3}）。',
  'Expected a video in {1} but received {2}.': '{1} 应为视频，但收到{2}。',
  'one that is damaged or cut off': '已损坏或不完整的文件',
  'its end': '末尾',
  'frame {1}': '第 {1} 帧',
  'Expected a readable video in {1} but received one that is damaged at {2}: {3}.':
    '{1} 应为可读取的视频，但它在{2}处损坏：{3}。',
  'Expected a readable video in {1} but received one that is damaged at {2}.':
    '{1} 应为可读取的视频，但它在{2}处损坏。',
  'Repair or replace the file (ffmpeg -i OLD NEW often repairs one), or remove the record.':
    '请修复（常可用 ffmpeg -i 旧文件 新文件）或替换该文件，或删除该记录。',
  'Expected the program {1} to read the video {2} but there is none in PATH.':
    '读取视频 {2} 需要程序 {1}，但 PATH 中没有它。',
  'Install ffmpeg and have it in PATH (Debian and Ubuntu: apt-get install ffmpeg; macOS: brew install ffmpeg), or give the video as a folder of frames.':
    '请安装 ffmpeg 并加入 PATH（Debian 和 Ubuntu：apt-get install ffmpeg；macOS：brew install ffmpeg），或把视频作为帧目录给出。',
  // Flags and reports.
  '{1} does not think': '{1} 不思考',
  '{1} reads no videos': '{1} 不读取视频',
  '{1} gives every frame tokens of its own': '{1} 的每一帧都有自己的词元',
  'Videos: {1}, frames: {2}': '视频：{1} 个，帧：{2} 个',
  '{1} frames': '{1} 帧',
  'video {1}: {2}, turn {3} ({4}), {5} frames, {6}, not sliced': '视频 {1}：{2}，第 {3} 轮（{4}），{5} 帧，{6}，未切片',
  'video {1}: {2}, turn {3} ({4}), {5} frames, {6}, {7} slices, {8} in a row':
    '视频 {1}：{2}，第 {3} 轮（{4}），{5} 帧，{6}，{7} 个切片，每行 {8} 个',
  '{1} not in PATH': 'PATH 中没有 {1}',
  'Needed only for data with videos: install ffmpeg (Debian and Ubuntu: `apt install ffmpeg`, macOS: `brew install ffmpeg`), or give videos as folders of frames.':
    '仅当数据含视频时需要：请安装 ffmpeg（Debian 和 Ubuntu：`apt install ffmpeg`，macOS：`brew install ffmpeg`），或把视频作为帧目录给出。',
};
