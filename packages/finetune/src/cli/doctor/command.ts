/** `minicpm-finetune doctor`: one line per finding. With the cure below a finding that is wrong. */
import { type FlagTable, flagsOf, padEnd, type Say } from '@minicpm-finetune/run';
import type { CliCommand } from '../cli-command.js';
import { example } from '../command.js';
import { EXIT } from '../exit.js';
import type { Finding } from './doctor.js';

const FLAGS = flagsOf({
  doctor: {
    output_dir: {
      kind: 'string',
      default: '.',
      placeholder: 'dir',
      help: { en: 'Folder whose disk is examined.', zh: '要检查其磁盘的目录。' },
    },
    json: {
      kind: 'boolean',
      default: false,
      help: { en: 'Print one JSON object per finding.', zh: '每项结果打印一个 JSON 对象。' },
    },
  } satisfies FlagTable,
});

export const doctorCommand: CliCommand = {
  text: {
    name: 'doctor',
    summary: { en: 'Check this machine for a training.', zh: '检查这台机器具备什么、缺少什么。' },
    description: {
      en:
        'Examines Node, compiler, libtorch, devices, memory and disk, and measures the speed of matrix products. ' +
        'Changes nothing. Ends with 1 if a training cannot run on this machine.',
      zh:
        '检查 Node、编译器、libtorch、设备、内存和磁盘，并测量矩阵乘法的速度。不改动任何内容。' +
        '缺少训练必需的东西时退出码为 1。',
    },
    headings: { doctor: { en: 'Flags', zh: '参数' } },
    examples: example('minicpm-finetune doctor --output_dir runs'),
  },
  flags: FLAGS,
  async run(given, io) {
    const { doctor } = await import('./doctor.js');
    const json = given.get('json')?.value === true;
    const folder = (given.get('output_dir')?.value ?? '.') as string;
    const findings = await doctor(folder, (finding) => {
      io.stdout.write(json ? `${JSON.stringify(finding)}\n` : describeFinding(finding, io.say));
    });
    return findings.some((finding) => finding.status === 'missing') ? EXIT.failure : EXIT.ok;
  },
};

function describeFinding({ name, status, found, cure }: Finding, say: Say): string {
  const line = `${padEnd(say(status), 8)}${say(`${name}: ${found}`)}\n`;
  return cure === undefined ? line : `${line}${' '.repeat(8)}${say(cure)}\n`;
}
