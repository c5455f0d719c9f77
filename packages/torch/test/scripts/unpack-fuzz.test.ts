/** Damaged wheels: unpacked, or refused with a sentence; nothing is written outside of the target. 60 cases, 600 in the long part. */
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { readEntry, unpack } from '../../scripts/wheels/unpack.mjs';
import { LONG } from '../support/long.js';
import { zip } from '../support/wheel-server.js';

const CASES = LONG ? 600 : 60;
const SLOW_MS = 30_000; // a hang never ends; a busy machine takes seconds

/** The same numbers each time: a linear congruential generator. */
function random(seed: number): (below: number) => number {
  let state = seed;
  return (below) => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return Math.floor((state / 2 ** 32) * below);
  };
}

const NAMES = ['../outside', '/tmp/outside', 'torch\\..\\..\\outside', '\0', 'a'.repeat(300), 'torch/lib'];

function damaged(bytes: Buffer, below: (n: number) => number): Buffer {
  const kind = below(5);
  const at = below(bytes.length);
  if (kind === 0) return bytes.subarray(0, at);
  if (kind === 1) return Buffer.concat([bytes.subarray(0, at), bytes.subarray(at + 1 + below(20))]);
  if (kind === 2)
    return Buffer.concat([bytes.subarray(0, at), Buffer.alloc(1 + below(9), below(256)), bytes.subarray(at)]);
  const copy = Buffer.from(bytes);
  for (let i = below(4); i >= 0; i--) copy[below(copy.length)] = below(256);
  return copy;
}

it('damaged wheels', { timeout: 300_000 }, async () => {
  const folder = mkdtempSync(join(tmpdir(), 'wheel-fuzz-'));
  const below = random(7);
  const sound = (name: string) =>
    zip({ 'torch/lib/a.so': 'library'.repeat(50), [name]: 'x', 'torch.dist-info/METADATA': 'Name: torch' });
  const counts = { read: 0, refused: 0 };
  for (let i = 0; i < CASES; i++) {
    const file = join(folder, 'wheel.whl');
    const bytes = damaged(sound(i % 3 === 0 ? NAMES[below(NAMES.length)]! : 'torch/b'), below);
    writeFileSync(file, bytes);
    const started = performance.now();
    try {
      await readEntry(file, /METADATA$/);
      await unpack(file, join(folder, 'target'), () => true);
      counts.read++;
    } catch (error) {
      const { code, message } = error as NodeJS.ErrnoException;
      if (code === undefined) expect(message, `case ${i}`).toMatch(/^Expected /);
      else
        expect(code, `case ${i}: ${message}`).toMatch(/^(ENAMETOOLONG|EISDIR|ENOTDIR|EEXIST|ERR_INVALID_ARG_VALUE)$/);
      counts.refused++;
    }
    expect(performance.now() - started).toBeLessThan(SLOW_MS);
    rmSync(join(folder, 'target'), { recursive: true, force: true });
    expect(readdirSync(folder)).toEqual(['wheel.whl']);
    expect(readFileSync(file).equals(bytes)).toBe(true);
  }
  expect(counts.refused).toBeGreaterThan(CASES / 4);
  rmSync(folder, { recursive: true });
});
