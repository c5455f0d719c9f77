/** Parity with the processors of 4.6 and 4.7 (`v46/`). Samples with pictures, videos and thoughts. */
import { join } from 'node:path';
import {
  type ChatMessage,
  chatTemplate,
  cutPicture,
  decodeImage,
  type EncodedSample,
  encodeConversation,
  encodePrompt,
  normalize,
  type Part,
  PILLOW_MAX_PIXELS,
  publishedVideo,
  type RecordOptions,
  renderChatTemplate,
  Tokenizer,
  type VersionName,
  videoOf,
} from '@minicpm-finetune/processor';
import sharp from 'sharp';
import { type DataReference, pairs, sha256 } from './data-folder.js';
import { checkNumbers, MULTIPLE, marksOf, PATCH, PATCHES_PER_TOKEN } from './data-native-numbers.js';
import { Check, type CheckLine } from './data-report.js';

type Lines = (CheckLine | undefined)[];

interface StoredProfile {
  scale_resolution: number;
  max_slice_nums: number;
  downsample_mode: '4x' | '16x';
  use_image_id?: boolean;
  video_max_slice_nums: number;
}

interface StoredItem {
  type: 'image' | 'text' | 'video';
  image?: string;
  text?: string;
  frames?: { image: string; size: [number, number]; corners: [number, number][] };
}

interface StoredSample {
  id: string;
  profile: string;
  messages: { role: 'system' | 'user' | 'assistant'; content: StoredItem[] | string }[];
}

interface StoredModel {
  tokenizer_path: string;
  attrs: Record<string, number>;
  samples: Record<string, { text: string }>;
  generation_prompts: Record<string, Record<string, string>>;
}

/** Everything of `v46/`; frames of videos are written to `scratch` as pictures. */
export async function* checkNative(folder: DataReference, scratch: string): AsyncGenerator<Lines> {
  const file = folder.json<{ profiles: Record<string, StoredProfile>; samples: StoredSample[] }>('v46/samples.json');
  if (!file) return;
  yield checkNumbers(folder);
  for (const name of ['minicpm-v-4_6', 'minicpm-v-4_7'] as const) {
    const model = folder.json<StoredModel>(`v46/expected/${name}.json`);
    if (model) yield await checkModel(folder, { name, model, ...file, scratch });
  }
}

interface ModelChecks {
  name: VersionName & ('minicpm-v-4_6' | 'minicpm-v-4_7');
  model: StoredModel;
  profiles: Record<string, StoredProfile>;
  samples: StoredSample[];
  scratch: string;
}

async function checkModel(folder: DataReference, checks: ModelChecks): Promise<Lines> {
  const { name, model, samples } = checks;
  const tokenizer = Tokenizer.load(folder.path(model.tokenizer_path));
  const arrays = folder.arrays(`v46/expected/${name}.safetensors`);
  const pixels = folder.json<{ samples: Record<string, StoredPicture[]> }>('v46/expected/pixels.json')!.samples;
  const names = ['ids', 'labels', 'bounds', 'tgt_sizes', 'patches', 'positions', 'prompt', 'template'];
  const lines = Object.fromEntries(names.map((one) => [one, new Check(name, `v46.${one}`)]));
  for (const sample of samples) {
    const { messages, options } = await open(folder, checks, sample, tokenizer);
    const encoded = (await encodeConversation(messages, options))!;
    const stored = (field: string): ArrayLike<number> | undefined => arrays.get(`${sample.id}/${field}`)?.data;
    lines.ids!.equal(sample.id, encoded.inputIds, stored('input_ids'));
    lines.labels!.equal(sample.id, encoded.labels, stored('labels'));
    const kinds = kindsOf(encoded, tokenizer);
    for (const [kind, bound, sizes] of [
      ['image', 'image_bound', 'tgt_sizes'],
      ['video', 'video_bound', 'tgt_sizes_videos'],
    ] as const) {
      const own = <T>(list: readonly T[]): T[] => list.filter((_, i) => kinds[i] === kind);
      lines.bounds!.equal(
        `${sample.id} ${bound}`,
        own(encoded.imageBounds),
        pairs(arrays.get(`${sample.id}/${bound}`)),
      );
      const grids = own(encoded.pictures).map(({ rows, cols }) => [rows, cols]);
      lines.tgt_sizes!.equal(`${sample.id} ${sizes}`, grids, pairs(arrays.get(`${sample.id}/${sizes}`)));
    }
    const order = ['image', 'video'].flatMap((kind) => encoded.pictures.filter((_, i) => kinds[i] === kind));
    lines.patches!.equal(
      sample.id,
      order.map((picture) => [picture.shape, sha256(normalize(picture.pixels))]),
      (pixels[sample.id] ?? []).map((picture) => [picture.patches_shape, picture.patches_f32_sha256]),
    );
    const positions = stored('mrope_position_ids');
    const plain = Int32Array.from({ length: 3 * encoded.inputIds.length }, (_, i) => i % encoded.inputIds.length);
    if (positions) lines.positions!.equal(sample.id, encoded.positionIds ?? plain, positions);
    await checkPrompts(lines.prompt!, model.generation_prompts[sample.id], messages, options);
    lines.template!.equal(sample.id, textOf(sample, tokenizer), model.samples[sample.id]!.text);
  }
  return Object.values(lines).map((check) => check.line());
}

