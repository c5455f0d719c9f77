/**
 * A rendered record as JSON. Conversation, images with their grids, and of each encoding every token with its id, speaker and label;
 * the features of a picture are one entry. What a limit cut off is there, too, and marked.
 */
import { type EncodedSample, measureImage, PILLOW_MAX_PIXELS, type Tokenizer } from '@minicpm-finetune/processor';
import { type Compat, UserError, type UserErrorData } from '@minicpm-finetune/run';
import type { Dataset } from '../../data/dataset.js';
import type { Encoder } from '../../data/encoder.js';
import type { ShownImage, ShownVideo } from '../../data/image-grids.js';
import { type DataRecord, nameOfTurn } from '../../data/record.js';
import {
  type ImagePlace,
  placed,
  placesOf,
  type RenderedToken,
  type RenderRole,
  renderSample,
  type VideoPlace,
  videoPlacesOf,
} from './render.js';
import { diff } from './token-diff.js';

/** A token. Keys are those of the JSON that `render --json` prints. */
export interface TokenJson {
  /** Position in the sequence; null: cut off. */
  readonly index: number | null;
  /** null: an end token that is learned but not in the sequence. */
  readonly id: number | null;
  readonly text: string;
  readonly role: RenderRole;
  /** The model learns to produce it, or what `instead` says. */
  readonly supervised: boolean;
  /** The token that is learned in its place. */
  readonly instead?: string;
  /** The shifted label of its position: what the model learns to produce after it; null: nothing. */
  readonly label: { readonly id: number; readonly text: string } | null;
  readonly cut?: true;
}

/** Neighbouring features of one picture. */
export interface FeaturesJson {
  readonly index: number | null;
  readonly features: number;
  /** Number of the picture, from 0, or of the first of a group of frames; null: cut off. */
  readonly picture: number | null;
  readonly role: RenderRole;
  readonly cut?: true;
}

interface ImageJson {
  /** Its file, as the data name it; null: in the data. */
  readonly name: string | null;
  readonly turn: number;
  readonly role: RenderRole;
  /** Of the file, in pixels. */
  readonly width: number;
  readonly height: number;
  /** Columns and rows of its slices; null: an overview only. */
  readonly grid: { readonly columns: number; readonly rows: number } | null;
  /** Numbers of its pictures: the overview, then the slices row by row. */
  readonly pictures: readonly number[];
}

interface VideoJson {
  /** Its file or folder, as the data name it, or the files of its frames. */
  readonly name: string | readonly string[];
  readonly turn: number;
  readonly role: RenderRole;
  /** Of each frame that the model sees: its time in seconds, and its pictures as those of an image. */
  readonly frames: readonly {
    readonly time: number;
    readonly grid: ImageJson['grid'];
    readonly pictures: readonly number[];
  }[];
}

/** A record under one `--compat`. */
interface EncodingJson {
  readonly compat: Compat;
  readonly error: UserErrorData | null;
  /** Lengths: of the sequence, of what is learned of it, and of what was cut off. */
  readonly length: number;
  readonly supervised: number;
  readonly cut: number;
  readonly notices: readonly string[];
  readonly tokens: readonly (TokenJson | FeaturesJson)[];
  readonly images: readonly ImageJson[];
  readonly videos: readonly VideoJson[];
}

export interface RecordJson {
  readonly record: number;
  readonly place: { readonly file: string; readonly record: number; readonly line?: number };
  readonly id: string | null;
  readonly conversation: readonly {
    readonly role: RenderRole;
    /** Its name in messages, such as `turn 1`. */
    readonly name: string;
    readonly content: string;
    /** What the assistant thought before this answer, where the data have it beside. */
    readonly thought?: string;
    readonly learned: boolean;
  }[];
  /** Of a pair: the rejected answer. */
  readonly rejected?: string;
  readonly encodings: readonly EncodingJson[];
}

/** The pictures of an encoding as the model sees them, for whoever shows them. */
export type Samples = Map<Compat, EncodedSample>;

/** A record under each of `compats`. @throws UserError if the record cannot be read */
export async function recordJson(
  dataset: Dataset,
  index: number,
  encoder: Encoder,
  compats: readonly Compat[],
): Promise<{ json: RecordJson; samples: Samples }> {
  if (index >= dataset.length) {
    throw new UserError(`Expected a record below ${dataset.length} for --record but received ${index}.`, {
      flag: '--record',
      cure: 'Records are counted from 0.',
    });
  }
  const samples: Samples = new Map();
  const encodings: EncodingJson[] = [];
  const record = await placed(dataset, index, async (read) => read);
  for (const compat of compats) encodings.push(await encodingJson(dataset, index, encoder, compat, samples));
  const json = {
    record: index,
    place: dataset.place(index),
    id: record.id ?? null,
    conversation: record.conversations.map(({ role, content, thought, supervised }, turn) => ({
      role,
      name: nameOfTurn(record, turn),
      content,
      ...(thought === undefined ? {} : { thought }),
      learned: role === 'assistant' && supervised !== false,
    })),
    ...(record.rejected && { rejected: record.rejected.conversations.at(-1)!.content }),
    encodings,
  };
  return { json, samples };
}

const UNLIMITED = { maxLength: Number.MAX_SAFE_INTEGER, overlong: 'error' } as const;

