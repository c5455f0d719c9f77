/** Says why a compilation failed. The compiler's own first error line, and the cure that fits it. */
import { statfsSync } from 'node:fs';

const INSTALL =
  process.platform === 'darwin'
    ? 'Install the command line tools: `xcode-select --install`.'
    : 'Install a C++20 compiler (g++ 11, clang 14 or newer): `apt install g++` on Debian and Ubuntu, `dnf install gcc-c++` on Fedora and RHEL.';

/** What a line of output means, first match wins. Cures are functions of `{ libtorch, compiler, folder, file, match }`. */
const CAUSES = [
  {
    pattern: /No space left on device|Disk quota exceeded/i,
    cure: ({ folder }) =>
      `The disk of ${folder} is full (${freeOn(folder)}), or that of TMPDIR. Free about 1 GB, then run the command again.`,
  },
  {
    pattern:
      /Killed signal|virtual memory exhausted|out of memory|Cannot allocate memory|cc1plus.*(terminated|Killed)|signal 9/i,
    cure: () =>
      'Memory ran out: one file needs up to 1.5 GB. Close other programs, add swap, or give the container more memory; compiled files are kept, so running the command again resumes.',
  },
  {
    pattern: /unrecognized (?:command[- ]line )?option ['‘]?-std=c\+\+20|invalid value 'c\+\+20'|requires? C\+\+20/i,
    cure: ({ compiler }) => `The compiler is too old (${compiler?.version}). ${INSTALL} Set CXX to the newer one.`,
  },
  {
    pattern: /fatal error: '?(?:napi|node_api|js_native_api)\.h'?/,
    cure: () =>
      'The npm packages node-addon-api and node-api-headers are incomplete. Install the packages again: `npm install`.',
  },
  {
    pattern: /fatal error: '?((?:ATen|torch|c10)\/[^\s':]+)'?/,
    cure: ({ libtorch, match }) =>
      `The libtorch in ${libtorch} lacks the header ${match[1]}: it is incomplete or of a version that is not supported (2.6 to 2.14 are). Delete it or unset LIBTORCH so that the pinned version is fetched.`,
  },
  {
    pattern: /fatal error: '?([a-z_]+(?:\.h)?)'?(?:: No such file| file not found)/,
    cure: ({ match }) => `The compiler's standard headers (${match[1]}) are missing. ${INSTALL}`,
  },
  {
    pattern: /cannot find -l(torch\w*|c10)|library (?:not found for -l|'?)(torch\w*|c10)/,
    cure: ({ libtorch, match }) =>
      `${libtorch}/lib has no lib${match[1] ?? match[2]} for this platform. Correct LIBTORCH or unset it, so that the pinned version is fetched.`,
  },
  {
    pattern: /cannot execute|cc1plus.*(?:No such file|not found)|installation problem|xcrun: error|license/i,
    cure: () => `The compiler is incomplete. ${INSTALL}`,
  },
  {
    pattern: /Permission denied|Read-only file system/i,
    cure: ({ folder }) =>
      `The folder ${folder} cannot be written to by this user. Change its owner, or install in a folder of your own.`,
  },
];

function freeOn(folder) {
  try {
    const { bavail, bsize } = statfsSync(folder);
    return `${((bavail * bsize) / 1e9).toFixed(1)} GB free`;
  } catch {
    return 'free space unknown';
  }
}

/** The first line that reports an error; warnings and notes are passed over. */
function firstError(output) {
  const lines = output.split('\n').map((line) => line.trim());
  const error =
    /\b(?:fatal )?error\b|undefined reference|undefined symbol|cannot find -l|No space left|Killed|not found/i;
  return lines.find((line) => error.test(line) && !/\bwarning:/.test(line)) ?? lines.find((line) => line !== '') ?? '';
}

/**
 * An error that says which file did not compile, with the first error line and its cure.
 *
 * `{ compiler, libtorch, folder, file, output, signal, missing }`: `missing` when no compiler could be started.
 */
export function explainFailure({ compiler, libtorch, folder, file, output = '', signal, missing = false }) {
  if (missing) {
    const given = process.env.CXX ? `CXX=${process.env.CXX}` : 'c++, g++ or clang++ on PATH';
    return new Error(`Expected a C++ compiler for the native addon but found none (looked for ${given}). ${INSTALL}`);
  }
  const line = signal === 'SIGKILL' && output === '' ? 'Killed signal' : firstError(output);
  const whole = `${line}\n${signal === 'SIGKILL' ? 'Killed signal' : ''}\n${output}`;
  // The first error line decides; the rest of the output only where that line says nothing.
  for (const text of [line, whole]) {
    for (const { pattern, cure } of CAUSES) {
      const match = pattern.exec(text);
      if (match) return failure(file, line, cure({ compiler, libtorch, folder, match }));
    }
  }
  const tail = output.trim().split('\n').slice(-30).join('\n');
  const versions = `compiler: ${compiler?.version ?? 'unknown'}, libtorch: ${libtorch}, Node ${process.versions.node}`;
  return new Error(
    `${tail}\n\n${failure(file, line, `This is not a known cause. Report it with these lines and: ${versions}.`).message}`,
  );
}

const failure = (file, line, cure) => new Error(`Expected ${file} to compile but received: ${line}\n${cure}`);
