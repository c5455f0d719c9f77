/**
 * One record as the model gets it, token by token. With the speaker of each token and whether it is supervised; its
 * pictures go to contact-sheet.ts. For reading only: nothing is trained on this output.
 */
import {
  areByTag,
  CHAT_FORMATS,
  type EncodedSample,
  type ImageSource,
  type Tokenizer,
  type VideoSource,
} from '@minicpm-finetune/processor';
import { type Compat, UserError } from '@minicpm-finetune/run';
import type { Dataset } from '../../data/dataset.js';
import type { Encoder } from '../../data/encoder.js';
import { type ShownImage, type ShownVideo, shownMedia } from '../../data/image-grids.js';
import { type DataRecord, imagesOf, nameOfTurn, withWrittenTurn } from '../../data/record.js';

export type RenderRole = 'system' | 'user' | 'assistant';

export interface RenderedToken {
  /** Position in the sequence; the length of the sequence for an end token that is learned but not shown. */
  readonly index: number;
  /** The text that the token adds. A character of several tokens is the text of its last one. */
  readonly text: string;
  readonly role: RenderRole;
  /** Feature of a picture. */
  readonly image: boolean;
  /** The model learns to produce something here. */
  readonly supervised: boolean;
  /** The token that is learned here, if it is not the token itself. */
  readonly learned: string | undefined;
}

export interface RenderedSample {
  readonly compat: Compat;
  readonly sample: EncodedSample;
  readonly tokens: readonly RenderedToken[];
  readonly shownImages: readonly ShownImage[];
  /** Where these images come from. */
  readonly images: readonly ImagePlace[];
  readonly shownVideos: readonly ShownVideo[];
  readonly videos: readonly VideoPlace[];
  /** Changes of the record: cut, sliced less, … */
  readonly notices: readonly string[];
}

/** An image or a video, and the turn that shows it. */
interface Place<Source> {
  readonly source: Source;
  /** From 0. */
  readonly turn: number;
  readonly role: RenderRole;
}

export type ImagePlace = Place<ImageSource>;
export type VideoPlace = Place<VideoSource>;

/** Encodes record `index` and takes it apart. Throws UserError with the record's place, as training would. */
export async function renderRecord(
  dataset: Dataset,
  index: number,
  encoder: Encoder,
  compat: Compat,
): Promise<RenderedSample> {
  if (index >= dataset.length) {
    throw new UserError(`Expected a record below ${dataset.length} for --record but received ${index}.`, {
      flag: '--record',
      cure: 'Records are counted from 0.',
    });
  }
  return await placed(dataset, index, async (record) => {
    const { overlong } = encoder.setup;
    const changes = { compat, ...(overlong === 'drop' ? { overlong: 'error' as const } : {}) };
    const { sample, notices } = await encoder.encode(record, changes);
    return await renderSample(
      sample!,
      record,
      encoder,
      compat,
      notices.map(({ message }) => message),
    );
  });
}

/** Reads a record and works on it. A UserError on the way gets the record's place. */
export async function placed<T>(dataset: Dataset, index: number, work: (record: DataRecord) => Promise<T>): Promise<T> {
  let record: DataRecord | undefined;
  try {
    record = await dataset.read(index);
    return await work(record);
  } catch (error) {
    const written = record ? withWrittenTurn(error, record) : error;
    throw written instanceof UserError ? written.at(dataset.place(index)) : written;
  }
}

/** Takes an encoded record apart. `said`: the messages of its encoding. */
export async function renderSample(
  sample: EncodedSample,
  record: DataRecord,
  encoder: Encoder,
  compat: Compat,
  said: readonly string[],
): Promise<RenderedSample> {
  const images = placesOf(record);
  const shown = shownMedia(sample, encoder.tokenizer);
  return {
    compat,
    sample,
    tokens: await renderTokens(sample, record, encoder),
    shownImages: shown.images,
    images: compat === 'official' ? inDataOrder(images, record) : images,
    shownVideos: shown.videos,
    videos: videoPlacesOf(record),
    notices: [...said, ...notLearned(record), ...secondAnswer(sample)],
  };
}

/** The images of a record in the order of the text. */
export const placesOf = ({ image, conversations }: DataRecord): ImagePlace[] =>
  places<ImageSource>('<image>', image, conversations);

/** The videos of a record in the order of the text. */
export const videoPlacesOf = ({ video, conversations }: DataRecord): VideoPlace[] =>
  places<VideoSource>('<video>', video, conversations);

