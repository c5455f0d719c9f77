/** Tensors from JavaScript's numbers and typed arrays. */
import { copyTo } from './device.js';
import { DTYPES, type DType } from './dtype.js';
import { native } from './native.js';
import { ops } from './ops.js';
import { guard, Tensor, type TypedArray } from './tensor.js';

function naturalDType(array: TypedArray): DType {
  if (array instanceof Float32Array) return 'float32';
  if (array instanceof Float64Array) return 'float64';
  if (array instanceof BigInt64Array) return 'int64';
  if (array instanceof Int32Array) return 'int32';
  if (array instanceof Int16Array) return 'int16';
  if (array instanceof Int8Array) return 'int8';
  if (array instanceof Uint8Array) return 'uint8';
  throw new TypeError('Expected a dtype for a Uint16Array (float16 or bfloat16) but received none');
}

/**
 * Copies a typed array into a new tensor, on the CPU unless `device` says otherwise (`copyTo`). The bytes are taken as they are: `dtype` is needed where the array's type does not tell
 * (Uint16Array for float16/bfloat16, Uint8Array for bool).
 */
export function fromTypedArray(
  array: TypedArray,
  shape: readonly number[],
  dtype: DType = naturalDType(array),
  device = 'cpu',
): Tensor {
  const bytes = new Uint8Array(array.buffer, array.byteOffset, array.byteLength);
  const pinned = device.startsWith('cuda');
  const here = new Tensor(guard(() => native.fromBytes(bytes, shape, DTYPES[dtype].code, pinned)));
  if (device === 'cpu') return here;
  try {
    return copyTo(here, device);
  } finally {
    here.dispose();
  }
}

type Nested = number | boolean | readonly Nested[];

/** A CPU tensor of nested arrays of numbers, like `torch.tensor`: float32 unless `dtype` says otherwise. */
export function tensor(values: Nested, dtype: DType = 'float32'): Tensor {
  const shape: number[] = [];
  for (let level: Nested = values; Array.isArray(level); level = level[0] as Nested) {
    shape.push(level.length);
    if (level.length === 0) break;
  }
  const flat = (Array.isArray(values) ? values.flat(Number.POSITIVE_INFINITY) : [values]) as (number | boolean)[];
  if (dtype === 'int64')
    return fromTypedArray(
      BigInt64Array.from(flat, (x) => BigInt(Number(x))),
      shape,
    );
  if (dtype === 'int32') return fromTypedArray(Int32Array.from(flat, Number), shape);
  if (dtype === 'uint8' || dtype === 'bool') return fromTypedArray(Uint8Array.from(flat, Number), shape, dtype);
  const float = fromTypedArray(Float32Array.from(flat, Number), shape);
  if (dtype === 'float32') return float;
  try {
    return ops.to(float, dtype);
  } finally {
    float.dispose();
  }
}

/** Another handle of the same tensor: disposing of one leaves the other alive. */
export function alias(source: Tensor): Tensor {
  return new Tensor(guard(() => native.alias(source.handle('alias'))));
}
