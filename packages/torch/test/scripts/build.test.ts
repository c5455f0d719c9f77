/**
 * The whole way to an addon, with the real compiler, on a small addon and a small stand-in for libtorch's libraries, in folders with spaces and
 * letters beyond ASCII: compiling, what an error says, the prebuilt addon, and what is said when libtorch has moved.
 */
import { execFileSync } from 'node:child_process';
import {
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  realpathSync,
  renameSync,
  rmSync,
  unlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { symbolVersions } from '../../../../scripts/release.mjs';
import { buildAddon, whyNotLoading } from '../../scripts/build.mjs';
import { compileAddon, findCompiler, sourcesHash } from '../../scripts/compile.mjs';
import { explainFailure } from '../../scripts/diagnose.mjs';
import { addonFile, explainLoadFailure, explainMissing, factsOf } from '../../src/load-failure.js';

const SCRIPTS = join(import.meta.dirname, '..', '..', 'scripts');
/** In C's interface of Node, which compiles in a tenth of the time of C++'s. */
const ADDON = `
#include <ATen/ATen.h>
#include <node_api.h>
#include "twice.h"
static napi_value answer(napi_env env, napi_callback_info) {
  napi_value number;
  napi_create_int32(env, twice(half()), &number);
  return number;
}
NAPI_MODULE_INIT() {
  napi_value function;
  napi_create_function(env, "answer", NAPI_AUTO_LENGTH, answer, nullptr, &function);
  napi_set_named_property(env, exports, "answer", function);
  return exports;
}
`;

let folder: string;
let here: string;
let libtorch: string;
let lines: string[] = [];

function makeLibtorch(path: string, version: string) {
  mkdirSync(join(path, 'lib'), { recursive: true });
  mkdirSync(join(path, 'include', 'ATen'), { recursive: true });
  mkdirSync(join(path, 'include', 'torch', 'headeronly'), { recursive: true });
  writeFileSync(join(path, 'include', 'ATen', 'ATen.h'), 'extern "C" int half();\n');
  writeFileSync(join(path, 'include', 'torch', 'headeronly', 'version.h'), `#define TORCH_VERSION "${version}"\n`);
  const compiler = findCompiler()!.words[0]!;
  const source = join(path, 'half.cc');
  writeFileSync(source, 'extern "C" int half() { return 21; }\n');
  const end = process.platform === 'darwin' ? 'dylib' : 'so';
  const library = (name: string): string => join(path, 'lib', `lib${name}.${end}`);
  execFileSync(compiler, ['-shared', '-fPIC', source, '-o', library('torch')]);
  for (const name of ['torch_cpu', 'c10']) cpSync(library('torch'), library(name));
}

beforeAll(() => {
  folder = mkdtempSync(join(realpathSync(tmpdir()), 'build-'));
  here = join(folder, 'a b', '项目', 'torch');
  libtorch = join(folder, 'lib torch');
  makeLibtorch(libtorch, '2.13.0');
  mkdirSync(join(here, 'native', 'more'), { recursive: true });
  writeFileSync(join(here, 'native', 'addon.cc'), ADDON);
  writeFileSync(join(here, 'native', 'twice.h'), 'int twice(int value);\n');
  writeFileSync(
    join(here, 'native', 'more', 'twice.cc'),
    '#include "../twice.h"\nint twice(int value) { return 2 * value; }\n',
  );
  cpSync(SCRIPTS, join(here, 'scripts'), { recursive: true });
});
afterAll(() => rmSync(folder, { recursive: true }));

const compiled = () => join(here, 'build', 'Release', 'torch.node');
const state = () => JSON.parse(readFileSync(join(here, 'build', 'addon.json'), 'utf8'));

/** Makes the addon ready with these environment variables. */
async function build(variables: Record<string, string> = {}): Promise<string> {
  const before = { ...process.env };
  Object.assign(process.env, { LIBTORCH: libtorch, CXX: '', ...variables });
  lines = [];
  try {
    return await buildAddon((line: string) => lines.push(line), here);
  } finally {
    for (const name of ['LIBTORCH', 'CXX', ...Object.keys(variables)]) {
      if (before[name] === undefined) delete process.env[name];
      else process.env[name] = before[name];
    }
  }
}

const answer = (file: string) =>
  execFileSync(process.execPath, ['-p', 'require(process.argv[1]).answer()', file], { encoding: 'utf8' }).trim();

describe('compiling', () => {
  it('makes an addon that finds libtorch, and does nothing when all is as it was', async () => {
    expect(await build()).toMatch(/^native addon: compiled in \d+ s$/);
    expect(lines).toContain('compiled 2 of 2 files');
    expect(answer(compiled())).toBe('42');
    expect(state()).toMatchObject({
      addon: 'build/Release/torch.node',
      root: libtorch,
      version: '2.13.0',
      source: 'LIBTORCH',
    });
    expect(await build()).toBe('native addon: up to date');
  });

  it('compiles only what changed', async () => {
    writeFileSync(
      join(here, 'native', 'more', 'twice.cc'),
      '#include "../twice.h"\nint twice(int value) { return value + value; }\n',
    );
    await build();
    expect(lines).toContain('compiled 1 of 1 files');
    expect(answer(compiled())).toBe('42');
  });

  it('compiles what includes a header that changed, and nothing because the folder moved', async () => {
    const file = join(here, 'native', 'more', 'twice.cc');
    const before = readFileSync(file, 'utf8');
    writeFileSync(file, `#include "own.h"\n${before}`);
    writeFileSync(join(here, 'native', 'more', 'own.h'), '// a header\n');
    await build();
    writeFileSync(join(here, 'native', 'more', 'own.h'), '// a header that changed\n');
    await build();
    expect(lines).toContain('compiled 1 of 1 files');
    const moved = join(folder, 'elsewhere');
    cpSync(here, moved, { recursive: true });
    const made = readdirSync(join(moved, 'build', 'objects'));
    const output = join(moved, 'build', 'Release', 'torch.node');
    await compileAddon({ here: moved, libtorch, output, objects: join(moved, 'build', 'objects'), log: () => {} });
    expect(readdirSync(join(moved, 'build', 'objects'))).toEqual(made);
    expect(answer(output)).toBe('42');
    writeFileSync(file, before);
    await build();
  });

  it('is done again for another libtorch', async () => {
    const other = join(folder, 'other');
    makeLibtorch(other, '2.14.0');
    expect(await build({ LIBTORCH: other })).toMatch(/compiled/);
    expect(lines).toContain('compiled 2 of 2 files');
    expect(state()).toMatchObject({ root: other, version: '2.14.0' });
    await build();
  });

  it('names the first error line of the compiler, and the file', async () => {
    const file = join(here, 'native', 'more', 'twice.cc');
    const before = readFileSync(file, 'utf8');
    writeFileSync(file, '#include <c10/missing/header.h>\n');
    await expect(build()).rejects.toThrow(
      /Expected .*twice\.cc to compile but received: .*twice\.cc:1:10: fatal error: '?c10\/missing\/header\.h'?.*\nThe libtorch in .*lib torch lacks the header c10\/missing\/header\.h/,
    );
    writeFileSync(file, 'int twice(int value) { return undeclared; }\n');
    await expect(build()).rejects.toThrow(
      /received: .*twice\.cc:1:31: error: .*undeclared.*\n(.*\n)*.*not a known cause/,
    );
    writeFileSync(file, before);
    await build();
  });

  it('without a compiler says which were looked for, before anything is fetched', async () => {
    writeFileSync(join(here, 'native', 'twice.h'), 'int twice(int value); // changed\n');
    await expect(build({ CXX: '/nothing/c++ -m64' })).rejects.toThrow(
      /Expected a C\+\+ compiler for the native addon but found none \(looked for CXX=\/nothing\/c\+\+ -m64\)\. Install a C\+\+20 compiler|xcode-select/,
    );
    expect(lines).toEqual([]);
    await build();
  });

  it('refuses a folder that is no libtorch, and one that is too old', async () => {
    await expect(build({ LIBTORCH: folder })).rejects.toThrow(`Expected libtorch in LIBTORCH=${folder}`);
    const old = join(folder, 'old');
    makeLibtorch(old, '2.5.1');
    await expect(build({ LIBTORCH: old })).rejects.toThrow(
      `Expected libtorch 2.6 or newer in LIBTORCH=${old} but it is 2.5.1`,
    );
  });
});

describe.each([
  [
    '/x/a.cc:1: fatal error: error writing to /tmp/ccX.s: No space left on device',
    /disk of .* is full \(\d+\.\d GB free\)/,
  ],
  [
    'c++: fatal error: Killed signal terminated program cc1plus\ncompilation terminated.',
    /Memory ran out: one file needs up to 1.5 GB/,
  ],
  ["g++: error: unrecognized command line option '-std=c++20'", /The compiler is too old \(g\+\+ 9\)/],
  [
    '/x/handles.h:7:10: fatal error: napi.h: No such file or directory',
    /node-addon-api and node-api-headers are incomplete/,
  ],
  ["/x/a.h:3:10: fatal error: 'vector' file not found", /standard headers \(vector\) are missing/],
  ['/usr/bin/ld: cannot find -ltorch_cpu: No such file or directory', /\/t\/lib has no libtorch_cpu for this platform/],
  ["g++: fatal error: cannot execute 'cc1plus': execvp: No such file or directory", /The compiler is incomplete/],
  ['fatal error: opening output file /y/a.o: Permission denied', /cannot be written to by this user/],
])('the compiler says: %s', (output, cure) => {
  it('and the cure fits', () => {
    const compiler = { words: ['g++'], version: 'g++ 9' };
    const warned = `/x/a.cc:9: warning: an error is near\n${output}`;
    const { message } = explainFailure({
      compiler,
      libtorch: '/t',
      folder: '/',
      file: 'a.cc',
      output: warned,
      signal: null,
    } as never);
    expect(message.split('\n')[0]).toBe(`Expected a.cc to compile but received: ${output.split('\n')[0]}`);
    expect(message.split('\n')[1]).toMatch(cure);
  });
});

describe('an addon that does not load', () => {
  const explained = () => {
    const facts = factsOf(here);
    const file = addonFile(here)!;
    return explainLoadFailure(facts, file, new Error(whyNotLoading(file))).message;
  };
  const command = () => `\`node "${join(here, 'scripts', 'build.mjs')}"\``;

  it('says that libtorch has moved, where it was, and what to run', () => {
    const moved = join(folder, 'moved');
    renameSync(libtorch, moved);
    expect(explained()).toContain(
      `libtorch has moved: it was in ${libtorch}. Put it back (a container needs that folder, too), or run ${command()}`,
    );
    expect(explained()).toMatch(
      new RegExp(
        `${process.platform}-${process.arch}, .*Node ${process.versions.node}, addon built for libtorch 2.13.0`,
      ),
    );
    renameSync(moved, libtorch);
    expect(whyNotLoading(compiled())).toBeUndefined();
  });

  it('says which library is missing', () => {
    const library = join(libtorch, 'lib', process.platform === 'darwin' ? 'libc10.dylib' : 'libc10.so');
    renameSync(library, `${library}.away`);
    expect(explained()).toMatch(/libc10\.\w+ is neither in .*lib torch\/lib nor on this system\. Run/);
    renameSync(`${library}.away`, library);
  });

  it('says that libtorch is of another version', () => {
    const header = join(libtorch, 'include', 'torch', 'headeronly', 'version.h');
    const before = readFileSync(header, 'utf8');
    writeFileSync(header, '#define TORCH_VERSION "2.9.1"');
    const facts = factsOf(here);
    const { message } = explainLoadFailure(facts, compiled(), new Error(`${compiled()}: undefined symbol: _ZN3c10`));
    expect(message).toContain('libtorch is now 2.9.1; the addon and libtorch do not fit each other');
    expect(message).toContain('addon built for libtorch 2.13.0, libtorch 2.9.1 in');
    writeFileSync(header, before);
  });

  it.each([
    [
      "/lib/libc.so.6: version `GLIBC_2.38' not found (required by torch.node)",
      'built on a newer system: it needs GLIBC_2.38',
    ],
    ['torch.node: invalid ELF header', 'The addon is of another platform'],
    ['libgomp.so.1: cannot allocate memory in static TLS block', 'LD_PRELOAD='],
    [
      'libcublas.so.13: cannot open shared object file: No such file',
      "libcublas.so.13, which NVIDIA's packages bring, is not beside it",
    ],
  ])('for "%s" says: %s', (cause, reason) => {
    expect(explainLoadFailure(factsOf(here), compiled(), new Error(cause)).message).toContain(reason);
  });

  it('says that musl is not supported, and Windows', () => {
    const musl = { ...factsOf(here), platform: 'linux', glibc: undefined } as const;
    expect(explainLoadFailure(musl, compiled(), new Error('x')).message).toContain('musl, as on Alpine');
    expect(explainMissing({ ...factsOf(here), platform: 'win32' }).message).toContain(
      'Windows, which is not supported',
    );
  });
});

describe('the prebuilt addon', () => {
  const prebuilds = () => join(here, 'prebuilds', `${process.platform}-${process.arch}`);
  const record = () => ({ libtorch: '2.13.0', napi: 8, glibc: null, sources: sourcesHash(here) });
  const ship = (more = {}) => {
    mkdirSync(prebuilds(), { recursive: true });
    if (existsSync(compiled())) cpSync(compiled(), join(prebuilds(), 'torch.node'));
    writeFileSync(join(prebuilds(), 'torch.json'), JSON.stringify({ ...record(), ...more }));
    rmSync(join(here, 'build'), { recursive: true, force: true });
    rmSync(join(here, 'libtorch'), { force: true });
  };

  it('is taken without a compiler', async () => {
    ship();
    expect(await build({ CXX: '/nothing' })).toBe('native addon: prebuilt for libtorch 2.13.0');
    expect(addonFile(here)).toBe(join(prebuilds(), 'torch.node'));
    expect(answer(join(prebuilds(), 'torch.node'))).toBe('42');
    expect(await build({ CXX: '/nothing' })).toBe('native addon: up to date');
  });

  it('says that the install script has not run when the link to libtorch is not there', () => {
    unlinkSync(join(here, 'libtorch'));
    const facts = factsOf(here);
    const file = addonFile(here)!;
    expect(explainLoadFailure(facts, file, new Error(whyNotLoading(file))).message).toContain(
      'The install script has not run',
    );
  });

  it('is passed over for another libtorch or changed sources, with the reason: compiled, or refused without a compiler', async () => {
    ship({ libtorch: '2.12.0' });
    await expect(build({ CXX: '/nothing' })).rejects.toThrow('Expected a C++ compiler');
    expect(lines.join('\n')).toContain(
      'The prebuilt addon does not fit: it was built for libtorch 2.12.0, not 2.13.0.',
    );
    expect(await build()).toMatch(/compiled/);
    ship({ sources: 'other' });
    await expect(build({ CXX: '/nothing' })).rejects.toThrow('Expected a C++ compiler');
    expect(lines).toEqual(['The prebuilt addon does not fit: native/ has changed since it was built.']);
  });

  it('that does not load is passed over with what the system said', async () => {
    ship();
    writeFileSync(join(prebuilds(), 'torch.node'), 'not a library');
    expect(await build()).toMatch(/compiled/);
    expect(lines.join('\n')).toMatch(
      /The prebuilt addon does not fit: .*torch\.node: (file too short|invalid ELF header|.*slice is not valid)/,
    );
    expect(addonFile(here)).toBe(compiled());
  });
});

it('a release measures what its binary needs by the versions of its symbols', () => {
  const table = `
0000000000000000      DF *UND*  0000000000000000 (GLIBC_2.2.5) memcpy
0000000000000000      DF *UND*  0000000000000000 (GLIBC_2.14) memcpy
0000000000000000      DF *UND*  0000000000000000 (GLIBC_2.9) pipe2
0000000000000000      DF *UND*  0000000000000000 (GLIBCXX_3.4.21) _ZNSt7__cxx1112basic_stringIcE
0000000000000000      DF *UND*  0000000000000000 (GCC_3.0)  _Unwind_Resume`;
  expect(symbolVersions(table)).toEqual({ GLIBC: '2.14', GLIBCXX: '3.4.21', GCC: '3.0' });
});
