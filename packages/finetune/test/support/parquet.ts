/** Writes small parquet files for tests: required columns of bytes, one row group, nothing compressed. */

/** Integers as Thrift's compact protocol has them: zigzag, seven bits a byte. */
function varint(value: number): Buffer {
  const bytes: number[] = [];
  let rest = value;
  for (; rest >= 128; rest = Math.floor(rest / 128)) bytes.push((rest % 128) + 128);
  return Buffer.from([...bytes, rest]);
}

type Field = readonly [id: number, kind: number, value: Buffer];

const [I32, I64, BINARY, LIST, STRUCT] = [5, 6, 8, 9, 12];
const int = (id: number, value: number, kind = I32): Field => [id, kind, varint(2 * value)];
const text = (value: string): Buffer => Buffer.concat([varint(Buffer.byteLength(value)), Buffer.from(value)]);
const list = (id: number, kind: number, values: readonly Buffer[]): Field => [
  id,
  LIST,
  Buffer.concat([Buffer.from([(values.length << 4) + kind]), ...values]),
];

function struct(...fields: readonly Field[]): Buffer {
  let before = 0;
  const parts = fields.map(([id, kind, value]) => {
    const head = ((id - before) << 4) + kind;
    before = id;
    return Buffer.concat([Buffer.from([head]), value]);
  });
  return Buffer.concat([...parts, Buffer.from([0])]);
}

/** BYTE_ARRAY; REQUIRED; PLAIN, and RLE for levels, of which there are none; of text, UTF8. */
const [BYTE_ARRAY, REQUIRED, PLAIN, RLE, UTF8] = [6, 0, 0, 3, 0];

/** A file of columns with a value in every row: texts, or bytes. */
export function parquetFile(columns: Readonly<Record<string, readonly (string | Uint8Array)[]>>): Buffer {
  const names = Object.keys(columns);
  const rows = columns[names[0]!]!.length;
  const parts: Buffer<ArrayBufferLike>[] = [Buffer.from('PAR1')];
  let at = 4;
  const chunks = names.map((name) => {
    const values = columns[name]!.flatMap((value) => {
      const bytes = Buffer.from(value as string);
      const length = Buffer.alloc(4);
      length.writeUInt32LE(bytes.length);
      return [length, bytes];
    });
    const data = Buffer.concat(values);
    const page = struct(int(1, rows), int(2, PLAIN), int(3, RLE), int(4, RLE));
    const header = struct(int(1, 0), int(2, data.length), int(3, data.length), [5, STRUCT, page]);
    const start = at;
    const size = header.length + data.length;
    parts.push(header, data);
    at += size;
    const meta = struct(
      int(1, BYTE_ARRAY),
      list(2, I32, [varint(2 * PLAIN)]),
      list(3, BINARY, [text(name)]),
      int(4, 0),
      int(5, rows, I64),
      int(6, size, I64),
      int(7, size, I64),
      int(9, start, I64),
    );
    return struct(int(2, start, I64), [3, STRUCT, meta]);
  });
  const leaf = (name: string): Buffer => {
    const fields = [int(1, BYTE_ARRAY), int(3, REQUIRED), [4, BINARY, text(name)] as const];
    return typeof columns[name]![0] === 'string' ? struct(...fields, int(6, UTF8)) : struct(...fields);
  };
  const root = struct([4, BINARY, text('schema')], int(5, names.length));
  const group = struct(list(1, STRUCT, chunks), int(2, at - 4, I64), int(3, rows, I64));
  const footer = struct(
    int(1, 1),
    list(2, STRUCT, [root, ...names.map(leaf)]),
    int(3, rows, I64),
    list(4, STRUCT, [group]),
  );
  const length = Buffer.alloc(4);
  length.writeUInt32LE(footer.length);
  return Buffer.concat([...parts, footer, length, Buffer.from('PAR1')]);
}
