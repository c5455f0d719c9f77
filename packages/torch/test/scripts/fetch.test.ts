/** Fetching libtorch from an index on this machine: small made-up wheels with the file names and METADATA of the real ones. */
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { fetchLibtorch } from '../../scripts/wheels/fetch.mjs';
import { chooseWheel, listFiles } from '../../scripts/wheels/index.mjs';
import { SHA256 } from '../../scripts/wheels/pinned.mjs';
import { serveWheels, sha256, type WheelServer, zip } from '../support/wheel-server.js';

const LINUX = process.platform === 'linux' && process.arch === 'x64';
const info = (name: string, requires: string[] = []) =>
  ['Metadata-Version: 2.4', `Name: ${name}`, ...requires.map((line) => `Requires-Dist: ${line}`), '', 'Words.'].join(
    '\n',
  );

const torch = (version: string, requires: string[]) =>
  zip({
    'torch/': '',
    'torch/lib/libtorch_cpu.so': 'library',
    'torch/include/ATen/ATen.h': '#pragma once',
    'torch/__init__.py': 'import os',
    [`torch-${version}.dist-info/METADATA`]: info('torch', requires),
    [`torch-${version}.dist-info/licenses/LICENSE`]: 'BSD',
  });
const nvidia = (name: string, library: string, requires: string[] = []) =>
  zip({
    [`nvidia/cu13/lib/${library}`]: library,
    [`nvidia/cu13/lib/${library}_static.a`]: 'static',
    [`${name}.dist-info/METADATA`]: info(name, requires),
  });
const here = (extra: string) => `sys_platform == 'linux' and extra == '${extra}'`;

const CPU = 'torch-9.1.0+cpu-cp311-cp311-manylinux_2_28_x86_64.whl';
const PACKAGES = {
  torch: {
    [CPU]: torch('9.1.0+cpu', ['filelock']),
    'torch-9.1.0+cpu-cp312-cp312-manylinux_2_28_x86_64.whl': torch('9.1.0+cpu', []),
    'torch-9.1.0+cpu-cp311-cp311-manylinux_2_28_aarch64.whl': torch('9.1.0+cpu', []),
    'torch-9.1.0-cp311-cp311-macosx_14_0_arm64.whl': torch('9.1.0', []),
    'torch-9.2.0-cp311-cp311-manylinux_2_28_x86_64.whl': torch('9.2.0', [
      'filelock',
      'cuda-toolkit[cublas,nvjitlink]==13.0.3; platform_system == "Linux"',
      'nvidia-nccl-cu13==2.30.7; platform_system == "Linux"',
      'nvidia-windows-only==1; platform_system == "Windows"',
    ]),
  },
  'cuda-toolkit': {
    'cuda_toolkit-13.0.3.0-py2.py3-none-any.whl': zip({
      'cuda_toolkit-13.0.3.0.dist-info/METADATA': info('cuda-toolkit', [
        `nvidia-cublas==13.1.*; ${here('cublas')}`,
        `nvidia-nvjitlink<14,>=13.0.88; ${here('nvjitlink')}`,
        `nvidia-cufft==12.*; ${here('cufft')}`,
      ]),
    }),
  },
  'nvidia-cublas': {
    'nvidia_cublas-13.1.1.3-py3-none-manylinux_2_27_x86_64.whl': nvidia('nvidia_cublas-13.1.1.3', 'libcublas.so.13', [
      'nvidia-nvjitlink',
    ]),
  },
  'nvidia-nvjitlink': {
    'nvidia_nvjitlink-13.0.88-py3-none-manylinux2010_x86_64.manylinux_2_12_x86_64.whl': nvidia('a', 'old'),
    'nvidia_nvjitlink-13.4.92-py3-none-manylinux2010_x86_64.manylinux_2_12_x86_64.whl': nvidia(
      'a',
      'libnvJitLink.so.13',
    ),
    'nvidia_nvjitlink-14.0-py3-none-manylinux2010_x86_64.manylinux_2_12_x86_64.whl': nvidia('a', 'too new'),
    'nvidia_nvjitlink-13.9-py3-none-manylinux_2_99_x86_64.whl': nvidia('a', 'for a newer glibc'),
  },
  'nvidia-nccl-cu13': {
    'nvidia_nccl_cu13-2.30.7-py3-none-manylinux_2_18_x86_64.whl': nvidia('nvidia_nccl_cu13-2.30.7', 'libnccl.so.2'),
  },
};

let server: WheelServer;
let folder: string;
let lines: string[];
beforeAll(async () => {
  server = await serveWheels(PACKAGES);
});
afterAll(() => server.close());
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'fetch 库-'));
  lines = [];
  server.requests.length = 0;
  server.hashes.clear();
  server.json = false;
});
afterEach(() => rmSync(folder, { recursive: true }));

const target = () => join(folder, 'lib torch');
const fetchIt = (version: string, build = 'cpu', indexes = [server.index]) =>
  fetchLibtorch({
    version,
    build,
    target: target(),
    indexes,
    folder: join(folder, 'downloads'),
    log: (line) => lines.push(line),
  });
