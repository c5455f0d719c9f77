/**
 * Ranges of tensors on machines that do not see the folder. What they write goes to rank 0, and what they read comes from it. In rounds: each
 * rank says what it sends or wants, then at most 64 MB travel. All ranks take part in every round, until nobody has anything left.
 */
import { join } from 'node:path';
import {
  bytesOf,
  DTYPES,
  type DType,
  fromTypedArray,
  type Group,
  ops,
  SafetensorsFile,
  type SafetensorsPlan,
  SafetensorsWriter,
  scope,
  type Tensor,
  type TensorKind,
} from '@minicpm-finetune/torch';
import { type Attempt, attempt, fromFirst, settle } from '../parallel/agree.js';
import { type HeldTensor, inPieces, type Piece } from './held.js';
import type { SharedFolder } from './shared-folder.js';

/** Bytes under way at once, of all ranks together. */
export const MOST_BYTES = 64 << 20;

interface Sending {
  readonly files: ReadonlyMap<string, SafetensorsPlan>;
  readonly tensors: ReadonlyMap<string, HeldTensor>;
  /** By rank. */
  readonly dealt: readonly (readonly Piece[])[];
}

/** Rank 0 writes the pieces of the ranks that do not see its folder. Collective; returns at once where all see it. */
export function sendPieces({ path, ranks, sees }: SharedFolder, { files, tensors, dealt }: Sending): void {
  const senders = dealt.filter((pieces, rank) => !sees[rank] && pieces.length > 0).length;
  if (senders === 0) return;
  const { rank, group } = ranks;
  const label = 'ranges to rank 0';
  const names = [...tensors.keys()];
  const dtypes = dtypesIn(files);
  const bytesOfPiece = ({ name, length }: Piece): number => length * DTYPES[dtypes.get(name)!].bytes;
  const outgoing = piecesOf(sees[rank] ? [] : dealt[rank]!, Math.floor(MOST_BYTES / senders / 8));
  using writers = new Writers(rank === 0 ? path : null, files);
  let state: Attempt<void> = { value: undefined };
  for (;;) {
    const failed = 'error' in state;
    const next: Piece | undefined = failed ? undefined : outgoing.next().value;
    const said = next ? [names.indexOf(next.name) + 1, next.start, next.length] : [0, 0, 0];
    const all = group.exchange([failed ? 1 : 0, ...said], label);
    if (all.some(([stopped]) => stopped === 1) || all.every(([, tensor]) => tensor === 0)) break;
    const pieces = all.map(([, tensor, start, length]) =>
      tensor === 0 ? null : { name: names[tensor! - 1]!, start: start!, length: length! },
    );
    state = scope((): Attempt<void> => {
      const sent = next && attempt(() => bytesHere(tensors.get(next.name)!, next, dtypes.get(next.name)!));
      const incoming = exchangeBytes(group, label, {
        // a rank that failed keeps the round going: the others stop at the next one
        toFirst: next && sent && ('value' in sent ? sent.value : zeroBytes(bytesOfPiece(next))),
        fromRanks: pieces.map((piece) => (rank === 0 && piece ? bytesOfPiece(piece) : 0)),
      });
      if (sent && 'error' in sent) return sent;
      return attempt(() => {
        for (const [r, piece] of pieces.entries()) if (rank === 0 && piece) writers.write(piece, incoming[r]!);
      });
    });
  }
  settle(ranks, label, 'error' in state ? state : attempt(() => writers.flush()));
}

function dtypesIn(files: ReadonlyMap<string, SafetensorsPlan>): Map<string, DType> {
  const dtypes = [...files.values()].flatMap(({ tensors }) => [...tensors].map(([name, { dtype }]) => [name, dtype]));
  return new Map(dtypes as [string, DType][]);
}

function* piecesOf(pieces: readonly Piece[], most: number): Generator<Piece, undefined> {
  for (const piece of pieces) yield* inPieces(piece, most);
}

function bytesHere(tensor: HeldTensor, { start, length }: Piece, dtype: DType): Tensor {
  const [bytes] = bytesOf(tensor.read(start, length), dtype, new Uint8Array(length * DTYPES[dtype].bytes));
  return fromTypedArray(bytes!, [bytes!.length], 'uint8');
}

const zeroBytes = (count: number): Tensor => ops.zeros([count], { dtype: 'uint8' });

interface BytesTravelling {
  readonly toFirst: Tensor | undefined;
  /** How many come from each rank. */
  readonly fromRanks: readonly number[];
}

/** Bytes from any ranks to rank 0, which gets them by rank. In the caller's scope; collective. */
function exchangeBytes(group: Group, label: string, { toFirst, fromRanks }: BytesTravelling): Tensor[] {
  const outgoing = fromRanks.map((_, r) => (r === 0 && toFirst ? toFirst : zeroBytes(0)));
  const incoming = fromRanks.map(zeroBytes);
  group.alltoall(outgoing, incoming, label).wait();
  return incoming;
}

/** The files of a folder, opened when the first range of one comes. */
class Writers implements Disposable {
  readonly #folder: string | null;
  readonly #files: ReadonlyMap<string, SafetensorsPlan>;
  readonly #open = new Map<string, SafetensorsWriter>();

  constructor(folder: string | null, files: ReadonlyMap<string, SafetensorsPlan>) {
    this.#folder = folder;
    this.#files = files;
  }

