/** The HTTP server. It listens before the model is there, and says so until it is. */
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { getRequestListener } from '@hono/node-server';
import { UserError } from '@minicpm-finetune/run';
import { ApiError, asApiError } from '../api/error.js';
import type { ChatEngine } from '../engine/engine.js';
import { checkHost, type GuardOptions } from './guard.js';
import { makeApp } from './routes.js';

export interface ServerOptions extends GuardOptions {
  /** Address to listen on. */
  readonly host: string;
  /** 0: any free one. */
  readonly port: number;
  /** Milliseconds between signs of life of an answer that takes long. */
  readonly beat?: number;
  /** Is told what went wrong inside. */
  readonly onError: (error: unknown) => void;
}

const BEAT = 15_000;

export class ChatServer {
  readonly #server: Server;
  readonly #options: ServerOptions;
  #engine: ChatEngine | null = null;

  private constructor(options: ServerOptions) {
    this.#options = options;
    const { beat = BEAT } = options;
    const app = makeApp({ ...options, beat, engine: () => this.#engine });
    const listener = getRequestListener(app.fetch, {
      overrideGlobalObjects: false,
      errorHandler: (error) => {
        const answer = new ApiError(400, 'Expected a valid address for the request.', { cause: error });
        return Response.json(answer.body(), { status: 400, headers: answer.headers() });
      },
    });
    // a request without a Host header is refused below, in the form of all errors
    this.#server = createServer({ requireHostHeader: false }, (incoming, outgoing) => {
      if (this.#admits(incoming, outgoing)) void listener(incoming, outgoing);
    });
  }

  /**
   * Starts to listen.
   *
   * @throws UserError when the port is taken or the address is not this machine's
   */
  static async listen(options: ServerOptions): Promise<ChatServer> {
    const server = new ChatServer(options);
    const { host, port } = options;
    await new Promise<void>((resolve, reject) => {
      server.#server.once('error', (cause: NodeJS.ErrnoException) => reject(cannotListen(cause, host, port)));
      server.#server.listen(port, host, resolve);
    });
    return server;
  }

  /** Whether the Host header names this server; answers the request itself if not. */
  #admits(incoming: IncomingMessage, outgoing: ServerResponse): boolean {
    try {
      checkHost(incoming, this.#options);
      return true;
    } catch (error) {
      const answer = asApiError(error);
      outgoing.writeHead(answer.status, {
        'content-type': 'application/json',
        connection: 'close',
        ...answer.headers(),
      });
      outgoing.end(JSON.stringify(answer.body()));
      return false;
    }
  }

  get port(): number {
    return (this.#server.address() as AddressInfo).port;
  }

  /** `http://127.0.0.1:8000` */
  get url(): string {
    const { address, family } = this.#server.address() as AddressInfo;
    const name = address === '0.0.0.0' || address === '::' ? '127.0.0.1' : address;
    return `http://${family === 'IPv6' && name.includes(':') ? `[${name}]` : name}:${this.port}`;
  }

  /** Answers with a model from now on. It is freed with the server. */
  serve(engine: ChatEngine): void {
    this.#engine = engine;
  }

  /** Ends requests under way with an error, takes no new ones, and frees the model. */
  async close(): Promise<void> {
    const closed = new Promise<void>((resolve) => this.#server.close(() => resolve()));
    const engine = this.#engine;
    this.#engine = null;
    await engine?.close();
    this.#server.closeIdleConnections();
    const timer = setTimeout(() => this.#server.closeAllConnections(), 1000); // for clients that do not read
    await closed;
    clearTimeout(timer);
  }
}

function cannotListen(cause: NodeJS.ErrnoException, host: string, port: number): UserError {
  if (cause.code === 'EADDRINUSE') {
    return new UserError(`Expected a free port for --port but ${port} is taken.`, {
      flag: '--port',
      cure: 'Give another one, or --port 0 for any that is free.',
      cause,
    });
  }
  if (cause.code === 'EACCES') {
    return new UserError(`Expected a port that may be used for --port but ${port} needs privileges.`, {
      flag: '--port',
      cure: 'Give one above 1023.',
      cause,
    });
  }
  return new UserError(`Expected an address of this machine for --host but received ${host}: ${cause.message}.`, {
    flag: '--host',
    cure: 'Give 127.0.0.1, or 0.0.0.0 for all.',
    cause,
  });
}
