/** Downloads from a server on this machine: whole, resumed, broken off, changed. */
import { existsSync, mkdtempSync, readFileSync, rmSync, statSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { download } from '../../scripts/wheels/download.mjs';
import { serveWheels, sha256, type WheelServer } from '../support/wheel-server.js';

const BYTES = Buffer.alloc(300_000, 'libtorch ');
let server: WheelServer;
let folder: string;
let lines: string[];
beforeAll(async () => {
  server = await serveWheels({ torch: { 'a+cpu.whl': BYTES } });
});
afterAll(() => server.close());
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'down load-'));
  lines = [];
  server.requests.length = 0;
  server.ranges = true;
});
afterEach(() => rmSync(folder, { recursive: true }));

const file = () => join(folder, 'a.whl');
/** A connection that breaks off after `bytes`, once all that came so far, `total` bytes, lies on disk. */
const breakAt = (bytes: number, total: number) => ({
  bytes,
  when: () => total === 0 || (existsSync(`${file()}.part`) && statSync(`${file()}.part`).size >= total),
});
const fetchFile = (more: { sha256?: string; stallMs?: number; url?: string } = {}) =>
  download({
    url: server.index.replace('simple', 'files/torch/a%2Bcpu.whl'),
    file: file(),
    sha256: sha256(BYTES),
    label: 'a',
    log: (line: string) => lines.push(line),
    waitMs: 1,
    stallMs: 60_000,
    ...more,
  });

describe('download', () => {
  it('brings the file under its name, and nothing a second time', async () => {
    expect(await fetchFile()).toBe(BYTES.length);
    expect(readFileSync(file()).equals(BYTES)).toBe(true);
    expect(existsSync(`${file()}.part`)).toBe(false);
    expect(await fetchFile()).toBe(BYTES.length);
    expect(server.requests).toHaveLength(1);
  });

  it('resumes what an earlier process left', async () => {
    writeFileSync(`${file()}.part`, BYTES.subarray(0, 100_000));
    await fetchFile();
    expect(server.requests).toEqual(['a+cpu.whl bytes=100000-']);
    expect(lines[0]).toBe('a: resuming after 0.1 MB');
    expect(readFileSync(file()).equals(BYTES)).toBe(true);
  });

  it('resumes after every connection that breaks off', async () => {
    server.breaks.push(breakAt(50_000, 50_000), breakAt(70_000, 120_000));
    await fetchFile();
    expect(server.requests).toEqual(['a+cpu.whl', 'a+cpu.whl bytes=50000-', 'a+cpu.whl bytes=120000-']);
    expect(readFileSync(file()).equals(BYTES)).toBe(true);
  });

  it('starts again where the server knows no ranges', async () => {
    server.ranges = false;
    server.breaks.push(breakAt(50_000, 50_000));
    await fetchFile();
    expect(readFileSync(file()).equals(BYTES)).toBe(true);
  });

  it('opens a new connection when no byte comes', async () => {
    writeFileSync(`${file()}.part`, BYTES.subarray(0, BYTES.length - 10));
    server.breaks.push({ bytes: 0, when: () => false }); // neither sends nor ends
    await fetchFile({ stallMs: 1000 });
    expect(lines.join('\n')).toMatch(/no byte came for 1 s; trying again/);
    expect(readFileSync(file()).equals(BYTES)).toBe(true);
  });

  it('deletes a file with another SHA-256 and names both', async () => {
    const wanted = 'a'.repeat(64);
    await expect(fetchFile({ sha256: wanted })).rejects.toThrow(
      new RegExp(`Expected the SHA-256 ${wanted} for http.* but received ${sha256(BYTES)} \\(0.3 MB\\)`),
    );
    expect([existsSync(file()), existsSync(`${file()}.part`)]).toEqual([false, false]);
  });

  it('keeps what came when the server goes away, and says how much', async () => {
    server.breaks.push(breakAt(90_000, 90_000), ...Array.from({ length: 6 }, () => breakAt(0, 0)));
    await expect(fetchFile()).rejects.toThrow(/failed: .*0.1 MB are kept and will be resumed/);
    server.breaks.length = 0;
    await fetchFile();
    expect(server.requests.at(-1)).toBe('a+cpu.whl bytes=90000-');
  });

  it('does not try again what the server refuses', async () => {
    const url = server.index.replace('simple', 'files/torch/missing.whl');
    await expect(fetchFile({ url })).rejects.toThrow('the server answered 404 Not Found');
    expect(lines).toEqual([]);
  });

  it.runIf(existsSync('/dev/full'))('says what a full disk says, and that another folder can be chosen', async () => {
    symlinkSync('/dev/full', `${file()}.part`); // every write to it ends with ENOSPC
    await expect(fetchFile()).rejects.toThrow(
      /to take a but received: ENOSPC.*set XDG_CACHE_HOME to a folder on another disk/,
    );
    expect(lines).toEqual([]);
  });

  it('takes a file on disk', async () => {
    const source = join(folder, 'source#1 é.whl');
    writeFileSync(source, BYTES);
    const { pathToFileURL } = await import('node:url');
    await fetchFile({ url: pathToFileURL(source).href });
    expect(readFileSync(file()).equals(BYTES)).toBe(true);
  });
});
