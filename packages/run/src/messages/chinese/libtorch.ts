/** Chinese for files of tensors, and for libtorch. */
import type { Messages } from '../translator.js';

export const LIBTORCH: Messages = {
  // Safetensors.
  'Expected at least 8 bytes for a safetensors file but received {1}. The file is cut: copy or download it again.':
    'safetensors 文件至少应有 8 字节，但收到 {1} 字节。文件被截断：请重新复制或下载。',
  'Expected a header of 2 to {1} bytes but received {2}. This is not a safetensors file.':
    '文件头应为 2 到 {1} 字节，但收到 {2}。这不是 safetensors 文件。',
  'Expected {1} bytes of header but the file has {2}. The file is cut: copy or download it again.':
    '文件头应有 {1} 字节，但文件只有 {2} 字节。文件被截断：请重新复制或下载。',
  'Expected JSON in the header but received: {1}': '文件头应为 JSON，但收到：{1}',
  'Expected an object as header': '文件头应为对象',
  '{1}: Expected JSON but received: {2}': '{1}：应为 JSON，但收到：{2}',
  "{1}: Expected a 'weight_map' but the index has none": "{1}：索引中应有 'weight_map'，但没有",
  '{1}: Expected {2} bytes but the file has {3}. The file is cut or damaged: copy or download it again.':
    '{1}：应有 {2} 字节，但文件有 {3} 字节。文件被截断或损坏：请重新复制或下载。',
  'Expected a known dtype but received {1}': '应为已知的 dtype，但收到 {1}',
  'Expected a list of sizes as shape but received {1}': 'shape 应为尺寸列表，但收到 {1}',
  'Expected two offsets but received {1}': '应为两个偏移，但收到 {1}',
  'Expected {1} bytes for {2} but the offsets [{3}] hold {4}': '{2} 应有 {1} 字节，但偏移 [{3}] 之间有 {4} 字节',
  '{1}: Expected the shard {2} beside the index but it is not there. Copy or download it.':
    '{1}：索引旁应有分片 {2}，但没有。请复制或下载。',
  '{1}: Expected {2} or {3} but neither is there': '{1}：应有 {2} 或 {3}，但两者都没有',

  // The native part.
  'Expected {1} to load but received: {2}': '{1} 应能加载，但出错：{2}',
  '`npm run setup` in {1}': '在 {1} 中运行 `npm run setup`',
  'libtorch needs glibc and this system has another C library (musl, as on Alpine). Use a glibc system, for example the image node:22-bookworm-slim.':
    'libtorch 需要 glibc，而这个系统使用别的 C 库（musl，如 Alpine）。请使用 glibc 系统，例如镜像 node:22-bookworm-slim。',
  'libtorch has moved: it was in {1}. Put it back (a container needs that folder, too), or run {2}.':
    'libtorch 被移走了：原来在 {1}。请放回原处（容器中也需要该目录），或运行 {2}。',
  'The install script has not run: {1}, the link to libtorch, is not there. Run {2}.':
    '安装脚本没有运行：没有指向 libtorch 的链接 {1}。请运行 {2}。',
  'The addon was built on a newer system: it needs {1}. Run {2}: it compiles the addon here.':
    '原生部分是在更新的系统上构建的：它需要 {1}。请运行 {2}，在本机编译。',
  'The addon is of another platform; node_modules was probably copied from another machine. Run {1}.':
    '原生部分属于另一个平台；node_modules 可能是从别的机器复制来的。请运行 {1}。',
  'An OpenMP library has to be loaded earlier on this system. Start with LD_PRELOAD={1}.':
    '在这个系统上必须更早加载 OpenMP 库。请以 LD_PRELOAD={1} 启动。',
  "libtorch is a CUDA build, and {1}, which NVIDIA's packages bring, is not beside it. Run {2}.":
    'libtorch 是 CUDA 版，但旁边没有 NVIDIA 的包所带的 {1}。请运行 {2}。',
  '{1} is neither in {2} nor on this system. Run {3}.': '{1} 既不在 {2} 中，也不在这个系统上。请运行 {3}。',
  'libtorch is now {1}; the addon and libtorch do not fit each other. Delete {2} and run {3}.':
    'libtorch 现为 {1}；原生部分与 libtorch 不匹配。请删除 {2}，然后运行 {3}。',
  'the addon and libtorch do not fit each other. Delete {1} and run {2}.':
    '原生部分与 libtorch 不匹配。请删除 {1}，然后运行 {2}。',
  'Expected Linux or macOS but this is Windows, which is not supported. Use WSL 2: `wsl --install`, then install inside it.':
    '应为 Linux 或 macOS，但这是 Windows，不受支持。请使用 WSL 2：先运行 `wsl --install`，再在其中安装。',
  'Expected the native addon of {1} but it is not there.': '应有 {1} 的原生部分，但没有。',
  "The package's install script has not run (--ignore-scripts, or a package manager that asks first, as npm 12: {1}) or it failed. Run {2}: it finds libtorch and takes or compiles the addon.":
    '本包的安装脚本没有运行（使用了 --ignore-scripts，或包管理器要求先确认，如 npm 12：{1}），或运行失败。请运行 {2}：它会找到 libtorch，并取用或编译原生部分。',
  'no glibc': '没有 glibc',
  'addon built for libtorch {1}': '原生部分为 libtorch {1} 构建',
  'libtorch {1} in {2}': '{2} 中的 libtorch {1}',
  'of unknown version': '（版本未知）',
  'libtorch not in {1}': '{1} 中没有 libtorch',
  'Run {1}. If that does not help, report the whole message.': '请运行 {1}。如果仍不能解决，请报告完整的信息。',

  // Names of tensors in quotes.
  'a list of {1}': '{1} 项的列表',
  '{1}: tensor {2}: {3}': '{1}：张量 {2}：{3}',
  '{1}: tensor {2}: Expected its data at byte {3} but the header says {4}: the tensors overlap or leave a hole':
    '{1}：张量 {2}：数据应在第 {3} 字节，但文件头写的是 {4}：张量重叠或留有空隙',
  '{1}: Expected a tensor {2} but the file has none': '{1}：应有张量 {2}，但文件中没有',
  '{1}: Expected a file name beside the index for {2} but received {3}': '{1}：{2} 应为索引旁的文件名，但收到 {3}',
  '{1}: Expected the tensor {2} that the index places there but the file has none':
    '{1}：按索引应有张量 {2}，但文件中没有',
  '{1}: Expected the tensor {2} in the index {3} but it is missing there.': '{1}：索引 {3} 中应有张量 {2}，但没有。',
  '{1}: Expected a tensor {2} but the checkpoint has none': '{1}：应有张量 {2}，但检查点中没有',
};
