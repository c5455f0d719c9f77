/**
 * Scopes: who frees a tensor.
 *
 * `scope(fn)` runs `fn` and frees every tensor made inside, except what `fn` returns and what was kept; those belong to
 * the scope around. It is synchronous on purpose: a scope that waits would also collect what others make meanwhile.
 * A tensor made outside of any scope lives until `dispose()`; the garbage collector is only the net below.
 */

/** A tensor as a scope sees it. */
export interface Scoped {
  dispose(): void;
  /** Registers it with the garbage collector's net: no scope frees it any more. */
  guardedByCollector(): void;
}

type Scope = Set<Scoped>;
const stack: Scope[] = [];

/** Registers a new tensor with the innermost scope; false when there is none. */
export function adopt(tensor: Scoped): boolean {
  const scope = stack[stack.length - 1];
  if (scope === undefined) return false;
  scope.add(tensor);
  return true;
}

/** Takes a tensor out of every scope: from now on its owner disposes of it. */
export function keep<T extends Scoped>(tensor: T): T {
  for (const scope of stack) scope.delete(tensor);
  tensor.guardedByCollector();
  return tensor;
}

/**
 * Runs `fn` and frees all tensors made inside except those reachable from its result (a tensor, or tensors in arrays, maps and
 * plain objects). Throws when `fn` returns a promise.
 */
export function scope<T>(fn: () => T): T {
  const mine: Scope = new Set();
  const depth = stack.push(mine);
  let result: T;
  try {
    result = fn();
    if (result instanceof Promise)
      throw new Error('Expected a synchronous function for scope() but it returned a promise');
    collect(result, mine, stack[depth - 2]);
  } finally {
    stack.length = depth - 1;
    for (const tensor of mine) tensor.dispose();
  }
  return result;
}

/** Moves the tensors that leave with the result to the scope around. */
function collect(value: unknown, mine: Scope, outer: Scope | undefined): void {
  if (typeof value !== 'object' || value === null) return;
  if (isTensor(value)) {
    if (!mine.delete(value)) return;
    if (outer === undefined) value.guardedByCollector();
    else outer.add(value);
  } else if (Array.isArray(value)) {
    for (const element of value) collect(element, mine, outer);
  } else if (value instanceof Map) {
    for (const element of value.values()) collect(element, mine, outer);
  } else if (Object.getPrototypeOf(value) === Object.prototype) {
    for (const element of Object.values(value)) collect(element, mine, outer);
  }
}

function isTensor(value: object): value is Scoped {
  return 'guardedByCollector' in value;
}
