/** Serves a model until it is told to end. The port is open, and `/health` says so, while the model is loaded. */
import { loadModel, modelIdentity, PromptEncoder } from '@minicpm-finetune/minicpm-v';
import { requireCheckpoint } from '@minicpm-finetune/processor';
import type { Say } from '@minicpm-finetune/run';
import { ChatEngine, ChatServer, samplingDefaults } from '@minicpm-finetune/serve';
import { type DeviceName, explainingMemory, startEngine } from '../../engine/machine.js';
import { Progress, type TextStream } from '../../report/progress.js';
import { hashingTask } from '../../report/reporter.js';
import { VERSION } from '../../version.js';
import { printedError } from '../exit.js';
import type { ServeOptions } from './options.js';

export interface ServeIO {
  readonly stdin: NodeJS.ReadableStream;
  readonly stdout: TextStream;
  readonly stderr: TextStream;
  readonly say: Say;
  /** Ends the server. */
  readonly signal: AbortSignal;
}

const LESS_MEMORY =
  'Take --load_in_8bit, --dtype bfloat16, a smaller --max_num_seqs or --cache_memory, or --device cpu.';
/** Most bytes of a picture that is fetched, or read from a file. */
const MAX_PICTURE_BYTES = 32 * 2 ** 20;

/**
 * Serves until `io.signal` is aborted, or, if asked for, standard input ends.
 *
 * @throws UserError for a model, adapter, address or port that cannot be used
 */
export async function serve(options: ServeOptions, io: ServeIO): Promise<void> {
  requireCheckpoint(options.model, { flag: '--model', adapterFlag: '--adapter' });
  PromptEncoder.open(
    options.model,
    options.adapters.map(({ folder }) => folder),
  ); // refuses what cannot be read, before the port is open
  const device = startEngine(options);
  const started = performance.now();
  const onError = (error: unknown): void => void io.stderr.write(`${printedError(error, io.say).text}\n`);
  const server = await ChatServer.listen({ ...options, onError });
  try {
    say(options, io, { event: 'listening', url: server.url, port: server.port, pid: process.pid });
    await new Promise((resolve) => setImmediate(resolve)); // who asks /health learns that the model is loading
    const engine = await explainingMemory(device, LESS_MEMORY, () => loadEngine(device, options, io, onError));
    server.serve(engine);
    const seconds = Math.round(performance.now() - started) / 1000;
    const models = engine.models.cards().map(({ id }) => id);
    const videos = engine.models.base.encoder.video !== null;
    const { notices } = engine;
    say(options, io, { event: 'ready', url: server.url, models, videos, notices, seconds });
    await ended(options, io);
  } finally {
    await server.close();
  }
}

async function loadEngine(
  device: DeviceName,
  options: ServeOptions,
  { stderr, say }: ServeIO,
  onError: (error: unknown) => void,
): Promise<ChatEngine> {
  using progress = new Progress({ stream: stderr, say });
  const { model: folder, dtype, loadIn8Bit } = options;
  const notice = (message: string): void => void stderr.write(`${say(`notice: ${message}`)}\n`);
  const weights = await hashed(options, progress);
  const loaded = await loadModel({
    ...{ model: folder, device, loadIn8Bit, notice },
    ...(dtype === null ? {} : { dtype }),
  });
  try {
    return new ChatEngine(loaded, {
      ...options,
      id: options.name,
      folder,
      weights,
      version: [VERSION, device, dtype ?? 'stored', ...(loadIn8Bit ? ['int8'] : [])].join(' '),
      pictures: {
        allowedHosts: options.allowedImageHosts,
        mediaPath: options.mediaPath,
        maxBytes: MAX_PICTURE_BYTES,
      },
      defaults: samplingDefaults(folder),
      notice,
      onError,
    });
  } catch (error) {
    loaded.dispose();
    throw error;
  }
}

/** Hashes the base, and the adapters, whose hashes are remembered until they are loaded. */
async function hashed({ model, adapters }: ServeOptions, progress: Progress): Promise<string> {
  using hashing = hashingTask(progress);
  return (await modelIdentity({ model, adapters: adapters.map(({ folder }) => folder), onProgress: hashing.update }))
    .weights;
}

/** What happens, as a line of JSON or a sentence. */
type Happening =
  | { readonly event: 'listening'; readonly url: string; readonly port: number; readonly pid: number }
  | {
      readonly event: 'ready';
      readonly url: string;
      readonly models: readonly string[];
      readonly videos: boolean;
      /** What a user should know of the base. */
      readonly notices: readonly string[];
      readonly seconds: number;
    };

function say({ json }: ServeOptions, { stdout, say: translate }: ServeIO, happening: Happening): void {
  if (json) return void stdout.write(`${JSON.stringify(happening)}\n`);
  const { event, url } = happening;
  const text =
    event === 'listening'
      ? `Loading the model; ${url} is open.`
      : `Serving ${happening.models.join(', ')} at ${url}/v1 (OpenAI's API). Ctrl-C ends the server.`;
  stdout.write(`${translate(text)}\n`);
}

async function ended({ exitWithParent }: ServeOptions, { stdin, signal }: ServeIO): Promise<void> {
  await new Promise<void>((resolve) => {
    if (signal.aborted) resolve();
    signal.addEventListener('abort', () => resolve(), { once: true });
    if (exitWithParent) stdin.once('end', resolve).once('close', resolve).resume();
  });
}
