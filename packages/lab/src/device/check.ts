/**
 * `npm run check:device`: proves a device in one command. `npm run check:device -- --device cuda [--peer DIR]
 * [FOLDER…]`. Parity with reference folders in float32, TF32 and bfloat16; training beside the CPU's; recompute and
 * resume; flat memory; tracing of what is not finite; speed. Prints a line for each check as soon as it is done and
 * writes all of them as JSON. Exit status 1 when one fails, 2 when the command line is wrong.
 */
import { existsSync, readdirSync, rmSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { parseArgs } from 'node:util';
import { UserError } from '@minicpm-finetune/run';
import { about, deviceMemory, emptyDeviceCache, hasFlashAttention, ops, scope } from '@minicpm-finetune/torch';
import { type DeviceName, startEngine } from 'minicpm-finetune/internal';
import { KINDNESS, type Precision } from '../parity/models-report.js';
import { Board, line, type Outcome } from './board.js';
import { chatted, generated, merged } from './commands.js';
import { fed, withoutMemory } from './feeding.js';
import { offloaded } from './offload.js';
import { parityOf } from './parity.js';
import { makePlace, type Place, runProgram } from './place.js';
import { grouped, killed, trained } from './ranks.js';
import { besidePeer, big, makeCheckpoint, matmul, ROWS } from './speed.js';
import { besideCpu, bfloat16, flat, nonfinite, randomNumbers, recomputed, resumed } from './training.js';

const CURE =
  'npm run check:device -- --device auto|cpu|cuda|mps [--short] [--peer DIR] [--json FILE] [--only NAME,…] [--skip NAME,…] [FOLDER…]';

interface Given {
  readonly device: DeviceName;
  /** Few steps and small sizes, as on a CPU without time. */
  readonly short: boolean;
  readonly peer: string | null;
  readonly json: string | null;
  readonly only: readonly string[];
  readonly skip: readonly string[];
  readonly folders: readonly string[];
}

/** Reference folders: those given, else those in the folder that $GOLDEN names. */
function foldersOf(given: readonly string[]): string[] {
  const golden = process.env.GOLDEN;
  const inGolden = golden === undefined ? [] : readdirSync(golden).map((name) => join(golden, name));
  if (given.length === 0)
    return inGolden.filter((path) => existsSync(join(path, 'cases'))).map((path) => resolve(path));
  const wrong = given.find((path) => !existsSync(join(path, 'cases')));
  if (wrong !== undefined)
    throw new UserError(`Expected reference folders with cases but received ${JSON.stringify(wrong)}.`, { cure: CURE });
  return given.map((path) => resolve(path));
}

function parse(words: readonly string[]): Given {
  const { values, positionals } = parseArgs({
    args: [...words],
    allowPositionals: true,
    options: {
      device: { type: 'string', default: 'auto' },
      short: { type: 'boolean', default: false },
      peer: { type: 'string' },
      json: { type: 'string' },
      only: { type: 'string', default: '' },
      skip: { type: 'string', default: '' },
    },
  });
  if (!/^(auto|cpu|cuda|mps)$/.test(values.device))
    throw new UserError(`Expected auto, cpu, cuda or mps for --device but received ${values.device}.`, { cure: CURE });
  if (values.peer !== undefined && !existsSync(join(values.peer, 'train.py')))
    throw new UserError(`Expected a folder with train.py for --peer but received ${values.peer}.`, { cure: CURE });
  const names = (text: string): string[] => text.split(',').filter((name) => name !== '');
  return {
    device: startEngine({ device: values.device as 'auto', threads: null }),
    short: values.short,
    peer: values.peer ?? null,
    json: values.json ?? null,
    only: names(values.only),
    skip: names(values.skip),
    folders: foldersOf(positionals),
  };
}

/** The first use of a device: its context, one product, its memory. */
async function firstUse(device: DeviceName): Promise<Outcome> {
  const sum = scope(() =>
    ops.sumAll(ops.matmul(ops.ones([64, 64], { device }), ops.ones([64, 64], { device }))).item(),
  );
  if (device === 'cpu') return { ok: sum === 64 ** 3, found: `libtorch ${about().version}, ${about().cpuCapability}` };
  const { free, total } = deviceMemory(device);
  const card = await runProgram('nvidia-smi', ['--query-gpu=name,driver_version', '--format=csv,noheader']).catch(
    () => null,
  );
  const name = card?.stdout.trim() ?? device;
  const flash = hasFlashAttention(device);
  return {
    ok: sum === 64 ** 3,
    found: `${name}, libtorch ${about().version}, ${(free / 2 ** 30).toFixed(1)} of ${(total / 2 ** 30).toFixed(1)} GiB free, flash attention: ${flash}`,
    figures: { name, version: about().version, free, total, flash },
  };
}

async function checkParity(board: Board, { device, folders, short }: Given): Promise<void> {
  const precisions = (Object.keys(KINDNESS) as Precision[]).filter((name) => name !== 'tf32' || device === 'cuda');
  for (const precision of precisions)
    for (const [i, folder] of folders.entries())
      if (i === 0 || (precision === 'float32' && !short))
        await board.run(`parity/${precision}/${i}`, () => parityOf(folder, device, precision));
  if (device !== 'cpu') emptyDeviceCache(device);
}

async function checkTraining(board: Board, { device, short }: Given, place: Place): Promise<void> {
  const steps = short ? 4 : 20;
  await board.run('train/full', () => besideCpu(place, device, steps, 'full'));
  await board.run('train/lora', () => besideCpu(place, device, steps, 'lora'));
  await board.run('train/fused', () => besideCpu(place, device, steps, 'fused'));
  await board.run('train/q_lora', () => besideCpu(place, device, short ? 2 : 6, 'q_lora'));
  await board.run('train/bfloat16', () => bfloat16(place, device, steps));
  await board.run('train/recompute', () => recomputed(place, device, short ? 3 : 8));
  await board.run('train/resume', () => resumed(place, device, short ? 4 : 8));
  await board.run('train/random', () => randomNumbers(device));
  await board.run('train/nonfinite', () => nonfinite(place, device));
  await board.run('train/flat', () => flat(device, short ? 40 : 200));
  await board.run('train/flat_fused', () => flat(device, short ? 20 : 60, true));
  if (device !== 'cpu') await board.run('train/no_memory', () => withoutMemory(place, device));
  if (device !== 'cpu') emptyDeviceCache(device);
}

async function checkRanks(board: Board, { device, short }: Given, place: Place): Promise<void> {
  if (device === 'mps') return;
  await board.run('ranks/group', () => grouped(device));
  for (const how of ['lora', 'full', 'fused'] as const)
    await board.run(`ranks/train/${how}`, () => trained(place, device, short ? 3 : 6, how));
  await board.run('ranks/killed', () => killed(place, device));
}

async function checkOffload(board: Board, { device }: Given, place: Place): Promise<void> {
  await board.run('offload/optimizer', () => offloaded(place, device, 'optimizer'));
  await board.run('offload/params', () => offloaded(place, device, 'params'));
  await board.run('offload/folder', () => offloaded(place, device, 'folder'));
}

async function checkCommands(board: Board, { device, short }: Given, place: Place): Promise<void> {
  await board.run('generate', () => generated(place, device));
  const steps = short ? 8 : 20;
  await board.run('chat', () => chatted(place, device, steps));
  await board.run('merge', () => merged(place, device, steps));
}

async function checkSpeed(board: Board, { device, short, peer }: Given, place: Place): Promise<void> {
  const { folder } = place;
  const types = ['float32', 'bfloat16', ...(device === 'cuda' ? (['tf32'] as const) : [])] as const;
  for (const type of types) await board.run(`matmul/${type}`, () => matmul(type, device));
  const [size, steps] = device === 'cpu' || short ? ['nano', 4] : ['medium', 12];
  const big8 = device === 'cuda' && !short;
  if (peer !== null && ROWS.some(({ name }) => board.wants(`speed/${name}`))) {
    await board.run(`speed/checkpoint ${size}`, () => makeCheckpoint(peer, folder, size));
    for (const row of ROWS)
      await board.run(`speed/${row.name}`, () => besidePeer(row, { peer, folder, size, device, steps }));
  }
  const made = join(folder, size);
  const model = device !== 'cpu' && existsSync(join(made, 'config.json')) ? made : place.model;
  await board.run('speed/feeding', () => fed(place, model, device, short ? 6 : 30));
  await board.run('speed/8.1B', () => big(device, big8 ? 2048 : 64, big8 ? 6 : 2, !big8));
}

async function main(words: readonly string[]): Promise<number> {
  let given: Given;
  try {
    given = parse(words);
  } catch (error) {
    console.error(error instanceof UserError ? error.format() : `error: ${(error as Error).message}\n cure: ${CURE}`);
    return 2;
  }
  const { device, json, folders } = given;
  const settings = {
    device,
    node: process.versions.node,
    libtorch: about().version,
    folders,
    date: new Date().toISOString(),
  };
  const board = new Board(settings, given, json);
  line(`check:device on ${device}: seconds of the check, and in all`);
  const place = makePlace();
  try {
    await board.run('device', () => firstUse(device));
    if (folders.length === 0) line('no reference folders: parity is not checked (give them, or set GOLDEN)');
    await checkParity(board, given);
    await checkTraining(board, given, place);
    await checkRanks(board, given, place);
    await checkOffload(board, given, place);
    await checkCommands(board, given, place);
    await checkSpeed(board, given, place);
  } finally {
    rmSync(place.folder, { recursive: true, force: true });
  }
  const { failures, entries, seconds } = board;
  line(`${entries.length - failures} of ${entries.length} without failure, in ${seconds.toFixed(0)} s`);
  return failures > 0 ? 1 : 0;
}

process.exitCode = await main(process.argv.slice(2));
