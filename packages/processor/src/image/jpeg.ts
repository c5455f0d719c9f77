/**
 * Checks a JPEG file without decoding its pixels. Reads its size, and whether all of its data is present and valid.
 * That is what check-data wants to know, and costs a third of decoding. (ITU T.81: baseline and extended sequential
 * files, Huffman coded, in one scan.)
 *
 * Only for files that are plainly whole: of any other, and of rarer kinds (progressive, CMYK), null says "ask the decoder".
 */

export interface Size {
  readonly width: number;
  readonly height: number;
}

interface Component {
  readonly blocks: number; // of an MCU
  readonly quantization: number;
}

interface Frame extends Size {
  readonly components: ReadonlyMap<number, Component>;
  readonly mcus: number;
}

const TABLES = 4; // of each kind
const SHORT = 10; // bits

/** A Huffman table: bits of the code << 8 | symbol, 0 where no code is. */
interface Codes {
  /** By the next ten bits; 0 too where the code is longer. */
  readonly short: Uint16Array;
  /** By the next 16 bits less `from`: the longer codes, which come after all shorter ones. */
  readonly long: Uint16Array;
  readonly from: number;
}

const NAMES = {
  SOI: 0xd8,
  EOI: 0xd9,
  SOF0: 0xc0,
  SOF1: 0xc1,
  DHT: 0xc4,
  SOS: 0xda,
  DQT: 0xdb,
  DRI: 0xdd,
  COM: 0xfe,
} as const;
const isApplication = (marker: number): boolean => (marker & 0xf0) === 0xe0;
const isRestart = (marker: number): boolean => marker >= 0xd0 && marker <= 0xd7;

/** The size of a JPEG file that is whole, or null: not JPEG, of a rarer kind, or perhaps damaged. */
export function wholeJpegSize(bytes: Uint8Array): Size | null {
  return new Walk(bytes).run();
}

class Walk {
  readonly #view: DataView;
  readonly #codes = new Map<number, Codes>(); // class << 4 | number
  readonly #quantizations = new Set<number>();
  #frame: Frame | null = null;
  #restartInterval = 0;

  readonly bytes: Uint8Array;

  constructor(bytes: Uint8Array) {
    this.bytes = bytes;
    this.#view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  }

  run(): Size | null {
    const { bytes } = this;
    if (bytes[0] !== 0xff || bytes[1] !== NAMES.SOI) return null;
    let at = 2;
    while (at + 4 <= bytes.length && bytes[at] === 0xff) {
      const marker = bytes[at + 1]!;
      const end = at + 2 + this.#view.getUint16(at + 2);
      if (end > bytes.length || end < at + 4) return null;
      if (marker === NAMES.SOS) return this.#scan(at + 4, end) ? this.#size() : null;
      if (!this.#segment(marker, at + 4, end)) return null;
      at = end;
    }
    return null;
  }

  #size(): Size | null {
    return this.#frame && { width: this.#frame.width, height: this.#frame.height };
  }

  /** Takes in a segment in front of the scan; false: not understood. */
  #segment(marker: number, start: number, end: number): boolean {
    if (isApplication(marker) || marker === NAMES.COM) return true;
    if (marker === NAMES.SOF0 || marker === NAMES.SOF1) return this.#readFrame(start, end);
    if (marker === NAMES.DHT) return this.#readCodes(start, end);
    if (marker === NAMES.DQT) return this.#readQuantizations(start, end);
    if (marker !== NAMES.DRI || end - start !== 2) return false;
    this.#restartInterval = this.#view.getUint16(start);
    return true;
  }

