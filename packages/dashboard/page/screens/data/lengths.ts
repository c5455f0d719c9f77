/** What a limit on the length cuts off, and its slider. */

export interface Cut {
  /** Records that are longer than the limit. */
  readonly records: number;
  /** Of so many sound records. */
  readonly of: number;
  /** Tokens beyond the limit, of all tokens. */
  readonly tokens: number;
  readonly ofTokens: number;
}

/** What `limit` cuts off. `lengths`: tokens of each record, null where it is bad. */
export function cutBy(lengths: readonly (number | null)[], limit: number): Cut {
  let [records, of, tokens, ofTokens] = [0, 0, 0, 0];
  for (const length of lengths) {
    if (length === null) continue;
    of++;
    ofTokens += length;
    if (length <= limit) continue;
    records++;
    tokens += length - limit;
  }
  return { records, of, tokens, ofTokens };
}

/** Lengths that compute best are multiples of this. */
const STEP = 64;

/** Ends and step of a slider for lengths up to `longest`. */
export function sliderOf(longest: number, current: number): { min: number; max: number; step: number } {
  const step = longest > 2 * STEP ? STEP : 1;
  const highest = Math.max(longest, current);
  return { min: step, max: Math.ceil(highest / step) * step, step };
}

/** A path that counts from `folder` unless it is absolute. */
export function pathFrom(folder: string | null, path: string): string {
  return folder === null || path.startsWith('/') || path === '' ? path : `${folder}/${path}`;
}
