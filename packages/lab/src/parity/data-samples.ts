/** Parity of encoded records, batches and prompts. With the official code and the inference processors. */
import {
  type ChatMessage,
  type EncodedPicture,
  encodeOfficial,
  encodePrompt,
  encodeRecord,
  normalize,
  type OfficialOptions,
  type Part,
  type PromptOptions,
  type Tokenizer,
} from '@minicpm-finetune/processor';
import { UserError } from '@minicpm-finetune/run';
import {
  type DataReference,
  type ModelCase,
  type Profile,
  pairs,
  type Sample,
  type StoredArray,
  sha256,
} from './data-folder.js';
import { Check, type CheckLine } from './data-report.js';
import { padBatch } from './pad.js';

type Lines = (CheckLine | undefined)[];
type Encoded = Awaited<ReturnType<typeof encodeOfficial>>;

/** A model of the folder, ready to encode. */
export interface OpenedModel extends ModelCase {
  name: string;
  loaded: Tokenizer;
}

function promptOptions(folder: DataReference, model: OpenedModel, profile: Profile): PromptOptions {
  const { llmType, batchVision, loaded } = model;
  return { ...profile, llmType, batchVision, tokenizer: loaded, imageRoot: folder.root };
}

async function official(
  folder: DataReference,
  model: OpenedModel,
  sample: Sample,
  variant: 'cookbook' | 'openbmb',
): Promise<Encoded | undefined> {
  const profile = folder.samples()!.profiles.get(sample.options.profile)!;
  const options: OfficialOptions = {
    ...promptOptions(folder, model, profile),
    maxLength: sample.options.max_length,
    variant,
  };
  return await orUndefined(encodeOfficial(sample.record, options));
}

/** Undefined in place of a user's mistake. */
async function orUndefined<T>(promise: Promise<T>): Promise<T | undefined> {
  try {
    return await promise;
  } catch (error) {
    if (error instanceof UserError) return undefined;
    throw error;
  }
}

interface Outcome {
  ok?: boolean;
  error?: unknown;
  /** The result after repairing the code that always fails. */
  repaired?: Outcome;
}

interface ExpectedSample {
  cookbook: Outcome;
  openbmb: Outcome;
  pixel_shapes?: number[][];
  n_loss_tokens?: number;
}

function succeeds({ ok, repaired }: Outcome): boolean {
  return (repaired ? repaired.ok : ok) === true;
}

function tgtSizes(pictures: readonly EncodedPicture[]): [number, number][] {
  return pictures.map(({ rows, cols }) => [rows, cols]);
}

/** `expected/<name>.json`: both copies of the official code on every sample. */
export async function checkSamples(folder: DataReference, model: OpenedModel): Promise<Lines> {
  const expected = folder.json<{ samples: Record<string, ExpectedSample> }>(`expected/${model.name}.json`)?.samples;
  const samples = folder.samples()?.samples ?? [];
  if (!expected) return [];
  const arrays = folder.arrays(`expected/${model.name}.safetensors`);
  const names = [
    'errors',
    'ids',
    'labels',
    'labels_openbmb',
    'position_ids',
    'image_bound',
    'tgt_sizes',
    'pixel_shapes',
  ];
  const checks = Object.fromEntries(names.map((name) => [name, new Check(model.name, `samples.${name}`)]));
  for (const sample of samples) {
    const want = expected[sample.id];
    if (!want) continue;
    const cookbook = await official(folder, model, sample, 'cookbook');
    const openbmb = await official(folder, model, sample, 'openbmb');
    checks.errors!.equal(`${sample.id} cookbook`, cookbook !== undefined, succeeds(want.cookbook));
    checks.errors!.equal(`${sample.id} openbmb`, openbmb !== undefined, succeeds(want.openbmb));
    compareSample(checks, sample.id, { cookbook, openbmb }, want, (field) => arrays.get(`${sample.id}/${field}`));
  }
  return Object.values(checks).map((check) => check.line());
}

