import { execFileSync } from 'node:child_process';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { about } from '@minicpm-finetune/torch';
import { expect, it } from 'vitest';
import { doctor } from '../../src/cli/doctor/doctor.js';
import { main } from '../../src/cli/main.js';
import { CLI } from '../support/cli-run.js';

it('finds what this machine has, and measures its speed', async () => {
  const reported: unknown[] = [];
  const findings = await doctor(join(tmpdir(), 'not', 'there'), (finding) => reported.push(finding));
  expect(findings).toEqual(reported);
  const found = (name: string) => findings.find((finding) => finding.name === name)!;
  expect(found('Node')).toMatchObject({ status: 'ok', found: expect.stringContaining(process.versions.node) });
  expect(found('libtorch').found).toContain(about().version);
  expect(found('memory').found).toMatch(/^[\d.]+ [kMGT]B, [\d.]+ [kMGT]B free$/);
  expect(found('disk of the run folder').found).toMatch(/^[\d.]+ [kMGT]B free in .*not.there$/);
  for (const dtype of ['float32', 'bfloat16']) {
    expect(Number(/^(\d+) GFLOP\/s/.exec(found(`matmul ${dtype}`).found)?.[1])).toBeGreaterThan(0);
  }
  for (const finding of findings) expect(finding.cure !== undefined).toBe(finding.status !== 'ok');
});

it('as a command prints a line per finding, or JSON', async () => {
  let text = '';
  const stdout = { write: (piece: string) => (text += piece) };
  expect(await main(['doctor', '--json'], { stdout, stderr: stdout, env: {} })).toBe(0);
  const lines = text.trimEnd().split('\n');
  expect(lines.map((line) => JSON.parse(line).name)).toContain('libtorch');
  text = '';
  expect(await main(['doctor'], { stdout, stderr: stdout, env: {} })).toBe(0);
  expect(text).toMatch(/^ok {6}Node: /m);
});

it('takes seconds on a processor that multiplies bfloat16 a hundred times slower', () => {
  const env = { ...process.env, ONEDNN_MAX_CPU_ISA: 'AVX2', ATEN_CPU_CAPABILITY: 'avx2' };
  const text = execFileSync(process.execPath, [CLI, 'doctor', '--json'], { env, timeout: 60_000 }).toString();
  expect(text).toMatch(/"matmul bfloat16".*GFLOP/);
});
