/** Chinese for files of pictures. */
import type { Messages } from '../translator.js';

export const PICTURES: Messages = {
  'a path or the bytes of an image': '图片的路径或字节',
  'the path of an image': '图片的路径',
  'an image file': '图片文件',
  'Expected the bytes of an image for {1} but received 0 bytes.': '{1}应为图片的字节，但收到 0 字节。',
  'Images are not fetched from {1} addresses during training. Download them once and write their paths relative to the data file.':
    '训练期间不会从 {1} 地址获取图片。请先下载，再写出相对于数据文件的路径。',
  'Leave the image out for a text-only record.': '纯文本记录请去掉图片。',
  'Expected the file {1} for {2} but there is none.': '{2}应为文件 {1}，但没有这个文件。',
  'Images of {1} are not in its folder but in the working folder {2}; they are read from there.':
    '{1} 的图片不在它所在的目录，而在工作目录 {2}；从那里读取。',
  'Repair or replace the file: JPEG, PNG, WebP, GIF, TIFF, AVIF and BMP are read.':
    '请修复或替换文件：支持 JPEG、PNG、WebP、GIF、TIFF、AVIF 和 BMP。',
  'Correct the path; a relative one counts from the data file.': '请改正路径；相对路径从数据文件算起。',
  '{1} bytes': '{1} 字节',
  'Expected a picture file at {1} but received {2}.': '{1} 应为图片文件，但收到{2}。',
  'no such file': '不存在的文件',
  'a folder': '目录',
  'something that is no file': '不是文件的东西',
  'Expected a picture of at most {1} pixels but received {2} = {3} for {4}.':
    '图片最多应有 {1} 像素，但 {4} 为 {2} = {3}。',
  'Make the picture smaller or raise --max_image_pixels.': '请缩小图片，或提高 --max_image_pixels。',
  'Expected a readable picture in {1} but received a broken one: {2}.': '{1} 应为可读的图片，但图片已损坏：{2}。',
  'its data is cut off or damaged': '数据被截断或损坏',
  '{1} has {2} frames; only the first one is used.': '{1} 有 {2} 帧；只使用第一帧。',
  'Expected an uncompressed BMP picture but received {1}.': '应为未压缩的 BMP 图片，但收到{1}。',
  'Save the picture as PNG or JPEG.': '请把图片保存为 PNG 或 JPEG。',
  'a header of {1} bytes': '{1} 字节的文件头',
  'compression type {1}': '压缩类型 {1}',
  '{1} bits per pixel': '每像素 {1} 位',
  'a size of {1}': '尺寸 {1}',
  'a cut file: {1} bytes of {2}': '被截断的文件：{2} 字节中只有 {1} 字节',
  'Expected an image of at least {1} pixels but received {2}.': '图片至少应为 {1} 像素，但收到 {2}。',
  'Make the image larger, or let the model slice images (slice_mode), which resizes them.':
    '请放大图片，或让模型切片（slice_mode），切片时会缩放。',
  'Expected a picture that resizing leaves below {1} pixels but received one of {2}, which would become {3}.':
    '图片缩放后应小于 {1} 像素，但收到 {2} 的图片，缩放后会成为 {3}。',
  'Crop the picture or pad it: it is too thin to be seen.': '请裁剪或填充图片：它太细长，看不清。',

  // What is no picture, and pictures in text.
  'Expected a picture in {1} but received {2}.': '{1} 应为图片，但收到{2}。',
  'a file of another kind, which begins with the bytes {1}': '其他类型的文件，开头的字节为 {1}',
  'Perhaps its download failed.': '下载可能失败了。',
  'Replace the file: JPEG, PNG, WebP, GIF, TIFF, AVIF and BMP are read.':
    '请替换文件：支持 JPEG、PNG、WebP、GIF、TIFF、AVIF 和 BMP。',
  'Write the whole picture as data:image/png;base64,… or write it to a file and give its path.':
    '请把完整的图片写成 data:image/png;base64,…，或写成文件并给出路径。',
  'a picture': '图片',
  'the base64 of {1}': '{1}的 base64',
  'the data of {1} in {2}': '{2}中 {1} 的数据',
  'Expected a data: address with data for {1} but received {2}, which has no comma.':
    '{1}应为含数据的 data: 地址，但收到的 {2} 没有逗号。',
  'Expected a data: address with data for {1} but received {2}, which has no data.':
    '{1}应为含数据的 data: 地址，但收到的 {2} 没有数据。',
  'Expected base64 for {1} but received {2} as character {3}.': '{1}应为 base64，但第 {3} 个字符是 {2}。',
  'Expected base64 for {1} but received {2}, {3} as character {4}.': '{1}应为 base64，但第 {4} 个字符是 {2}（{3}）。',
  'Expected whole base64 for {1} but received {2} digits, which are cut off.':
    '{1}应为完整的 base64，但收到的 {2} 位被截断。',

  // Paths of pictures.
  'Expected the file {1} for {2} but there is none: tried from the folder {3}.':
    '{2}应为文件 {1}，但没有这个文件：从目录 {3} 查找过。',
  'Expected the file {1} for {2} but there is none: tried from the folder {3} and from {4}.':
    '{2}应为文件 {1}，但没有这个文件：从目录 {3} 和 {4} 查找过。',
  'Paths of images in {1} are written {2}; they are read all the same, for instance {3} as {4}.':
    '{1} 中的图片路径{2}；仍会读取，例如把 {3} 读作 {4}。',
  'with \\ for /, as Windows has them': '按 Windows 的写法用 \\ 代替了 /',
  'percent-encoded': '经过百分号编码',
  'in another Unicode normalisation than the names of the files': '与文件名的 Unicode 规范化形式不同',
  "This is {1}, which is not on this machine: write image paths relative to the data file's folder.":
    '这是{1}，本机上没有：图片路径请相对于数据文件所在的目录来写。',
  "Write image paths relative to the data file's folder, or absolute, and check that the file is there.":
    '图片路径请相对于数据文件所在的目录来写，或写绝对路径，并检查文件是否存在。',
  'Expected base64 for {1} but received none.': '{1}应为 base64，但没有内容。',
};
