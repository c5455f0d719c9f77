/**
 * One rank that saves or restores a made-up training, under test: `node files-rank.mjs MODE SETTINGS`. What it holds is cut as ranks cut it: in
 * multiples of 64 numbers, in the middle of parameters, a table by rows; some ranks hold nothing. It prints JSON lines.
 */
import { createHash } from 'node:crypto';
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { OwnFiles } from '@minicpm-finetune/run';
import {
  AdamW,
  fromTypedArray,
  liveTensors,
  manualSeed,
  ops,
  Parameter,
  planSafetensors,
  SafetensorsFile,
  scope,
  Tensor,
} from '@minicpm-finetune/torch';
import { writeCheckpoint } from '../../dist/checkpoint/checkpoint.js';
import { optimizerTensors, restoreOptimizer } from '../../dist/checkpoint/optimizer-file.js';
import { bringCheckpoint } from '../../dist/checkpoint/receive.js';
import { readTogether } from '../../dist/checkpoint/streaming.js';
import { writeTensorFiles } from '../../dist/checkpoint/tensor-files.js';
import { joinRanks, soloRanks } from '../../dist/parallel/ranks.js';

const [mode, text] = process.argv.slice(2);
const { folder, die = null, sees = null } = JSON.parse(text);
const [rank, size] = [Number(process.env.RANK), Number(process.env.WORLD_SIZE)];
const say = (value) => console.log(JSON.stringify(value));

const count = (shape) => shape.reduce((a, b) => a * b, 1);
const PARAMETERS = {
  'a.weight': { shape: [10, 130], dtype: 'bfloat16' },
  'a.bias': { shape: [7], dtype: 'bfloat16' },
  'b.weight': { shape: [100, 101], dtype: 'bfloat16' },
  'norm.weight': { shape: [64], dtype: 'float32' },
  table: { shape: [41, 64], dtype: 'bfloat16' },
  'new.weight': { shape: [3, 50], dtype: 'bfloat16', fresh: true }, // has no moments yet
};
/** Rows of the table, in the order in which they came. */
const SEEN = [7, 3, 40, 31, 12, 25, 0, 13];

/** Numbers of a tensor, each different. */
const values = (name, start, length) =>
  Float32Array.from({ length }, (_, i) => ((name.length * 7919 + (start + i) * 31) % 65_521) / 64 - 500);
const tensor = (name, start, shape) => fromTypedArray(values(name, start, count(shape)), shape);

/** What this rank updates. */
function segments() {
  const own = new Map();
  let at = 0;
  const places = Object.entries(PARAMETERS).flatMap(([name, { shape }]) => {
    if (name === 'table') return [];
    const place = { name, shape, start: at, length: count(shape) };
    at = Math.ceil((at + place.length) / 64) * 64;
    return [place];
  });
  const share = Math.ceil(at / size / 64) * 64;
  for (const { name, shape, start, length } of places) {
    const [from, to] = [Math.max(start, rank * share), Math.min(start + length, (rank + 1) * share)];
    if (from < to) own.set(name, { name, shape, start: from - start, length: to - from });
  }
  const rows = Math.ceil(41 / size) + (size === 4 ? 5 : 0); // of four ranks the last one has no row
  const [first, last] = [Math.min(rank * rows, 41), Math.min((rank + 1) * rows, 41)];
  if (first < last)
    own.set('table', { name: 'table', shape: [41, 64], start: first * 64, length: (last - first) * 64 });
  return own;
}

/** Shape of the tensors of a segment. */
const shapeOf = ({ name, shape, length }) =>
  length === count(shape) ? shape : name === 'table' ? [length / 64, 64] : [length];