async function encodingJson(
  dataset: Dataset,
  index: number,
  encoder: Encoder,
  compat: Compat,
  samples: Samples,
): Promise<EncodingJson> {
  let error: UserErrorData | null = null;
  try {
    return await placed(dataset, index, async (record) => {
      const { sample, notices } = await encoder.encode(record, { compat });
      const said = notices.map(({ message }) => message);
      if (sample !== null) samples.set(compat, sample);
      const short = sample?.inputIds.length ?? 0;
      const changed = notices.some(({ kind }) => kind !== 'first_frame') || short >= encoder.setup.maxLength;
      return await describe(record, encoder, { compat, sample, said, whole: changed ? 'other' : 'same' });
    });
  } catch (mistake) {
    if (!(mistake instanceof UserError)) throw mistake;
    error = mistake.toData();
  }
  // Nothing is left to learn, say: what was cut off explains it. A record that is bad at any length has nothing to show.
  try {
    const whole = await placed(dataset, index, async (record) =>
      describe(record, encoder, { compat, sample: null, said: [], whole: 'other' }),
    );
    return { ...whole, error };
  } catch (mistake) {
    if (!(mistake instanceof UserError)) throw mistake;
    return { compat, error, length: 0, supervised: 0, cut: 0, notices: [], tokens: [], images: [], videos: [] };
  }
}

interface Fitted {
  readonly compat: Compat;
  /** null: nothing of it is used. */
  readonly sample: EncodedSample | null;
  readonly said: readonly string[];
  /** Whether the record without a limit on its length is the same. */
  readonly whole: 'same' | 'other';
}

async function describe(
  record: DataRecord,
  encoder: Encoder,
  { compat, sample, said, whole }: Fitted,
): Promise<EncodingJson> {
  const kept = sample === null ? null : await renderSample(sample, record, encoder, compat, said);
  const tokens = kept === null || sample === null ? [] : entries(kept.tokens, sample, encoder.tokenizer);
  const all = whole === 'same' ? tokens : merged(await wholeEntries(record, encoder, compat), tokens);
  return {
    compat,
    error: null,
    length: sample?.inputIds.length ?? 0,
    supervised: sample === null ? 0 : sample.labels.reduce((sum, label) => sum + Number(label !== -100), 0),
    cut: all.reduce((sum, one) => sum + (one.cut ? ('features' in one ? one.features : 1) : 0), 0),
    notices: kept?.notices ?? said,
    tokens: all,
    images: await imagesJson(kept?.images ?? placesOf(record), kept?.shownImages ?? [], encoder),
    videos: videosJson(kept?.videos ?? videoPlacesOf(record), kept?.shownVideos ?? []),
  };
}

async function wholeEntries(record: DataRecord, encoder: Encoder, compat: Compat): Promise<Entry[]> {
  const pixels = compat === 'official' ? 'header' : false;
  const { sample } = await encoder.encode(record, { ...UNLIMITED, compat, pixels });
  const { tokens } = await renderSample(sample!, record, encoder, compat, []);
  return entries(tokens, sample!, encoder.tokenizer);
}

type Entry = TokenJson | FeaturesJson;

/** Tokens, with the features of each picture as one entry. */
function entries(tokens: readonly RenderedToken[], sample: EncodedSample, tokenizer: Tokenizer): Entry[] {
  const pictureAt = new Map<number, number>();
  const lengths = new Map<number, number>();
  let first = 0;
  for (const [number, [start, end]] of sample.imageBounds.entries()) {
    pictureAt.set(start, first);
    lengths.set(first, end - start);
    first += sample.groups?.[number] ?? 1;
  }
  const name = (id: number): string => tokenizer.token(id) ?? `#${id}`;
  return tokens.flatMap(({ index, text, role, image, supervised, learned }, at): Entry[] => {
    const picture = pictureAt.get(index);
    if (image) return picture === undefined ? [] : [{ index, features: lengths.get(picture)!, picture, role }];
    const label = sample.labels[index] ?? -100;
    const next = sample.inputIds[index + 1] === label ? tokens[at + 1]?.text : undefined;
    return [
      {
        index,
        id: sample.inputIds[index] ?? null,
        text,
        role,
        supervised,
        ...(learned !== undefined && { instead: learned }),
        label: label === -100 ? null : { id: label, text: next || name(label) },
      },
    ];
  });
}

/** Tokens are the same by id and text, features of a picture by their number. */
const keyOf = (entry: Entry): string => JSON.stringify('features' in entry ? [entry.features] : [entry.id, entry.text]);

/** The whole record with what was cut off marked. */
function merged(whole: readonly Entry[], kept: readonly Entry[]): Entry[] {
  let at = 0;
  return diff(whole, kept, keyOf).flatMap(({ kind, items }) => {
    if (kind !== 'first') return items.map(() => kept[at++]!);
    return items.map(
      (one): Entry =>
        'features' in one
          ? { ...one, index: null, picture: null, cut: true }
          : { ...one, index: null, supervised: false, label: null, cut: true },
    );
  });
}

async function imagesJson(
  places: readonly ImagePlace[],
  shown: readonly ShownImage[],
  { setup }: Encoder,
): Promise<ImageJson[]> {
  const images: ImageJson[] = [];
  for (const [number, { source, turn, role }] of places.entries()) {
    const size = await measureImage(source, { maxImagePixels: setup.maxImagePixels ?? PILLOW_MAX_PIXELS });
    images.push({
      name: typeof source === 'string' ? source : null,
      turn,
      role,
      ...size,
      grid: shown[number]?.grid ?? null,
      pictures: shown[number]?.pictures ?? [],
    });
  }
  return images;
}

function videosJson(places: readonly VideoPlace[], shown: readonly ShownVideo[]): VideoJson[] {
  return places.map(({ source, turn, role }, number) => ({
    name: source,
    turn,
    role,
    frames: shown[number]?.frames ?? [],
  }));
}
