/**
 * What may surprise in a file, counted over its records. Records without a picture where others have one, answers that
 * are not learned, keys that are not read: for check-data, and before a training.
 */
import { type DataRecord, imagesOf, videosOf } from './record.js';

/** Plain data. */
export interface RecordTraits {
  /** Pictures and videos. */
  readonly pictures: number;
  /** No picture, and its questions speak of one. */
  readonly missesPicture: boolean;
  /** Answers marked as not to be learned. */
  readonly notLearned: number;
  readonly unread: readonly string[];
  /** It is a pair of a chosen and a rejected answer. */
  readonly compared?: boolean;
}

const SPEAKS_OF_PICTURE =
  /\b(?:image|picture|photo|photograph|screenshot)s?\b|图片|图像|图中|照片|截图|这张图|这幅图/iu;

export function traitsOf(record: DataRecord): RecordTraits {
  const { conversations, unread = [] } = record;
  const pictures = imagesOf(record).length + videosOf(record).length;
  const missesPicture =
    pictures === 0 && conversations.some(({ role, content }) => role === 'user' && SPEAKS_OF_PICTURE.test(content));
  const notLearned = conversations.filter(({ supervised }) => supervised === false).length;
  return { pictures, missesPicture, notLearned, unread, ...(record.rejected && { compared: true }) };
}

/** How often something occurs in the records of a file. */
interface Occurrence {
  records: number;
  /** The first record that has it. */
  first: number;
}

/** Counts of one file. Plain data; the keys are those of the JSON that `check-data --json` prints. */
export interface FileNotesData {
  readonly file: string;
  /** Records that were counted: the sound ones. */
  readonly records: number;
  /** Records without a picture, and those of them whose questions speak of one. */
  readonly without_picture: Occurrence | null;
  readonly misses_picture: Occurrence | null;
  /** Records with answers that are marked as not to be learned, and these answers. */
  readonly not_learned: (Occurrence & { answers: number }) | null;
  /** Keys that mean something elsewhere and are not read here. */
  readonly unread_keys: Readonly<Record<string, Occurrence>>;
  /** Keys for which records are refused. */
  readonly refused_keys: Readonly<Record<string, Occurrence>>;
}

/** The counts of the files of a data set. */
export class FileNotes {
  readonly #files = new Map<string, FileCounts>();

  /** Counts record `record` of a file. */
  add(file: string, record: number, traits: RecordTraits): void {
    this.#of(file).add(record, traits);
  }

  /** Counts a record that is refused; `key` is the key at fault, if any. */
  refuse(file: string, record: number, key: string | undefined): void {
    if (key !== undefined) this.#of(file).refuse(record, key);
  }

  get data(): FileNotesData[] {
    return [...this.#files.values()].map((counts) => counts.data);
  }

  /** What is worth saying, a line each. */
  get lines(): string[] {
    return this.data.flatMap(notesOf);
  }

  #of(file: string): FileCounts {
    let counts = this.#files.get(file);
    if (!counts) {
      counts = new FileCounts(file);
      this.#files.set(file, counts);
    }
    return counts;
  }
}

class FileCounts {
  readonly #file: string;
  readonly #occurrences = new Map<string, Occurrence>();
  #records = 0;
  #answers = 0;

  constructor(file: string) {
    this.#file = file;
  }

  add(record: number, { pictures, missesPicture, notLearned, unread }: RecordTraits): void {
    this.#records++;
    this.#answers += notLearned;
    if (pictures === 0) this.#count('without', record);
    if (missesPicture) this.#count('misses', record);
    if (notLearned > 0) this.#count('notLearned', record);
    for (const key of unread) this.#count(UNREAD + key, record);
  }

  refuse(record: number, key: string): void {
    this.#count(REFUSED + key, record);
  }

  get data(): FileNotesData {
    const of = (name: string): Occurrence | null => this.#occurrences.get(name) ?? null;
    const notLearned = of('notLearned');
    return {
      file: this.#file,
      records: this.#records,
      without_picture: of('without'),
      misses_picture: of('misses'),
      not_learned: notLearned && { ...notLearned, answers: this.#answers },
      unread_keys: this.#keys(UNREAD),
      refused_keys: this.#keys(REFUSED),
    };
  }

  #keys(prefix: string): Record<string, Occurrence> {
    const keys = [...this.#occurrences].filter(([name]) => name.startsWith(prefix));
    return Object.fromEntries(keys.map(([name, occurrence]) => [name.slice(prefix.length), occurrence]));
  }

  #count(name: string, record: number): void {
    const occurrence = this.#occurrences.get(name);
    if (occurrence) occurrence.records++;
    else this.#occurrences.set(name, { records: 1, first: record });
  }
}

const UNREAD = 'unread ';
const REFUSED = 'refused ';

/** What is worth saying of a file, a line each. */
export function notesOf(data: FileNotesData): string[] {
  const { file, records, without_picture: without, misses_picture: misses, not_learned: marked } = data;
  const notes: string[] = [];
  if (without && (misses || without.records < records))
    notes.push(
      `${file}: records without a picture, learned as text: ${without.records} of ${records} (first: record ${without.first}).`,
    );
  if (misses)
    notes.push(
      `${file}: records without a picture whose questions speak of one: ${misses.records} (first: record ${misses.first}).`,
    );
  if (marked)
    notes.push(
      `${file}: answers marked as not to be learned, context only: ${marked.answers}, in records: ${marked.records} (first: record ${marked.first}).`,
    );
  for (const [key, { records: count, first }] of Object.entries(data.unread_keys))
    notes.push(`${file}: records with the key ${key}, which is not read: ${count} (first: record ${first}).`);
  for (const [key, { records: count, first }] of Object.entries(data.refused_keys))
    notes.push(`${file}: records refused for the key ${key}: ${count} (first: record ${first}).`);
  return notes;
}