function places<Source extends ImageSource | VideoSource>(
  singleTag: string,
  media: Source | Readonly<Record<string, Source>> | undefined,
  conversations: DataRecord['conversations'],
): Place<Source>[] {
  if (media === undefined) return [];
  const single = !areByTag(media);
  const sources: Readonly<Record<string, Source>> = single ? { [singleTag]: media as Source } : media;
  const tags = Object.keys(sources).map((tag) => tag.replace(/[.*+?^${}()|[\]\\]/g, '\\$&'));
  const pattern = new RegExp(tags.join('|'), 'g');
  const found = conversations.flatMap(({ role, content }, turn) =>
    [...content.matchAll(pattern)].map(([tag]): Place<Source> => ({ source: sources[tag]!, turn, role })),
  );
  if (found.length > 0 || !single) return found;
  const turn = conversations.findIndex(({ role }) => role === 'user');
  return [{ source: media as Source, turn, role: 'user' }];
}

/** The official code lists images as the data do. */
function inDataOrder(found: readonly ImagePlace[], record: DataRecord): ImagePlace[] {
  return imagesOf(record).flatMap((source) => found.find((place) => place.source === source) ?? []);
}

/** A line for each answer that is not learned. */
function notLearned(record: DataRecord): string[] {
  return record.conversations.flatMap(({ supervised }, turn) =>
    supervised === false
      ? [`The answer in ${nameOfTurn(record, turn)} is marked as not to be learned: it is context only.`]
      : [],
  );
}

/** Where the other one of two answers is. */
function secondAnswer({ answers }: EncodedSample): string[] {
  if (answers === undefined) return [];
  const { first, shared } = answers;
  if (shared === 0) return [`The rejected answer with its own prompt begins at token ${first}.`];
  return [
    `The rejected answer begins at token ${first}: it follows the first ${shared} tokens, as the chosen one does.`,
  ];
}

async function renderTokens(sample: EncodedSample, record: DataRecord, encoder: Encoder): Promise<RenderedToken[]> {
  const { tokenizer, setup } = encoder;
  const ids = [...sample.inputIds];
  const texts = await tokenTexts(ids, tokenizer);
  const others = sample.answers?.shared === 0 ? (record.rejected?.conversations ?? []) : [];
  const headers = [...record.conversations, ...others].map(({ role }) => ({
    role,
    header: CHAT_FORMATS[setup.llmType].header[role] ?? '',
  }));
  const roles = rolesOf(texts, headers);
  const features = new Set(
    sample.imageBounds.flatMap(([start, end]) => Array.from({ length: end - start }, (_, i) => start + i)),
  );
  const name = (id: number): string => tokenizer.token(id) ?? `#${id}`;
  const tokens = ids.map((id, index): RenderedToken => {
    const label = index === 0 ? -100 : sample.labels[index - 1]!;
    const learned = label === -100 || label === id ? undefined : name(label);
    return {
      index,
      text: texts[index]!,
      role: roles[index]!,
      image: features.has(index),
      supervised: label !== -100,
      learned,
    };
  });
  const last = sample.labels.at(-1)!;
  if (last !== -100)
    tokens.push({
      index: ids.length,
      text: '',
      role: 'assistant',
      image: false,
      supervised: true,
      learned: name(last),
    });
  return tokens;
}

const INCOMPLETE = '\uFFFD';
/** No character has more bytes, and no vocabulary tokens smaller than a byte. */
const MOST_TOKENS_PER_CHARACTER = 4;

/** The text that each id adds. Decoders treat the first id of a text differently, so each is decoded after another one. */
async function tokenTexts(ids: readonly number[], tokenizer: Tokenizer): Promise<string[]> {
  const anchor = (await tokenizer.encode('a', { plain: true })).at(-1)!;
  const before = (await tokenizer.decode([anchor])).length;
  const decode = async (some: readonly number[]): Promise<string> =>
    (await tokenizer.decode([anchor, ...some])).slice(before);
  const texts: string[] = [];
  let start = 0;
  for (let i = 0; i < ids.length; i++) {
    const text = await decode(ids.slice(start, i + 1));
    const whole = !text.endsWith(INCOMPLETE) || i + 1 - start === MOST_TOKENS_PER_CHARACTER || i + 1 === ids.length;
    texts.push(whole ? text : '');
    if (whole) start = i + 1;
  }
  return texts;
}

/** The speaker of each token: the turns' headers are searched for one after the other. Tokens before the first are the system's. */
function rolesOf(texts: readonly string[], turns: readonly { role: RenderRole; header: string }[]): RenderRole[] {
  const whole = texts.join('');
  let from = 0;
  const starts = turns.flatMap(({ role, header }) => {
    const at = whole.indexOf(header, from);
    if (at === -1) return []; // cut off
    from = at + header.length;
    return [{ role, at }];
  });
  let turn = -1;
  let position = 0;
  return texts.map((text) => {
    while (turn + 1 < starts.length && position + text.length > starts[turn + 1]!.at) turn++;
    position += text.length;
    return starts[turn]?.role ?? 'system';
  });
}
