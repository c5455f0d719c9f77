/**
 * Rows of a token table that is shared out by rows. A rank asks the owners for the rows that occur in its tokens, so that no rank
 * ever holds the table.
 */
import { copyTo, fromTypedArray, type Group, keep, noGrad, ops, scope, type Tensor } from '@minicpm-finetune/torch';

/** Rows one after the other in a list. */
interface Piece {
  readonly from: number;
  readonly count: number;
}

/** Where, in ascending rows, those of each rank are; each owns `owned` rows, in the order of the ranks. */
export function piecesOf(rows: BigInt64Array, owned: number, size: number): Piece[] {
  const first = (rank: number): number => firstAtLeast(rows, rank * owned);
  return Array.from({ length: size }, (_, rank) => ({ from: first(rank), count: first(rank + 1) - first(rank) }));
}

/** The place of the first of ascending rows that is at least `row`. */
function firstAtLeast(rows: BigInt64Array, row: number): number {
  const found = rows.findIndex((own) => own >= BigInt(row));
  return found < 0 ? rows.length : found;
}

/** A table (owned · size, width), of which this rank has its own rows. */
export interface SharedTable {
  readonly group: Group;
  /** (owned · width): on the device, or offloaded. */
  readonly share: Tensor;
  /** Where rows are wanted. */
  readonly device: string;
  readonly width: number;
  readonly label: string;
}

/** Rows of a table in ascending order, (R, width), outside of every scope. Collective: a rank that needs none asks for none. */
export function fetchRows({ group, share, width, device, label }: SharedTable, rows: BigInt64Array): Tensor {
  const owned = share.numel / width;
  const pieces = piecesOf(rows, owned, group.size);
  const asked = group.exchange(
    pieces.map(({ count }) => count),
    `counts of ${label}`,
  );
  const { dtype, device: kept } = share;
  return noGrad(() =>
    scope(() => {
      const fetched = keep(ops.empty([rows.length, width], { dtype, device }));
      if (asked.every((counts) => counts.every((count) => count === 0))) return fetched;
      const ids = pieces.map(({ from, count }) => fromTypedArray(rows.slice(from, from + count), [count], 'int64'));
      const theirs = asked.map((counts) => ops.zeros([counts[group.rank]!], { dtype: 'int64' }));
      group.alltoall(ids, theirs, `ids of ${label}`).wait();
      const table = ops.view(share, [owned, width]);
      const sent = theirs.map((own) => {
        const picked = ops.indexSelect(table, 0, placesOf(own, group.rank * owned, kept));
        return copyTo(picked, device);
      });
      const received = pieces.map(({ from, count }) => ops.narrow(fetched, 0, from, count));
      group.alltoall(sent, received, label).wait();
      return fetched;
    }),
  );
}

/** Rows of the whole table as rows of a share that begins at `first`. */
function placesOf(rows: Tensor, first: number, device: string): Tensor {
  const places = (rows.toTypedArray() as BigInt64Array).map((row) => row - BigInt(first));
  return fromTypedArray(places, [places.length], 'int64', device);
}
