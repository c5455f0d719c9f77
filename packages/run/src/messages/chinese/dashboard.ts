/** Chinese for the server of the page. */
import type { Messages } from '../translator.js';

export const DASHBOARD: Messages = {
  'Expected {1} but there is none of this handle.': '应有 {1}，但没有这个句柄。',
  'Load the page again.': '请重新加载页面。',
  'The run is in the archive.': '该训练已归档。',
  'The run is not in the archive any more.': '该训练已不在归档中。',
  'The notes are saved.': '备注已保存。',
  'Expected the name of the run, {1}, but received another text.': '应为该训练的名称 {1}，但收到其他文本。',
  'Expected an address of the page but there is none.': '应为网页的地址，但没有这个地址。',
  'The system refuses this: {1}.': '系统拒绝此操作：{1}。',
  'Look at the owner of the run folder and at the space on its disk.': '请检查运行目录的所有者和磁盘空间。',
  'The server failed at this request: {1}': '服务器处理此请求时出错：{1}',
  'Expected an address of the API but there is no {1}.': '应为 API 的地址，但没有 {1}。',
  'Expected the built page but it is not there.': '应有已构建的网页，但它不存在。',
  'In a clone run `npm run setup`; otherwise install the package again.':
    '如果是仓库的克隆，请运行 `npm run setup`；否则请重新安装该包。',
  'Expected a file of the page but there is none of this name.': '应为网页的文件，但没有这个名称的文件。',
  'Expected run:byte for a position of the stream but received {1}.': '数据流的位置应为 run:byte，但收到 {1}。',
  'Expected at most {1} streams at once.': '同时最多允许 {1} 个数据流。',
  'Close some pages.': '请关闭一些页面。',
  'Expected a picture but its file is not there.': '应为图片，但其文件不存在。',
  'Expected a picture of pixels (PNG, JPEG, WebP, GIF, TIFF) but received another file.':
    '应为像素图片（PNG、JPEG、WebP、GIF、TIFF），但收到其他文件。',
  'Expected a picture but it cannot be decoded: {1}': '应为图片，但无法解码：{1}',
  'Expected a picture of at most {1} bytes but received {2}.': '图片最多 {1} 字节，但收到 {2}。',
  'Expected at most {1} metrics but received {2}.': '最多允许 {1} 个指标，但收到 {2}。',
  'Expected a console.log of the run but there is none.': '应有该训练的 console.log，但它不存在。',
  'Only runs that the page starts have one; the output of others is where they were started.':
    '只有从网页启动的训练才有；其他训练的输出在启动它们的地方。',
  'Expected GET, POST, PUT or DELETE but received {1}.': '应为 GET、POST、PUT 或 DELETE，但收到 {1}。',
  'Expected the name under which the page was started in the Host header but received another one.':
    'Host 头应为启动网页时的名称，但收到其他名称。',
  'Open the address that `minicpm-finetune ui` prints, or allow this name with --allowed_host.':
    '请打开 `minicpm-finetune ui` 打印的地址，或用 --allowed_host 允许这个名称。',
  'Expected application/json as the content type of a request that writes.':
    '写入请求的内容类型应为 application/json。',
  'Expected a request of the page itself but received one of another site.':
    '应为网页自身的请求，但收到其他站点的请求。',
  'Programs send the token as `Authorization: Bearer TOKEN`.': '程序请以 `Authorization: Bearer TOKEN` 发送令牌。',
  'Expected a request that says its length (content-length).': '请求应给出其长度（content-length）。',
  'Expected at most {1} bytes as the body of a request but received {2}.': '请求正文最多 {1} 字节，但收到 {2}。',
  'Expected the token of the page but received none, or another one.': '应为网页的令牌，但没有收到，或收到其他令牌。',
  'Open the address with #token=… that `minicpm-finetune ui` prints.':
    '请打开 `minicpm-finetune ui` 打印的带 #token=… 的地址。',
  'Expected the token of the page but received another one.': '应为网页的令牌，但收到其他令牌。',
  'The run does not wait any more.': '该训练不再排队。',
  'The run was asked to stop before.': '之前已请求该训练停止。',
  'The run finishes its step, saves and ends.': '该训练完成当前步、保存并结束。',
  'The run saves a checkpoint after its step.': '该训练在当前步之后保存检查点。',
  'The process was ended. What it did since the last checkpoint is lost.':
    '进程已结束。自上一个检查点以来的工作已丢失。',
  'Expected a run that has ended but its state is {1}.': '应为已结束的训练，但其状态为 {1}。',
  'Stop it first.': '请先停止它。',
  'Expected a checkpoint that can be resumed but there is none of step {1}.':
    '应为可以恢复的检查点，但没有第 {1} 步的检查点。',
  'Choose another checkpoint. Those of --save_only_model cannot be resumed.':
    '请选择其他检查点。--save_only_model 的检查点不能恢复。',
  'The run resumes from step {1}.': '训练从第 {1} 步恢复。',
  'Expected a run that is running to be {1} but its state is {2}.': '应为正在运行的训练（{1}），但其状态为 {2}。',
  'Expected the process of {1} on this machine but it is not there.': '本机应有 {1} 的进程，但它不存在。',
  'Stop the run instead: that works by a file.': '请改为停止训练：这是通过文件进行的。',
  'Expected a flag of train but received --{1}.': '应为 train 的参数，但收到 --{1}。',
  'Expected a text without the character NUL for --{1}.': '--{1} 的文本不能含有 NUL 字符。',
  'Expected a value of kind {1} for --{2} but received another one.': '--{2} 的值应为 {1} 类型，但收到其他类型。',
  'Expected a folder below {1} for --output_dir but received {2}.': '--output_dir 应为 {1} 下的目录，但收到 {2}。',
  'Name a folder there, or start the page with --runs and the folder above it.':
    '请给出那里的目录，或用 --runs 和其上级目录启动网页。',
  'Expected a folder for --output_dir but received none.': '--output_dir 应为目录，但没有收到。',
  'Expected a free folder for --output_dir but received {1}, whose run is {2}.':
    '--output_dir 应为空闲的目录，但收到 {1}，其训练状态为 {2}。',
  'Expected a new folder for --output_dir but received {1}, which holds a run.':
    '--output_dir 应为新目录，但收到 {1}，其中已有训练。',
  'Name another folder, resume the run, or set --overwrite_output_dir true.':
    '请给出其他目录、恢复该训练，或设置 --overwrite_output_dir true。',
  'Expected a folder for --output_dir that can be made but received {1} ({2}).':
    '--output_dir 应为可以创建的目录，但收到 {1}（{2}）。',
  'The process could not be started in {1}: {2}': '无法在 {1} 启动进程：{2}',
  'Expected a file or nothing at {1} but there is something else.': '{1} 应为文件或不存在，但那里是其他东西。',
  'Move it away.': '请把它移走。',
  'Nothing proves what is in {1}: its manifest.json cannot be read.':
    '无法证明 {1} 中是什么：其 manifest.json 无法读取。',
  "Nothing proves which files of {1} are the run's: a run of an earlier version wrote no run_files.jsonl.":
    '无法证明 {1} 中哪些文件属于该训练：早期版本的训练没有写入 run_files.jsonl。',
  'The run is running and may need it.': '该训练正在运行，可能需要它。',
  'It is the last checkpoint from which the run can be resumed.': '它是可以恢复该训练的最后一个检查点。',
  'Expected a checkpoint of step {1} but there is none.': '应有第 {1} 步的检查点，但它不存在。',
  'The checkpoint of step {1} stays: {2}': '第 {1} 步的检查点保留：{2}',
  'The checkpoint of step {1} was deleted.': '第 {1} 步的检查点已删除。',
  'The run was deleted.': '该训练已删除。',
  "Not the run's, and left: {1}.": '不属于该训练而保留：{1}。',
  'Remove it yourself: rm -r {1}': '请自行删除：rm -r {1}',
  'Expected answers of step {1} but there are none.': '应有第 {1} 步的回答，但没有。',
  'Expected a picture of the run but there is none of this handle.': '应为该训练的图片，但没有这个句柄。',
  'manifest.json cannot be read: {1}': 'manifest.json 无法读取：{1}',
  'Expected JSON as the body of the request but received something else.': '请求正文应为 JSON，但收到其他内容。',
  'Expected another {1} of the request: {2}.': '请求的 {1} 应为其他值：{2}。',
  'Expected a number for {1} in the address but received another text.': '地址中的 {1} 应为数字，但收到其他文本。',
  'Expected at most {1} base models in memory at once.': '内存中同时最多允许 {1} 个基座模型。',
  'Free one of those that are loaded.': '请释放一个已加载的模型。',
  'Expected a loaded model but it is being loaded.': '应为已加载的模型，但它正在加载。',
  'Try again in a moment.': '请稍后再试。',
  'The process of this model ended.': '该模型的进程已结束。',
  'Load the model again.': '请重新加载该模型。',
  'The adapter was refused (status {1}).': '适配器被拒绝（状态 {1}）。',
  'Expected a complete checkpoint of step {1} but {2} has none.': '应有第 {1} 步的完整检查点，但 {2} 没有。',
  'Expected weights or an adapter in {1} but there are none yet.': '{1} 中应有权重或适配器，但还没有。',
  'Choose a checkpoint, or wait for the end of the run.': '请选择检查点，或等待训练结束。',
  'Expected the name of the base in run.json of {1} but there is none.': '{1} 的 run.json 中应有基座的名称，但没有。',
  'Expected the report of check-data for this filter but it is not there yet.':
    '此筛选需要 check-data 的报告，但报告还没有生成。',
  'Wait until the data are checked.': '请等待数据检查完成。',
  'The command ended without a message.': '命令结束时没有给出信息。',
  'The process of this model was ended.': '该模型的进程已被结束。',
  'The process of this model does not answer: {1}.': '该模型的进程没有响应：{1}。',
  'The process was killed (SIGKILL): as a rule, the machine ran out of memory.':
    '进程被终止（SIGKILL）：通常是机器内存不足。',
  'Free a model, or take a smaller one.': '请释放一个模型，或使用更小的模型。',
  'The process was ended by {1}.': '进程被 {1} 结束。',
  '{1} (exit code {2})': '{1}（退出码 {2}）',
  'a run': '训练',
  'a model of the chat': '聊天的模型',
  'opened data': '已打开的数据',
};
