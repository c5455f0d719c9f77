/**
 * One more token of sequences that different adapters answer. The base's layers compute the rows of all of them in one
 * pass, in which low-rank factors change the rows of their adapter. What an adapter has whole before or after the layers (token table, last
 * norm, output layer) computes its rows alone; an adapter that has something whole inside the layers has a pass of its own.
 */
import { strict as assert } from 'node:assert';
import { ops, type Tensor } from '@minicpm-finetune/torch';
import type { AdapterSet, HeldAdapter } from '../adapters/adapter-set.js';
import type { MiniCPMV } from '../model/minicpm-v.js';
import type { Sequence } from './sequence.js';

/** Sequences of one adapter. */
export interface Group {
  readonly adapter: HeldAdapter | null;
  readonly sequences: readonly Sequence[];
}

/** Sequences, and the logits (N, V) of the next token of each. */
export interface Decoded {
  readonly sequences: readonly Sequence[];
  readonly logits: Tensor;
}

/** Those that share the base's table are neighbours in this order, and those that share its head. */
const place = ({ adapter }: Group): number => {
  const { table = false, head = false } = adapter?.whole ?? {};
  return head ? 2 + Number(table) : 1 - Number(table);
};

/** Sequences by adapter, and the groups that one pass over the layers computes. */
export function passesOf(sequences: readonly Sequence[]): Group[][] {
  const adapters = [...new Set(sequences.map(({ adapter }) => adapter))];
  const groups = adapters.map((adapter) => ({
    adapter,
    sequences: sequences.filter((one) => one.adapter === adapter),
  }));
  const together = groups.filter(({ adapter }) => !adapter?.whole.layers).sort((a, b) => place(a) - place(b));
  const apart = groups.filter(({ adapter }) => adapter?.whole.layers).map((group) => [group]);
  return together.length === 0 ? apart : [together, ...apart];
}

/** Neighbours that have nothing whole of a part, together; each other group by itself. */
function runsOf(groups: readonly Group[], part: 'table' | 'head'): Group[][] {
  const runs: Group[][] = [];
  let shared: Group[] | undefined;
  for (const group of groups) {
    const isOwn = group.adapter?.whole[part] ?? false;
    if (!isOwn && shared !== undefined) shared.push(group);
    else runs.push([group]);
    shared = isOwn ? undefined : runs.at(-1);
  }
  return runs;
}

const all = (groups: readonly Group[]): Sequence[] => groups.flatMap(({ sequences }) => sequences);

/** Makes the adapters of the groups work: one with all that it has, several with their low-rank factors. */
function activate(adapters: AdapterSet | undefined, groups: readonly Group[]): void {
  if (adapters === undefined) assert(groups.length === 1 && groups[0]!.adapter === null, 'adapters of the batch');
  else if (groups.length === 1) adapters.activate(groups[0]!.adapter);
  else adapters.activateRows(groups.map(({ adapter, sequences }) => ({ adapter, count: sequences.length })));
}

/** One more position of the sequences of one pass, which `passesOf` made. */
export function decodeGroups(
  model: MiniCPMV,
  adapters: AdapterSet | undefined,
  groups: readonly Group[],
): readonly Decoded[] {
  const { llm } = model;
  const decoder = llm.model;
  const embeds = runsOf(groups, 'table').map((run) => {
    activate(adapters, run);
    return decoder.embedRows(all(run).map(({ ids }) => ids.at(-1)!));
  });
  activate(adapters, groups);
  const caches = all(groups).map(({ cache }) => cache);
  const hidden = decoder.decode(embeds.length === 1 ? embeds[0]! : ops.cat(embeds), caches);
  const runs = runsOf(groups, 'head');
  let from = 0;
  return runs.map((run) => {
    activate(adapters, run);
    const sequences = all(run);
    const rows = runs.length === 1 ? hidden : ops.narrow(hidden, 0, from, sequences.length);
    from += sequences.length;
    return { sequences, logits: llm.rowLogits(decoder.finishRows(rows)) };
  });
}