/** An optimizer as it is after `steps` steps; 0: as it is made. */
function optimizer(steps) {
  const parameters = new Map(
    Object.entries(PARAMETERS).map(([name, { shape, dtype }]) => [
      name,
      Object.assign(new Parameter(shape), { data: ops.to(tensor(name, 0, shape), dtype) }),
    ]),
  );
  const own = segments();
  const [masters, params] = [new Map(), new Map()];
  const group = { name: 'all', params, lr: 0, weightDecay: 0 };
  const adamw = new AdamW([group], { beta1: 0.9, beta2: 0.95, eps: 1e-8 });
  for (const segment of own.values()) {
    const { name, start } = segment;
    const shape = shapeOf(segment);
    const updated = steps === 0 ? ops.zeros(shape) : tensor(`${name} master`, start, shape);
    params.set(name, updated);
    if (PARAMETERS[name].dtype === 'bfloat16') masters.set(name, updated);
    if (steps === 0 || PARAMETERS[name].fresh) continue;
    const moments = (kind) => {
      if (name !== 'table') return tensor(`${name} ${kind}`, start, shape);
      const parts = seenHere(segment).map((row) => tensor(`${name} ${kind}`, row * 64, [1, 64]));
      return ops.cat([...parts, ops.zeros([0, 64])]);
    };
    adamw.state.set(name, {
      expAvg: moments('m'),
      expAvgSq: moments('v'),
      step: fromTypedArray(Float32Array.of(steps), []),
      ...(name === 'table' && { rows: BigInt64Array.from(seenHere(segment), (row) => BigInt(row - start / 64)) }),
    });
  }
  return { parameters, masters, segments: own, adamw };
}

const seenHere = ({ start, length }) => SEEN.filter((row) => row * 64 >= start && row * 64 < start + length);

/** Weights that all hold, and one of which each rank holds a part, in two files. */
const model = {
  stem: 'model',
  maxShardBytes: 50_000,
  tensors: () => {
    const whole = tensor('whole', 0, [90, 100]);
    const half = ops.to(whole, 'bfloat16');
    return new Map(Object.entries({ whole, half, shared: ops.zeros([33, 100]) }));
  },
  writeOthers: () => {
    if (die?.at === 'others') process.kill(process.pid, 'SIGKILL');
  },
};
const sharding = {
  heldOf: ({ shape }) => {
    if (shape[0] !== 33) return undefined;
    const share = Math.ceil(3300 / size / 64) * 64;
    const [start, end] = [Math.min(rank * share, 3300), Math.min((rank + 1) * share, 3300)];
    if (start === end) return null;
    const length = end - start;
    return { segment: { name: 'shared', shape, start, length }, data: dying(tensor('shared', start, [length])) };
  },
};

/** A tensor at whose reading this process ends, if it is to. */
function dying(numbers) {
  if (die?.at !== 'model' || die.rank !== rank) return numbers;
  numbers.handle = function handle(user) {
    if (user !== 'shape' && user !== 'dtype') process.kill(process.pid, 'SIGKILL');
    return Tensor.prototype.handle.call(this, user);
  };
  return numbers;
}

const place = { rank, size, localRank: rank, localSize: size, masterAddr: '127.0.0.1' };
const port = Number(process.env.MASTER_PORT);
const ranks =
  size === 1
    ? soloRanks()
    : await joinRanks(
        { ...place, masterPort: port, ...(rank === 0 && { listening: 3 }) },
        { timeout: 60_000, notice() {}, facts: { equal: {} } },
      );

/** Whether a restored optimizer is what it was when it was saved. */
function restored(own) {
  const want = optimizer(5);
  const same = (a, b) => a !== undefined && a.shape.join() === b.shape.join() && Boolean(ops.equal(a, b));
  const wrong = [...want.masters]
    .filter(([name, master]) => !same(own.masters.get(name), master))
    .map(([name]) => name);
  for (const [name, state] of want.adamw.state) {
    const found = own.adamw.state.get(name);
    const order = [...(state.rows ?? [])].map((_, i) => i).sort((a, b) => Number(state.rows[a] - state.rows[b]));
    const inOrder = (moment) =>
      state.rows ? ops.cat([...order.map((i) => ops.narrow(moment, 0, i, 1)), ops.zeros([0, 64])]) : moment;
    if (!same(found?.expAvg, inOrder(state.expAvg)) || !same(found.expAvgSq, inOrder(state.expAvgSq)))
      wrong.push(`${name} moments`);
    if (!same(found?.step, state.step)) wrong.push(`${name} step`);
    if (state.rows && found?.rows?.join() !== order.map((i) => state.rows[i]).join()) wrong.push(`${name} rows`);
  }
  if (own.adamw.state.size !== want.adamw.state.size) wrong.push('more than was saved');
  return { wrong, parameters: own.segments.size };
}

