/**
 * Answers requests about records, a line of JSON each. For programs that show many records, such as the page: files and tokenizer are
 * opened once. Answers come in the order of the requests, with their `id`; a mistake in one is its answer, not the end.
 */
import { createInterface } from 'node:readline';
import {
  decodeImage,
  type EncodedSample,
  openClip,
  PILLOW_MAX_PIXELS,
  type RgbImage,
  readFrames,
  type VideoSource,
} from '@minicpm-finetune/processor';
import { type Compat, expected, UserError } from '@minicpm-finetune/run';
import sharp, { type Sharp } from 'sharp';
import type { Dataset } from '../../data/dataset.js';
import type { Encoder } from '../../data/encoder.js';
import type { TextStream } from '../../report/progress.js';
import { interleaved, pictureSize } from './contact-sheet.js';
import { recordJson } from './json.js';
import { placed, placesOf, videoPlacesOf } from './render.js';

const COMPATS = ['inference', 'official'] as const;
const OVERLONG = ['fewer_slices', 'truncate_text', 'drop', 'error'] as const;
/** Previews have that much of each text. */
const PREVIEW_CHARACTERS = 240;
const MOST_PREVIEWS = 200;
/** Encodings whose pixels are kept for the requests of their pictures. */
const MOST_SAMPLES = 4;
const LARGEST_WIDTH = 4096;

type Request = Readonly<Record<string, unknown>>;
type Limits = readonly [maxLength: number, overlong: string];

const keyOf = (...parts: [record: number, compat: Compat, limits: Limits]): string => JSON.stringify(parts);

/** A number or a choice of a request. @throws UserError */
function integer(request: Request, name: string, most: number, otherwise?: number): number {
  const value = request[name] ?? otherwise;
  if (typeof value === 'number' && Number.isInteger(value) && value >= 0 && value <= most) return value;
  throw expected(`an integer from 0 to ${most}`, `the key ${name} of a request`, value);
}

function choice<T extends string>(request: Request, name: string, choices: readonly T[], otherwise: T): T {
  const value = request[name] ?? otherwise;
  const found = choices.find((one) => one === value);
  if (found !== undefined) return found;
  throw expected(`one of ${choices.join(', ')}`, `the key ${name} of a request`, value);
}

/** Answers requests until `input` ends. */
export async function answerRequests(
  dataset: Dataset,
  encoder: Encoder,
  input: NodeJS.ReadableStream,
  output: TextStream,
): Promise<void> {
  const answers = new RecordAnswers(dataset, encoder);
  const say = (value: object): unknown => output.write(`${JSON.stringify(value)}\n`);
  const { setup } = encoder;
  say({
    event: 'ready',
    records: dataset.length,
    files: dataset.files.map((file) => ({ path: file.index.path, records: file.records })),
    model_max_length: setup.maxLength,
    overlong: setup.overlong,
    max_slice_nums: setup.sliceConfig?.maxSliceNums ?? null,
    scale_resolution: setup.sliceConfig?.scaleResolution ?? null,
  });
  for await (const line of createInterface({ input })) {
    if (line.trim() === '') continue;
    let id: unknown = null;
    try {
      const request = parsed(line);
      id = request.id ?? null;
      say({ id, result: await answers.answer(request) });
    } catch (error) {
      if (!(error instanceof UserError)) throw error;
      say({ id, error: error.toData() });
    }
  }
}

function parsed(line: string): Request {
  let value: unknown;
  try {
    value = JSON.parse(line);
  } catch {
    value = undefined;
  }
  if (typeof value === 'object' && value !== null && !Array.isArray(value)) return value as Request;
  throw expected('a JSON object', 'a request', line);
}

class RecordAnswers {
  readonly #dataset: Dataset;
  readonly #encoder: Encoder;
  /** By record, encoding and limits; the newest last. */
  readonly #samples = new Map<string, EncodedSample>();

  constructor(dataset: Dataset, encoder: Encoder) {
    this.#dataset = dataset;
    this.#encoder = encoder;
  }

  async answer(request: Request): Promise<object> {
    const op = choice(request, 'op', ['list', 'record', 'picture', 'image', 'video'] as const, 'record');
    if (op === 'list') return await this.#list(request);
    const record = integer(request, 'record', this.#dataset.length - 1);
    if (op === 'record') return await this.#record(record, request);
    if (op === 'picture') return await this.#picture(record, request);
    return op === 'image' ? await this.#image(record, request) : await this.#video(record, request);
  }

  async #list(request: Request): Promise<object> {
    const { records } = request;
    if (!Array.isArray(records) || records.length > MOST_PREVIEWS)
      throw expected(`a list of at most ${MOST_PREVIEWS} numbers`, 'the key records of a request', records);
    const previews = [];
    for (const one of records)
      previews.push(await this.#preview(integer({ record: one }, 'record', this.#dataset.length - 1)));
    return { previews };
  }

  /** What a list shows of a record. */
  async #preview(index: number): Promise<object> {
    const place = this.#dataset.place(index);
    try {
      const record = await this.#dataset.read(index);
      const text = (role: string): string => {
        const first = record.conversations.find((turn) => turn.role === role);
        return (first?.content ?? '').slice(0, PREVIEW_CHARACTERS);
      };
      const [images, videos] = [placesOf(record).length, videoPlacesOf(record).length];
      return { record: index, place, question: text('user'), answer: text('assistant'), images, videos };
    } catch (error) {
      if (!(error instanceof UserError)) throw error;
      return { record: index, place, question: '', answer: '', images: 0, videos: 0, error: error.toData() };
    }
  }

