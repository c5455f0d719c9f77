/**
 * `npm run parity`: compares models with reference numbers. `npm run parity -- DIR…` takes folders of tiny checkpoints,
 * inputs and expected values. Every check that a folder allows is carried out and prints one line of JSON. Exit status
 * 1 when any fails, 2 when the command line is wrong. With `--ranks N` it is the recorded trainings alone, over N processes.
 */
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { UserError } from '@minicpm-finetune/run';
import { setThreads } from '@minicpm-finetune/torch';
import { startEngine } from 'minicpm-finetune/internal';
import { overRanks } from '../ranks.js';
import { checkFolder, checkTrajectories } from './models-check.js';
import { KINDNESS, type Precision, type Setting, setPrecision } from './models-report.js';

const CURE = 'npm run parity -- DIR… [--device auto|cpu|cuda|mps] [--precision float32|tf32|bfloat16] [--ranks 1]';

interface Given {
  readonly setting: Setting;
  readonly ranks: number;
  readonly folders: readonly string[];
}

function parse(words: readonly string[]): Given {
  const { values, positionals } = parseArgs({
    args: [...words],
    allowPositionals: true,
    options: {
      device: { type: 'string', default: 'cpu' },
      precision: { type: 'string', default: 'float32' },
      ranks: { type: 'string', default: '1' },
    },
  });
  const { device, precision, ranks } = values;
  const fail = (what: string, received: string): never => {
    throw new UserError(`Expected ${what} but received ${received}.`, { cure: CURE });
  };
  if (!/^(auto|cpu|cuda|mps)$/.test(device)) fail('auto, cpu, cuda or mps for --device', device);
  if (!(precision in KINDNESS)) fail(`${Object.keys(KINDNESS).join(', ')} for --precision`, precision);
  if (!/^[1-9]\d?$/.test(ranks)) fail('1 to 99 for --ranks', ranks);
  if (ranks !== '1' && device !== 'cpu') fail('cpu for --device with --ranks', device);
  const wrong = positionals.find((path) => !existsSync(join(path, 'config.json')));
  if (positionals.length === 0 || wrong !== undefined)
    fail(
      'folders with config.json, weights and cases for parity',
      wrong === undefined ? 'nothing' : JSON.stringify(wrong),
    );
  const present = startEngine({ device: device as 'auto', threads: null });
  const setting = { device: present, precision: precision as Precision };
  return { setting, ranks: Number(ranks), folders: positionals };
}

async function main(words: readonly string[]): Promise<number> {
  let given: ReturnType<typeof parse>;
  try {
    given = parse(words);
  } catch (error) {
    const text = error instanceof UserError ? error.format() : `error: ${(error as Error).message}\n cure: ${CURE}`;
    console.error(text);
    return 2;
  }
  const { setting, ranks, folders } = given;
  return await overRanks(ranks, async ({ group }) => {
    if (setting.device === 'cpu') setThreads(1); // the models are tiny: a second thread costs more than it gives
    setPrecision(setting);
    const print = (line: string): void => console.log(line);
    let failures = 0;
    for (const path of folders) {
      const report = ranks === 1 ? checkFolder(path, print, setting) : checkTrajectories(path, print, setting, group);
      failures += (await report).failures;
    }
    return failures > 0 ? 1 : 0;
  });
}

process.exitCode = await main(process.argv.slice(2));
