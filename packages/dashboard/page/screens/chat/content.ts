/** A question as text with pictures and videos. In the form of OpenAI's API, and made from a record of the data. */
import type { RecordView } from '../../../src/shared/api.js';

/** A picture or a video. */
export interface Picture {
  readonly kind: 'image' | 'video';
  /** Of the file; for copied code. */
  readonly name: string;
  /** `data:…;base64,…`, as it is sent. */
  readonly url: string;
  /** `blob:…`, as a picture is shown: the content policy knows no data URLs. Of a video: its size in bytes is. */
  readonly shown: string;
  readonly bytes: number;
}

export interface Question {
  readonly text: string;
  readonly pictures: readonly Picture[];
}

export type Part =
  | { type: 'text'; text: string }
  | { type: 'image_url'; image_url: { url: string } }
  | { type: 'video_url'; video_url: { url: string } };

/** The place of picture n, counted from 1, in a text. Pictures without a place come before the text. */
export const placeOf = (picture: number): string => `⟨${picture}⟩`;
const PLACES = /⟨(\d+)⟩/;

/** The parts of a question in order: pictures at their places, those without one first. */
export function partsOf({ text, pictures }: Question): (string | Picture)[] {
  const pieces = text.split(new RegExp(PLACES.source, 'g'));
  const placed = new Set<number>();
  const parts = pieces.flatMap((piece, index): (string | Picture)[] => {
    if (index % 2 === 0) return piece === '' ? [] : [piece];
    const picture = pictures[Number(piece) - 1];
    if (picture === undefined) return [placeOf(Number(piece))];
    placed.add(Number(piece) - 1);
    return [picture];
  });
  return [...pictures.filter((_, index) => !placed.has(index)), ...parts];
}

/** The content of a user's message. */
export function contentOf(question: Question): string | Part[] {
  if (question.pictures.length === 0) return question.text;
  return partsOf(question).map(partOf);
}

function partOf(part: string | Picture): Part {
  if (typeof part === 'string') return { type: 'text', text: part };
  const { kind, url } = part;
  return kind === 'image' ? { type: 'image_url', image_url: { url } } : { type: 'video_url', video_url: { url } };
}

export interface RecordQuestion {
  readonly system: string;
  readonly text: string;
  /** Numbers of the record's images, in the order of the places. */
  readonly images: readonly number[];
  /** Videos of it, which are left out: the page has no files of theirs. */
  readonly videos: number;
  /** What the data answer. */
  readonly reference: string;
}

const TAG = /<image(?:_\d+)?>/g;
const VIDEO_TAG = /<video(?:_\d+)?>/g;

/** The first question of a record, with places for its pictures where the text names them. */
export function questionOfRecord({ conversation, encodings }: RecordView): RecordQuestion {
  const at = conversation.findIndex(({ role }) => role === 'user');
  const content = conversation[at]?.content ?? '';
  const encoding = encodings.find(({ compat }) => compat === 'inference');
  const all = encoding?.images ?? [];
  const videos = (encoding?.videos ?? []).filter(({ turn }) => turn === at).length;
  const images = all.flatMap(({ turn }, number) => (turn === at ? [number] : []));
  let next = 0;
  const places = images.length;
  const written = videos > 0 ? content.replace(VIDEO_TAG, '') : content;
  const text = written.replace(TAG, (tag) => (next < places ? placeOf(++next) : tag));
  // Pictures that lead the text need no place.
  const leading = Array.from({ length: places }, (_, index) => placeOf(index + 1));
  const rest = leading.reduce((whole, place) => whole.replace(/^\s+/, '').replace(new RegExp(`^${place}`), ''), text);
  const leads = !PLACES.test(rest);
  return {
    system: conversation[0]?.role === 'system' ? conversation[0].content : '',
    text: leads ? rest.trim() : text,
    images,
    videos,
    reference: conversation[at + 1]?.role === 'assistant' ? conversation[at + 1]!.content : '',
  };
}
