/** Makes a long series short without lying. By smoothing over all points, then first, smallest, largest and last of each bucket. Pure. */

/** A series: values by x, in the order of x. Null: not finite. */
export interface Points {
  readonly x: Float64Array;
  readonly y: Float64Array;
}

/** A bias below this one is lost in `1 - bias`; the numbers that it would go on through are slow ones. */
const LEAST_BIAS = 1e-20;

/**
 * The exponential moving average over all points, debiased as Adam's moments are, so that it does not start at zero.
 *
 * @param weight of the average before, 0 to 1
 * @param places whose averages are wanted, ascending
 * @returns one for each place; NaN where y is not finite: such points leave the average as it is
 */
export function smoothed(y: Float64Array, weight: number, places: Uint32Array): Float64Array {
  const result = new Float64Array(places.length);
  let average = 0;
  let bias = 1;
  let i = 0;
  for (let place = 0; place < places.length; place++) {
    const last = places[place]!;
    for (; i <= last; i++) {
      const value = y[i]!;
      if (!Number.isFinite(value)) continue;
      average = weight * average + (1 - weight) * value;
      bias = bias < LEAST_BIAS ? 0 : bias * weight;
    }
    result[place] = Number.isFinite(y[last]!) ? average / (1 - bias) : Number.NaN;
  }
  return result;
}

/**
 * Indices of the points that a line of `most` points needs (M4, Jugel et al. 2014): of each of equally wide buckets the first, the
 * smallest, the largest and the last one, and the first that is not finite, so that no gap is lost. All points when they are few enough.
 *
 * @returns ascending; at most `most` and one for each bucket with a gap
 */
export function reduced({ x, y }: Points, most: number): Uint32Array {
  const { length } = x;
  if (length <= most) return Uint32Array.from({ length }, (_, i) => i);
  const buckets = Math.max(1, Math.floor(most / 4));
  const width = (x[length - 1]! - x[0]!) / buckets || 1;
  const kept: number[] = [];
  let from = 0;
  while (from < length) {
    const bucket = Math.min(buckets - 1, Math.floor((x[from]! - x[0]!) / width));
    const end = x[0]! + (bucket + 1) * width;
    let to = from + 1;
    while (to < length && (bucket === buckets - 1 || x[to]! < end)) to++;
    kept.push(...ofBucket(y, from, to));
    from = to;
  }
  return Uint32Array.from(kept);
}

function ofBucket(y: Float64Array, from: number, to: number): number[] {
  let smallest = -1;
  let largest = -1;
  let gap = -1;
  for (let i = from; i < to; i++) {
    const value = y[i]!;
    if (!Number.isFinite(value)) {
      if (gap < 0) gap = i;
      continue;
    }
    if (smallest < 0 || value < y[smallest]!) smallest = i;
    if (largest < 0 || value > y[largest]!) largest = i;
  }
  const kept = [from, smallest, largest, gap, to - 1].filter((i) => i >= 0);
  return [...new Set(kept)].sort((a, b) => a - b);
}