  write({ name, start }: Piece, bytes: Tensor): void {
    const [file, plan] = [...this.#files].find(([, { tensors }]) => tensors.has(name))!;
    let writer = this.#open.get(file);
    if (writer === undefined) {
      writer = new SafetensorsWriter(join(this.#folder!, file), plan);
      this.#open.set(file, writer);
    }
    writer.writeBytes(name, start * DTYPES[plan.tensors.get(name)!.dtype].bytes, bytes.toTypedArray() as Uint8Array);
  }

  flush(): void {
    for (const writer of this.#open.values()) writer.flush();
  }

  [Symbol.dispose](): void {
    for (const writer of this.#open.values()) writer.close();
  }
}

/** Where ranges of tensors are read: a file here, or rank 0's. */
export interface RangeSource {
  readonly infos: ReadonlyMap<string, TensorKind>;
  /** Numbers of a tensor, row-major, shape [length]; in the caller's scope. */
  range(name: string, start: number, length: number): Tensor;
}

/**
 * Reads a file of a checkpoint on all ranks: those that have the same checkpoint at this path read it there, others ask rank 0. `read` must
 * not be collective. Returns when all ranks are done. Collective.
 *
 * @throws on all ranks what went wrong on one, with its rank
 */
export function readTogether(
  { path, ranks, sees }: SharedFolder,
  name: string,
  read: (source: RangeSource) => void,
): void {
  const { rank } = ranks;
  const label = `ranges of ${name}`;
  const file = join(path, name);
  if (sees.every(Boolean)) {
    settle(
      ranks,
      label,
      attempt(() => read(new SafetensorsFile(file))),
    );
    return;
  }
  const kinds = fromFirst(ranks, label, () =>
    [...new SafetensorsFile(file).infos].map(([tensor, { dtype, shape }]) => [tensor, { dtype, shape }] as const),
  );
  const remote = new RemoteFile(
    { path, ranks, sees },
    label,
    new Map(kinds),
    rank === 0 ? new SafetensorsFile(file) : null,
  );
  const own = attempt(() => read(sees[rank] ? new SafetensorsFile(file) : remote));
  const served = attempt(() => remote.serve());
  settle(ranks, label, 'error' in own ? own : served);
}

/** A file that rank 0 reads for the ranks that do not see it. */
class RemoteFile implements RangeSource {
  readonly infos: ReadonlyMap<string, TensorKind>;
  readonly #group: Group;
  readonly #label: string;
  readonly #names: readonly string[];
  /** Rank 0's. */
  readonly #file: SafetensorsFile | null;
  readonly #most: number;
  #failure: { readonly error: unknown } | null = null;

  constructor(
    { ranks, sees }: SharedFolder,
    label: string,
    infos: ReadonlyMap<string, TensorKind>,
    file: SafetensorsFile | null,
  ) {
    this.infos = infos;
    this.#group = ranks.group;
    this.#label = label;
    this.#names = [...infos.keys()];
    this.#file = file;
    this.#most = Math.floor(MOST_BYTES / sees.filter((own) => !own).length / 8);
  }

  range(name: string, start: number, length: number): Tensor {
    const { dtype } = this.infos.get(name)!;
    const width = DTYPES[dtype].bytes;
    const numbers = ops.empty([length], { dtype });
    if (length === 0) return numbers;
    scope(() => {
      const bytes = ops.viewDtype(numbers, 'uint8');
      for (const piece of inPieces({ name, start, length }, this.#most)) {
        const part = ops.narrow(bytes, 0, (piece.start - start) * width, piece.length * width);
        scope(() => this.#round(piece, part));
      }
    });
    return numbers;
  }

  /** Takes part in the rounds of others until nobody asks. */
  serve(): void {
    while (scope(() => this.#round(null, zeroBytes(0))));
  }

  /** One round: rank 0 answers whoever asks. Returns whether anybody did. */
  #round(piece: Piece | null, target: Tensor): boolean {
    const said = piece ? [this.#names.indexOf(piece.name) + 1, piece.start, piece.length] : [0, 0, 0];
    const all = this.#group.exchange([this.#failure ? 1 : 0, ...said], this.#label);
    if (this.#failure) throw this.#failure.error;
    if (all.some(([failed]) => failed === 1)) {
      this.#failure = { error: new Error('rank 0 could not read the checkpoint') };
      throw this.#failure.error;
    }
    if (all.every(([, tensor]) => tensor === 0)) return false;
    const outgoing = all.map(([, tensor, start, length]) => this.#answer(tensor! - 1, start!, length!));
    const incoming = all.map((_, r) => (r === 0 ? target : zeroBytes(0)));
    this.#group.alltoall(outgoing, incoming, this.#label).wait();
    return true;
  }

  /** The bytes of a range, if this is rank 0. A failure is told in the next round. */
  #answer(tensor: number, start: number, length: number): Tensor {
    if (this.#file === null || tensor < 0) return zeroBytes(0);
    const file = this.#file;
    const name = this.#names[tensor]!;
    const bytes = attempt(() => ops.viewDtype(file.range(name, start, length), 'uint8'));
    if ('value' in bytes) return bytes.value;
    this.#failure = bytes;
    return zeroBytes(length * DTYPES[this.infos.get(name)!.dtype].bytes);
  }
}
