/** Which machines are supported, and which libtorch build a driver gets. */
import { describe, expect, it } from 'vitest';
import { sourcesHash } from '../../scripts/compile.mjs';
import { checkHost, compareVersions } from '../../scripts/host.mjs';
import { chooseBuild } from '../../scripts/libtorch.mjs';
import { whyNotPrebuilt } from '../../scripts/prebuilt.mjs';
import { parseWheelName } from '../../scripts/wheels/index.mjs';
import { BUILDS, PINNED, SHA256 } from '../../scripts/wheels/pinned.mjs';

const host =
  (platform: string, arch: string, glibc?: string, macos = '14.0') =>
  () =>
    checkHost({ platform, arch, glibc, macos } as never);

describe('machines', () => {
  it('run libtorch with a glibc that is new enough', () => {
    expect(host('linux', 'x64', '2.36')).not.toThrow();
    expect(host('linux', 'arm64', '2.28')).not.toThrow();
    expect(host('darwin', 'arm64')).not.toThrow();
    expect(host('darwin', 'arm64', undefined, '13.0')).toThrow(
      'Expected macOS 14.0 or newer for libtorch but this is 13.0',
    );
  });

  it.each([
    ['win32', 'x64', undefined, 'this is Windows (win32-x64), which is not supported. Use WSL 2'],
    ['darwin', 'x64', undefined, 'this is darwin-x64. PyTorch has had no builds for Intel Macs since 2.3'],
    [
      'linux',
      'ia32',
      '2.36',
      'Expected one of the platforms linux-x64, linux-arm64, darwin-arm64 but this is linux-ia32',
    ],
    ['linux', 'x64', undefined, 'another C library (musl, as on Alpine)'],
    ['linux', 'x64', '2.9', 'Expected glibc 2.28 or newer for libtorch but this system has 2.9'],
  ])('%s %s with glibc %s are told why not', (platform, arch, glibc, message) => {
    expect(host(platform, arch, glibc)).toThrow(message);
  });

  it('compare versions by their numbers', () => {
    expect([
      compareVersions('2.9', '2.28'),
      compareVersions('2.13.0+cpu', '2.13'),
      compareVersions('580.65.06', '580'),
    ]).toEqual([-1, 0, 1]);
  });
});

describe('the build for a driver', () => {
  it.each([
    [undefined, 'cpu', undefined],
    ['580.65.06', 'cu130', /^NVIDIA driver 580.65.06: taking CUDA build cu130\.$/],
    ['610.1', 'cu130', /cu130/],
    ['550.54.14', 'cu126', /cu130 needs NVIDIA driver 580.65.06 or newer and this machine has 550.54.14: taking cu126/],
    [
      '470.82.01',
      'cpu',
      /needs NVIDIA driver 580.65.06 or newer and this machine has 470.82.01; the oldest one, cu126, needs 525.60.13/,
    ],
  ])('%s: %s', (driver, build, note) => {
    const chosen = chooseBuild(driver, 'linux-x64', undefined) as { build: string; note?: string };
    expect(chosen.build).toBe(build);
    if (note) expect(chosen.note).toMatch(note);
    else expect(chosen.note).toBeUndefined();
  });

  it('is the one that LIBTORCH_BUILD names', () => {
    expect(chooseBuild('580.65.06', 'linux-x64', 'cpu')).toEqual({ build: 'cpu' });
    expect(() => chooseBuild(undefined, 'linux-x64', 'cu99')).toThrow(
      'Expected one of cpu, cu130, cu126 for LIBTORCH_BUILD but received cu99',
    );
  });
});

it('pinned hashes are of the pinned version, for every platform that is supported', () => {
  const wheels = Object.keys(SHA256).map((file) => parseWheelName(file)!);
  expect(wheels.map(({ version }) => version!.split('+')[0])).toEqual(wheels.map(() => PINNED));
  expect(wheels.every(({ version }) => [undefined, ...Object.keys(BUILDS)].includes(version!.split('+')[1]))).toBe(
    true,
  );
  expect(Object.values(SHA256).every((hash) => /^[0-9a-f]{64}$/.test(hash))).toBe(true);
  for (const end of ['x86_64', 'aarch64', 'arm64']) {
    expect(wheels.some(({ platforms }) => platforms.some((tag) => tag.endsWith(end)))).toBe(true);
  }
});

describe('a prebuilt addon', () => {
  const here = new URL('../..', import.meta.url).pathname;
  const record = { libtorch: '2.13.0', napi: 8, glibc: '2.33', sources: sourcesHash(decodeURI(here)) };
  const why = (version: string, machine: { napi?: string; glibc?: string }, more = {}) =>
    whyNotPrebuilt(decodeURI(here), { ...record, ...more }, version, { napi: '9', glibc: '2.36', ...machine });

  it('fits its libtorch, of any build', () => {
    expect(why('2.13.0', {})).toBeUndefined();
    expect(why('2.13.0+cu130', {})).toBeUndefined();
  });

  it.each([
    ['2.12.1', {}, {}, 'it was built for libtorch 2.13.0, not 2.12.1'],
    ['2.13.0', { napi: '7' }, {}, /^it needs Node-API 8, and Node .* has 7$/],
    ['2.13.0', { glibc: '2.31' }, {}, 'it needs glibc 2.33 or newer, and this system has 2.31'],
    ['2.13.0', { glibc: undefined }, {}, 'it needs glibc 2.33 or newer, and this system has another C library'],
    ['2.13.0', {}, { sources: 'other' }, 'native/ has changed since it was built'],
  ])('for %s on %j does not', (version, machine, more, reason) => {
    if (typeof reason === 'string') expect(why(version, machine as never, more)).toBe(reason);
    else expect(why(version, machine as never, more)).toMatch(reason);
  });
});