const MODES = {
  /** Writes checkpoint-5, and says how that ended. */
  save: () => {
    manualSeed(1, 'cpu');
    const own = new OwnFiles(folder);
    if (rank === 0) own.open();
    const state = { global_step: 5 };
    const records = { sizes: [2], texts: BigUint64Array.of(1n, 2n), used: BigUint64Array.of(0n, 2n), stamps: BigUint64Array.of(3n, 4n), lengths: Uint32Array.of(5, 6) }; // biome-ignore format: one line
    const parts = {
      model,
      sharding,
      optimizer: optimizer(5),
      records,
      device: 'cpu',
      state,
      config: {},
      modelBytes: 1,
    };
    const before = liveTensors().tensors;
    try {
      const { path } = writeCheckpoint(own, parts, ranks);
      say({ path, kept: liveTensors().tensors - before });
    } catch (error) {
      say({ error: error.message });
    }
  },
  restore: () => {
    const own = optimizer(0);
    restoreOptimizer(join(folder, 'checkpoint-5'), own, ranks);
    say(scope(() => restored(own)));
  },
  /** Has the checkpoint brought here, and restores from what came. */
  bring: () => {
    const brought = bringCheckpoint(join(folder, 'checkpoint-5'), folder, ranks);
    const hash = (name) =>
      createHash('sha256')
        .update(readFileSync(join(brought.folder, name)))
        .digest('hex');
    const files = Object.fromEntries(readdirSync(brought.folder).sort().map((name) => [name, hash(name)])); // biome-ignore format: one line
    const own = optimizer(0);
    restoreOptimizer(brought.folder, own, ranks);
    const { wrong } = scope(() => restored(own));
    brought[Symbol.dispose]();
    say({ folder: brought.folder, files, wrong, left: existsSync(brought.folder) });
  },
  /** As if some ranks did not see the folder. */
  stream: () => {
    const path = sees[rank] ? folder : '/nowhere';
    const tensors = optimizerTensors(optimizer(5), ranks);
    const name = 'optimizer.safetensors';
    writeTensorFiles({ path, ranks, sees }, new Map([[name, planSafetensors(tensors)]]), tensors);
    const wrong = [];
    readTogether({ path, ranks, sees }, name, (source) => {
      const whole = rank === 0 ? source : null;
      for (const [tensor, { shape }] of source.infos) {
        const numbers = source.range(tensor, 0, count(shape));
        if (!whole && !ops.equal(numbers, new SafetensorsFile(join(folder, name)).range(tensor, 0, count(shape)))) wrong.push(tensor); // biome-ignore format: one line
      }
    });
    say({ wrong });
    try {
      readTogether({ path, ranks, sees }, name, (source) => {
        if (rank === size - 1) source.range('step.table', 0, 1);
        if (rank === size - 1) throw new Error('this rank cannot use it');
      });
    } catch (error) {
      say({ error: error.message });
    }
  },
  /** As `stream`, but the last rank cannot read what it holds. */
  broken: () => {
    const path = sees[rank] ? folder : '/nowhere';
    const tensors = optimizerTensors(optimizer(5), ranks);
    const read = () => {
      throw new Error('these numbers cannot be read');
    };
    if (rank === size - 1) for (const [name, held] of tensors) tensors.set(name, { ...held, read });
    try {
      writeTensorFiles({ path, ranks, sees }, new Map([['optimizer.safetensors', planSafetensors(tensors)]]), tensors);
      say({ error: null });
    } catch (error) {
      say({ error: error.message });
    }
  },
};

scope(() => MODES[mode]());
ranks[Symbol.dispose]();
