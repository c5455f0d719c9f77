/**
 * What this machine offers a training, and what it lacks. Versions, compiler, libtorch, devices, memory, disk, and the
 * speed of matrix products. Only looks: installs and changes nothing. Works without a built addon, which is then a
 * finding.
 */
import { spawnSync } from 'node:child_process';
import { existsSync, statfsSync } from 'node:fs';
import { availableParallelism, cpus, freemem, release, totalmem } from 'node:os';
import { dirname, join, resolve } from 'node:path';
import { formatBytes } from '@minicpm-finetune/run';
import { huggingFaceHome } from '../../hub/home.js';

export interface Finding {
  /** The subject. */
  name: string;
  /** `missing`: a training cannot run; `note`: it can, but this is worth knowing. */
  status: 'ok' | 'note' | 'missing';
  /** The observation. */
  found: string;
  /** The cure, unless all is well. */
  cure?: string;
}

const NODE = [20, 19] as const;
/** Enough for the quickstart and its checkpoints. */
const SMALL_DISK = 5e9;
const SMALL_MEMORY = 4e9;

/**
 * @param folder whose disk matters, such as the run folder.
 * @param report gets every finding as soon as it is made; the measurement takes a few seconds.
 */
export async function doctor(folder: string, report: (finding: Finding) => void): Promise<Finding[]> {
  const findings: Finding[] = [];
  const add = (finding: Finding) => {
    findings.push(finding);
    report(finding);
  };
  add(node());
  add(processor());
  add(memory());
  for (const [name, path] of diskFolders(folder)) add(disk(name, path));
  add(compiler());
  add(videos());
  const torch = await loadTorch();
  if (typeof torch === 'string') {
    // The first line is what failed, the others say why and what to do.
    const [found = '', ...cure] = torch.split('\n');
    add({ name: 'libtorch', status: 'missing', found, cure: cure.join(' ') });
    return findings;
  }
  const { version, cpuCapability, mkldnn, cuda, mps } = torch.about();
  add({ name: 'libtorch', status: 'ok', found: `${version}, ${cpuCapability}${mkldnn ? ', oneDNN' : ''}` });
  add(devices(cuda, mps));
  add({ name: 'threads', status: 'ok', found: `${torch.threads()} for one operator` });
  const device = cuda ? 'cuda' : mps ? 'mps' : 'cpu';
  for (const dtype of ['float32', 'bfloat16'] as const) add(await speed(dtype, device));
  return findings;
}

function node(): Finding {
  const found = `${process.versions.node} on ${process.platform} ${release()}, ${process.arch}`;
  const [major = 0, minor = 0] = process.versions.node.split('.').map(Number);
  const old = major < NODE[0] || (major === NODE[0] && minor < NODE[1]);
  if (old) return { name: 'Node', status: 'missing', found, cure: `Install Node ${NODE.join('.')} or newer.` };
  return { name: 'Node', status: 'ok', found };
}

function processor(): Finding {
  const model = cpus()[0]?.model.trim() ?? 'unknown processor';
  return { name: 'processor', status: 'ok', found: `${model}, ${availableParallelism()} usable cores` };
}

function memory(): Finding {
  // A container's limit counts, where there is one. 0 and numbers above all memory mean that there is none.
  const limit = process.constrainedMemory();
  const total = limit > 0 && limit < totalmem() ? limit : totalmem();
  const free = Math.min(process.availableMemory?.() ?? freemem(), total);
  const found = `${formatBytes(total)}, ${formatBytes(free)} free`;
  if (free >= SMALL_MEMORY) return { name: 'memory', status: 'ok', found };
  const cure = 'Close other programs, or use --use_lora, --gradient_checkpointing and small batches.';
  return { name: 'memory', status: 'note', found, cure };
}

function diskFolders(folder: string): [name: string, path: string][] {
  return [
    ['disk of the run folder', resolve(folder)],
    ['disk of the Hugging Face cache', process.env.HF_HUB_CACHE ?? join(huggingFaceHome(), 'hub')],
  ];
}

function disk(name: string, path: string): Finding {
  let existing = path;
  while (!existsSync(existing) && dirname(existing) !== existing) existing = dirname(existing);
  const { bavail, bsize } = statfsSync(existing);
  const found = `${formatBytes(bavail * bsize)} free in ${path}`;
  if (bavail * bsize >= SMALL_DISK) return { name, status: 'ok', found };
  return { name, status: 'note', found, cure: 'Full checkpoints take 16 bytes per parameter; free some space.' };
}

function compiler(): Finding {
  const command = process.env.CXX ?? 'c++';
  const first = firstLine(command, ['--version']);
  if (first !== undefined) return { name: 'compiler', status: 'ok', found: first };
  const cure =
    'Needed only to compile the addon: install one, such as `apt install g++` or the Xcode command line tools.';
  return { name: 'compiler', status: 'note', found: `${command} does not run`, cure };
}

/** The programs that read videos. */
function videos(): Finding {
  const programs = ['ffmpeg', 'ffprobe'];
  const lines = programs.map((program) => firstLine(program, ['-version']));
  const missing = programs.filter((_, i) => lines[i] === undefined);
  if (missing.length === 0) return { name: 'videos', status: 'ok', found: lines[0]!.replace(/ Copyright.*/u, '') };
  const cure =
    'Needed only for data with videos: install ffmpeg (Debian and Ubuntu: `apt install ffmpeg`, macOS: `brew install ffmpeg`), or give videos as folders of frames.';
  return { name: 'videos', status: 'note', found: `${missing.join(' and ')} not in PATH`, cure };
}

type Torch = typeof import('@minicpm-finetune/torch');

/** The package, or why it does not load. */
async function loadTorch(): Promise<Torch | string> {
  try {
    return await import('@minicpm-finetune/torch');
  } catch (error) {
    return (error as Error).message;
  }
}

function devices(cuda: boolean, mps: boolean): Finding {
  const found = ['cpu', ...(cuda ? ['cuda'] : []), ...(mps ? ['mps'] : [])].join(', ');
  const card = firstLine('nvidia-smi', ['--query-gpu=name,memory.total,driver_version', '--format=csv,noheader']);
  if (card === undefined) return { name: 'devices', status: 'ok', found };
  if (cuda) return { name: 'devices', status: 'ok', found: `${found} (${card})` };
  const cure =
    'libtorch was built for the CPU alone. Set-up fetches a CUDA build when neither LIBTORCH nor a Python torch is there: unset or uninstall that one (or replace it by a CUDA build) and run set-up again.';
  return { name: 'devices', status: 'note', found: `${found}; ${card} is not used`, cure };
}

async function speed(dtype: 'float32' | 'bfloat16', device: string): Promise<Finding> {
  const { matmulSpeed } = await import('../../engine/matmul.js'); // loads libtorch, which may be missing
  const perSecond = matmulSpeed(dtype, device);
  return { name: `matmul ${dtype}`, status: 'ok', found: `${(perSecond / 1e9).toFixed(0)} GFLOP/s on ${device}` };
}

/** The first line a program prints, or undefined if it does not run. */
function firstLine(command: string, words: readonly string[]): string | undefined {
  const { status, stdout } = spawnSync(command, words, { encoding: 'utf8', timeout: 10_000 });
  return status === 0 ? stdout.split('\n')[0]?.trim() : undefined;
}
