import { mkdirSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import {
  fromTypedArray,
  openSafetensors,
  scope,
  writeSafetensors,
  writeShardedSafetensors,
} from '@minicpm-finetune/torch';
import { afterAll, beforeEach, describe, expect, it, vi } from 'vitest';
import { tensorsFingerprint, weightsFingerprint } from '../../src/checkpoint/content.js';

const work = mkdtempSync(join(tmpdir(), 'content-'));
afterAll(() => rmSync(work, { recursive: true }));
process.env.XDG_CACHE_HOME = join(work, 'cache');

const SIZE = 3000;
/** Two tensors; one number of the second one may differ. */
function tensors(changed?: number) {
  const values = Float32Array.from({ length: SIZE }, (_, i) => (i === changed ? -1 : i));
  return new Map([
    ['first', fromTypedArray(Float32Array.of(1, 2, 3), [3])],
    ['second', fromTypedArray(values, [10, SIZE / 10])],
  ]);
}

let made = 0;
function saved(map: ReturnType<typeof tensors>, maxShardBytes = 1e9): string {
  const folder = join(work, String(++made));
  mkdirSync(folder);
  scope(() => writeShardedSafetensors(folder, map, { maxShardBytes }));
  return folder;
}

const of = (folder: string, onProgress?: Parameters<typeof weightsFingerprint>[1]): string =>
  weightsFingerprint(openSafetensors(folder), onProgress);

describe('the fingerprint of weights', () => {
  it('is that of their content: wherever they are, in whatever shards, in memory', () => {
    const whole = of(saved(tensors()));
    expect(whole).toMatch(/^content-sha256:[0-9a-f]{64}$/);
    expect(of(saved(tensors()))).toBe(whole);
    expect(of(saved(tensors(), 8000))).toBe(whole);
    expect(tensorsFingerprint(tensors())).toBe(whole);
  });

  it('covers every number, name, shape and type', () => {
    const prints = [undefined, 0, 17, 1501, SIZE - 2].map((changed) => of(saved(tensors(changed === 0 ? 1 : changed))));
    const [[name, first], second] = [...tensors()] as [[string, ReturnType<typeof fromTypedArray>], never];
    prints.push(of(saved(new Map([[`${name}x`, first], second]))));
    prints.push(of(saved(new Map([[name, fromTypedArray(Float32Array.of(1, 2, 3), [1, 3])], second]))));
    prints.push(
      of(saved(new Map([[name, fromTypedArray(new Int32Array(new Float32Array([1, 2, 3]).buffer), [3])], second]))),
    );
    expect(new Set(prints).size).toBe(prints.length);
  });

  describe('of files', () => {
    beforeEach(() => {
      vi.useFakeTimers({ now: Date.now() + 60_000, toFake: ['Date'] });
      return () => vi.useRealTimers();
    });

    it('is read once, with its progress, and again when a file is written', () => {
      const folder = saved(tensors());
      const told: number[] = [];
      const ask = (): string => of(folder, ({ bytes, of: all }) => told.push(bytes, all));
      const before = ask();
      expect(told.slice(-2)).toEqual([4 * SIZE + 12, 4 * SIZE + 12]);
      told.length = 0;
      expect([ask(), told]).toEqual([before, []]);
      writeSafetensors(join(folder, 'model.safetensors'), tensors(5));
      expect(ask()).not.toBe(before);
      expect(told).not.toEqual([]);
    });
  });
});
