/**
 * Which records make up which optimizer step. Shuffling by seed, mixing of files, grouping by length, cutting into
 * micro-batches. A pure function of the step number, so that a resumed run needs no more state than the number of steps
 * it has done. Not a reader: it deals in indices into the data set and never touches a file.
 *
 * An epoch holds as many records as all files have together. Without weights each record comes once. With weights w, file f gives
 * round(N * w_f / sum(w)) of the N records (largest remainder), taken one after the other from its own endless stream of shuffled
 * passes (pass p of file f is shuffled by the seeds (seed, 1, f, p)), so that a small file repeats only after all of it was seen,
 * and a large file continues in the next epoch where it stopped. The epoch's records are then shuffled together by (seed, 2, epoch).
 * Packing makes sequences of an epoch's records in this order; a step then takes sequences instead of records. Epochs differ a little in how many
 * sequences they give: the steps of an epoch are as many as the epoch with the most of them needs, and share them evenly.
 * Grouping by length follows transformers' LengthGroupedSampler: blocks of 50 steps sorted longest first, the longest record of all in the very first batch.
 */
import assert from 'node:assert/strict';
import { UserError } from '@minicpm-finetune/run';
import { type Packing, packOrder } from './packing.js';
import { Random } from './random.js';

export interface SamplerOptions {
  /** Records of each file, in the data set's order. */
  readonly sizes: readonly number[];
  /** Share of each file, any positive scale; absent: every record once per epoch. */
  readonly weights?: readonly number[];
  readonly seed: number;
  /** false: file order, for evaluation. */
  readonly shuffle: boolean;
  /** Records, or packed sequences, of one forward pass on one rank. */
  readonly batchSize: number;
  /** Forward passes of one rank per optimizer step. */
  readonly accumulation?: number;
  readonly rank?: number;
  readonly worldSize?: number;
  /** Length of every record (tokens, or any estimate of them): group records of similar length. */
  readonly lengths?: Uint32Array;
  /** Leave out what does not fill a micro-batch at the end of an epoch. Not with packing. */
  readonly dropLast?: boolean;
  /** Pack records into sequences, which are counted instead of them. Not with grouping by length. */
  readonly packing?: Packing;
}

/** The work of one rank in one optimizer step: of its parts, in the order in which one rank alone would take them, every `worldSize`th. */
export interface StepPlan {
  readonly step: number;
  readonly epoch: number;
  /** Records of the epoch that all ranks have used before this step. */
  readonly position: number;
  /**
   * Micro-batches of indices into the data set. All ranks have the same number of them; a rank's last one is empty when there is no part left
   * for it.
   */
  readonly batches: readonly (readonly number[])[];
}

interface EpochOrder {
  readonly epoch: number;
  readonly order: Uint32Array;
  /** Where its sequences start once they are known; null while each record is a unit. */
  starts: Uint32Array | null;
}

export class Sampler {
  /** Records of one epoch, over all ranks. */
  readonly recordsPerEpoch: number;
  /** Units of a step: packed sequences (the most of any epoch), or else records. */
  readonly unitsPerEpoch: number;
  /** Optimizer steps of one epoch; the last one takes what is left. */
  readonly stepsPerEpoch: number;
  /** Records in all files. */
  readonly #total: number;
  readonly #unitsPerStep: number;
  readonly #draws: readonly number[];
  readonly #offsets: readonly number[];
  #cached: EpochOrder | undefined;

  readonly #options: SamplerOptions;

