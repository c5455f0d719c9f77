/** 本机页面的文字。 */
import type { machine as english } from '../english/machine.js';
import type { TableOf } from '../table.js';

export const machine: TableOf<typeof english> = {
  title: '本机',
  processor: '处理器',
  cores: (count) => `${count} 个可用核`,
  load: '负载',
  memory: '内存',
  free: (free, total) => `可用 ${free}，共 ${total}`,
  used: (used, total) => `已用 ${used}，共 ${total}`,
  disk: '磁盘',
  gpu: 'GPU',
  gpuFacts: (util, power, temp) => `利用率 ${util}，${power} W，${temp} °C`,
  noGpu: 'nvidia-smi 没有显示 GPU。',
  processes: '进程',
  process: '进程',
  kind: '类型',
  kinds: { run: '训练', chat: '对话', page: '本页面' },
  pid: 'PID',
  cpu: '处理器',
  doctor: '检查',
  doctorText: '检查 Node、编译器、libtorch、设备、内存和磁盘，并测量矩阵乘法的速度。',
  start: '开始检查',
  again: '再次检查',
  running: '正在检查；测量需要几秒钟。',
  done: '检查完成。',
  at: (time) => `检查于 ${time}`,
  status: { ok: '正常', note: '提示', missing: '缺少' },
  finding: '项目',
  found: '结果',
};