function compareSample(
  checks: Record<string, Check>,
  id: string,
  { cookbook, openbmb }: Partial<Record<'cookbook' | 'openbmb', Encoded | undefined>>,
  want: ExpectedSample,
  stored: (field: string) => StoredArray | undefined,
): void {
  const labelsOpenbmb = stored('labels_openbmb') ?? stored('openbmb_only_labels') ?? stored('labels');
  if (openbmb && labelsOpenbmb) checks.labels_openbmb!.equal(id, openbmb.labels, labelsOpenbmb.data);
  const either = cookbook ?? openbmb;
  const ids = stored('input_ids');
  if (!either || !ids) return;
  checks.ids!.equal(id, either.inputIds, ids.data);
  const labels = stored('labels');
  if (cookbook && labels) checks.labels!.equal(id, cookbook.labels, labels.data);
  const positions = stored('position_ids');
  if (positions) checks.position_ids!.equal(id, padBatch([either]).positionIds, positions.data);
  checks.image_bound!.equal(id, either.imageBounds, pairs(stored('image_bound')));
  const sizes = stored('tgt_sizes');
  if (sizes) checks.tgt_sizes!.equal(id, tgtSizes(either.pictures), pairs(sizes));
  if (want.pixel_shapes)
    checks.pixel_shapes!.equal(
      id,
      either.pictures.map(({ shape }) => shape),
      want.pixel_shapes,
    );
}

interface CollatedBatch {
  batch: string;
  tokenizer: string;
  variant: string;
  samples: string[];
  max_length: number;
  image_bound: number[][][];
  tgt_sizes: number[][][];
  pixel_value_shapes: number[][][];
}

/** `collate.json`: batches of records. */
export async function checkCollate(folder: DataReference, model: OpenedModel): Promise<Lines> {
  const batches = folder.json<{ batches: CollatedBatch[] }>('collate.json')?.batches ?? [];
  const all = folder.samples()?.samples ?? [];
  const arrays = folder.arrays('collate.safetensors');
  const check = new Check(model.name, 'collate');
  for (const batch of batches) {
    if (`${batch.tokenizer}.${batch.variant}` !== model.name) continue;
    const encoded: Encoded[] = [];
    for (const id of batch.samples) {
      const sample = all.find((candidate) => candidate.id === id);
      const one = sample && (await official(folder, model, sample, 'cookbook'));
      check.equal(`${batch.batch} ${id}`, one !== undefined, true);
      if (one) encoded.push(one);
    }
    const padded = padBatch(encoded, batch.max_length);
    const fields = {
      input_ids: padded.inputIds,
      position_ids: padded.positionIds,
      labels: padded.labels,
      attention_mask: padded.attentionMask,
    };
    for (const [field, received] of Object.entries(fields)) {
      const want = arrays.get(`${batch.batch}/${field}`);
      if (!want) continue;
      check.equal(`${batch.batch} ${field} shape`, [encoded.length, padded.length], want.shape);
      check.equal(`${batch.batch} ${field}`, received, want.data);
    }
    check.equal(
      `${batch.batch} image_bound`,
      encoded.map(({ imageBounds }) => imageBounds),
      batch.image_bound,
    );
    const sizes = encoded.map(({ pictures }) => (model.batchVision ? tgtSizes(pictures) : []));
    check.equal(`${batch.batch} tgt_sizes`, sizes, batch.tgt_sizes);
    const shapes = encoded.map(({ pictures }) => pictures.map(({ shape }) => shape));
    check.equal(`${batch.batch} pixel_values`, shapes, batch.pixel_value_shapes);
  }
  return [check.line()];
}

interface InferenceCase {
  key: string;
  tokenizer: string;
  variant: string;
  profile: string;
  images: string[];
  messages: { role: 'system' | 'user' | 'assistant'; content: string }[];
  patches_f32_sha256?: string[];
  patches_shape?: number[][];
}

const IMAGE_MARK = '(<image>./</image>)';

