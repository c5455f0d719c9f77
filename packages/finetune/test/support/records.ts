/** Reads records as training does, and their errors, for tests of what a record may say. */
import type { UserErrorDetails } from '@minicpm-finetune/run';
import { UserError } from '@minicpm-finetune/run';
import { expect } from 'vitest';
import { normalizeRecord } from '../../src/data/forms.js';
import { ImageResolver } from '../../src/data/images.js';
import type { DataRecord, RecordPlace } from '../../src/data/record.js';

/** Functions for records of one place. `also` is what every error has besides the place. */
export function recordsAt(
  place: RecordPlace,
  also: UserErrorDetails = {},
): { normalize(raw: unknown): DataRecord; refused(raw: unknown): UserError } {
  const normalize = (raw: unknown): DataRecord => normalizeRecord(raw, place, new ImageResolver(place.file, () => {}));
  const refused = (raw: unknown): UserError => {
    try {
      normalize(raw);
    } catch (error) {
      expect(error).toBeInstanceOf(UserError);
      expect(error).toMatchObject({ ...place, ...also });
      return error as UserError;
    }
    throw new Error(`accepted: ${JSON.stringify(raw)}`);
  };
  return { normalize, refused };
}
