/** `minicpm-finetune doctor`: one line per finding, with the cure below what is amiss. */

import { type FlagSpec, flagsOf } from '../../config/flags.js';
import type { CliCommand } from '../cli-command.js';
import { EXIT } from '../exit.js';
import type { Finding } from './doctor.js';

const FLAGS = flagsOf({
  doctor: {
    output_dir: { kind: 'string', default: '.', placeholder: 'dir', help: 'Folder whose disk is looked at.' },
    json: { kind: 'boolean', default: false, help: 'Print one JSON object per finding.' },
  } satisfies Record<string, FlagSpec>,
});

export const doctorCommand: CliCommand = {
  text: {
    name: 'doctor',
    summary: 'Check what this machine has and what it lacks.',
    description:
      'Looks at Node, compiler, libtorch, devices, memory and disk, and measures how fast matrices are multiplied. ' +
      'Changes nothing. Ends with 1 if something is missing without which nothing can be trained.',
    headings: { doctor: 'Flags:' },
    examples: 'Example:\n\n    minicpm-finetune doctor --output_dir runs',
  },
  flags: FLAGS,
  async run(given, io) {
    const { doctor } = await import('./doctor.js');
    const json = given.get('json')?.value === true;
    const folder = (given.get('output_dir')?.value ?? '.') as string;
    const findings = await doctor(folder, (finding) => {
      io.stdout.write(json ? `${JSON.stringify(finding)}\n` : describeFinding(finding));
    });
    return findings.some((finding) => finding.status === 'missing') ? EXIT.failure : EXIT.ok;
  },
};

function describeFinding({ name, status, found, cure }: Finding): string {
  const line = `${status.padEnd(8)}${name}: ${found}\n`;
  return cure === undefined ? line : `${line}${' '.repeat(8)}${cure}\n`;
}
