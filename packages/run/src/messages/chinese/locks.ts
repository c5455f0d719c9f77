/** Chinese for locks of run folders and output files. */
import type { Messages } from '../translator.js';

export const LOCKS: Messages = {
  'Expected to take over {1} but other processes take it over all the time.': '应能接管 {1}，但一直被其他进程接管。',
  'Start one process after the other.': '请逐个启动进程。',
  'Expected to write in {1} but received: {2}.': '应能在 {1} 中写入，但收到：{2}。',
  'Name a folder that can be written, on a disk with free space.': '请给出一个可写的目录，且所在磁盘有空闲空间。',
  'process {1} on this machine since {2} UTC ({3}…)': '本机进程 {1}，自 {2} UTC 起（{3}…）',
  'process {1} on this machine since {2} UTC ({3})': '本机进程 {1}，自 {2} UTC 起（{3}）',
  'process {1} on {2} since {3} UTC ({4}…)': '{2} 上的进程 {1}，自 {3} UTC 起（{4}…）',
  'process {1} on {2} since {3} UTC ({4})': '{2} 上的进程 {1}，自 {3} UTC 起（{4}）',
  'Expected one process but {1} is in use by {2}.': '只能由一个进程使用，但 {1} 正被占用：{2}。',
  'Wait until it has ended, or end it with `kill {1}`. If that process does not use it, delete {2}.':
    '请等它结束，或用 `kill {1}` 结束它。如果该进程并未使用，请删除 {2}。',
  'Wait until it has ended. From here nobody can see whether it still runs: if it has ended, delete {1}.':
    '请等它结束。从这里无法看到它是否还在运行：如果已结束，请删除 {1}。',
  'Expected no file, or the lock of a process, but received {1}, which is something else.':
    '应没有文件，或是一个进程的锁，但收到 {1}，它是其他内容。',
  'Move the file away: while it is in use, a file of this name is made there.':
    '请移走该文件：使用期间会在那里建立同名文件。',
};
