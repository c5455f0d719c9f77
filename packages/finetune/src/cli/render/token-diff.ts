/**
 * The shortest edit script between two sequences. What both have, what only the first has, what only the second has.
 */

export interface DiffRun<T> {
  readonly kind: 'both' | 'first' | 'second';
  readonly items: readonly T[];
}

/** Compares by `key`. Longest common subsequence by dynamic programming over what differs between common ends: sequences of some thousand items. */
export function diff<T>(first: readonly T[], second: readonly T[], key: (item: T) => string): DiffRun<T>[] {
  const [a, b] = [first.map(key), second.map(key)];
  let head = 0;
  while (head < a.length && head < b.length && a[head] === b[head]) head++;
  let tail = 0;
  while (tail < a.length - head && tail < b.length - head && a[a.length - 1 - tail] === b[b.length - 1 - tail]) tail++;
  const runs: { kind: DiffRun<T>['kind']; items: T[] }[] = [];
  const add = (kind: DiffRun<T>['kind'], item: T): void => {
    if (runs.at(-1)?.kind === kind) runs.at(-1)!.items.push(item);
    else runs.push({ kind, items: [item] });
  };
  for (const item of first.slice(0, head)) add('both', item);
  const [rows, columns] = [a.length - head - tail, b.length - head - tail];
  const common = commonLengths(a.slice(head, head + rows), b.slice(head, head + columns));
  let [i, j] = [0, 0];
  while (i < rows || j < columns) {
    if (i < rows && j < columns && a[head + i] === b[head + j]) {
      add('both', first[head + i]!);
      i++;
      j++;
    } else if (
      i < rows &&
      (j === columns || common[(i + 1) * (columns + 1) + j]! >= common[i * (columns + 1) + j + 1]!)
    ) {
      add('first', first[head + i++]!);
    } else {
      add('second', second[head + j++]!);
    }
  }
  for (const item of first.slice(first.length - tail)) add('both', item);
  return runs;
}

/** Length of the longest common subsequence of each pair of ends. Shape: (rows + 1, columns + 1). */
function commonLengths(a: readonly string[], b: readonly string[]): Uint32Array {
  const width = b.length + 1;
  const lengths = new Uint32Array((a.length + 1) * width);
  for (let i = a.length - 1; i >= 0; i--) {
    for (let j = b.length - 1; j >= 0; j--) {
      const at = i * width + j;
      lengths[at] = a[i] === b[j] ? lengths[at + width + 1]! + 1 : Math.max(lengths[at + width]!, lengths[at + 1]!);
    }
  }
  return lengths;
}
