/** Flags of `train` for several processes. They belong to a start and not to a run: no recipe and no `run.json` holds them. */
import type { FlagTable } from '@minicpm-finetune/run';

export const LAUNCH_FLAGS = {
  nproc_per_node: {
    kind: 'string',
    default: null,
    placeholder: 'N|auto',
    help: {
      en: 'Processes to start on this machine, one per device; auto: one per GPU. Without a GPU they share the cores.',
      zh: '在本机启动的进程数，每个设备一个；auto 表示每个 GPU 一个。没有 GPU 时各进程分享 CPU 核。',
    },
  },
  nnodes: {
    kind: 'integer',
    min: 1,
    default: 1,
    help: {
      en: 'Machines of the run; start the command on each of them.',
      zh: '参与训练的机器数；请在每台机器上启动此命令。',
    },
  },
  node_rank: {
    kind: 'integer',
    min: 0,
    default: null,
    placeholder: 'integer',
    help: { en: 'Number of this machine, from 0.', zh: '本机的编号，从 0 开始。' },
  },
  master_addr: {
    kind: 'string',
    default: null,
    placeholder: 'host',
    help: {
      en: 'Address of machine 0, to which the processes connect: in a trusted network, there is no password.',
      zh: '编号为 0 的机器的地址，各进程都连接到它：没有密码，只应在可信网络中使用。',
    },
  },
  master_port: {
    kind: 'integer',
    min: 1,
    max: 65_535,
    default: null,
    placeholder: 'port',
    help: {
      en: 'Port of machine 0; 29500 unless given, on one machine a free one.',
      zh: '编号为 0 的机器的端口；默认为 29500，单机时为空闲端口。',
    },
  },
  stop_timeout: {
    kind: 'integer',
    min: 1,
    default: 600,
    placeholder: 'seconds',
    help: {
      en: 'Seconds that the processes have to finish their step and save, after Ctrl-C or SIGTERM.',
      zh: '按下 Ctrl-C 或收到 SIGTERM 之后，各进程完成当前步并保存的最长秒数。',
    },
  },
} as const satisfies FlagTable;
