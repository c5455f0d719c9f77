/**
 * Tensors that were computed before, by what they were made of. Those used longest ago are freed first.
 * For features of pictures and for keys and values of prompts; whoever changes the weights has to take another cache.
 */
import { keep, ops, scope, type Tensor } from '@minicpm-finetune/torch';

export class TensorCache {
  /** In the order of their last use. */
  readonly #entries = new Map<string, Tensor>();
  readonly #maxBytes: number;
  #bytes = 0;

  /** @param options.maxBytes most bytes of tensors that are kept */
  constructor({ maxBytes }: { readonly maxBytes: number }) {
    this.#maxBytes = maxBytes;
  }

  /** Bytes of the tensors that are kept. */
  get bytes(): number {
    return this.#bytes;
  }

  /** The tensor under a key, which stays the cache's: to be used at once, or copied. */
  get(key: string): Tensor | undefined {
    const tensor = this.#entries.get(key);
    if (tensor === undefined) return undefined;
    this.#entries.delete(key);
    this.#entries.set(key, tensor);
    return tensor;
  }

  has(key: string): boolean {
    return this.#entries.has(key);
  }

  /** Keeps a copy of a tensor that fits; `tensor` stays the caller's. */
  put(key: string, tensor: Tensor): void {
    if (tensor.nbytes > this.#maxBytes || this.#entries.has(key)) return;
    for (const [oldest, { nbytes }] of this.#entries) {
      if (this.#bytes + tensor.nbytes <= this.#maxBytes) break;
      this.#entries.get(oldest)!.dispose();
      this.#entries.delete(oldest);
      this.#bytes -= nbytes;
    }
    this.#entries.set(
      key,
      scope(() => keep(ops.clone(tensor))),
    );
    this.#bytes += tensor.nbytes;
  }

  /** Frees everything. */
  dispose(): void {
    for (const tensor of this.#entries.values()) tensor.dispose();
    this.#entries.clear();
    this.#bytes = 0;
  }
}
