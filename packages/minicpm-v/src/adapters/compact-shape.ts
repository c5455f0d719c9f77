/** The smaller form of a weight on the meta device. It has a size and no content: estimates of memory are made with it. */
import { type CompactTensor, keep, noGrad, ops, scope, type Tensor } from '@minicpm-finetune/torch';

/** Bytes of the pieces that are made of a number while it is dequantized: places and values of its level. */
const PIECE = { nf4: 9, int8: 8 } as const;

export interface CompactSizes {
  readonly type: keyof typeof PIECE;
  readonly nbytes: number;
  /** Bytes that are made for the whole weight while it is dequantized. */
  readonly whole: number;
  /** Most numbers that are dequantized at once. */
  readonly chunk: number;
}

export class CompactShape implements CompactTensor {
  readonly shape: readonly number[];
  readonly #dtype: Tensor['dtype'];
  readonly #sizes: CompactSizes;
  /** Takes the bytes. */
  #held: Tensor;

  constructor({ shape, dtype }: Tensor, sizes: CompactSizes) {
    this.shape = shape;
    this.#dtype = dtype;
    this.#sizes = sizes;
    this.#held = scope(() => keep(this.#bytes(sizes.nbytes)));
  }

  get nbytes(): number {
    return this.#sizes.nbytes;
  }

  get tensors(): readonly Tensor[] {
    return [this.#held];
  }

  replace([held]: readonly Tensor[]): void {
    this.#held.dispose();
    this.#held = held!;
  }

  #bytes(count: number): Tensor {
    return ops.empty([count], { dtype: 'uint8', device: 'meta' });
  }

  expand(): Tensor {
    const { type, whole, chunk } = this.#sizes;
    return noGrad(() =>
      scope(() => {
        const weight = ops.empty(this.shape, { dtype: this.#dtype, device: 'meta' });
        this.#bytes(whole + PIECE[type] * Math.min(weight.numel, chunk));
        return weight;
      }),
    );
  }

  moveTo(): void {}

  dispose(): void {
    this.#held.dispose();
  }
}
