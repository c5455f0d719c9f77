/** A question as text with pictures. In the form of OpenAI's API, and made from a record of the data. */
import type { RecordView } from '../../../src/shared/api.js';

export interface Picture {
  /** Of the file; for copied code. */
  readonly name: string;
  /** `data:image/…;base64,…`, as it is sent. */
  readonly url: string;
  /** `blob:…`, as it is shown: the content policy knows no data URLs. */
  readonly shown: string;
}

export interface Question {
  readonly text: string;
  readonly pictures: readonly Picture[];
}

export type Part = { type: 'text'; text: string } | { type: 'image_url'; image_url: { url: string } };

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
  return partsOf(question).map((part) =>
    typeof part === 'string' ? { type: 'text', text: part } : { type: 'image_url', image_url: { url: part.url } },
  );
}

export interface RecordQuestion {
  readonly system: string;
  readonly text: string;
  /** Numbers of the record's images, in the order of the places. */
  readonly images: readonly number[];
  /** What the data answer. */
  readonly reference: string;
}

const TAG = /<image(?:_\d+)?>/g;

/** The first question of a record, with places for its pictures where the text names them. */
export function questionOfRecord({ conversation, encodings }: RecordView): RecordQuestion {
  const at = conversation.findIndex(({ role }) => role === 'user');
  const content = conversation[at]?.content ?? '';
  const all = encodings.find(({ compat }) => compat === 'inference')?.images ?? [];
  const images = all.flatMap(({ turn }, number) => (turn === at ? [number] : []));
  let next = 0;
  const places = images.length;
  const text = content.replace(TAG, (tag) => (next < places ? placeOf(++next) : tag));
  // Pictures that lead the text need no place.
  const leading = Array.from({ length: places }, (_, index) => placeOf(index + 1));
  const rest = leading.reduce((whole, place) => whole.replace(/^\s+/, '').replace(new RegExp(`^${place}`), ''), text);
  const leads = !PLACES.test(rest);
  return {
    system: conversation[0]?.role === 'system' ? conversation[0].content : '',
    text: leads ? rest.trim() : text,
    images,
    reference: conversation[at + 1]?.role === 'assistant' ? conversation[at + 1]!.content : '',
  };
}
