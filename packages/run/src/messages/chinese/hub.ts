/** Chinese for downloads from the Hugging Face hub. */
import type { Messages } from '../translator.js';

export const HUB: Messages = {
  'there is no folder {1}, so the model of that name is downloaded from the hub':
    '没有目录 {1}，因此从 Hub 下载同名模型',
  'Downloading {1}': '正在下载 {1}',
  '{1} file[s]': '{1} 个文件',
  'left out, because opening pickles can run code: {1}': '已跳过（打开 pickle 可能会运行代码）：{1}',
  'Expected a folder with config.json and weights, or the id of a model of the hub, but received {1}, which is {2}.':
    '应为含 config.json 和权重的目录，或 Hub 上的模型 id，但收到 {1}，它是{2}。',
  'no folder': '不存在的目录',
  'Check the path, or give an id such as openbmb/MiniCPM-V-2_6.':
    '请检查路径，或给出 openbmb/MiniCPM-V-2_6 这样的 id。',
  'Expected {1} in the cache but received HF_HUB_OFFLINE and no complete copy.':
    '设置了 HF_HUB_OFFLINE，{1} 应在缓存中，但缓存里没有完整的副本。',
  'Unset HF_HUB_OFFLINE to download it, or give the folder of a checkpoint.':
    '请取消 HF_HUB_OFFLINE 以便下载，或给出检查点的目录。',
  'Expected an answer of the hub for {1} but {2} cannot be reached ({3}).':
    '应收到 Hub 对 {1} 的响应，但无法连接 {2}（{3}）。',
  'Check the network. Where the hub is blocked, set HF_ENDPOINT to a mirror, or download the checkpoint elsewhere and give its folder.':
    '请检查网络。如果无法访问 Hub，请把 HF_ENDPOINT 设为镜像地址，或在别处下载检查点后给出其目录。',
  '{1} answered {2}': '{1} 返回 {2}',
  'Expected access to {1} but {2}: its owners ask for an agreement first.':
    '应能访问 {1}，但 {2}：所有者要求先同意条款。',
  'Expected access to {1} but {2}: it does not exist, or is private.': '应能访问 {1}，但 {2}：它不存在，或是私有的。',
  'Accept the conditions on {1}, then set HF_TOKEN to a token of that account that may read it.':
    '请在 {1} 同意条款，然后把 HF_TOKEN 设为该账号的可读令牌。',
  'Check the spelling: ids look like openbmb/MiniCPM-V-2_6, and there is no folder {1} here either.':
    '请检查拼写：id 形如 openbmb/MiniCPM-V-2_6；这里也没有目录 {1}。',
  'If it is private, set HF_TOKEN to a token that may read it.': '如果是私有的，请把 HF_TOKEN 设为可读它的令牌。',
  'Expected a token that may read {1} for HF_TOKEN but {2}.': 'HF_TOKEN 应为可读 {1} 的令牌，但 {2}。',
  'Make a new token with read access at {1}, or check the spelling of the id.':
    '请在 {1} 新建具有读权限的令牌，或检查 id 的拼写。',
  'Expected a branch, tag or commit of {1} but received {2}: {3}.': '应为 {1} 的分支、标签或提交，但收到 {2}：{3}。',
  'See {1} for what there is.': '现有内容请看 {1}。',
  'Expected a model of the hub but received {1}: {2}.': '应为 Hub 上的模型，但收到 {1}：{2}。',
  'Expected {1} from the hub but {2} for {3}.': '应从 Hub 得到 {1}，但 {2}（{3}）。',
  'Try again later: what is downloaded stays. https://status.huggingface.co shows known outages.':
    '请稍后再试：已下载的部分会保留。已知故障见 https://status.huggingface.co。',
  "Expected the hub's list of the files of {1} but {2} answered something else: {3}.":
    '应收到 {1} 的文件列表，但 {2} 返回了其他内容：{3}。',
  'Run the command again. If it stays so, check HF_ENDPOINT, and whether the network asks for a login.':
    '请重新运行命令。如果仍然如此，请检查 HF_ENDPOINT，以及网络是否要求登录。',
  'Expected files of {1} ({2}) for --allow but received {3}, which none of them matches.':
    '--allow 应匹配 {1}（{2}）中的文件，但收到的 {3} 没有匹配任何文件。',
  'It has {1}.': '它有 {1}。',
  'Expected weights as safetensors in {1} ({2}) but received {3}.': '{1}（{2}）中应有 safetensors 权重，但收到{3}。',
  'only pickles ({1}), which can run code': '的只有 pickle（{1}），它可能会运行代码',
  'Choose a model or --revision with safetensors, or convert it with save_pretrained of transformers and give the folder.':
    '请选择有 safetensors 的模型或 --revision，或用 transformers 的 save_pretrained 转换后给出目录。',
  'Expected room for {1} of {2} but the disk has {3} left.': '{2} 需要 {1} 空间，但磁盘只剩 {3}。',
  'Expected room for {1} ({2} bytes) but the disk is full.': '{1} 需要 {2} 字节空间，但磁盘已满。',
  'Free some space, or put the cache on another disk with HF_HOME or --cache_dir.':
    '请腾出空间，或用 HF_HOME 或 --cache_dir 把缓存放到别的磁盘。',
  'Free some space and run the command again: it resumes there. HF_HOME or --cache_dir put the cache elsewhere.':
    '请腾出空间后重新运行命令：会从断点继续。用 HF_HOME 或 --cache_dir 可把缓存放到别处。',
  'Expected a disk with symbolic links for the cache but {1} cannot be one.':
    '缓存所在磁盘应支持符号链接，但无法创建 {1}。',
  'Put the cache on another disk with HF_HOME or --cache_dir.': '请用 HF_HOME 或 --cache_dir 把缓存放到别的磁盘。',
  'Expected {1} bytes for {2} but the answers ended after {3} of them.': '{2} 应有 {1} 字节，但响应在 {3} 字节后结束。',
  'Run the command again: it resumes there. A proxy that cuts long answers may have to be avoided.':
    '请重新运行命令：会从断点继续。可能需要避开会截断长响应的代理。',
  'Expected {1} bytes for {2} but received {3}.': '{2} 应有 {1} 字节，但收到{3}。',
  'an answer of {1}': '长度为 {1} 的响应',
  'Run the command again. If it stays so, the mirror in HF_ENDPOINT or a proxy delivers something else.':
    '请重新运行命令。如果仍然如此，说明 HF_ENDPOINT 指向的镜像或某个代理给出了别的内容。',
  'Expected the git hash {1} for {2} but received {3}.': '{2} 的 git 哈希应为 {1}，但收到 {3}。',
  'Expected the sha256 {1} for {2} but received {3}.': '{2} 的 sha256 应为 {1}，但收到 {3}。',
  'What was received is deleted: run the command again. If it stays so, the mirror in HF_ENDPOINT or a proxy changes files.':
    '收到的内容已删除：请重新运行命令。如果仍然如此，说明 HF_ENDPOINT 指向的镜像或某个代理改动了文件。',
  'the commit {1}': '提交 {1}',
  'no list of files': '没有文件列表',
  'the hash {1} of {2}': '{2} 的哈希 {1}',
  'the path {1}': '路径 {1}',
  'there is no folder {1} (did you mean {2} ({3})?), so the model of that name is downloaded from the hub':
    '没有目录 {1}（是不是想写 {2}（{3}）？），因此从 Hub 下载同名模型',
};
