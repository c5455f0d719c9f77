/**
 * A plan: the forward pass as an ordered list of blocks. Blocks are vision layers, resampler, embedding and scatter,
 * decoder layers, final norm. Whoever runs a plan decides what is kept, recomputed or gathered; the blocks know nothing
 * of it.
 *
 * Not here: memory, gradients, devices. See the executor in packages/finetune.
 */
import { type Module, type Parameter, scope, type Tensor } from '@minicpm-finetune/torch';

/** One block of a plan. `forward` is pure: same inputs and parameters, same output (dropout draws from the device's generator). */
export interface PlanNode {
  /** The block's module path, such as `llm.model.layers.3`. */
  readonly name: string;
  /** Indices of earlier nodes whose outputs are this node's inputs. */
  readonly inputs: readonly number[];
  /** The parameters that `forward` reads, by full name. */
  readonly parameters: ReadonlyMap<string, Parameter>;
  /**
   * The output is these rows of the node's only parameter, each once, in ascending order: the output's gradient is all of the parameter's.
   */
  readonly rows?: BigInt64Array;
  forward(...inputs: Tensor[]): Tensor;
}

export type Plan = readonly PlanNode[];

/** Parameters of a module under its path, as a plan node lists them. */
export function parametersOf(path: string, module: Module): ReadonlyMap<string, Parameter> {
  return new Map(module.namedParameters(path));
}

/**
 * Runs a plan from front to back and returns the last output; every other output is freed as soon as nothing needs it.
 *
 * @param before called before each block
 */
export function runPlan(plan: Plan, before?: (node: PlanNode) => void): Tensor {
  return scope(() => {
    const lastUse = plan.map((_, i) => plan.findLastIndex((node) => node.inputs.includes(i)));
    const outputs: Tensor[] = [];
    plan.forEach((node, i) => {
      before?.(node);
      outputs[i] = scope(() => node.forward(...node.inputs.map((j) => outputs[j]!)));
      for (const j of node.inputs) if (lastUse[j] === i) outputs[j]!.dispose();
    });
    return outputs.at(-1)!;
  });
}
