/** The JSON text of one record, parsed. Or a message that names line, column, character and cure. */
import { decodeText, parseJson } from '@minicpm-finetune/run';
import type { RecordPlace } from './record.js';

export interface RecordText {
  /** 1-based column at which the record starts in its line. Only asked for when there is a mistake. */
  readonly column?: () => number;
  /** Called when NaN or Infinity were read as null. */
  readonly onNaN?: () => void;
}

/** The value of a record's bytes. Throws a UserError that says where the mistake is, and what it is. */
export function parseRecord(bytes: Buffer, place: RecordPlace, text: RecordText = {}): unknown {
  return parseJson(decodeText(bytes, 'a record', place), { what: 'a record', ...place, ...text });
}