const everything = () =>
  readdirSync(target(), { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map((entry) => join(entry.parentPath, entry.name).slice(target().length + 1))
    .sort();

describe.runIf(LINUX)('libtorch for the CPU', () => {
  it.each(['a page of links', 'JSON'])(
    'comes from %s: lib, include and licence, checked, under its name',
    async (form) => {
      server.json = form === 'JSON';
      await fetchIt('9.1.0');
      expect(everything()).toEqual([
        'libtorch.json',
        'torch-9.1.0+cpu.dist-info/METADATA',
        'torch-9.1.0+cpu.dist-info/licenses/LICENSE',
        'torch/include/ATen/ATen.h',
        'torch/lib/libtorch_cpu.so',
      ]);
      const { wheels } = JSON.parse(readFileSync(join(target(), 'libtorch.json'), 'utf8'));
      const bytes = PACKAGES.torch[CPU]!;
      expect(wheels).toEqual([{ file: CPU, sha256: sha256(bytes), checked: 'index', bytes: bytes.length }]);
      expect(readdirSync(folder).sort()).toEqual(['downloads', 'lib torch']);
      expect(readdirSync(join(folder, 'downloads'))).toEqual([]);
      expect(lines.join('\n')).toContain('the SHA-256 is the one that the index lists');
    },
  );

  it('is fetched once by two processes at a time', async () => {
    await Promise.all([fetchIt('9.1.0'), fetchIt('9.1.0')]);
    expect(server.requests).toEqual([CPU]);
  });

  it('comes from the next index when one does not have it', async () => {
    await fetchIt('9.1.0', 'cpu', [server.index.replace('simple', 'simple/nothing'), server.index]);
    expect(existsSync(join(target(), 'torch/lib/libtorch_cpu.so'))).toBe(true);
  });

  it('is not taken with another hash, without a hash, or as a CUDA build', async () => {
    server.hashes.set(CPU, 'b'.repeat(64));
    await expect(fetchIt('9.1.0')).rejects.toThrow(`Expected the SHA-256 ${'b'.repeat(64)} for http`);
    server.hashes.set(CPU, null);
    await expect(fetchIt('9.1.0')).rejects.toThrow(`lists no SHA-256 for ${CPU}, so it cannot be checked`);
    await expect(fetchIt('9.2.0')).rejects.toThrow(
      'Expected the CPU build of torch 9.2.0 but the index gave a CUDA build',
    );
    await expect(fetchIt('9.3.0')).rejects.toThrow(`${server.index} has no torch==9.3.0 for linux-x64`);
    expect(existsSync(target())).toBe(false);
  });

  it('is not taken when the index lists another hash than the pinned one', async () => {
    SHA256[CPU as keyof typeof SHA256] = 'c'.repeat(64);
    try {
      await expect(fetchIt('9.1.0')).rejects.toThrow(
        `Expected the SHA-256 ${'c'.repeat(64)} for ${CPU} but ${server.index} lists`,
      );
      server.hashes.set(CPU, null);
      await expect(fetchIt('9.1.0')).rejects.toThrow(`Expected the SHA-256 ${'c'.repeat(64)} for http`);
    } finally {
      delete SHA256[CPU as keyof typeof SHA256];
    }
  });

  it('says that an index cannot be reached', async () => {
    await expect(fetchIt('9.1.0', 'cpu', ['http://127.0.0.1:9/simple'])).rejects.toThrow(
      'http://127.0.0.1:9/simple/torch/ cannot be reached',
    );
  });
});

describe.runIf(LINUX)('libtorch for CUDA', () => {
  it('comes with the NVIDIA packages that its METADATA asks for, where its libraries look for them', async () => {
    await fetchIt('9.2.0', 'cu130');
    expect(everything().filter((file) => file.startsWith('nvidia/'))).toEqual([
      'nvidia/cu13/lib/libcublas.so.13',
      'nvidia/cu13/lib/libnccl.so.2',
      'nvidia/cu13/lib/libnvJitLink.so.13',
    ]);
    const { build, wheels } = JSON.parse(readFileSync(join(target(), 'libtorch.json'), 'utf8'));
    expect(build).toBe('cu130');
    expect(wheels.map(({ file }: { file: string }) => file.split('-').slice(0, 2).join(' '))).toEqual([
      'torch 9.2.0',
      'cuda_toolkit 13.0.3.0',
      'nvidia_nccl_cu13 2.30.7',
      'nvidia_cublas 13.1.1.3',
      'nvidia_nvjitlink 13.4.92',
    ]);
  });
});

describe('the wheel that is chosen', () => {
  it.each([
    ['linux-x64', '2.36', 'cpu', CPU],
    ['linux-arm64', '2.28', 'cpu', 'torch-9.1.0+cpu-cp311-cp311-manylinux_2_28_aarch64.whl'],
    ['darwin-arm64', '14.0', 'cpu', 'torch-9.1.0-cp311-cp311-macosx_14_0_arm64.whl'],
    ['darwin-arm64', '13.0', 'cpu', undefined],
    ['linux-x64', '2.27', 'cpu', undefined],
    ['linux-x64', '2.36', 'cu130', undefined],
    ['darwin-arm64', '14.0', 'cu126', undefined],
  ])('on %s %s for %s', async (platform, system, local, file) => {
    const chosen = chooseWheel(await listFiles(server.index, 'torch'), {
      specifier: '==9.1.0',
      platform,
      system,
      python: '3.11',
      local,
      plain: local !== 'cu126',
    });
    expect(chosen?.file).toBe(file);
  });
});
