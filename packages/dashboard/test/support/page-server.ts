/** A server of the page in this process, and requests to it as a browser or a program sends them. */

import { mkdtempSync, realpathSync, rmSync } from 'node:fs';
import { request } from 'node:http';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type Dashboard, type DashboardOptions, startDashboard } from '../../src/server/server.js';

export interface Answer {
  readonly status: number;
  readonly headers: Readonly<Record<string, string | string[] | undefined>>;
  readonly bytes: Buffer;
  readonly text: string;
  // biome-ignore lint/suspicious/noExplicitAny: tests look at what they expect
  readonly json: any;
}

export interface Sent {
  readonly method?: string;
  readonly headers?: Readonly<Record<string, string>>;
  readonly body?: string;
}

/** A folder of this test alone, removed by `remove`. */
export function makeFolder(name: string): { path: string; remove: () => void } {
  const path = realpathSync(mkdtempSync(join(tmpdir(), `page-${name}-`)));
  return { path, remove: () => rmSync(path, { recursive: true, force: true }) };
}

export class PageServer {
  readonly dashboard: Dashboard;

  private constructor(dashboard: Dashboard) {
    this.dashboard = dashboard;
  }

  static async start(roots: readonly string[], options: Partial<DashboardOptions> = {}): Promise<PageServer> {
    const dashboard = await startDashboard({
      roots,
      port: 0,
      commandLine: { program: process.execPath, words: [] },
      sliceGrid: (width, height, { scaleResolution }) => (width * height > scaleResolution ** 2 ? [3, 1] : null),
      version: '0.0.0',
      cwd: roots[0]!,
      ...options,
    });
    return new PageServer(dashboard);
  }

  get bearer(): Record<string, string> {
    return { authorization: `Bearer ${this.dashboard.token}` };
  }

  /** A request exactly as it is given: paths are not normalised, headers not added. */
  raw(path: string, { method = 'GET', headers = {}, body }: Sent = {}): Promise<Answer> {
    const { port } = this.dashboard;
    return new Promise((resolve, reject) => {
      const sent = request({ host: '127.0.0.1', port, path, method, headers }, (answer) => {
        const parts: Buffer[] = [];
        answer.on('data', (part: Buffer) => parts.push(part));
        answer.on('error', reject);
        answer.on('end', () => {
          const bytes = Buffer.concat(parts);
          const text = bytes.toString('utf8');
          const isJson = answer.headers['content-type']?.startsWith('application/json') ?? false;
          resolve({
            status: answer.statusCode ?? 0,
            headers: answer.headers,
            bytes,
            text,
            json: isJson && !answer.headers['content-encoding'] ? JSON.parse(text) : undefined,
          });
        });
      });
      sent.on('error', reject);
      sent.end(body);
    });
  }

  /** As a program with the token. */
  get(path: string, headers: Readonly<Record<string, string>> = {}): Promise<Answer> {
    return this.raw(path, { headers: { ...this.bearer, ...headers } });
  }

  /** As a program with the token. */
  post(
    path: string,
    body: unknown = {},
    method = 'POST',
    more: Readonly<Record<string, string>> = {},
  ): Promise<Answer> {
    const text = JSON.stringify(body);
    const headers = {
      ...this.bearer,
      ...more,
      'content-type': 'application/json',
      'content-length': String(Buffer.byteLength(text)),
    };
    return this.raw(path, { method, headers, body: text });
  }

  /** The handle of the run of this name. */
  async idOf(name: string): Promise<string> {
    const { json } = await this.get('/api/runs');
    const found = json.runs.find((run: { name: string }) => run.name === name);
    if (found === undefined)
      throw new Error(`no run ${name} among ${json.runs.map((run: { name: string }) => run.name)}`);
    return found.id;
  }

  close(): Promise<void> {
    return this.dashboard.close();
  }
}

/** Waits until `look` gives a value other than undefined. */
export async function until<T>(
  look: () => T | undefined | Promise<T | undefined>,
  what: string,
  ms = 120_000,
): Promise<T> {
  const end = Date.now() + ms;
  for (;;) {
    const value = await look();
    if (value !== undefined) return value;
    if (Date.now() > end) throw new Error(`waited ${ms} ms for ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}
