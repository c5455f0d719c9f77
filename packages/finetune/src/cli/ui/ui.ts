/** Serves the page until Ctrl-C. What the page needs of other packages is handed to it here. */
import { realpathSync, statSync } from 'node:fs';
import { hostname, networkInterfaces } from 'node:os';
import { resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import {
  type Dashboard,
  isServed,
  readToken,
  removeToken,
  type SliceGrid,
  startDashboard,
  writeToken,
} from '@minicpm-finetune/dashboard';
import { planSlices } from '@minicpm-finetune/processor';
import { expected, UserError } from '@minicpm-finetune/run';
import { VERSION } from '../../version.js';
import type { CommandIO } from '../cli-command.js';

export interface UiOptions {
  readonly roots: readonly string[];
  readonly port: number;
  readonly host: string;
  readonly allowedHosts: readonly string[];
}

const LOOPBACK: ReadonlySet<string> = new Set(['127.0.0.1', '::1', 'localhost']);
const ALL_ADDRESSES: ReadonlySet<string> = new Set(['0.0.0.0', '::']);
const MAIN = fileURLToPath(new URL('../../../bin/minicpm-finetune.js', import.meta.url));

/** Ends at SIGINT or SIGTERM. @throws UserError for a folder or a port that cannot be used */
export async function serveUi(options: UiOptions, { stdout, stderr, say }: CommandIO): Promise<void> {
  const roots = options.roots.map(requireFolder);
  const dashboard = await start(options, roots);
  const { port, token, url, close } = dashboard;
  writeToken(port, token, url);
  try {
    if (!LOOPBACK.has(options.host)) {
      const warning = `warning: --host ${options.host} lets other machines in, and nothing is encrypted: whoever reads the address can start programs as you.`;
      stderr.write(`${say(warning)}\n`);
    }
    stdout.write(`${say(`The runs below ${roots.join(', ')} are shown at this address:`)}\n\n    ${url}\n\n`);
    stdout.write(`${say('Open it in a browser. Ctrl-C ends the page; runs go on.')}\n`);
    await untilSignal();
  } finally {
    removeToken(port);
    await close();
  }
}

async function start({ port, host, allowedHosts }: UiOptions, roots: readonly string[]): Promise<Dashboard> {
  const left = port === 0 ? null : readToken(port);
  try {
    return await startDashboard({
      roots,
      host,
      port,
      allowedHosts: [...allowedHosts, ...namesOf(host)],
      ...(left !== null && !isServed(left) ? { token: left.token } : {}),
      commandLine: { program: process.execPath, words: [MAIN] },
      sliceGrid,
      version: VERSION,
      cwd: process.cwd(),
    });
  } catch (error) {
    throw refusal(error, port, host);
  }
}

/** A mistake of the user, or the error as it is. */
function refusal(error: unknown, port: number, host: string): unknown {
  const { code } = error as NodeJS.ErrnoException;
  const flag = code === 'EADDRINUSE' || code === 'EACCES' ? '--port' : '--host';
  if (code === 'EADDRINUSE') {
    const own = readToken(port);
    if (own !== null && isServed(own))
      return new UserError(
        `Expected a free port for --port but your page of process ${own.pid} has ${port}: ${own.url}`,
        {
          flag,
          cure: 'Open that address, or name another port.',
        },
      );
    return expected('a free port', flag, port, {
      flag,
      cure: 'Another program has it: name another port, such as 8788.',
    });
  }
  if (code === 'EACCES') return expected('a port that you may use', flag, port, { flag, cure: 'Name one above 1023.' });
  if (code === 'EADDRNOTAVAIL' || code === 'ENOTFOUND')
    return expected('an address of this machine', flag, host, { flag, cure: 'Leave it out to listen on 127.0.0.1.' });
  return error;
}

/** The names under which a browser of another machine reaches this address. */
function namesOf(host: string): string[] {
  if (LOOPBACK.has(host)) return [];
  const bracketed = (address: string): string => (address.includes(':') ? `[${address}]` : address);
  if (!ALL_ADDRESSES.has(host)) return [bracketed(host)];
  const addresses = Object.values(networkInterfaces()).flatMap((list) => list ?? []);
  return [hostname(), ...addresses.map(({ address }) => bracketed(address))];
}

function requireFolder(named: string): string {
  const folder = resolve(named);
  if (statSync(folder, { throwIfNoEntry: false })?.isDirectory()) return realpathSync(folder);
  throw expected('a folder', '--runs', named, {
    flag: '--runs',
    cure: 'Name the folder that holds run folders (--output_dir), or the folder above it.',
  });
}

const sliceGrid: SliceGrid = (width, height, settings) => planSlices([width, height], { ...settings }).grid;

/** The server keeps the process; this only waits. */
function untilSignal(): Promise<void> {
  return new Promise((done) => {
    const end = (): void => {
      for (const signal of SIGNALS) process.off(signal, end);
      done();
    };
    for (const signal of SIGNALS) process.once(signal, end);
  });
}

const SIGNALS = ['SIGINT', 'SIGTERM', 'SIGHUP'] as const;
