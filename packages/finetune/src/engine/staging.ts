/**
 * Copies the next step's pictures while a step computes. The copies are in a queue of their own and come from pinned
 * memory, so they neither wait for the step nor hold it up. A batch takes what is there and copies the rest itself: its
 * tensors have the same values either way.
 */
import type { EncodedSample } from '@minicpm-finetune/processor';
import { fromTypedArray, isIdle, keep, Stream, scope, type Tensor } from '@minicpm-finetune/torch';

export class Staging implements Disposable {
  readonly device: string;
  /** Seconds in which the device had nothing left to do while pictures were staged. */
  idleSeconds = 0;
  readonly #stream: Stream;
  readonly #staged = new Map<EncodedSample, readonly Tensor[]>();

  constructor(device: string) {
    this.device = device;
    this.#stream = new Stream(device);
  }

  /** Bytes of staged pictures on the device. */
  get bytes(): number {
    return [...this.#staged.values()].flat().reduce((sum, { nbytes }) => sum + nbytes, 0);
  }

  /** Starts the copies of the pictures of samples. To be called when the device has work to do. */
  stage(samples: readonly EncodedSample[]): void {
    const started = performance.now();
    for (const sample of samples) {
      if (this.#staged.has(sample)) continue;
      const copies = scope(() =>
        this.#stream.run(() =>
          sample.pictures.map(({ pixels, shape }) => keep(fromTypedArray(pixels, shape, undefined, this.device))),
        ),
      );
      this.#staged.set(sample, copies);
    }
    // whether it ran out of work in between is not known: all the time counts
    if (samples.length > 0 && isIdle(this.device)) this.idleSeconds += (performance.now() - started) / 1000;
  }

  /** Hands over a sample's pictures, to be used by the current stream; null: they are not staged. They are the receiver's. */
  take(sample: EncodedSample): readonly Tensor[] | null {
    const copies = this.#staged.get(sample);
    if (copies === undefined) return null;
    this.#staged.delete(sample);
    if (copies.length > 0) this.#stream.join(copies);
    return copies;
  }

  dispose(): void {
    for (const copies of this.#staged.values()) for (const copy of copies) copy.dispose();
    this.#staged.clear();
  }

  [Symbol.dispose](): void {
    this.dispose();
  }
}
