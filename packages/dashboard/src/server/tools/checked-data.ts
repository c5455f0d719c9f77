/** The report of check-data, and which records pass a filter. */
import type { Say, UserErrorData } from '@minicpm-finetune/run';
import type { CheckedData, Distribution, Finding, RecordFilter } from '../../shared/api.js';
import { placeText } from '../say.js';

/** As `check-data` prints it. */
export interface CheckJson {
  readonly files: readonly { path: string; records: number; description: string }[];
  readonly records: number;
  readonly errors: readonly UserErrorData[];
  readonly warnings: readonly UserErrorData[];
  readonly tokens: Distribution | null;
  readonly supervised_share: number | null;
  readonly text_only: number;
  readonly images: number;
  readonly videos: number;
  readonly frames: number;
  readonly slices_per_image: Readonly<Record<string, number>>;
  readonly model_max_length: number;
  readonly suggested_model_max_length: number | null;
  readonly per_record: {
    readonly tokens: readonly (number | null)[];
    readonly images: readonly (number | null)[];
  };
  readonly seconds: number;
}

interface Placed {
  readonly level: Finding['level'];
  /** Of all files. */
  readonly record: number | null;
  readonly data: UserErrorData;
}

export class CheckedRecords {
  readonly #json: CheckJson;
  readonly #findings: readonly Placed[];
  readonly #ofRecord = new Map<number, Placed[]>();
  readonly #all: readonly number[];

  constructor(json: CheckJson) {
    this.#json = json;
    this.#all = Array.from({ length: json.records }, (_, i) => i);
    const starts = new Map<string, number>();
    let start = 0;
    for (const { path, records } of json.files) {
      if (!starts.has(path)) starts.set(path, start);
      start += records;
    }
    const placed = (level: Finding['level'], data: UserErrorData): Placed => {
      const first = starts.get(data.file ?? '');
      const record = first === undefined || typeof data.record !== 'number' ? null : first + data.record;
      return { level, record, data };
    };
    this.#findings = [
      ...json.errors.map((data) => placed('error', data)),
      ...json.warnings.map((data) => placed('warning', data)),
    ];
    for (const one of this.#findings) {
      if (one.record === null) continue;
      const list = this.#ofRecord.get(one.record);
      if (list === undefined) this.#ofRecord.set(one.record, [one]);
      else list.push(one);
    }
  }

  /** Tokens of a record, whole; null: it is bad. */
  tokensOf(record: number): number | null {
    return this.#json.per_record.tokens[record] ?? null;
  }

  findingsOf(record: number, say: Say): Finding[] {
    return (this.#ofRecord.get(record) ?? []).map((one) => finding(one, say));
  }

  /** Numbers of the records that pass, in order. */
  passing(filter: RecordFilter, maxLength: number | undefined): readonly number[] {
    const { tokens, images } = this.#json.per_record;
    const limit = maxLength ?? this.#json.model_max_length;
    if (filter === 'all') return this.#all;
    if (filter === 'long') return this.#all.filter((record) => (tokens[record] ?? 0) > limit);
    if (filter === 'text_only') return this.#all.filter((record) => images[record] === 0);
    return this.#all.filter((record) => this.#ofRecord.get(record)?.some(({ level }) => level === filter) ?? false);
  }

  report(say: Say): CheckedData {
    const json = this.#json;
    return {
      records: json.records,
      files: json.files.map(({ description, ...file }) => ({ ...file, description: say(description) })),
      findings: this.#findings.map((one) => finding(one, say)),
      tokens: json.tokens,
      supervisedShare: json.supervised_share,
      textOnly: json.text_only,
      images: json.images,
      videos: json.videos,
      frames: json.frames,
      slicesPerImage: Object.entries(json.slices_per_image).map(([slices, images]) => ({
        slices: Number(slices),
        images,
      })),
      modelMaxLength: json.model_max_length,
      suggestedModelMaxLength: json.suggested_model_max_length,
      lengths: json.per_record.tokens,
      seconds: json.seconds,
    };
  }
}

function finding({ level, record, data }: Placed, say: Say): Finding {
  const { message, cure } = data;
  return {
    level,
    record,
    place: say(placeText(data)),
    message: say(message),
    cure: cure === undefined ? null : say(cure),
  };
}
