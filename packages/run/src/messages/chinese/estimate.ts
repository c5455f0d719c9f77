/** Chinese for estimates of memory. The table, its arithmetic, and the check before a start. */
import type { Messages } from '../translator.js';

const TABLE: Messages = {
  '{1} of {2} parameters train; a micro-batch has at most {3} tokens and {4} pictures and slices':
    '{2} 个模型参数中训练 {1} 个；每个微批最多 {3} 个词元、{4} 张图片和切片',
  'GiB per device': '每个设备（GiB）',
  'GiB per host': '每台主机（GiB）',
  'GiB of files per host': '每台主机的文件（GiB）',
  'zero stage': 'ZeRO 阶段',
  weights: '权重',
  'reference (copy)': '参考（副本）',
  'float32 weights': 'float32 权重',
  moments: '动量',
  gradients: '梯度',
  'activations kept': '保留的激活值',
  'block being computed': '正在计算的块',
  'pictures and ids': '图片和词元',
  communication: '通信',
  'device context': '设备上下文',
  'loader threads': '读取线程',
  'pinned batches': '锁页批次',
  all: '合计',
  'arithmetic for {1} devices, most in the {2}:': '{1} 个设备的算式，{2}时最多：',
  'forward of {1}': '{1} 的前向',
  'backward of {1}': '{1} 的反向',
  'recompute of {1}': '{1} 的重计算',
  'loss of {1}': '{1} 的损失',
  update: '更新',
  'answers of an evaluation, with all weights': '评估作答（收集全部权重）',
  'the estimate may be off by {1} %; page cache of mapped weights is not counted on the host':
    '估算误差可达 {1} %；主机上映射权重的页缓存不计入',
  'trained numbers in {1}': '以 {1} 训练的数',
  'copied numbers in {1}': '以 {1} 复制的数',
  'frozen numbers in {1}': '以 {1} 冻结的数',
  'weights in float32': 'float32 的权重',
  'numbers of both moments': '两个动量的数',
  'numbers of both moments (token table: rows of {1} tokens of {2}; more as more occur)':
    '两个动量的数（词元表：{2} 行中的 {1} 行；出现的词元越多，行越多）',
  'bytes of gradients at that moment': '字节的梯度（此时）',
  tokens: '词元',
  'bytes in that part of the step': '字节（这一部分）',
  'micro-batches on the device': '设备上的微批',
  'bytes of gathered blocks': '字节的已收集块',
  "bytes of a block's gradients on their way": '字节的传输中的块梯度',
  'numbers that are updated at once': '同时更新的数',
  'pinned buffers': '锁页缓冲区',
  'CUDA context (stated)': 'CUDA 上下文（假定值）',
  'NCCL (stated)': 'NCCL（假定值）',
  processes: '进程',
  'threads that read records': '读取记录的线程',
};

export const ESTIMATE: Messages = {
  ...TABLE,
  'memory: about {1} at most = weights {2} + gradients {3} + optimizer {4} + activations {5}, in the {6}, for {7} tokens and {8} pictures at once':
    '内存：最多约 {1} = 权重 {2} + 梯度 {3} + 优化器 {4} + 激活值 {5}，在{6}时，一次有 {7} 个词元和 {8} 张图片',
  'memory: about {1} at most = weights {2} + reference {3} + gradients {4} + optimizer {5} + activations {6}, in the {7}, for {8} tokens and {9} pictures at once':
    '内存：最多约 {1} = 权重 {2} + 参考 {3} + 梯度 {4} + 优化器 {5} + 激活值 {6}，在{7}时，一次有 {8} 个词元和 {9} 张图片',
  '{1} has {2} of memory, which is less.': '{1} 的内存为 {2}，不够。',
  'the estimate was {1}': '估算为 {1}',
  'x{1}: nothing that may be changed fits {2}.': 'x{1}：可以改动的设置都放不进 {2}。',
  'Take a smaller --model_max_length or --max_slice_nums, or give fewer flags.':
    '请使用更小的 --model_max_length 或 --max_slice_nums，或少给一些参数。',
  'x{1}: {2} with {3}': 'x{1}：{2}，设置为 {3}',
  'the settings as they are': '现有设置',
  'Expected at most {1}, which {2} has, but received a run that takes about {3}, without pictures: {4}.':
    '{2} 有 {1}，但运行约需 {3}（不含图片）：{4}。',
  '{1} --memory_check warn starts it all the same.': '{1}用 --memory_check warn 仍可启动。',
  'THE LARGEST BATCH MAY NOT FIT: step {1} has {2} tokens at once, for which the run takes about {3}, and {4} has {5}.':
    '最大的批次可能放不下：第 {1} 步一次有 {2} 个词元，运行约需 {3}，而 {4} 有 {5}。',
  'No other settings of the batch, the precision, LoRA and offloading fit: take a smaller --model_max_length or --max_slice_nums, or a device with more memory.':
    '批次、精度、LoRA 和卸载的其他设置都放不下：请使用更小的 --model_max_length 或 --max_slice_nums，或内存更大的设备。',
  'By the estimate the settings fit: free memory, or take a smaller --model_max_length or --max_slice_nums, or a device with more memory.':
    '按估算这些设置放得下：请释放内存，或使用更小的 --model_max_length 或 --max_slice_nums，或内存更大的设备。',
  '--offload_params FOLDER trains with weights on a fast disk.':
    '--offload_params FOLDER 可以把权重放在快速磁盘上训练。',
  'THE HOST MAY HAVE TOO LITTLE MEMORY: beside their devices the processes take about {1} each, and there is {2} for each.':
    '主机内存可能不够：除设备之外，每个进程约需 {1}，而每个进程只有 {2}。',
  'Expected at most {1} of host memory for each process but received a run that takes about {2} beside the device, for offloaded states among others.':
    '期望每个进程最多使用 {1} 主机内存，但运行除设备之外约需 {2}，其中包括卸载的状态。',
  'Offload to a folder instead: --offload_params FOLDER or --offload_optimizer FOLDER.':
    '请改为卸载到目录：--offload_params FOLDER 或 --offload_optimizer FOLDER。',
  'By the estimate this fits, with {1}: {2}.': '按估算，以下设置放得下，需 {1}：{2}。',
  'Or take a smaller --model_max_length or --max_slice_nums, or a device with more memory.':
    '或使用更小的 --model_max_length 或 --max_slice_nums，或内存更大的设备。',
  'measured: tensors took {1} at most; the estimate of these is {2} ({3} %), in the {4}':
    '实测：张量最多占 {1}；对它们的估算为 {2}（{3} %），在{4}时',
  'measured: this is rank {1} of {2} without the others, whose gradients count as zeros':
    '实测：这是 {2} 个进程中的 rank {1}，其余进程并不存在，其梯度按零计',
  'Expected finite gradients of noise but received others: without an update the memory of one is not known.':
    '噪声的梯度应为有限值，但出现了非有限值：没有更新就无法得知更新所需的内存。',
  'Look at the weights of the checkpoint, and at --dtype.': '请检查检查点的权重和 --dtype。',
  'measured: the process had {1} resident at most': '实测：进程最多驻留 {1}',
};