  #readQuantizations(start: number, end: number): boolean {
    let at = start;
    for (; at < end; at += 1 + (this.bytes[at]! >> 4 === 0 ? 64 : 128)) {
      if ((this.bytes[at]! & 15) >= TABLES) return false;
      this.#quantizations.add(this.bytes[at]! & 15);
    }
    return at === end;
  }

  #readFrame(start: number, end: number): boolean {
    const { bytes } = this;
    const [precision, count] = [bytes[start], bytes[start + 5]!];
    const [height, width] = [this.#view.getUint16(start + 1), this.#view.getUint16(start + 3)];
    const common = this.#frame === null && precision === 8 && (count === 1 || count === 3);
    if (!common || end - start !== 6 + 3 * count || width === 0 || height === 0) return false;
    const components = new Map<number, Component>();
    let [across, down] = [1, 1];
    for (let at = start + 6; at < end; at += 3) {
      const [h, v] = [bytes[at + 1]! >> 4, bytes[at + 1]! & 15];
      if (h < 1 || h > 2 || v < 1 || v > 2) return false;
      [across, down] = [Math.max(across, h), Math.max(down, v)];
      components.set(bytes[at]!, { blocks: count === 1 ? 1 : h * v, quantization: bytes[at + 2]! });
    }
    if (count === 1) [across, down] = [1, 1]; // a single component is not interleaved: block by block
    const mcus = Math.ceil(width / (8 * across)) * Math.ceil(height / (8 * down));
    this.#frame = { width, height, components, mcus };
    return components.size === count;
  }

  #readCodes(start: number, end: number): boolean {
    let at = start;
    while (at + 17 <= end) {
      const symbols = at + 17;
      const counts = this.bytes.subarray(at + 1, symbols);
      const next = symbols + counts.reduce((sum, count) => sum + count, 0);
      const name = this.bytes[at]!;
      if (next > end || (name & 0xef) >= TABLES) return false;
      const meanings = this.bytes.subarray(symbols, next);
      if (name < TABLES && meanings.some((symbol) => symbol > 15)) return false; // of DC: the size of a difference
      const codes = huffmanCodes(counts, meanings);
      if (codes === null) return false;
      this.#codes.set(name, codes);
      at = next;
    }
    return at === end;
  }

  /** The scan and the end marker after it. */
  #scan(start: number, end: number): boolean {
    const { bytes } = this;
    const frame = this.#frame;
    const count = bytes[start]!;
    if (frame === null || count !== frame.components.size || end - start !== 4 + 2 * count) return false;
    const blocks: [dc: Codes, ac: Codes][] = []; // of an MCU
    for (let at = start + 1; at < end - 3; at += 2) {
      const component = frame.components.get(bytes[at]!);
      const [dc, ac] = [this.#codes.get(bytes[at + 1]! >> 4), this.#codes.get(0x10 | (bytes[at + 1]! & 15))];
      if (!component || !dc || !ac || !this.#quantizations.has(component.quantization)) return false;
      for (let n = 0; n < component.blocks; n++) blocks.push([dc, ac]);
    }
    if (bytes[end - 3] !== 0 || bytes[end - 2] !== 63 || bytes[end - 1] !== 0) return false;
    let left = frame.mcus;
    for (let [at, restart] = [end, 0xd0]; ; restart = restart === 0xd7 ? 0xd0 : restart + 1) {
      const interval = this.#restartInterval === 0 ? left : Math.min(left, this.#restartInterval);
      const data = unstuffed(bytes, at);
      if (!isWhole(data.bytes, data.length, interval, blocks)) return false;
      left -= interval;
      at = data.end + 2;
      const marker = bytes[data.end + 1];
      if (left === 0) return marker === NAMES.EOI;
      if (marker === undefined || !isRestart(marker) || marker !== restart) return false;
    }
  }
}

/** `counts[n]` codes of n + 1 bits each, for the symbols in their order; null when they are too many. None may be all ones. */
function huffmanCodes(counts: Uint8Array, symbols: Uint8Array): Codes | null {
  const short = new Uint16Array(1 << SHORT);
  let [from, long] = [1 << 16, new Uint16Array(0)];
  let [next, symbol] = [0, 0]; // first of the 16-bit words that no code has yet
  for (let length = 1; length <= 16; length++) {
    const words = 1 << (16 - length);
    if (length === SHORT + 1) [from, long] = [next, new Uint16Array(Math.max(0, (1 << 16) - next))];
    for (let n = counts[length - 1]!; n > 0; n--, next += words) {
      if (next + words >= 1 << 16) return null;
      const code = (length << 8) | symbols[symbol++]!;
      if (length <= SHORT) short.fill(code, next >> (16 - SHORT), (next + words) >> (16 - SHORT));
      else long.fill(code, next - from, next + words - from);
    }
  }
  return { short, long, from };
}

const PADDING = 4; // bytes that may be read after the data
let scratch = new Uint8Array(1 << 16);

/** The bytes of a scan up to the next marker, the zero after each 0xff removed. Valid until the next call. */
function unstuffed(bytes: Uint8Array, start: number): { bytes: Uint8Array; length: number; end: number } {
  if (scratch.length < bytes.length - start + PADDING) scratch = new Uint8Array(2 * (bytes.length - start) + PADDING);
  let [from, length] = [start, 0];
  for (;;) {
    const found = bytes.indexOf(0xff, from);
    const stop = found === -1 ? bytes.length : found;
    const stuffed = bytes[stop + 1] === 0 && found !== -1;
    const piece = bytes.subarray(from, stuffed ? stop + 1 : stop);
    scratch.set(piece, length);
    length += piece.length;
    if (!stuffed) {
      scratch.fill(0xff, length, length + PADDING);
      return { bytes: scratch, length, end: stop };
    }
    from = stop + 2;
  }
}

/** Whether `length` bytes are exactly this many MCUs and the bits that fill up the last byte. */
function isWhole(data: Uint8Array, length: number, mcus: number, blocks: readonly [dc: Codes, ac: Codes][]): boolean {
  const bits = 8 * length;
  let at = 0; // in bits
  for (let mcu = 0; mcu < mcus; mcu++) {
    for (let b = 0; b < blocks.length; b++) {
      if (at > bits) return false;
      const [dc, ac] = blocks[b]!;
      const first = lookUp(dc, sixteenBits(data, at));
      if (first === 0 || (first & 0xff) > 11) return false;
      at += (first >> 8) + (first & 0xff);
      for (let k = 1; k < 64; ) {
        const code = lookUp(ac, sixteenBits(data, at));
        if (code === 0) return false;
        const size = code & 15;
        const run = (code >> 4) & 15;
        at += (code >> 8) + size;
        if (size === 0 && run !== 15) break; // the end of the block
        k += run + 1;
        if (k > 64) return false;
      }
    }
  }
  return at <= bits && bits - at < 8;
}

function sixteenBits(data: Uint8Array, at: number): number {
  const i = at >> 3;
  return (((data[i]! << 16) | (data[i + 1]! << 8) | data[i + 2]!) >> (8 - (at & 7))) & 0xffff;
}

/** Bits of the code << 8 | symbol; 0 where no code is. */
function lookUp({ short, long, from }: Codes, word: number): number {
  return short[word >> (16 - SHORT)]! || (word < from ? 0 : long[word - from]!);
}
