/**
 * A request becomes a job. Its pictures and videos are read, its conversation is written in tokens, and what only the model
 * can tell (lengths, ids of tokens) is checked.
 */
import { randomInt } from 'node:crypto';
import type { Sampling } from '@minicpm-finetune/minicpm-v';
import { type ChatMessage, type EncodedPrompt, encodePrompt, type Part, VERSIONS } from '@minicpm-finetune/processor';
import { UserError } from '@minicpm-finetune/run';
import { unsupported } from '../api/check.js';
import { fromUserError, invalid } from '../api/error.js';
import type { PictureReference, RequestMessage, VideoReference } from '../api/messages.js';
import { type PicturePolicy, pictureBytes } from '../api/pictures.js';
import type { ChatRequest } from '../api/request.js';
import type { Job } from './answering.js';
import type { SamplingDefaults } from './defaults.js';
import type { ServedModel } from './models.js';
import type { OpenVideos, VideoReader } from './videos.js';

export interface PrepareOptions {
  readonly pictures: PicturePolicy;
  readonly videos: VideoReader;
  /** Most pictures and videos of a request. */
  readonly maxImages: number;
  readonly maxImagePixels: number;
  /** Most tokens of an answer; null: as many as the context has room for. */
  readonly maxTokens: number | null;
  readonly defaults: SamplingDefaults;
  /** Ids that end an answer. */
  readonly endTokens: ReadonlySet<number>;
}

/** Ids before an answer that goes on with a text: decoders treat the first ones of a text in another way. */
const CONTEXT_IDS = 8;

/** @throws ApiError naming the field, message or part that is wrong */
export async function prepareJob(
  request: ChatRequest,
  served: ServedModel,
  options: PrepareOptions,
  { arrived, signal }: { readonly arrived: number; readonly signal: AbortSignal },
): Promise<Job> {
  const { vocabSize } = served.encoder.config.llm;
  checkIds(request, vocabSize);
  checkThinking(request, served);
  checkCharacters(request, served);
  const prompt = await encode(request, served, options, signal);
  const continues = request.messages.at(-1)!.role === 'assistant';
  return {
    served,
    prompt,
    sampling: samplingOf(request, options.defaults),
    n: request.n,
    maxNewTokens: maxNewTokens(request, prompt, served, options),
    stopTokens: new Set([...(request.ignoreEos ? [] : options.endTokens), ...request.stopTokenIds]),
    stop: request.stop,
    before: continues ? [...prompt.inputIds.slice(-CONTEXT_IDS)] : [],
    logProbs: request.logProbs,
    arrived,
  };
}

function checkIds({ sampling, stopTokenIds }: ChatRequest, vocabSize: number): void {
  const check = (id: number, param: string): void => {
    if (id < vocabSize) return;
    throw invalid(
      `Expected ids of tokens below ${vocabSize}, the size of the vocabulary, for ${param} but received ${id}.`,
      param,
    );
  };
  for (const [i, id] of stopTokenIds.entries()) check(id, `stop_token_ids[${i}]`);
  for (const id of sampling.logitBias.keys()) check(id, 'logit_bias');
}

const THINKING = 'chat_template_kwargs.enable_thinking';

/** Only some models think, and only before an answer that the client has not begun. */
function checkThinking({ enableThinking, messages }: ChatRequest, { encoder }: ServedModel): void {
  if (!enableThinking) return;
  if (!encoder.thinks)
    throw unsupported(`${THINKING} true`, THINKING, 'The chat template of this model has no think blocks.');
  if (messages.at(-1)!.role === 'assistant')
    throw invalid(
      `Expected a last message of the user for ${THINKING} true but received the beginning of an answer.`,
      THINKING,
    );
}

/** No token has as many characters: a text that is certainly too long is not written in tokens first, which takes long, too. */
const LONGEST_TOKEN = 256;

function checkCharacters({ messages }: ChatRequest, { encoder }: ServedModel): void {
  const most = encoder.config.llm.maxPositionEmbeddings;
  const texts = messages.flatMap(({ parts }) => parts.filter((part) => typeof part === 'string'));
  const characters = texts.reduce((sum, { length }) => sum + length, 0);
  if (characters <= most * LONGEST_TOKEN) return;
  const message = `This model's context has ${most} tokens, but the messages have ${characters} characters. Ask something shorter.`;
  throw invalid(message, 'messages', 'context_length_exceeded');
}

function samplingOf({ sampling }: ChatRequest, defaults: SamplingDefaults): Sampling {
  return {
    temperature: sampling.temperature ?? defaults.temperature,
    topP: sampling.topP ?? defaults.topP,
    topK: sampling.topK ?? defaults.topK,
    minP: sampling.minP,
    repetitionPenalty: sampling.repetitionPenalty ?? defaults.repetitionPenalty,
    frequencyPenalty: sampling.frequencyPenalty,
    presencePenalty: sampling.presencePenalty,
    logitBias: sampling.logitBias,
    seed: sampling.seed ?? randomInt(2 ** 48 - 1),
  };
}

type MediaReference = PictureReference | VideoReference;

