/** Memory that comes and goes behind tensors, or is a file. */
import { DTYPES, type DType } from './dtype.js';
import { native } from './native.js';
import { guard, Tensor } from './tensor.js';

/** Gives the memory of a tensor back. It and its pieces keep their shapes; an operator that reads them throws until `fillStorage`. */
export function dropStorage(tensor: Tensor): void {
  guard(() => native.dropStorage(tensor.handle('dropStorage')));
}

/** Gets memory again for a tensor that gave its own back. It holds no particular values. */
export function fillStorage(tensor: Tensor): void {
  guard(() => native.fillStorage(tensor.handle('fillStorage')));
}

export function hasStorage(tensor: Tensor): boolean {
  return guard(() => native.hasStorage(tensor.handle('hasStorage')));
}

/** Whether libtorch allocated a tensor's memory: not for pages of a mapped file, which stay. */
export function ownsStorage(tensor: Tensor): boolean {
  return guard(() => native.ownsStorage(tensor.handle('ownsStorage')));
}

/**
 * The numbers from `start` on of a flat tensor, in a shape, sharing its memory. Without a graph; unlike a view of `ops`, it is not changed in
 * autograd's eyes when the flat tensor is written to.
 */
export function pieceOf(flat: Tensor, start: number, shape: readonly number[]): Tensor {
  return new Tensor(guard(() => native.piece(flat.handle('pieceOf'), start, shape)));
}

/**
 * Zeros on the CPU whose memory is a new file of a folder: the system may bring them to the disk and read them again. The file has no name, and is gone
 * with the tensor or the process.
 *
 * @throws TorchError when the file cannot be made, or the disk has no room for it
 */
export function fileTensor(folder: string, shape: readonly number[], dtype: DType): Tensor {
  return new Tensor(guard(() => native.fileTensor(folder, shape, DTYPES[dtype].code)));
}

/** Starts to read the file of a `fileTensor`, or of a piece of one, without waiting. */
export function readAhead(tensor: Tensor): void {
  guard(() => native.adviseFile(tensor.handle('readAhead'), true));
}

/** Gives back this process's memory of the file of a `fileTensor`, or of a piece of one. Its numbers stay; the next use reads them again. */
export function leaveToFile(tensor: Tensor): void {
  guard(() => native.adviseFile(tensor.handle('leaveToFile'), false));
}
