/** `minicpm-finetune ui`: the web page over run folders. */
import { type FlagTable, flagsOf } from '@minicpm-finetune/run';
import { type CliCommand, flagValue } from '../cli-command.js';
import { example } from '../command.js';
import { EXIT } from '../exit.js';
import { hostsOf } from '../shared/host-flag.js';

const FLAGS = flagsOf({
  ui: {
    runs: {
      kind: 'strings',
      default: ['.'],
      placeholder: 'dir',
      help: {
        en: 'Folders of runs: every folder with events.jsonl below them is shown, whoever started the run.',
        zh: '存放训练的目录：其下所有含 events.jsonl 的目录都会显示，不论由谁启动。',
      },
    },
    port: {
      kind: 'integer',
      min: 0,
      max: 65_535,
      default: 8787,
      help: { en: 'Port of the page; 0: any free one.', zh: '网页的端口；0 表示任选一个空闲端口。' },
    },
    host: {
      kind: 'string',
      default: '127.0.0.1',
      placeholder: 'address',
      help: {
        en: 'Address to listen on. Any but the default lets other machines in, unencrypted.',
        zh: '监听的地址。默认值以外的地址会让其他机器访问，且不加密。',
      },
    },
    allowed_host: {
      kind: 'strings',
      default: [],
      placeholder: 'name',
      help: {
        en: 'Further names under which a browser may reach the page, such as that of a proxy.',
        zh: '浏览器访问网页时可用的其他主机名，例如代理的名称。',
      },
    },
  } satisfies FlagTable,
});

const HELP = {
  en: [
    'Shows the runs of some folders in a browser, live: charts, answers with their pictures, checkpoints, settings, logs.',
    'Starts, stops and resumes runs, looks at data, and talks to checkpoints.',
    'Prints an address with a token: whoever has it may do all of this as you, so keep it to yourself. Nothing is opened, and nothing leaves this machine.',
    'Runs are processes of their own. Ctrl-C ends the page; runs go on, and the page shows them when it is started again.',
    'A page on another machine: ssh -L 8787:127.0.0.1:8787 NAME, then open the address here.',
  ].join('\n'),
  zh: [
    '在浏览器中实时显示若干目录里的训练：曲线、带图片的回答、检查点、设置和日志。',
    '可以启动、停止和恢复训练，查看数据，与检查点对话。会打印一个带令牌的地址：持有它的人可以以你的身份做这一切，请勿外传。',
    '不会自动打开浏览器，也不会有任何内容离开本机。',
    '训练是独立的进程。按 Ctrl-C 只结束网页；训练继续进行，再次启动网页时照常显示。',
    '网页在另一台机器上时：先运行 ssh -L 8787:127.0.0.1:8787 主机名，再在本机打开该地址。',
  ].join('\n'),
} as const;

export const uiCommand: CliCommand = {
  text: {
    name: 'ui',
    summary: { en: 'Watch, compare, start and talk in a browser.', zh: '在浏览器中查看、比较、启动训练并对话。' },
    description: HELP,
    headings: { ui: { en: 'Flags', zh: '参数' } },
    examples: example('minicpm-finetune ui --runs runs'),
  },
  flags: FLAGS,
  async run(given, io) {
    const value = <T>(name: string): T => flagValue<T>(given, FLAGS.find((flag) => flag.name === name)!);
    const { serveUi } = await import('./ui.js');
    await serveUi(
      {
        roots: value<string[]>('runs'),
        port: value<number>('port'),
        host: value<string>('host'),
        allowedHosts: hostsOf(value<string[]>('allowed_host'), '--allowed_host'),
      },
      io,
    );
    return EXIT.ok;
  },
};
