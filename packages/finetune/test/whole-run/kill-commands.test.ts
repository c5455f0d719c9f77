/**
 * merge, generate and download killed with SIGKILL at random moments and started again: what is there is whole, and the end is that of a
 * command that was never killed. Three kills, 120 in the long part. Training: kill.test.ts.
 */
import { createHash } from 'node:crypto';
import { existsSync, mkdtempSync, readdirSync, readFileSync, realpathSync, rmSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { LONG } from '../../../torch/test/support/long.js';
import { Random } from '../../src/data/random.js';
import { CLI, type Ended, start, weightsHash } from '../support/cli-run.js';
import { HubServer, REPO } from '../support/hub-server.js';
import { makePlace, type Place } from '../support/run-place.js';
import { tinyAdapter } from '../support/tiny-model.js';

const KILLS = LONG ? 40 : 1; // of each command
const LIMIT = { timeout: 1_200_000 };

let place: Place;
let adapter: string;
beforeAll(() => {
  place = makePlace(24);
  adapter = tinyAdapter(place.model, join(place.folder, 'adapter'));
});
afterAll(() => rmSync(place.folder, { recursive: true }));

const command = (words: readonly string[]) => start(process.execPath, [CLI, ...words]);

/** Runs the command to its end, and returns the milliseconds it took. */
async function finish(words: readonly string[]): Promise<number> {
  const started = performance.now();
  const { code, output } = await command(words).ended;
  expect(code, output).toBe(0);
  return performance.now() - started;
}

/** Kills the command at a random moment of its usual time. */
async function killed(words: readonly string[], usual: number, random: Random): Promise<Ended> {
  const running = command(words);
  await sleep((usual * random.below(1000)) / 1000);
  running.child.kill('SIGKILL');
  const ended = await running.ended;
  expect([0, null], ended.output).toContain(ended.code);
  return ended;
}

describe('merge', () => {
  it(
    `killed ${KILLS} times leaves a whole checkpoint or none, and nothing that blocks the next one`,
    LIMIT,
    async () => {
      const merge = (name: string) => {
        const words = ['--model', place.model, '--adapter', adapter, '--output_dir', join(place.folder, name)];
        return ['merge', ...words, '--threads', '1'];
      };
      const usual = await finish(merge('merged whole'));
      const expected = weightsHash(join(place.folder, 'merged whole'));
      const random = new Random(3, KILLS);
      const output = join(place.folder, 'merged');
      for (let kills = 0; kills < KILLS; ) {
        const { signal } = await killed(merge('merged'), usual, random);
        if (signal === 'SIGKILL') kills++;
        if (!existsSync(output)) continue;
        expect(weightsHash(output)).toBe(expected);
        rmSync(output, { recursive: true });
      }
      await finish(merge('merged'));
      expect(weightsHash(output)).toBe(expected);
      expect(readdirSync(output).sort()).toEqual(readdirSync(join(place.folder, 'merged whole')).sort());
      expect(readdirSync(place.folder).filter((name) => /unfinished|lock/.test(name))).toEqual([]);
    },
  );
});

describe('generate', () => {
  it(`killed ${KILLS} times has every answer once, as without kills`, LIMIT, async () => {
    const generate = (name: string) => {
      const words = ['--model', place.model, '--data_path', place.text, '--output', join(place.folder, name)];
      return ['generate', ...words, '--batch_size', '2', '--max_new_tokens', '16', '--threads', '1', '--device', 'cpu'];
    };
    const usual = await finish(generate('whole.jsonl'));
    const expected = readFileSync(join(place.folder, 'whole.jsonl'), 'utf8');
    const random = new Random(9, KILLS);
    for (let kills = 0, run = 0; kills < KILLS; run++) {
      const name = `${run}.jsonl`;
      const output = join(place.folder, name);
      let told = 0;
      for (let ended = false; !ended && kills < KILLS; ) {
        const { signal, code } = await killed(generate(name), usual, random);
        ended = code === 0;
        if (signal === 'SIGKILL') kills++;
        const lines = existsSync(output) ? readFileSync(output, 'utf8').split('\n').length - 1 : 0;
        expect(lines, 'answers that were there').toBeGreaterThanOrEqual(told);
        told = lines;
      }
      await finish(generate(name));
      expect(readFileSync(output, 'utf8')).toBe(expected);
    }
  });
});

describe('download', () => {
  it(`killed ${KILLS} times has files that are whole, and goes on to all of them`, LIMIT, async () => {
    const hub = new HubServer();
    const content = (bytes: number, seed: number) =>
      Buffer.from(Uint8Array.from({ length: bytes }, (_, i) => (i * seed) >> 3));
    for (const name of ['config.json', 'tokenizer.json', 'tokenizer_config.json'])
      hub.files.set(name, { content: content(200, name.length) });
    hub.files.set('model.safetensors', { content: content(24 << 20, 31), lfs: true });
    const home = mkdtempSync(join(tmpdir(), 'kill-hub-'));
    const before = { ...process.env };
    Object.assign(process.env, { HF_ENDPOINT: await hub.start(), HF_HOME: home });
    try {
      const words = ['download', REPO, '--progress', 'quiet'];
      const usual = await finish(words);
      rmSync(join(home, 'hub'), { recursive: true });
      const random = new Random(3, KILLS);
      for (let kills = 0; kills < KILLS; ) {
        const { signal } = await killed(words, usual, random);
        if (signal === 'SIGKILL') kills++;
        else rmSync(join(home, 'hub'), { recursive: true });
        for (const blob of blobsIn(home)) expect(isNamedByContent(blob), blob).toBe(true);
      }
      await finish(words);
      const folder = snapshotIn(home);
      for (const [name, file] of hub.files)
        expect(readFileSync(realpathSync(join(folder, name))).equals(file.content)).toBe(true);
    } finally {
      await hub.stop();
      process.env = before;
      rmSync(home, { recursive: true });
    }
  });
});

const repoIn = (home: string): string => join(home, 'hub', `models--${REPO.replace('/', '--')}`);

/** Finished blobs; those under way are called `.incomplete`. */
function blobsIn(home: string): string[] {
  const folder = join(repoIn(home), 'blobs');
  if (!existsSync(folder)) return [];
  return readdirSync(folder)
    .filter((name) => !name.endsWith('.incomplete'))
    .map((name) => join(folder, name));
}

function snapshotIn(home: string): string {
  const folder = join(repoIn(home), 'snapshots');
  return join(folder, readdirSync(folder)[0]!);
}

/** The name is the sha256 of the content, or git's sha1 of a blob. */
function isNamedByContent(blob: string): boolean {
  const bytes = readFileSync(blob);
  const sha256 = createHash('sha256').update(bytes).digest('hex');
  const git = createHash('sha1')
    .update(`blob ${statSync(blob).size}\0`)
    .update(bytes)
    .digest('hex');
  return [sha256, git].some((hash) => blob.endsWith(hash));
}
