import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import {
  checkpointName,
  checkpointStep,
  latestCheckpoint,
  listCheckpoints,
  listUnfinishedCheckpoints,
  RUN_FILES,
  unfinishedCheckpointName,
} from '../src/index.js';

let folder: string;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'run-'));
});
afterEach(() => rmSync(folder, { recursive: true }));

function makeCheckpoint(name: string, complete: boolean): void {
  mkdirSync(join(folder, name));
  if (complete) writeFileSync(join(folder, name, RUN_FILES.manifest), '{}');
}

describe('run folder', () => {
  it('names checkpoints as Hugging Face does, and reads the step back', () => {
    expect(checkpointName(500)).toBe('checkpoint-500');
    expect(checkpointStep('checkpoint-500')).toBe(500);
    for (const name of [
      'checkpoint-',
      'checkpoint-5a',
      'xcheckpoint-5',
      unfinishedCheckpointName(5),
      'checkpoint--5',
    ]) {
      expect(checkpointStep(name)).toBeUndefined();
    }
  });

  it('lists complete checkpoints by step, not by name, and leaves unfinished ones out', () => {
    for (const name of ['checkpoint-1000', 'checkpoint-90', 'checkpoint-200']) makeCheckpoint(name, true);
    makeCheckpoint('checkpoint-3000', false);
    makeCheckpoint(unfinishedCheckpointName(2000), true);
    writeFileSync(join(folder, 'checkpoint-4000'), 'a file');
    expect(listCheckpoints(folder).map(({ step }) => step)).toEqual([90, 200, 1000]);
    expect(latestCheckpoint(folder)).toEqual({ step: 1000, path: join(folder, 'checkpoint-1000') });
    expect(listUnfinishedCheckpoints(folder)).toEqual([join(folder, '.checkpoint-2000.unfinished')]);
  });

  it('finds none in an empty or missing folder', () => {
    expect(listCheckpoints(folder)).toEqual([]);
    expect(latestCheckpoint(join(folder, 'missing'))).toBeUndefined();
    expect(listUnfinishedCheckpoints(join(folder, 'missing'))).toEqual([]);
  });
});
