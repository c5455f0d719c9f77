/**
 * The inner loops of the resize, in WebAssembly SIMD. About five times as fast as the same loops in JavaScript. Its
 * readable source is `resize-kernel.wat`; a test compiles that and compares. One instance per thread.
 */

const WASM = [
  'AGFzbQEAAAABGAJgCX9/f39/f39/fwBgCH9/f39/f39/AAMDAgABBQMBAAEHGwMGbWVtb3J5AgAHY29sdW1ucwAABHJvd3MAAQrgAwK+AQIEfwF7',
  'A0BBACEJA0AgBCAJQQJ0aigCACEKIABBAyADIAlBAnRqKAIAbGohCyAFIAkgBmxBAnRqIQxBgICAAf0RIQ0DQCANIAv9XAIA/YkB/akBIAz9CQIA',
  '/bUB/a4BIQ0gC0EDaiELIAxBBGohDCAKQQFrIgoNAAsgDUEW/awBIQ0gDSAN/YUBIQ0gByANIA39Zv1aAgAAIAdBA2ohByAJQQFqIgkgCEkNAAsg',
  'ACABaiEAIAJBAWsiAg0ACwudAgIEfwd7A0BBACEIA0AgBCgCACEJIAAgCGogAygCACABbGohCiAFIQtBgICAAf0RIQ8gDyEQIA8hESAPIRIDQCAK',
  '/QAEACENIAv9CQIAIQwgDf2JASEOIA8gDv2pASAM/bUB/a4BIQ8gECAO/aoBIAz9tQH9rgEhECAN/YoBIQ4gESAO/akBIAz9tQH9rgEhESASIA79',
  'qgEgDP21Af2uASESIAogAWohCiALQQRqIQsgCUEBayIJDQALIAcgCGogD0EW/awBIBBBFv2sAf2FASARQRb9rAEgEkEW/awB/YUB/Wb9CwQAIAhB',
  'EGoiCCABSQ0ACyADQQRqIQMgBEEEaiEEIAUgBkECdGohBSAHIAFqIQcgAkEBayICDQALCw==',
].join('');

interface Memory {
  readonly buffer: ArrayBuffer;
  grow(pages: number): number;
}

// What is used here of the global object, which Node's types leave to the browser's.
declare const WebAssembly: {
  Module: new (bytes: Uint8Array<ArrayBuffer>) => object;
  Instance: new (module: object) => { readonly exports: object };
};

/** Addresses are bytes in `memory`; see the source for what each loop reads and writes. */
export interface ResizeKernel {
  readonly memory: Memory;
  columns(
    input: number,
    stride: number,
    rows: number,
    first: number,
    count: number,
    weights: number,
    size: number,
    output: number,
    width: number,
  ): void;
  rows(
    input: number,
    stride: number,
    rows: number,
    first: number,
    count: number,
    weights: number,
    size: number,
    output: number,
  ): void;
}

const PAGE = 65_536;
let kernel: ResizeKernel | undefined;

/** The compiled module's bytes. */
export function kernelBytes(): Uint8Array<ArrayBuffer> {
  return Uint8Array.from(Buffer.from(WASM, 'base64'));
}

/** This thread's kernel, with at least `bytes` of memory. What the memory held before is not kept apart. */
export function resizeKernel(bytes: number): ResizeKernel {
  kernel ??= new WebAssembly.Instance(new WebAssembly.Module(kernelBytes())).exports as ResizeKernel;
  const missing = bytes - kernel.memory.buffer.byteLength;
  if (missing > 0) kernel.memory.grow(Math.ceil(missing / PAGE));
  return kernel;
}
