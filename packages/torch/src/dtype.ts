/** Element types: names, c10 numbers, sizes in bytes. Names are PyTorch's and those of safetensors. */

export type DType =
  | 'float32'
  | 'float16'
  | 'bfloat16'
  | 'int64'
  | 'int32'
  | 'int8'
  | 'uint8'
  | 'bool'
  | 'float64'
  | 'int16';

interface DTypeInfo {
  readonly code: number;
  readonly safetensors: string;
  readonly bytes: number;
}

export const DTYPES: Readonly<Record<DType, DTypeInfo>> = {
  uint8: { code: 0, safetensors: 'U8', bytes: 1 },
  int8: { code: 1, safetensors: 'I8', bytes: 1 },
  int16: { code: 2, safetensors: 'I16', bytes: 2 },
  int32: { code: 3, safetensors: 'I32', bytes: 4 },
  int64: { code: 4, safetensors: 'I64', bytes: 8 },
  float16: { code: 5, safetensors: 'F16', bytes: 2 },
  float32: { code: 6, safetensors: 'F32', bytes: 4 },
  float64: { code: 7, safetensors: 'F64', bytes: 8 },
  bool: { code: 11, safetensors: 'BOOL', bytes: 1 },
  bfloat16: { code: 15, safetensors: 'BF16', bytes: 2 },
};

const byCode = new Map(Object.entries(DTYPES).map(([name, info]) => [info.code, name as DType]));
const bySafetensors = new Map(Object.entries(DTYPES).map(([name, info]) => [info.safetensors, name as DType]));

export function dtypeOfCode(code: number): DType {
  const dtype = byCode.get(code);
  if (dtype === undefined) throw new Error(`Expected a supported dtype but received c10::ScalarType ${code}`);
  return dtype;
}

/** The dtype of a safetensors name such as `BF16`, or undefined. */
export function dtypeOfSafetensors(name: string): DType | undefined {
  return bySafetensors.get(name);
}

export function isFloat(dtype: DType): boolean {
  return dtype === 'float32' || dtype === 'float16' || dtype === 'bfloat16' || dtype === 'float64';
}
