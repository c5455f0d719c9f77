/** Describes this machine, and whether it is supported. Platform, C library, cache folder, NVIDIA driver. */
import { spawnSync } from 'node:child_process';
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { homedir, release } from 'node:os';
import { join } from 'node:path';

/** Platforms that libtorch's wheels and the addon exist for. */
const SUPPORTED = ['linux-x64', 'linux-arm64', 'darwin-arm64'];
/** libtorch's Linux wheels are built for this glibc. */
const OLDEST_GLIBC = '2.28';
/** Its wheel for Macs is built for this macOS. */
const OLDEST_MACOS = '14.0';

export const platformOf = ({ platform, arch } = process) => `${platform}-${arch}`;

/** -1, 0 or 1, comparing numbers between dots: 2.9 is older than 2.28. */
export function compareVersions(a, b) {
  const [left, right] = [a, b].map((version) => version.split('+')[0].split('.').map(Number));
  for (let i = 0; i < Math.max(left.length, right.length); i++) {
    const difference = (left[i] ?? 0) - (right[i] ?? 0);
    if (difference !== 0) return Math.sign(difference);
  }
  return 0;
}

/** The version of glibc that Node runs on; undefined on musl and outside Linux. */
export function glibcVersion() {
  return process.platform === 'linux' ? process.report?.getReport().header.glibcVersionRuntime : undefined;
}

/** The version of macOS from its kernel's: Darwin 23 is macOS 14, Darwin 25 is macOS 26. undefined elsewhere. */
export function macosVersion() {
  const darwin = Number(release().split('.')[0]);
  return process.platform === 'darwin' ? `${darwin >= 25 ? darwin + 1 : darwin - 9}.0` : undefined;
}

const thisHost = () => ({
  platform: process.platform,
  arch: process.arch,
  glibc: glibcVersion(),
  macos: macosVersion(),
});

/** Throws with what to do when libtorch cannot run here. `host` stands in for this machine in tests. */
export function checkHost(host = thisHost()) {
  const name = platformOf(host);
  if (host.platform === 'win32') {
    throw new Error(
      `Expected Linux or macOS but this is Windows (${name}), which is not supported. Use WSL 2: install Ubuntu with \`wsl --install\`, then Node and this project inside it.`,
    );
  }
  if (!SUPPORTED.includes(name)) {
    const intel = name === 'darwin-x64' ? ' PyTorch has had no builds for Intel Macs since 2.3.' : '';
    throw new Error(`Expected one of the platforms ${SUPPORTED.join(', ')} but this is ${name}.${intel}`);
  }
  if (host.platform === 'darwin' && compareVersions(host.macos, OLDEST_MACOS) < 0) {
    throw new Error(`Expected macOS ${OLDEST_MACOS} or newer for libtorch but this is ${host.macos}. Update macOS.`);
  }
  if (host.platform !== 'linux') return;
  if (host.glibc === undefined) {
    throw new Error(
      'Expected a Linux with glibc but this one has another C library (musl, as on Alpine), for which libtorch has no builds. Use a glibc system, for example the container image node:22-bookworm-slim.',
    );
  }
  if (compareVersions(host.glibc, OLDEST_GLIBC) < 0) {
    throw new Error(
      `Expected glibc ${OLDEST_GLIBC} or newer for libtorch but this system has ${host.glibc}. Use Debian 10, Ubuntu 20.04, RHEL 8 or newer.`,
    );
  }
}

/** Where downloads and unpacked libtorch builds are kept. */
export function cacheFolder() {
  const base =
    process.env.XDG_CACHE_HOME ||
    (process.platform === 'darwin' ? join(homedir(), 'Library', 'Caches') : join(homedir(), '.cache'));
  return join(base, 'minicpm-finetune');
}

const LIBRARY_FOLDERS = [
  '/usr/lib/x86_64-linux-gnu',
  '/usr/lib/aarch64-linux-gnu',
  '/usr/lib64',
  '/usr/lib/wsl/lib',
  '/usr/lib',
];

/**
 * The version of the NVIDIA driver: from the kernel module, else from nvidia-smi (WSL has no module), else from the name of libcuda.
 * undefined when there is no driver.
 */
export function nvidiaDriver() {
  if (process.platform !== 'linux') return undefined;
  const module = '/proc/driver/nvidia/version';
  const loaded = existsSync(module) && /Kernel Module.*?\s(\d+\.\d+(?:\.\d+)?)\s/.exec(readFileSync(module, 'utf8'));
  if (loaded) return loaded[1];
  const smi = spawnSync('nvidia-smi', ['--query-gpu=driver_version', '--format=csv,noheader'], { encoding: 'utf8' });
  const asked = smi.status === 0 && /^\d+\.\d+(\.\d+)?/.exec(smi.stdout.trim());
  if (asked) return asked[0];
  for (const folder of LIBRARY_FOLDERS.filter((path) => existsSync(path))) {
    for (const file of readdirSync(folder)) {
      const named = /^libcuda\.so\.(\d+\.\d+(?:\.\d+)?)$/.exec(file);
      if (named) return named[1];
    }
  }
  return undefined;
}

/** A Python 3 on PATH, as the word that starts it; undefined without. */
export function findPython() {
  return ['python3', 'python'].find(
    (name) => spawnSync(name, ['-c', 'import sys; assert sys.version_info[0] == 3']).status === 0,
  );
}