/** A message of the processors: images are marks in the text, joined to it by newlines. */
function splitMessage(content: string, images: Iterator<string>): Part[] {
  const texts = content.split(IMAGE_MARK);
  return texts.flatMap((text, i): Part[] => {
    const start = i > 0 && text.startsWith('\n') ? text.slice(1) : text;
    const trimmed = i < texts.length - 1 && start.endsWith('\n') ? start.slice(0, -1) : start;
    const image: Part[] = i > 0 ? [{ image: images.next().value as string }] : [];
    return trimmed === '' && texts.length > 1 ? image : [...image, trimmed];
  });
}

/** `inference.json`: prompts as the models' own processors make them, and training records that begin with them. */
export async function checkInference(folder: DataReference, model: OpenedModel): Promise<Lines> {
  const cases = folder.json<{ cases: InferenceCase[] }>('inference.json')?.cases ?? [];
  const arrays = folder.arrays('inference.safetensors');
  const names = ['ids', 'image_bound', 'tgt_sizes', 'patches', 'training_prompt'];
  const checks = Object.fromEntries(names.map((name) => [name, new Check(model.name, `inference.${name}`)]));
  for (const c of cases) {
    if (`${c.tokenizer}.${c.variant}` !== model.name) continue;
    const options = promptOptions(folder, model, folder.samples()!.profiles.get(c.profile)!);
    const ids = Array.from(arrays.get(`${c.key}/input_ids`)?.data ?? []);
    const prompt = await encodePrompt(processorMessages(c, model), options);
    // The reference's MiniCPM-V-2 prompts are without the <s> that its inference begins with.
    const bos =
      prompt.inputIds[0] !== ids[0] && prompt.inputIds[0] === model.loaded.tokenId(model.loaded.bosToken) ? 1 : 0;
    checks.ids!.equal(c.key, prompt.inputIds.subarray(bos), ids);
    const bounds = prompt.imageBounds.map(([start, end]) => [start - bos, end - bos]);
    checks.image_bound!.equal(c.key, bounds, pairs(arrays.get(`${c.key}/image_bound`)));
    const sizes = arrays.get(`${c.key}/tgt_sizes`);
    if (sizes) checks.tgt_sizes!.equal(c.key, tgtSizes(prompt.pictures), pairs(sizes));
    if (c.patches_f32_sha256) {
      checks.patches!.equal(
        `${c.key} shapes`,
        prompt.pictures.map(({ shape }) => shape),
        c.patches_shape,
      );
      checks.patches!.equal(
        c.key,
        prompt.pictures.map(({ pixels }) => sha256(normalize(pixels))),
        c.patches_f32_sha256,
      );
    }
    if (model.llmType !== 'minicpm') await checkTrainingPrompt(checks.training_prompt!, c, options, ids);
  }
  return Object.values(checks).map((check) => check.line());
}

function processorMessages(c: InferenceCase, { llmType }: OpenedModel): ChatMessage[] {
  const images = c.images[Symbol.iterator]();
  const messages = c.messages.map(({ role, content }) => ({ role, content: splitMessage(content, images) }));
  // MiniCPM-V-2's processor puts the header of the answer twice: as if an empty answer came before.
  return llmType === 'minicpm' ? [...messages, { role: 'assistant', content: '' }] : messages;
}

/** A record made of the same conversation and an answer has to begin with the same ids. */
async function checkTrainingPrompt(
  check: Check,
  c: InferenceCase,
  options: PromptOptions,
  ids: readonly number[],
): Promise<void> {
  let image = 0;
  const tag = (i: number): string => `<image_${String(i).padStart(2, '0')}>`;
  const conversations = c.messages.map(({ role, content }) => ({
    role,
    content: content.replaceAll(IMAGE_MARK, () => tag(image++)),
  }));
  const record = {
    image: Object.fromEntries(c.images.map((path, i) => [tag(i), path])),
    conversations: [...conversations, { role: 'assistant' as const, content: 'Yes.' }],
  };
  const sample = await encodeRecord(record, { ...options, maxLength: Number.MAX_SAFE_INTEGER });
  check.equal(c.key, sample?.inputIds.subarray(0, ids.length), ids);
}
