/** A package index on this machine with small made-up wheels, for tests of fetching: pages of links or JSON, ranges, and broken connections. */
import { createHash } from 'node:crypto';
import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { crc32, deflateRawSync } from 'node:zlib';

/** A zip file of these entries. */
export function zip(entries: Readonly<Record<string, string | Uint8Array>>): Buffer {
  const files: Buffer[] = [];
  const directory: Buffer[] = [];
  let offset = 0;
  for (const [name, content] of Object.entries(entries)) {
    const data = Buffer.from(content as string);
    const packed = deflateRawSync(data);
    const head = Buffer.alloc(26);
    head.writeUInt16LE(20, 0); // version needed
    head.writeUInt16LE(0x0800, 2); // names are UTF-8
    head.writeUInt16LE(8, 4); // deflated
    head.writeUInt32LE(crc32(data), 10);
    head.writeUInt32LE(packed.length, 14);
    head.writeUInt32LE(data.length, 18);
    head.writeUInt16LE(Buffer.byteLength(name), 22);
    const local = Buffer.concat([Buffer.from('PK\x03\x04'), head, Buffer.from(name), packed]);
    const end = Buffer.alloc(14);
    end.writeUInt32LE(offset, 10);
    directory.push(Buffer.concat([Buffer.from('PK\x01\x02\x14\x00'), head, end, Buffer.from(name)]));
    files.push(local);
    offset += local.length;
  }
  const tail = Buffer.alloc(22);
  tail.write('PK\x05\x06');
  tail.writeUInt16LE(files.length, 8);
  tail.writeUInt16LE(files.length, 10);
  tail.writeUInt32LE(
    directory.reduce((sum, { length }) => sum + length, 0),
    12,
  );
  tail.writeUInt32LE(offset, 16);
  return Buffer.concat([...files, ...directory, tail]);
}

export const sha256 = (bytes: Uint8Array): string => createHash('sha256').update(bytes).digest('hex');

interface Break {
  readonly bytes: number;
  when(): boolean;
}

export interface WheelServer {
  /** The index's address: `http://127.0.0.1:port/simple`. */
  readonly index: string;
  /** `path range` of every request for a file so far. */
  readonly requests: string[];
  /** Connections that still break off: after how many bytes, and as soon as `when` says so. */
  readonly breaks: Break[];
  /** A server that knows no ranges. */
  ranges: boolean;
  /** Answers with PyPI's JSON in place of a page. */
  json: boolean;
  /** Hashes that the index lists instead of the right ones, by file name; null: none. */
  readonly hashes: Map<string, string | null>;
  close(): Promise<void>;
}

/** Serves wheels, `name -> file name -> bytes`. */
export async function serveWheels(packages: Readonly<Record<string, Record<string, Buffer>>>): Promise<WheelServer> {
  const state = { requests: [] as string[], breaks: [] as Break[], ranges: true, json: false, hashes: new Map() };
  const hashOf = (file: string, bytes: Buffer) => (state.hashes.has(file) ? state.hashes.get(file) : sha256(bytes));
  const server: Server = createServer((request, response): void => {
    const path = decodeURIComponent(request.url ?? '');
    const [, , name = ''] = path.split('/');
    const wheels = packages[name];
    if (path.startsWith('/simple/')) {
      if (wheels === undefined) return void response.writeHead(404).end();
      if (state.json) {
        response.setHeader('content-type', 'application/vnd.pypi.simple.v1+json');
        const files = Object.entries(wheels).map(([file, bytes]) => ({
          filename: file,
          url: `../../files/${name}/${encodeURIComponent(file)}`,
          hashes: { sha256: hashOf(file, bytes) },
          size: bytes.length,
        }));
        return void response.end(JSON.stringify({ files }));
      }
      response.setHeader('content-type', 'text/html');
      const links = Object.entries(wheels).map(([file, bytes]) => {
        const hash = hashOf(file, bytes);
        const target = `/files/${name}/${encodeURIComponent(file)}${hash ? `#sha256=${hash}` : ''}`;
        return `<a href="${target}" data-requires-python="&gt;=3.10">${file}</a><br/>`;
      });
      return void response.end(`<!DOCTYPE html><html><body>${links.join('\n')}</body></html>`);
    }
    const bytes = wheels?.[path.split('/')[3] ?? ''];
    if (bytes === undefined) return void response.writeHead(404).end();
    state.requests.push(`${path.split('/')[3]} ${request.headers.range ?? ''}`.trim());
    const from = state.ranges ? Number(/bytes=(\d+)-/.exec(request.headers.range ?? '')?.[1] ?? 0) : 0;
    const rest = bytes.subarray(from);
    response.writeHead(from > 0 ? 206 : 200, {
      'content-length': rest.length,
      ...(from > 0 ? { 'content-range': `bytes ${from}-${bytes.length - 1}/${bytes.length}` } : {}),
    });
    const broken = state.breaks.shift();
    if (broken === undefined) return void response.end(rest);
    response.flushHeaders();
    response.write(rest.subarray(0, broken.bytes));
    const timer = setInterval(() => {
      if (!broken.when() && !response.destroyed) return;
      clearInterval(timer);
      response.destroy();
    }, 5);
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const { port } = server.address() as AddressInfo;
  return Object.assign(state, {
    index: `http://127.0.0.1:${port}/simple`,
    close: () => new Promise<void>((resolve) => server.close(() => resolve())),
  });
}
