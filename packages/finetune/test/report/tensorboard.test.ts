import { execFileSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import sharp from 'sharp';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { TensorBoard } from '../../src/report/tensorboard.js';

let folder: string;
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'board-'));
});
afterAll(() => rmSync(folder, { recursive: true }));

const STEP = {
  event: 'step',
  step: 300,
  epoch: 1.5,
  loss: 0.25,
  grad_norm: 2,
  learning_rate: 0.5,
  step_seconds: 1,
  samples_per_s: 8,
  tokens_per_s: 100,
  supervised_tokens_per_s: 50,
  world_size: 1,
  data_wait_share: 0,
  memory: { rss: 1 },
  eta_seconds: 0,
} as const;

const EVAL = {
  event: 'eval',
  step: 300,
  epoch: 1.5,
  loss: null,
  metrics: { anls: 0.5 },
  samples: 4,
  seconds: 2,
  samples_per_s: 2,
} as const;

async function write(where: string): Promise<string> {
  const board = new TensorBoard(where);
  board.event(STEP);
  board.event(EVAL);
  const png = await sharp({ create: { width: 3, height: 2, channels: 3, background: 'red' } })
    .png()
    .toBuffer();
  board.image(200, { tag: 'eval/record 0', png, width: 3, height: 2 });
  board.text(200, 'eval/answers', '**猫**');
  board.close();
  return board.path;
}

/** The fields of a protocol buffer message: number, then varint as number, eight or four bytes, or bytes. */
function* fieldsOf(data: Buffer): Generator<[field: number, value: number | Buffer]> {
  for (let at = 0; at < data.length; ) {
    const varint = (): number => {
      let [value, shift] = [0, 0];
      for (;;) {
        const byte = data[at++]!;
        value += (byte & 127) * 2 ** shift;
        shift += 7;
        if (byte < 128) return value;
      }
    };
    const key = varint();
    const wire = key & 7;
    if (wire === 0) yield [key >> 3, varint()];
    else {
      const length = wire === 1 ? 8 : wire === 5 ? 4 : varint();
      yield [key >> 3, data.subarray(at, at + length)];
      at += length;
    }
  }
}

describe('event files', () => {
  it('come after the files that are there, whatever the clock says', () => {
    const logs = join(folder, 'clock');
    mkdirSync(logs);
    writeFileSync(join(logs, 'events.out.tfevents.8999999998.host.1.0'), '');
    const names: string[] = [];
    for (let i = 0; i < 2; i++) new TensorBoard(logs, 0, (name) => names.push(name)).close();
    expect(names).toEqual([...names].sort());
    expect(names[0]).toMatch(/^events\.out\.tfevents\.8999999999\./);
    expect(readdirSync(logs)).toEqual(expect.arrayContaining(names));
  });

  it('hold the scalars of steps and evaluations', async () => {
    const data = readFileSync(await write(join(folder, 'own')));
    const scalars: Record<string, number> = {};
    for (let at = 0; at < data.length; ) {
      const length = Number(data.readBigUInt64LE(at));
      const event = new Map(fieldsOf(data.subarray(at + 12, at + 12 + length)));
      at += 16 + length;
      for (const [field, value] of event.has(5) ? fieldsOf(event.get(5) as Buffer) : []) {
        const entry = new Map(fieldsOf(value as Buffer));
        expect(field).toBe(1);
        if (!entry.has(2)) continue;
        expect(event.get(2)).toBe(300);
        scalars[String(entry.get(1))] = (entry.get(2) as Buffer).readFloatLE();
      }
    }
    expect(scalars).toEqual({
      'train/loss': 0.25,
      'train/grad_norm': 2,
      'train/learning_rate': 0.5,
      'train/epoch': 1.5,
      'train/samples_per_second': 8,
      'train/supervised_tokens_per_second': 50,
      'train/data_wait_share': 0,
      'eval/loss': Number.NaN,
      'eval/anls': 0.5,
      'eval/runtime': 2,
      'eval/samples_per_second': 2,
    });
  });
});

const python = process.env.PYTHON ?? 'python3';
function hasTensorBoard(): boolean {
  try {
    execFileSync(python, ['-c', 'import tensorboard'], { stdio: 'ignore' });
    return true;
  } catch {
    return false;
  }
}

describe.skipIf(!hasTensorBoard())('TensorBoard itself', () => {
  it('reads scalars, pictures and texts, and drops the steps that a resumed run repeats', async () => {
    const where = join(folder, 'board');
    await write(where);
    const resumed = new TensorBoard(where, 299);
    resumed.event({ ...STEP, loss: 0.125 });
    resumed.close();
    new TensorBoard(where, 300).close(); // nothing behind step 300 yet
    const tool = join(import.meta.dirname, '..', '..', '..', 'lab', 'python', 'check_tensorboard.py');
    const read = JSON.parse(execFileSync(python, [tool, where], { encoding: 'utf8', stdio: 'pipe' }));
    expect(read).toMatchObject({ files: 3, records: 11 });
    expect(read.scalars['train/loss']).toEqual([[300, 0.125]]);
    expect(read.images['eval/record 0']).toEqual([[200, 3, 2, expect.any(Number)]]);
    expect(read.texts['eval/answers']).toEqual([[200, '**猫**']]);
  });
});