interface StoredPicture {
  patches_shape: number[];
  patches_f32_sha256: string;
}

/** Whether each picture of a sample is one of an image or of a video, by its pads. */
function kindsOf({ inputIds, imageBounds }: EncodedSample, tokenizer: Tokenizer): ('image' | 'video')[] {
  const pad = tokenizer.requireId(tokenizer.imagePad!);
  return imageBounds.map(([start]) => (inputIds[start] === pad ? 'image' : 'video'));
}

/** The checkpoint's own template on the sample, as transformers renders it. */
function textOf({ messages }: StoredSample, tokenizer: Tokenizer): string {
  const pads = { image: tokenizer.imagePad!, video: tokenizer.videoPad! };
  const plain = messages.map(({ role, content }) => ({
    role,
    content: itemsOf(content)
      .map((item) => (item.type === 'text' ? item.text! : pads[item.type]))
      .join('\n'),
  }));
  return renderChatTemplate(tokenizer, plain, { add_generation_prompt: false });
}

const itemsOf = (content: StoredItem[] | string): StoredItem[] =>
  typeof content === 'string' ? [{ type: 'text', text: content }] : content;

/** Prompts of the sample without its last answer begin and end as the template renders them. */
async function checkPrompts(
  check: Check,
  prompts: Record<string, string> | undefined,
  messages: readonly ChatMessage[],
  options: RecordOptions,
): Promise<void> {
  const { tokenizer } = options;
  const template = chatTemplate(options.llmType, tokenizer);
  for (const [enabled, text] of Object.entries(prompts ?? {})) {
    const enableThinking = enabled === 'True';
    const prompt = await encodePrompt(messages.slice(0, -1), { ...options, enableThinking });
    const ending = text.slice(text.lastIndexOf(template.header.assistant!));
    const ids = await tokenizer.encode(ending);
    check.equal(`enable_thinking ${enabled}`, prompt.inputIds.subarray(-ids.length), ids);
  }
}

/** A sample as a conversation; the windows that are frames of a video become pictures of a list. */
async function open(
  folder: DataReference,
  { name, model, profiles, scratch }: ModelChecks,
  sample: StoredSample,
  tokenizer: Tokenizer,
): Promise<{ messages: ChatMessage[]; options: RecordOptions }> {
  const messages: ChatMessage[] = [];
  for (const [turn, { role, content }] of sample.messages.entries()) {
    const parts: Part[] = [];
    for (const [i, item] of itemsOf(content).entries()) {
      if (item.type === 'text') parts.push(item.text!);
      else if (item.type === 'image') parts.push({ image: folder.path(item.image!) });
      else parts.push({ video: await framesOf(folder, item, join(scratch, `${sample.id}-${turn}-${i}`)) });
    }
    messages.push({ role, content: parts });
  }
  const profile = profiles[sample.profile]!;
  const video = videoOf(publishedVideo(name), { maxSliceNums: profile.video_max_slice_nums, fps: 1 })!;
  const options: RecordOptions = {
    tokenizer,
    llmType: 'qwen3_5',
    sliceConfig: {
      maxSliceNums: profile.max_slice_nums,
      scaleResolution: profile.scale_resolution,
      patchSize: PATCH,
      multiple: MULTIPLE,
    },
    patchSize: PATCH,
    pictureTokens: { patchesPerToken: PATCHES_PER_TOKEN[profile.downsample_mode] },
    batchVision: true,
    imageIds: profile.use_image_id ?? true,
    canvas: name === 'minicpm-v-4_7' ? marksOf(model.attrs) : null,
    video,
    maxLength: Number.MAX_SAFE_INTEGER,
  };
  return { messages, options };
}

async function framesOf(folder: DataReference, { frames }: StoredItem, name: string): Promise<string[]> {
  const { image, size, corners } = frames!;
  const whole = await decodeImage(folder.path(image), { maxImagePixels: PILLOW_MAX_PIXELS });
  const paths: string[] = [];
  for (const [i, [x, y]] of corners.entries()) {
    const { pixels } = cutPicture(whole, [x, y, x + size[0], y + size[1]], 1, false);
    const area = size[0] * size[1];
    const data = new Uint8Array(pixels.length);
    for (let c = 0; c < 3; c++) for (let p = 0; p < area; p++) data[3 * p + c] = pixels[c * area + p]!;
    const path = `${name}-${i}.png`;
    await sharp(data, { raw: { width: size[0], height: size[1], channels: 3 } })
      .png()
      .toFile(path);
    paths.push(path);
  }
  return paths;
}
