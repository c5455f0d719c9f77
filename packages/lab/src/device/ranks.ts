/**
 * Checks of several ranks on a device. A group's operations, training beside one process, and a rank that is killed. On
 * a machine with one GPU the ranks share it, over sockets.
 */
import { spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { cpus } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { createModel, saveCheckpoint } from '@minicpm-finetune/minicpm-v';
import { parseConfig } from '@minicpm-finetune/processor';
import { SHARED_GPUS, visibleGpus } from 'minicpm-finetune/internal';
import { TINY_CONFIG } from '../quickstart/tiny-config.js';
import type { Outcome } from './board.js';
import { copyTokenizer, type Losses, type Place, startCommand, trainIn } from './place.js';
import type { Finding } from './rank-of-group.js';
import { BFLOAT16, LORA } from './training.js';

const PROGRAM = join(dirname(fileURLToPath(import.meta.url)), 'rank-of-group.js');
const RANKS = 2;
/** Seconds in which the others have to end when a rank was killed. */
const END = 10;
const LOSS = 1e-6;

/** Lets the ranks share a GPU where there is one only. */
function environmentOf(device: string): Record<string, string> {
  const gpus = visibleGpus(process.env);
  if (device !== 'cuda' || gpus.length >= RANKS) return {};
  const [gpu = '0'] = gpus; // where the driver lists none, libtorch still has found one
  return {
    CUDA_VISIBLE_DEVICES: gpu,
    [SHARED_GPUS]: '1',
    NCCL_SOCKET_IFNAME: 'lo',
    NCCL_P2P_DISABLE: '1',
    NCCL_SHM_DISABLE: '1',
  };
}

interface Ended {
  readonly code: number | null;
  readonly signal: NodeJS.Signals | null;
  readonly findings: readonly Finding[];
  readonly stderr: string;
  readonly seconds: number;
}

/** Runs a mode of rank-of-group.ts in two processes to their end. */
async function runGroup(mode: string, device: string): Promise<Ended[]> {
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const { port } = server.address() as { port: number };
  const { fd } = (server as unknown as { _handle: { fd: number } })._handle;
  const shared = environmentOf(device);
  const gpus = visibleGpus(process.env);
  const ranks = Array.from({ length: RANKS }, (_, rank) =>
    runRank([mode, device], rank === 0 ? fd : null, {
      ...process.env,
      ...shared,
      ...(device === 'cuda' && gpus.length >= RANKS && { CUDA_VISIBLE_DEVICES: gpus[rank] }),
      ...(SHARED_GPUS in shared && { NCCL_HOSTID: `process-${rank}` }),
      ...{ RANK: `${rank}`, WORLD_SIZE: `${RANKS}`, MASTER_PORT: `${port}` },
      OMP_NUM_THREADS: `${Math.max(1, Math.floor(cpus().length / 2 / RANKS))}`,
    }),
  );
  server.close(); // rank 0 holds the socket now
  return await Promise.all(ranks);
}

async function runRank(words: readonly string[], listening: number | null, env: NodeJS.ProcessEnv): Promise<Ended> {
  const started = performance.now();
  const stdio = ['ignore', 'pipe', 'pipe', ...(listening === null ? [] : [listening])] as const;
  const child = spawn(process.execPath, [PROGRAM, ...words], { stdio: [...stdio], env });
  let [stdout, stderr] = ['', ''];
  child.stdout!.setEncoding('utf8').on('data', (text: string) => {
    stdout += text;
  });
  child.stderr!.setEncoding('utf8').on('data', (text: string) => {
    stderr += text;
  });
  const [code, signal] = await new Promise<[number | null, NodeJS.Signals | null]>((resolve) =>
    child.on('close', (...ending) => resolve(ending)),
  );
  const findings = stdout.split('\n').flatMap((line) => (line.startsWith('{') ? [JSON.parse(line) as Finding] : []));
  return { code, signal, findings, stderr, seconds: (performance.now() - started) / 1000 };
}

/** Every operation, with the bits of sums in the order of the ranks; and what is said of sizes that differ. */
export async function grouped(device: string): Promise<Outcome> {
  const all = [...(await runGroup('operations', device)), ...(await runGroup('sizes', device))];
  const findings = all.flatMap((rank) => rank.findings);
  const wrong = findings.filter(({ ok }) => !ok).map(({ what, found = '' }) => `${what} ${found}`);
  const ended = all.every(({ code }) => code === 0);
  const failed = all.flatMap(({ code, stderr }) => (code === 0 ? [] : [`code ${code}: ${reasonIn(stderr)}`]));
  const said = findings.flatMap(({ what, found }) => (found && what !== 'sizes' ? [found] : []));
  return {
    ok: ended && wrong.length === 0 && findings.length > 0,
    found: [...failed, ...wrong, `${findings.length} findings`, ...said.slice(0, 2)].join('; '),
    figures: { findings },
  };
}

/** The error in what a rank printed, without its stack. */
const reasonIn = (stderr: string): string => /^\w*Error: .*/m.exec(stderr)?.[0] ?? stderr.slice(-500);

/** Training in two ranks beside one process with twice the micro-batches, from the same start. */
export async function trained(
  place: Place,
  device: string,
  steps: number,
  how: 'lora' | 'full' | 'fused',
): Promise<Outcome> {
  const name = `ranks-${how}-${device}`;
  const threads = device === 'cpu' ? { threads: 1 } : {}; // bits depend on them
  const wide = { tune_vision: true, zero_stage: 3, model_name_or_path: widePlace(place) };
  const flags = {
    lora: { ...threads, ...LORA, lora_dropout: 0.1, zero_stage: 2 },
    full: { ...threads, ...wide },
    fused: { ...threads, ...wide, bf16: true, fused_backward: true, max_grad_norm: 0 },
  }[how];
  const micros = (count: number) => ({ gradient_accumulation_steps: how === 'fused' ? count / 2 : count });
  const shared = { ...flags, ...micros(2), nproc_per_node: RANKS };
  const alone = { ...flags, ...micros(4), zero_stage: 'auto', fused_backward: false };
  const two = await trainIn({ ...place, env: environmentOf(device) }, `${name}-two`, device, steps, shared);
  const one = await trainIn(place, `${name}-one`, device, steps, alone);
  const loss = largest(two, one);
  const [a, b] = [hashesOf(join(place.folder, `${name}-two`)), hashesOf(join(place.folder, `${name}-one`))];
  const equal = a.length > 0 && a.length === b.length && a.every((hash, i) => hash === b[i]);
  const complete = two.losses.length === steps && one.losses.length === steps;
  const allowed = how === 'fused' ? BFLOAT16 : LOSS;
  return {
    ok: complete && (device === 'cpu' ? equal : loss <= allowed),
    found: `loss differs by ${loss.toExponential(1)} (allowed ${device === 'cpu' ? 0 : allowed.toExponential(1)}), ${equal ? 'equal' : 'other'} bytes of weights`,
    figures: { loss, equal, losses: two.losses, beside: one.losses },
  };
}

/** A model whose layers are too large to stay whole under stage 3. */
function widePlace(place: Place): string {
  const folder = join(place.folder, 'wide');
  if (existsSync(folder)) return folder;
  const { vision_config: vision } = TINY_CONFIG;
  const config = { ...TINY_CONFIG, intermediate_size: 1024, vision_config: { ...vision, intermediate_size: 1024 } };
  const model = createModel(parseConfig(JSON.stringify(config), 'check:device'), { seed: 0 });
  saveCheckpoint(model, folder);
  model.dispose();
  copyTokenizer(folder);
  return folder;
}

function largest(a: Losses, b: Losses): number {
  return a.losses.reduce((most, loss, i) => Math.max(most, Math.abs(loss - b.losses[i]!) / Math.abs(b.losses[i]!)), 0);
}

/** Of the weights of a run's result. */
function hashesOf(folder: string): string[] {
  const names = readdirSync(folder).filter((name) => name.endsWith('.safetensors'));
  return names.sort().map((name) =>
    createHash('sha256')
      .update(readFileSync(join(folder, name)))
      .digest('hex'),
  );
}

/** A rank that is killed in the middle of an operation, and in the middle of a training: the other one ends soon and says which. */
export async function killed(place: Place, device: string): Promise<Outcome> {
  const [first, last] = (await runGroup('killed', device)) as [Ended, Ended];
  const finding = first.findings[0];
  const inGroup =
    first.code === 0 && last.signal === 'SIGKILL' && finding?.ok === true && (finding.seconds ?? 99) < END;
  const output = join(place.folder, `killed-${device}`);
  const { child, text } = startCommand(
    'train',
    {
      ...{ model_name_or_path: widePlace(place), data_path: place.data, output_dir: output, device },
      ...{
        model_max_length: 256,
        per_device_train_batch_size: 2,
        max_steps: 100_000,
        num_train_epochs: 100_000,
        logging_steps: 1,
      },
      ...{ save_strategy: 'no', cache_vision: 'off', dataloader_num_workers: 0, progress: 'quiet', tune_vision: true },
      ...{ nproc_per_node: RANKS, zero_stage: 3 },
    },
    environmentOf(device),
  );
  const ended = new Promise<number | null>((resolve) => child.on('close', (code) => resolve(code)));
  const events = join(output, 'events.jsonl');
  const trains = (): boolean => existsSync(events) && /"event":"step"/.test(readFileSync(events, 'utf8'));
  while (!trains() && child.exitCode === null) await new Promise((resolve) => setTimeout(resolve, 50));
  const [, second] = childrenOf(child.pid!);
  if (second !== undefined) process.kill(second, 'SIGKILL');
  const started = performance.now();
  const code = await ended;
  const seconds = (performance.now() - started) / 1000;
  const said = text();
  const inTraining = code === 137 && seconds < END && /Rank 1 ended first, by SIGKILL/.test(said);
  const named = /Expected rank 1 at [^\n]*/.exec(said)?.[0];
  return {
    ok: inGroup && inTraining,
    found: `in an operation: ${finding?.found ?? reasonIn(first.stderr)} after ${finding?.seconds?.toFixed(1)} s; in a training: code ${code} after ${seconds.toFixed(1)} s, ${named ?? said.slice(-300)}`,
    figures: { group: finding, code, seconds },
  };
}

/** Child processes, oldest first. */
function childrenOf(parent: number): number[] {
  const processes = readdirSync('/proc').map(Number).filter(Number.isInteger);
  const parentOf = (pid: number): number => {
    try {
      return Number(/^\d+ \(.*\) \S (\d+)/s.exec(readFileSync(`/proc/${pid}/stat`, 'utf8'))?.[1]);
    } catch {
      return 0; // it has ended
    }
  };
  return processes.filter((pid) => parentOf(pid) === parent).sort((a, b) => a - b);
}
