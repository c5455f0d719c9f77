/** The page's server. It begins to listen, and ends without touching a run. */
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { createAdaptorServer } from '@hono/node-server';
import { createApp } from './http/app.js';
import { Pictures } from './http/pictures.js';
import { newToken } from './http/token.js';
import type { CommandLine } from './process/command-words.js';
import { Launcher } from './process/launcher.js';
import { Records } from './runs/records.js';
import { RunIndex } from './runs/run-index.js';
import type { SliceGrid } from './services.js';

export interface DashboardOptions {
  /** Folders of runs, absolute. */
  readonly roots: readonly string[];
  /** 127.0.0.1 unless given: other machines are let in only when they are meant. */
  readonly host?: string;
  /** 0: any free one. */
  readonly port: number;
  /** Names in a Host header beside those of the loopback. */
  readonly allowedHosts?: readonly string[];
  /** A new one unless given. */
  readonly token?: string;
  readonly commandLine: CommandLine;
  readonly sliceGrid: SliceGrid;
  readonly version: string;
  /** Where relative paths start. */
  readonly cwd: string;
}

export interface Dashboard {
  readonly port: number;
  readonly token: string;
  /** With the token after `#`, which browsers keep to themselves. */
  readonly url: string;
  /** Runs go on. */
  close(): Promise<void>;
}

/** Room for the positions of thousands of runs in an address. */
const HEADER_BYTES = 512 << 10;

/** @throws Error of the system, such as EADDRINUSE */
export async function startDashboard(options: DashboardOptions): Promise<Dashboard> {
  const { host = '127.0.0.1', allowedHosts = [], token = newToken(), commandLine, cwd } = options;
  const runs = new RunIndex(options.roots);
  const launcher = new Launcher({ runs, commandLine, cwd });
  const closing = new Set<() => void | Promise<void>>();
  const onClose = (close: () => void | Promise<void>): (() => void) => {
    closing.add(close);
    return () => closing.delete(close);
  };
  const { sliceGrid, version } = options;
  const records = new Records();
  const services = { runs, records, launcher, commandLine, pictures: new Pictures(), sliceGrid, cwd, version, onClose };
  let handler: ((request: Request) => Response | Promise<Response>) | undefined;
  const server = createAdaptorServer({
    fetch: (request: Request) => handler!(request),
    createServer,
    serverOptions: { maxHeaderSize: HEADER_BYTES },
    overrideGlobalObjects: false,
  });
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject);
    server.listen(options.port, host, () => resolve());
  });
  const { port } = server.address() as AddressInfo;
  const app = createApp(services, { token, port, allowedHosts });
  handler = (request) => app.fetch(request);
  await runs.open();
  void records.readBefore(runs.all).catch(() => {}); // a run that cannot be read says so when it is opened
  return {
    port,
    token,
    url: `http://${host.includes(':') ? `[${host}]` : host}:${port}/#token=${token}`,
    close: async () => {
      runs.close();
      launcher.close();
      await Promise.all([...closing].map((close) => close()));
      const closed = new Promise<void>((resolve) => server.close(() => resolve()));
      if ('closeAllConnections' in server) server.closeAllConnections();
      await closed;
    },
  };
}
