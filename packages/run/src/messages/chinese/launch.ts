/** Chinese for several processes. How they are started, meet and end. */
import type { Messages } from '../translator.js';

export const LAUNCH: Messages = {
  // Variables and flags.
  'Expected one way to start the processes but received both RANK and WORLD_SIZE and {1}.':
    '应只用一种方式启动各进程，但同时收到 RANK、WORLD_SIZE 和 {1}。',
  'Leave the flag out under torchrun, or start the command without torchrun.':
    '使用 torchrun 时请去掉此参数，或不用 torchrun 启动命令。',
  'a rank below WORLD_SIZE={1}': '小于 WORLD_SIZE={1} 的编号',
  'Ranks count from 0.': '进程编号从 0 开始。',
  'WORLD_SIZE has processes of other machines': 'WORLD_SIZE 包括其他机器上的进程',
  'torchrun and the launcher of this command set it; unset it to train in one process.':
    '它由 torchrun 或此命令的启动进程设置；要用单个进程训练，请取消设置。',
  'Expected the variable {1} for one of several processes but it is not set.':
    '多个进程之一应有环境变量 {1}，但没有设置。',
  'Start the processes with torchrun or --nproc_per_node, or unset RANK and WORLD_SIZE to train in one process.':
    '请用 torchrun 或 --nproc_per_node 启动各进程；要用单个进程训练，请取消设置 RANK 和 WORLD_SIZE。',
  'Expected an address that other machines reach for {1} but received {2}: {3}.':
    '{1} 应为其他机器能访问的地址，但收到 {2}：{3}。',
  '--nnodes is {1}': '--nnodes 为 {1}',
  'Give the address of machine 0 in the network that the machines share, such as 10.0.0.1.':
    '请给出编号为 0 的机器在公共网络中的地址，例如 10.0.0.1。',
  'a number below --nnodes {1}': '小于 --nnodes {1} 的编号',
  'Machines count from 0.': '机器编号从 0 开始。',
  'the number of this machine, from 0': '本机的编号，从 0 开始',
  'the address of machine 0': '编号为 0 的机器的地址',
  'Expected {1} with --nnodes above 1 but it is not given.': '--nnodes 大于 1 时应给出 {1}，但没有给出。',
  'an integer of at least 1, or auto': '不小于 1 的整数或 auto',
  'at most one process per GPU ({1})': '每个 GPU 至多一个进程（{1}）',
  'Give --nproc_per_node {1}, or --device cpu.': '请给出 --nproc_per_node {1}，或 --device cpu。',
  'Start fewer processes on this machine, or give --device cpu.': '请在本机启动较少的进程，或给出 --device cpu。',
  'Expected {1} beside SLURM_PROCID but it is not set.': '有 SLURM_PROCID 时还应有 {1}，但没有设置。',
  'Start the command with srun, or give --nproc_per_node.': '请用 srun 启动命令，或给出 --nproc_per_node。',

  // How they meet.
  'The processes of this run connect to {1}:{2}, without a password: in a trusted network only.':
    '本次训练的各进程连接到 {1}:{2}，没有密码：只应在可信网络中使用。',
  'Expected a free port for --master_port but {1} of {2} is in use.':
    '--master_port 应为空闲端口，但 {2} 的端口 {1} 已被占用。',
  'Give another one, the same on all machines, or end the process that uses it.':
    '请换一个端口（各机器相同），或结束占用它的进程。',
  'Expected an address of this machine for --master_addr, as it is machine 0, but received {1}.':
    '本机编号为 0，--master_addr 应为本机的地址，但收到 {1}。',
  "Give one of this machine's, the same on all machines: {1}.": '请给出本机的一个地址（各机器相同）：{1}。',
  'Expected to listen on {1}:{2} but received: {3}.': '应能在 {1}:{2} 上监听，但收到：{3}。',
  'Give another address with --master_addr, or another port with --master_port.':
    '请用 --master_addr 换一个地址，或用 --master_port 换一个端口。',
  'Expected an address that other machines reach for MASTER_ADDR but received {1}, which is {2} on this machine.':
    'MASTER_ADDR 应为其他机器能访问的地址，但收到 {1}，它在本机上是 {2}。',
  'Give that of the network that the machines share: {1}.': '请给出各机器公共网络中的那个地址：{1}。',
  'Expected a known host for the address of the master but received {1}.':
    '编号为 0 的机器应为已知的主机，但收到 {1}。',
  'Give its address in numbers, such as 10.0.0.1.': '请给出数字形式的地址，例如 10.0.0.1。',
  'Rank {1} waits for rank 0 at {2}:{3} ({4}) since {5} s, at most {6} s.':
    '进程 {1} 等待 {2}:{3} 上的进程 0（{4}），已等 {5} 秒，最长 {6} 秒。',
  'no answer': '没有回应',
  'Expected rank 0 at {1}:{2} within {3} s but received: {4}.': '{3} 秒内应在 {1}:{2} 找到进程 0，但收到：{4}。',
  'Start the command on machine 0, give all machines its address and port, and look at firewalls between them.':
    '请在编号为 0 的机器上启动命令，给各机器相同的地址和端口，并检查机器之间的防火墙。',
  'Rank {1} waits for {2} of {3} since {4} s, at most {5} s.':
    '进程 {1} 等待{2}（共 {3} 个），已等 {4} 秒，最长 {5} 秒。',
  'rank {1}': '进程 {1}',
  'ranks {1}': '进程 {1}',
  'rank {1} ({2})': '进程 {1}（{2}）',
  'Expected {1} processes within {2} s but {3} did not come.': '{2} 秒内应有 {1} 个进程，但{3}没有到。',
  'Start the command on all machines, and look there for what ended it.':
    '请在所有机器上启动命令，并在那里查看它为何结束。',
  'Expected each rank once but rank {1} was given to process {2} on {3} and to process {4} on {5}.':
    '每个进程编号应只出现一次，但编号 {1} 同时给了 {3} 上的进程 {2} 和 {5} 上的进程 {4}。',
  'Give each machine a --node_rank of its own, and end what is left of an earlier run.':
    '请给每台机器各自的 --node_rank，并结束先前训练残留的进程。',
  'Expected one number of processes on all ranks but it is {1} on {2} and {3} on {4}.':
    '各进程的进程总数应相同，但{2}为 {1}，{4}为 {3}。',
  'Give all machines the same --nnodes and --nproc_per_node.': '请给所有机器相同的 --nnodes 和 --nproc_per_node。',
  'Expected the same on {1} and {2} but {3}.': '{1}与{2}应相同，但 {3}。',
  'Expected the same on {1} and {2} but {3}; and {4} more.': '{1}与{2}应相同，但 {3}；另有 {4} 项不同。',
  '{1} is {2} and {3}': '{1} 分别为 {2} 和 {3}',
  'Expected one content for {1} on all ranks but rank 0 has {2} and rank {3} has {4}.':
    '{1} 在各进程应有相同的内容，但进程 0 有 {2}，进程 {3} 有 {4}。',
  '{1} records of SHA-256 {2}… on {3}': '{1} 条记录（SHA-256 {2}…，在 {3} 上）',
  'Give all machines the same data files in the same order.': '请给所有机器相同的数据文件，且顺序相同。',
  'Expected one process on mps but received {1}: several compute on CPUs and NVIDIA GPUs.':
    'mps 上只能有一个进程，但收到 {1} 个：多个进程只能在 CPU 或 NVIDIA GPU 上计算。',
  'Expected to know the GPUs of this machine, for {1} processes, but none is listed.':
    '应能列出本机的 GPU（供 {1} 个进程使用），但没有找到。',
  'Set CUDA_VISIBLE_DEVICES to their numbers, such as 0,1, or give --device cpu.':
    '请将 CUDA_VISIBLE_DEVICES 设为它们的编号，例如 0,1，或给出 --device cpu。',
  'Give --device cpu, or start one process with --gradient_accumulation_steps times as large.':
    '请使用 --device cpu，或只启动一个进程并相应增大 --gradient_accumulation_steps。',
  'zero_stage {1} has no effect: one process has all of the model.': 'zero_stage {1} 不起作用：单个进程拥有整个模型。',
  'Give all ranks the same flags, files and versions.': '请给所有进程相同的参数、文件和版本。',
  '{1} is {2} on {3} and {4} on {5}: numbers may differ in their last bits from those of equal machines.':
    '{1}在{3}为 {2}，在{5}为 {4}：数值的最后几位可能与相同机器上的不同。',
  'the version of minicpm-finetune': 'minicpm-finetune 的版本',
  'the version of libtorch': 'libtorch 的版本',
  'the instruction set of the processor': '处理器的指令集',

  'Rank {1} of {2} runs here; the progress is shown where rank 0 runs, on {3}.':
    '本机运行 {2} 个进程中的进程 {1}；进度在进程 0 所在的 {3} 上显示。',
  'Ranks {1} to {2} of {3} run here; the progress is shown where rank 0 runs, on {4}.':
    '本机运行 {3} 个进程中的进程 {1} 至 {2}；进度在进程 0 所在的 {4} 上显示。',
  '{1} has no effect: one process meets no other.': '{1} 不起作用：只有一个进程，无需会合。',
  '{1} and {2} have no effect: one process meets no other.': '{1} 和 {2} 不起作用：只有一个进程，无需会合。',

  // Who holds the others up.
  'the start': '启动阶段',
  '{1} has not answered for {2} s, last at {3}': '{1}已有 {2} 秒没有回应，最后在 {3}',
  '{1} is at {2} since {3} s': '{1}在 {2} 已有 {3} 秒',
  '{1}, which serves the store, has not answered for {2} s; rank {3} waits at {4}.':
    '提供存储的{1}已有 {2} 秒没有回应；进程 {3} 在 {4} 等待。',
  'all ranks wait at {1} since {2} s: look at the network between them.':
    '所有进程在 {1} 等待了 {2} 秒：请检查它们之间的网络。',
  'rank {1} waits at {2}.': '进程 {1} 在 {2} 等待。',
  'ranks {1} wait at {2}.': '进程 {1} 在 {2} 等待。',
  'error: {1}, which serves the store, is gone.': '错误：提供存储的{1}已不在。',

  // How they end.
  '{1} failed:': '{1}失败：',
  'Expected rank {1} at {2} but its connection is closed ({3}).': '进程 {1} 应在 {2}，但它的连接已断开（{3}）。',
  'Expected rank {1} at {2} within {3} s but it did not come.': '进程 {1} 应在 {3} 秒内到达 {2}，但没有到。',
  'Look at what it printed last on its machine, and at the network between the machines; resume with --resume_from_checkpoint latest.':
    '请查看它在其机器上最后输出的内容以及机器之间的网络；用 --resume_from_checkpoint latest 恢复训练。',
  'Rank {1} ended first, with exit code {2}.': '进程 {1} 最先结束，退出码为 {2}。',
  'Rank {1} ended first, by {2}.': '进程 {1} 最先结束，由 {2} 终止。',
  'Its output is in {1}.': '它的输出在 {1}。',
  'notice: the output of the other ranks stays out of {1}.': '提示：其他进程的输出不放入 {1}。',
  'The processes did not end within {1} s: they are killed.': '各进程没有在 {1} 秒内结束，现在强制终止。',
};
