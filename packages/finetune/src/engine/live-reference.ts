/**
 * The reference beside the model that trains. The base's frozen weights are in memory once: adapters are
 * taken off, and what trains in full changes places with a copy of its start, without a copy of numbers.
 *
 * An adapter that goes on is its own reference: then its low-rank parts have copies, too.
 */
import { type LoraAdapter, loraAdapters, type MiniCPMV, setLoraTraining } from '@minicpm-finetune/minicpm-v';
import { keep, type Linear, noGrad, ops, type Parameter, scope, type Tensor } from '@minicpm-finetune/torch';
import type { LiveReference } from './preference.js';

const LOW_RANK = /\.lora_(A\.weight|B\.weight|magnitude_vector)$/;

/** Copies of the parameters that train as they are now, by name: of new adapters without their low-rank parts, which start at nothing. */
export function startOfTrained(trainable: ReadonlyMap<string, Parameter>, newAdapters: boolean): Map<string, Tensor> {
  const kept = [...trainable].filter(([name]) => !(newAdapters && LOW_RANK.test(name)));
  return noGrad(() => new Map(kept.map(([name, { data }]) => [name, scope(() => keep(ops.clone(ops.detach(data))))])));
}

export class StartReference implements LiveReference {
  readonly #model: MiniCPMV;
  readonly #copies: Map<Parameter, Tensor>;
  readonly #adapters: readonly (readonly [Linear, LoraAdapter])[];

  /**
   * @param start copies of the trained parameters, by name: they are this one's now
   * @param adaptersOff whether the reference is without the adapters
   */
  constructor(
    model: MiniCPMV,
    trainable: ReadonlyMap<string, Parameter>,
    start: ReadonlyMap<string, Tensor>,
    adaptersOff: boolean,
  ) {
    this.#model = model;
    this.#copies = new Map([...start].map(([name, value]) => [trainable.get(name)!, value]));
    this.#adapters = adaptersOff ? [...loraAdapters(model)].map(([, linear, adapter]) => [linear, adapter]) : [];
  }

  during<T>(work: () => T): T {
    this.#put(false);
    setLoraTraining(this.#model, false);
    try {
      return work();
    } finally {
      this.#put(true);
      setLoraTraining(this.#model, true);
    }
  }

  #put(on: boolean): void {
    for (const [linear, adapter] of this.#adapters) linear.adapter = on ? adapter : undefined;
    for (const [parameter, value] of this.#copies) this.#copies.set(parameter, parameter.exchange(value) as Tensor);
  }

  /** Bytes of the copies. */
  get nbytes(): number {
    return [...this.#copies.values()].reduce((sum, { nbytes }) => sum + nbytes, 0);
  }

  dispose(): void {
    for (const value of this.#copies.values()) value.dispose();
    this.#copies.clear();
  }
}
