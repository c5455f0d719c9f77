/** An HTTP server that answers as the Hugging Face hub does, for one model, and can be told to misbehave. */
import { createHash } from 'node:crypto';
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';

export const REPO = 'openbmb/Tiny-V';
export const COMMIT = '0123456789abcdef0123456789abcdef01234567';

export interface HubFile {
  readonly content: Buffer;
  /** In large file storage: announced by sha256, and delivered by another address. */
  readonly lfs?: boolean;
}

/** Answers a request for a file in another way, or returns false. */
export type Trouble = (request: IncomingMessage, response: ServerResponse, content: Buffer) => boolean;

export class HubServer {
  readonly files = new Map<string, HubFile>();
  /** `METHOD path`, with the range if there is one. */
  readonly requests: string[] = [];
  /** The token that is asked for. */
  token: string | undefined;
  gated = false;
  trouble: Trouble | undefined;
  /** Changes the entries of the file list. */
  list = (entries: object[]): unknown => entries;
  readonly #server = createServer((request, response) => this.#answer(request, response));

  async start(): Promise<string> {
    await new Promise<void>((resolve) => this.#server.listen(0, '127.0.0.1', resolve));
    return `http://127.0.0.1:${(this.#server.address() as AddressInfo).port}`;
  }

  async stop(): Promise<void> {
    this.#server.closeAllConnections();
    await new Promise((resolve) => this.#server.close(resolve));
  }

  #answer(request: IncomingMessage, response: ServerResponse): void {
    const { pathname } = new URL(request.url!, 'http://hub');
    const { range, authorization } = request.headers;
    this.requests.push(`${request.method} ${pathname}${range === undefined ? '' : ` ${range}`}`);
    if (this.token !== undefined && authorization !== `Bearer ${this.token}`) refuse(response, 401, 'RepoNotFound');
    else if (pathname.startsWith(`/api/models/${REPO}/`)) this.#describe(pathname, response);
    else this.#answerFile(pathname, request, response);
  }

  #describe(pathname: string, response: ServerResponse): void {
    const [what, revision] = pathname.split('/').slice(5);
    if (what === 'tree' && revision === COMMIT) json(response, this.list(this.#entries()));
    else if (what === 'revision' && ['main', 'v1.0'].includes(revision!))
      json(response, { _id: '1', id: REPO, sha: COMMIT, lastModified: '2025-01-01T00:00:00.000Z' });
    else refuse(response, 404, 'RevisionNotFound');
  }

  #answerFile(pathname: string, request: IncomingMessage, response: ServerResponse): void {
    const stored = /^\/storage\/(.+)$/.exec(pathname)?.[1];
    const path = stored ?? pathname.split(`/${REPO}/resolve/${COMMIT}/`)[1];
    const file = path === undefined ? undefined : this.files.get(decodeURIComponent(path));
    if (file === undefined) refuse(response, 404, 'RepoNotFound');
    else if (this.gated) refuse(response, 403, 'GatedRepo');
    else if (file.lfs && stored === undefined) response.writeHead(302, { location: `/storage/${path}` }).end();
    else if (!this.trouble?.(request, response, file.content)) deliver(request, response, file.content);
  }

  #entries(): object[] {
    return [...this.files].map(([path, { content, lfs }]) => ({
      type: 'file',
      path,
      size: content.length,
      oid: gitHash(content),
      ...(lfs ? { lfs: { oid: sha256(content), size: content.length, pointerSize: 134 } } : {}),
    }));
  }
}

export const sha256 = (content: Buffer): string => createHash('sha256').update(content).digest('hex');

export const gitHash = (content: Buffer): string =>
  createHash('sha1').update(`blob ${content.length}\0`).update(content).digest('hex');

function deliver(request: IncomingMessage, response: ServerResponse, content: Buffer): void {
  const from = Number(/^bytes=(\d+)-$/.exec(request.headers.range ?? '')?.[1] ?? 0);
  const part = content.subarray(from);
  const headers = { 'content-length': part.length, 'content-type': 'application/octet-stream' };
  const range = `bytes ${from}-${content.length - 1}/${content.length}`;
  if (request.headers.range === undefined) response.writeHead(200, headers);
  else response.writeHead(206, { ...headers, 'content-range': range });
  response.end(part);
}

function json(response: ServerResponse, value: unknown): void {
  response.writeHead(200, { 'content-type': 'application/json' }).end(JSON.stringify(value));
}

function refuse(response: ServerResponse, status: number, code: string): void {
  response.writeHead(status, { 'x-error-code': code, 'content-type': 'application/json' });
  response.end(JSON.stringify({ error: code }));
}