  constructor(options: SamplerOptions) {
    this.#options = options;
    const { sizes, batchSize, accumulation = 1, worldSize = 1, rank = 0 } = options;
    assert(batchSize > 0 && accumulation > 0 && rank < worldSize);
    assert(!options.packing || (!options.dropLast && !options.lengths), 'packing goes with neither');
    this.#total = sizes.reduce((sum, size) => sum + size, 0);
    assert(this.#total > 0, 'a sampler needs records');
    this.recordsPerEpoch = options.dropLast ? this.#total - (this.#total % batchSize) : this.#total;
    if (this.recordsPerEpoch === 0) {
      throw new UserError(
        `Expected at least ${batchSize} records (one batch) for --dataloader_drop_last but received ${this.#total}.`,
        { flag: '--dataloader_drop_last', cure: 'Use a smaller batch or keep the last batch.' },
      );
    }
    this.#draws = options.weights ? apportion(this.#total, options.weights) : sizes;
    let offset = 0;
    this.#offsets = sizes.map((size) => {
      const start = offset;
      offset += size;
      return start;
    });
    this.#unitsPerStep = batchSize * accumulation * worldSize;
    this.unitsPerEpoch = options.packing ? this.#mostSequences(options.packing) : this.recordsPerEpoch;
    this.stepsPerEpoch = Math.ceil(this.unitsPerEpoch / this.#unitsPerStep);
  }

