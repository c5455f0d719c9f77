/**
 * Seeded random numbers for the order of the data. The same seed gives the same order on every machine and for any
 * number of threads and workers. Not for model weights, dropout or sampling of tokens (libtorch's generators do those).
 * Generator: xoshiro128** (Blackman, Vigna: "Scrambled linear pseudorandom number generators", 2018), its state filled
 * by splitmix32; bounded integers by rejection, so without bias; shuffling by Fisher and Yates, from the last element
 * down.
 */

/** A stream of 32-bit integers chosen by `seeds` (any number of integers; each of them changes the whole stream). */
export class Random {
  readonly #state = new Uint32Array(4);

  constructor(...seeds: readonly number[]) {
    let hash = 0x9e3779b9;
    for (const seed of seeds) {
      hash = mix(hash ^ (seed >>> 0));
      hash = mix(hash ^ (Math.floor(seed / 0x1_0000_0000) >>> 0));
    }
    for (let i = 0; i < 4; i++) this.#state[i] = mix((hash + Math.imul(i + 1, 0x9e3779b9)) >>> 0);
    if (this.#state.every((word) => word === 0)) this.#state[0] = 1; // the one state that xoshiro cannot leave
  }

  /** The next integer in 0 … 2^32-1. */
  next(): number {
    const s = this.#state;
    const [s0, s1, s2, s3] = [s[0]!, s[1]!, s[2]!, s[3]!];
    const result = Math.imul(rotateLeft(Math.imul(s1, 5), 7), 9) >>> 0;
    const n2 = s2 ^ s0;
    const n3 = s3 ^ s1;
    s[1] = s1 ^ n2;
    s[0] = s0 ^ n3;
    s[2] = n2 ^ (s1 << 9);
    s[3] = rotateLeft(n3, 11);
    return result;
  }

  /** An integer in 0 … bound-1, every one equally likely; 1 ≤ bound ≤ 2^32. */
  below(bound: number): number {
    const limit = 0x1_0000_0000 - (0x1_0000_0000 % bound);
    let value = this.next();
    while (value >= limit) value = this.next();
    return value % bound;
  }

  /** Shuffles `items` in place and returns them. */
  shuffle(items: Uint32Array): Uint32Array {
    for (let i = items.length - 1; i > 0; i--) {
      const j = this.below(i + 1);
      const item = items[i]!;
      items[i] = items[j]!;
      items[j] = item;
    }
    return items;
  }
}

function rotateLeft(value: number, bits: number): number {
  return (value << bits) | (value >>> (32 - bits));
}

/** The finalizer of splitmix32: every bit of the input changes about half of the bits of the output. */
function mix(value: number): number {
  let z = (value + 0x9e3779b9) | 0;
  z = Math.imul(z ^ (z >>> 16), 0x21f0aaad);
  z = Math.imul(z ^ (z >>> 15), 0x735a2d97);
  return (z ^ (z >>> 15)) >>> 0;
}