  async #record(record: number, request: Request): Promise<object> {
    const compat = choice(request, 'compat', [...COMPATS, 'both'] as const, 'inference');
    const compats: readonly Compat[] = compat === 'both' ? COMPATS : [compat];
    const { encoder, limits } = this.#limited(request);
    const { json, samples } = await recordJson(this.#dataset, record, encoder, compats);
    for (const [one, sample] of samples) this.#remember(keyOf(record, one, limits), sample);
    return json;
  }

  /** The encoder with the limits of the request. */
  #limited(request: Request): { encoder: Encoder; limits: Limits } {
    const { setup } = this.#encoder;
    const maxLength = integer(request, 'model_max_length', Number.MAX_SAFE_INTEGER, setup.maxLength);
    const overlong = choice(request, 'overlong', OVERLONG, setup.overlong ?? 'fewer_slices');
    return { encoder: this.#encoder.with({ maxLength, overlong }), limits: [maxLength, overlong] };
  }

  #remember(key: string, sample: EncodedSample): void {
    this.#samples.delete(key);
    this.#samples.set(key, sample);
    if (this.#samples.size > MOST_SAMPLES) this.#samples.delete(this.#samples.keys().next().value!);
  }

  /** Picture `picture` of an encoding, the pixels that the model sees. */
  async #picture(record: number, request: Request): Promise<object> {
    const compat = choice(request, 'compat', COMPATS, 'inference');
    const { encoder, limits } = this.#limited(request);
    const key = keyOf(record, compat, limits);
    if (!this.#samples.has(key)) {
      const { samples } = await recordJson(this.#dataset, record, encoder, [compat]);
      for (const sample of samples.values()) this.#remember(key, sample);
    }
    const pictures = this.#samples.get(key)?.pictures ?? [];
    const number = integer(request, 'picture', pictures.length - 1);
    const { patchSize } = encoder.setup;
    const { width, height } = pictureSize(pictures[number]!, patchSize);
    const raw = { width, height, channels: 3 } as const;
    return await webp(sharp(interleaved(pictures[number]!, patchSize), { raw }));
  }

  /** Image `image` of the record, as the file has it, at most `width` wide. */
  async #image(record: number, request: Request): Promise<object> {
    const places = await placed(this.#dataset, record, async (read) => placesOf(read));
    const { source } = places[integer(request, 'image', places.length - 1)]!;
    return await this.#shrunk(await decodeImage(source, { maxImagePixels: this.#maxImagePixels }), request);
  }

  /** The first frame of video `video`, likewise. */
  async #video(record: number, request: Request): Promise<object> {
    const places = await placed(this.#dataset, record, async (read) => videoPlacesOf(read));
    const { source } = places[integer(request, 'video', places.length - 1)]!;
    return await this.#shrunk(await firstFrame(source, this.#maxImagePixels), request);
  }

  get #maxImagePixels(): number {
    return this.#encoder.setup.maxImagePixels ?? PILLOW_MAX_PIXELS;
  }

  #shrunk(image: RgbImage, request: Request): Promise<object> {
    return webp(shrunk(image, integer(request, 'width', LARGEST_WIDTH, LARGEST_WIDTH)));
  }
}

async function firstFrame(source: VideoSource, maxImagePixels: number): Promise<RgbImage> {
  const clip = await openClip(source, { maxImagePixels, fps: 1 });
  for await (const frame of readFrames(clip, [0], maxImagePixels)) return frame;
  throw new Error('a clip has at least one frame');
}

function shrunk(image: RgbImage, width: number): Sharp {
  const raw = { width: image.width, height: image.height, channels: 3 } as const;
  const side = Math.max(1, width);
  return sharp(image.data, { raw }).resize({ width: side, height: side, fit: 'inside', withoutEnlargement: true });
}

async function webp(image: Sharp): Promise<object> {
  const { data, info } = await image.webp({ quality: 90 }).toBuffer({ resolveWithObject: true });
  return { type: 'image/webp', width: info.width, height: info.height, base64: data.toString('base64') };
}