  /** The plan of optimizer step `step` (from 0, counted over all epochs). */
  plan(step: number): StepPlan {
    const epoch = Math.floor(step / this.stepsPerEpoch);
    const [from, to] = this.#unitsOf(step);
    const [order, starts] = [this.order(epoch), this.#starts(epoch)];
    const place = (unit: number): number => starts?.[unit] ?? unit;
    const batches = this.#deal(to - from).map(([start, end]) => [
      ...order.subarray(place(from + start), place(from + end)),
    ]);
    return { step, epoch, position: place(from), batches };
  }

  /** Records that all ranks together use in optimizer step `step`. */
  recordsIn(step: number): number {
    const [from, to] = this.#unitsOf(step);
    const starts = this.#starts(Math.floor(step / this.stepsPerEpoch));
    return starts ? starts[to]! - starts[from]! : to - from;
  }

  /** Records of epoch `epoch` in the order in which they are used. Shape: (recordsPerEpoch). */
  order(epoch: number): Uint32Array {
    return this.#epochOf(epoch).order;
  }

  #mostSequences(packing: Packing): number {
    const counts = Array.from(
      { length: packing.epochs ?? 1 },
      (_, epoch) => packOrder(this.order(epoch), packing, 1).length - 1,
    );
    return Math.max(...counts);
  }

  /** The starts of epoch `epoch`'s sequences in its order, and its end; null: every record is a unit. */
  #starts(epoch: number): Uint32Array | null {
    const cached = this.#epochOf(epoch);
    const { packing } = this.#options;
    if (packing) cached.starts ??= packOrder(cached.order, packing, this.stepsPerEpoch);
    return cached.starts;
  }

  #epochOf(epoch: number): EpochOrder {
    if (this.#cached?.epoch !== epoch) this.#cached = { epoch, order: this.#makeOrder(epoch), starts: null };
    return this.#cached;
  }

  /** First and one past the last unit of a step in its epoch. */
  #unitsOf(step: number): [from: number, to: number] {
    const local = step % this.stepsPerEpoch;
    const starts = this.#starts(Math.floor(step / this.stepsPerEpoch));
    if (!starts) {
      const from = local * this.#unitsPerStep;
      return [from, Math.min(from + this.#unitsPerStep, this.recordsPerEpoch)];
    }
    const share = (s: number): number => Math.floor((s * (starts.length - 1)) / this.stepsPerEpoch);
    return [share(local), share(local + 1)];
  }

  /**
   * Cuts the units of a step into parts, whatever the number of ranks, sizes differing by one at most, and deals them: part p to rank
   * p mod worldSize. First and one past the last unit of each of this rank's micro-batches.
   */
  #deal(units: number): [start: number, end: number][] {
    const { batchSize, worldSize = 1, rank = 0 } = this.#options;
    const parts = Math.ceil(units / batchSize);
    const start = (part: number): number => Math.floor((Math.min(part, parts) * units) / parts);
    return Array.from({ length: Math.ceil(parts / worldSize) }, (_, micro) => {
      const part = micro * worldSize + rank;
      return [start(part), start(part + 1)];
    });
  }

  #makeOrder(epoch: number): Uint32Array {
    const { seed, shuffle, lengths } = this.#options;
    const order = new Uint32Array(this.#total);
    let filled = 0;
    for (let file = 0; file < this.#draws.length; file++) filled = this.#fillFromFile(order, filled, file, epoch);
    assert.equal(filled, order.length);
    if (shuffle) new Random(seed, 2, epoch).shuffle(order);
    const used = order.subarray(0, this.recordsPerEpoch);
    return lengths ? groupByLength(used, lengths, this.#unitsPerStep) : used;
  }

  #fillFromFile(order: Uint32Array, filled: number, file: number, epoch: number): number {
    const { seed, shuffle, sizes } = this.#options;
    const size = sizes[file]!;
    const draws = this.#draws[file]!;
    let position = epoch * draws;
    const end = position + draws;
    let at = filled;
    while (position < end) {
      const pass = Math.floor(position / size);
      const records = Uint32Array.from({ length: size }, (_, i) => this.#offsets[file]! + i);
      if (shuffle) new Random(seed, 1, file, pass).shuffle(records);
      const part = records.subarray(position - pass * size, Math.min(size, end - pass * size));
      order.set(part, at);
      at += part.length;
      position += part.length;
    }
    return at;
  }
}

/** Which records make up which step: of a `Sampler`, or a pass dealt over ranks. */
export type StepSource = Pick<Sampler, 'plan' | 'recordsIn'>;

/**
 * The steps of a pass dealt over ranks, in rounds: round i of rank r is step i × size + r of one rank alone. All ranks have `rounds` of
 * them; where no step is left, a round is an empty micro-batch. `sampler` is that of one rank.
 */
export function dealPass(sampler: Sampler, rank: number, size: number): StepSource & { readonly rounds: number } {
  const { stepsPerEpoch } = sampler;
  const stepsOf = (round: number): number[] =>
    Array.from({ length: size }, (_, r) => round * size + r).filter((step) => step < stepsPerEpoch);
  return {
    rounds: Math.ceil(stepsPerEpoch / size),
    plan: (round) => {
      const { epoch, position } = sampler.plan(round * size);
      const step = round * size + rank;
      return { step: round, epoch, position, batches: step < stepsPerEpoch ? sampler.plan(step).batches : [[]] };
    },
    recordsIn: (round) => stepsOf(round).reduce((sum, step) => sum + sampler.recordsIn(step), 0),
  };
}

/** Splits `total` by `weights` into whole numbers that add up to it (largest remainder, ties to the first). */
export function apportion(total: number, weights: readonly number[]): number[] {
  const sum = weights.reduce((a, b) => a + b, 0);
  const exact = weights.map((weight) => (total * weight) / sum);
  const shares = exact.map(Math.floor);
  const byRemainder = exact
    .map((value, i) => ({ i, rest: value - shares[i]! }))
    .sort((a, b) => b.rest - a.rest || a.i - b.i);
  let missing = total - shares.reduce((a, b) => a + b, 0);
  for (const { i } of byRemainder) {
    if (missing-- <= 0) break;
    shares[i]!++;
  }
  return shares;
}

const STEPS_PER_BLOCK = 50;

function groupByLength(order: Uint32Array, lengths: Uint32Array, recordsPerStep: number): Uint32Array {
  const blockSize = recordsPerStep * STEPS_PER_BLOCK;
  const grouped = new Uint32Array(order.length);
  const rank = (a: number, b: number) => lengths[b]! - lengths[a]!;
  for (let start = 0; start < order.length; start += blockSize) {
    grouped.set(order.slice(start, start + blockSize).sort(rank), start); // stable: equals stay in shuffled order
  }
  let longest = 0;
  for (let i = 0; i < grouped.length; i += blockSize)
    if (lengths[grouped[i]!]! > lengths[grouped[longest]!]!) longest = i;
  const first = grouped[0]!;
  grouped[0] = grouped[longest]!;
  grouped[longest] = first;
  return grouped;
}