/** What is known of the media of a request when they are read. */
interface OpenMedia {
  readonly bytes: ReadonlyMap<string, Uint8Array>;
  readonly videos: OpenVideos;
}

async function encode(
  request: ChatRequest,
  served: ServedModel,
  options: PrepareOptions,
  signal: AbortSignal,
): Promise<EncodedPrompt> {
  const references = request.messages.flatMap(({ parts }) => parts.filter((part) => typeof part !== 'string'));
  if (references.length > options.maxImages) {
    const message = `Expected at most ${options.maxImages} pictures and videos for messages but received ${references.length}.`;
    throw invalid(message, references[options.maxImages]!.place, 'too_many_images');
  }
  const videos = references.filter((one) => one.kind === 'video');
  if (videos.length > 0 && served.encoder.video === null) {
    const { title } = VERSIONS[served.encoder.config.version];
    throw unsupported('A part of type video_url', videos[0]!.place, `${title} reads no videos.`);
  }
  const pictures = references.filter((one) => one.kind === 'image');
  const bytes = await fetchAll(pictures, options.pictures, signal);
  return await options.videos.with(videos, signal, (open) =>
    encodeMedia(request, served, options, { bytes, videos: open }),
  );
}

async function encodeMedia(
  request: ChatRequest,
  served: ServedModel,
  options: PrepareOptions,
  media: OpenMedia,
): Promise<EncodedPrompt> {
  const { encoder } = served;
  const messages = request.messages.map(
    ({ role, parts }): ChatMessage => ({
      role,
      content: parts.map((part) => (typeof part === 'string' ? part : chatPart(part, media))),
    }),
  );
  const reading = {
    allowSpecialText: true, // what a client writes is text, never structure
    maxImagePixels: options.maxImagePixels,
    continueFinal: request.messages.at(-1)!.role === 'assistant',
    enableThinking: request.enableThinking,
    videoLimits: media.videos.limits,
    ...(request.maxSliceNums === null ? {} : { maxSliceNums: request.maxSliceNums }),
  };
  try {
    if (media.videos.limits !== undefined) {
      // what is too long is refused before its frames are decoded
      const measured = await encodePrompt(messages, { ...encoder.promptOptions(reading), pixels: 'header' });
      maxNewTokens(request, measured, served, options);
    }
    return await encoder.encode(messages, reading);
  } catch (error) {
    if (!(error instanceof UserError)) throw error;
    const turn = error.turn ?? 0;
    const broken = await brokenMedium(request.messages[turn]!, (part) =>
      encoder.encode([{ role: 'user', content: [chatPart(part, media)] }], { ...reading, continueFinal: false }),
    );
    if (broken === undefined) throw fromUserError(error, `messages[${turn}]`);
    throw fromUserError(error, broken.place, broken.kind === 'video' ? 'invalid_video' : 'invalid_image');
  }
}

/** The bytes of all pictures, by address; the same address is read once. */
async function fetchAll(
  references: readonly PictureReference[],
  policy: PicturePolicy,
  signal: AbortSignal,
): Promise<ReadonlyMap<string, Uint8Array>> {
  const bytes = new Map<string, Uint8Array>();
  for (const reference of references) {
    if (!bytes.has(reference.url)) bytes.set(reference.url, await pictureBytes(reference, policy, signal));
  }
  return bytes;
}

function chatPart(part: MediaReference, { bytes, videos }: OpenMedia): Exclude<Part, string> {
  if (part.kind === 'video') return { video: videos.pathOf(part) };
  return { image: bytes.get(part.url)!, ...(part.detail === 'low' ? { maxSliceNums: 1 } : {}) };
}

/** The first picture or video of a message that cannot be read by itself. */
async function brokenMedium(
  { parts }: RequestMessage,
  read: (part: MediaReference) => Promise<unknown>,
): Promise<MediaReference | undefined> {
  for (const part of parts) {
    if (typeof part === 'string') continue;
    try {
      await read(part);
    } catch (error) {
      if (error instanceof UserError) return part;
      throw error;
    }
  }
  return undefined;
}

function maxNewTokens(
  { maxTokens: asked }: ChatRequest,
  { inputIds: { length } }: Pick<EncodedPrompt, 'inputIds'>,
  served: ServedModel,
  { maxTokens: limit }: PrepareOptions,
): number {
  const most = served.encoder.config.llm.maxPositionEmbeddings;
  const room = most - length;
  const exceeded = (answer: number, param: string) =>
    invalid(
      `This model's context has ${most} tokens, but the messages have ${length} and the answer may have ${answer}. Ask something shorter, or send smaller or fewer pictures and videos.`,
      param,
      'context_length_exceeded',
    );
  if (room < 1) throw exceeded(1, 'messages');
  if (asked === null) return limit === null ? room : Math.min(room, limit);
  if (asked.value > room) throw exceeded(asked.value, asked.param);
  if (limit === null || asked.value <= limit) return asked.value;
  throw invalid(
    `Expected at most ${limit} tokens, the limit of this server, for ${asked.param} but received ${asked.value}.`,
    asked.param,
  );
}
