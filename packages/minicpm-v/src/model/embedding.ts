/**
 * Token embeddings as nodes of a plan. A table that trains is read through a node that has only the rows that occur:
 * the gradient of the whole table, hundreds of megabytes of zeros, never exists. So is one of which others have rows.
 */
import { fromTypedArray, ops, scope, type Tensor } from '@minicpm-finetune/torch';
import type { LanguageModel } from './decoder.js';
import type { ModelInputs, PlanOptions } from './inputs.js';
import { type PlanNode, parametersOf } from './plan.js';

/** Adds the node whose output is `put` of the tokens' embeddings x (B, L, D) and other nodes' outputs; returns its index. */
export type AppendEmbedding = (put: (x: Tensor, ...others: Tensor[]) => Tensor, from: readonly number[]) => number;

/** Embeddings of ids (B, L). The node with the rows is left out where nothing trains and the table is there, and where the table is the head as well: then every row has a gradient. */
export function appendEmbedding(
  nodes: PlanNode[],
  llm: LanguageModel,
  { inputIds: ids, ids: known }: Pick<ModelInputs, 'inputIds' | 'ids'>,
  { train, rowsOf }: Pick<PlanOptions, 'train' | 'rowsOf'>,
): AppendEmbedding {
  const decoder = llm.model;
  const name = llm.tableName;
  const { weight } = decoder.embedTokens;
  const parameters = parametersOf(name, decoder.embedTokens);
  const isHead = [...llm.headParameters()].some(([, parameter]) => parameter === weight);
  if (isHead || !(rowsOf || (train && weight.requiresGrad))) {
    return (put, from) =>
      nodes.push({ name, parameters, inputs: from, forward: (...others) => put(decoder.embed(ids), ...others) }) - 1;
  }
  const { rows, places } = occurring(known ?? idsOf(ids));
  const index = (values: BigInt64Array, shape: readonly number[]): Tensor =>
    fromTypedArray(values, shape, 'int64', ids.device);
  return (put, from) => {
    const { dtype } = weight.data;
    const taken = (): Tensor => rowsOf?.(rows) ?? ops.indexSelect(weight.data, 0, index(rows, [rows.length]));
    // in float32, so that the gradients of a token that occurs often are summed in float32
    const pick = (): Tensor => ops.to(taken(), 'float32');
    const table = nodes.push({ name: `${name}.rows`, parameters, inputs: [], rows, forward: pick }) - 1;
    const forward = (some: Tensor, ...others: Tensor[]): Tensor =>
      put(ops.to(decoder.embed(index(places, ids.shape), some), dtype), ...others);
    return nodes.push({ name, parameters: new Map(), inputs: [table, ...from], forward }) - 1;
  };
}

const idsOf = (ids: Tensor): BigInt64Array =>
  scope(() => ops.toDevice(ids, 'cpu', 'int64').toTypedArray()) as BigInt64Array;

/** The ids that occur, ascending, and each id's place among them. */
function occurring(all: BigInt64Array): { rows: BigInt64Array; places: BigInt64Array } {
  const rows = BigInt64Array.from(new Set(all)).sort();
  const places = new Map(Array.from(rows, (row, i) => [row, BigInt(i)]));
  return { rows, places: all.map((id) => places.get(id)!) };
}

/** Replaces rows of x (B, L, D), counted through the batch, by tokens (N, Q, D). No gradient reaches what was there. */
export function scatter(x: Tensor, tokens: readonly Tensor[], places: BigInt64Array): Tensor {
  const [B, L, D] = x.shape as [number, number, number];
  const rows = ops.cat(tokens.map((t) => ops.reshape(t, [-1, D])));
  const index = fromTypedArray(places, [places.length], 'int64', x.device);
  return ops.reshape(ops.indexCopy(ops.reshape(x, [B * L, D]), 0, index, ops.to(rows, x.dtype)), [B, L, D]);
}
