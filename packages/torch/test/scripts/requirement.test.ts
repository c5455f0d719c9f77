/** Requirements of wheels, with the lines of PyTorch's and NVIDIA's own METADATA. */
import { describe, expect, it } from 'vitest';
import {
  markerEnvironment,
  markerHolds,
  parseRequirement,
  requirementsOf,
  satisfies,
} from '../../scripts/wheels/requirement.mjs';

describe('versions', () => {
  it.each([
    ['13.0.3.0', '==13.0.3', true],
    ['13.0.30', '==13.0.3', false],
    ['13.1.1.3', '==13.1.1.3.*', true],
    ['13.1.1.30', '==13.1.1.3.*', false],
    ['13.4.92', '<14,>=13.0.88', true],
    ['14.0', '<14,>=13.0.88', false],
    ['13.0.9', '<14,>=13.0.88', false],
    ['3.8.1', '~=3.8.0', true],
    ['3.9.0', '~=3.8.0', false],
    ['2.13.0+cpu', '==2.13.0', true],
    ['2.13.0', '!=2.13.*', false],
    ['2.14.0rc1', '>=2.0', false], // pre-releases are never taken
    ['1.0', '', true],
  ])('%s fits %s: %s', (version, specifier, fits) => {
    expect(satisfies(version, specifier)).toBe(fits);
  });

  it('are refused when they are none', () => {
    expect(() => satisfies('1.0', '=1')).toThrow('Expected a version specifier such as ==1.2.3 but received =1');
  });
});

describe('markers', () => {
  const linux = markerEnvironment('linux-x64', '3.11', 'cublas');
  it.each([
    ['', true],
    ['platform_system == "Linux"', true],
    ['platform_system == "Linux" and python_version < "3.15"', true],
    ['platform_system == "Linux" and python_version < "3.9"', false], // 3.11 is newer than 3.9
    ["(sys_platform == 'win32' and platform_machine == 'AMD64') and extra == 'cublas'", false],
    [
      "(sys_platform == 'linux' and platform_machine == 'aarch64' or sys_platform == 'linux' and platform_machine == 'x86_64') and extra == 'cublas'",
      true,
    ],
    ["extra == 'cufft'", false],
    ["'linux' in sys_platform", true],
    ["sys_platform not in 'darwin win32'", true],
  ])('%s: %s', (marker, holds) => {
    expect(markerHolds(marker, linux)).toBe(holds);
  });

  it('name the variable that is not known', () => {
    expect(() => markerHolds('os_color == "red"', linux)).toThrow('received os_color');
  });
});

describe('requirements', () => {
  it('have a name, extras, versions and a marker', () => {
    expect(parseRequirement('CUDA_Toolkit[cublas, cudart]==13.0.3; platform_system == "Linux"')).toEqual({
      name: 'cuda-toolkit',
      extras: ['cublas', 'cudart'],
      specifier: '==13.0.3',
      marker: 'platform_system == "Linux"',
    });
    expect(parseRequirement('filelock')).toEqual({ name: 'filelock', extras: [], specifier: '', marker: '' });
  });

  it('of METADATA are those for this platform and these extras; the description is no part of it', () => {
    const metadata = [
      'Name: x',
      'Requires-Dist: nvidia-nccl-cu13==2.30.7; platform_system == "Linux"',
      "Requires-Dist: nvidia-cublas==13.1.1.3.*; sys_platform == 'linux' and extra == 'cublas'",
      "Requires-Dist: nvidia-cufft==12.0.0.61.*; sys_platform == 'linux' and extra == 'cufft'",
      '',
      'Requires-Dist: not-a-requirement==1',
    ].join('\r\n');
    const names = (platform: string, extras: string[]) =>
      requirementsOf(metadata, { platform, python: '3.11', extras }).map(({ name }) => name);
    expect(names('linux-x64', ['cublas'])).toEqual(['nvidia-nccl-cu13', 'nvidia-cublas']);
    expect(names('darwin-arm64', ['cublas'])).toEqual([]);
  });
});
