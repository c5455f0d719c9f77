/** Gradients and gradient mode. The arithmetic is libtorch's autograd. */
import { native } from './native.js';
import { guard, Tensor } from './tensor.js';

export interface GradOptions {
  /** Gradients of the outputs; ones for scalars when absent. */
  gradOutputs?: readonly (Tensor | null)[] | undefined;
  /** Keeps the graph for another backward pass. */
  retainGraph?: boolean;
  /** Makes the gradients differentiable themselves. */
  createGraph?: boolean;
}

/**
 * d(outputs)/d(inputs), like `torch.autograd.grad` with `allow_unused`: null for an input that no output depends on.
 * Nothing is accumulated: the gradients are returned.
 */
export function grad(
  outputs: readonly Tensor[],
  inputs: readonly Tensor[],
  options: GradOptions = {},
): (Tensor | null)[] {
  const gradOutputs = options.gradOutputs?.map((x) => (x === null ? null : x.handle('grad'))) ?? null;
  const createGraph = options.createGraph ?? false;
  const result = guard(() =>
    native.grad(
      outputs.map((x) => x.handle('grad')),
      inputs.map((x) => x.handle('grad')),
      gradOutputs,
      options.retainGraph ?? createGraph,
      createGraph,
    ),
  );
  return result.map((handle) => (handle === null ? null : new Tensor(handle)));
}

function withGradMode<T>(enabled: boolean, fn: () => T): T {
  const before = native.setGradMode(enabled);
  try {
    const result = fn();
    if (result instanceof Promise) throw new Error('Expected a synchronous function but it returned a promise');
    return result;
  } finally {
    native.setGradMode(before);
  }
}

/** Runs `fn` without recording a graph. Synchronous. */
export function noGrad<T>(fn: () => T): T {
  return withGradMode(false, fn);
}

/** Runs `fn` recording a graph, also inside `noGrad`. Synchronous. */
export function enableGrad<T>(fn: () => T): T {
  return withGradMode(true, fn);
}
