/** Numbers of lines, read without JSON.parse: the same ones. */
import { describe, expect, it } from 'vitest';
import { GAP, LineShape } from '../src/server/runs/line-shape.js';

function read(shape: LineShape, line: string): number[] | null {
  const values = new Float64Array(shape.paths.length);
  const bytes = Buffer.from(`before${line}after`);
  return shape.read(bytes, 6, bytes.length - 5, values) ? [...values] : null;
}

describe('LineShape', () => {
  it('names the values by their paths', () => {
    const line = '{"event":"system","cpu":1,"gpu":[{"util":null,"ok":true}],"none":[],"of":{"a/b":-2.5e-7}}';
    const shape = LineShape.of(line)!;
    expect(shape.paths).toEqual(['event', 'cpu', 'gpu.0.util', 'gpu.0.ok', 'of.a/b']);
    expect(read(shape, line)).toEqual([Number.NaN, 1, GAP, Number.NaN, -2.5e-7]);
  });

  it.each([
    '0.8609614092111587',
    '0.013042014588044836',
    '412983296',
    '-0',
    '1e-7',
    '5.035301149869386e-7',
    '1.7976931348623157e+308',
    '5e-324',
    '9007199254740993',
    '0.1',
    '123456789.12345678',
    '-3.4028234663852886e38',
  ])('reads %s as JSON does', (number) => {
    const shape = LineShape.of('{"a":1}')!;
    expect(read(shape, `{"a":${number}}`)).toEqual([JSON.parse(number)]);
  });

  it('reads many numbers as JSON does', () => {
    const shape = LineShape.of('{"a":1}')!;
    const bits = new DataView(new ArrayBuffer(8));
    let state = 1;
    const random = (): number => {
      state = (state * 1_103_515_245 + 12_345) % 2 ** 31;
      return state / 2 ** 31;
    };
    for (let i = 0; i < 20_000; i++) {
      bits.setUint32(0, random() * 2 ** 32);
      bits.setUint32(4, random() * 2 ** 32);
      const value = i % 2 === 0 ? bits.getFloat64(0) : random() * 10 ** Math.floor(random() * 12 - 6);
      if (Number.isFinite(value)) expect(read(shape, JSON.stringify({ a: value }))).toEqual([value]);
    }
  });

  it('reads times, and texts with quotes', () => {
    const line = '{"time":"2026-11-27T04:06:57.985Z","text":"a\\"b,{","n":3}';
    const shape = LineShape.of(line)!;
    expect(read(shape, line)).toEqual([Date.parse('2026-11-27T04:06:57.985Z'), Number.NaN, 3]);
    expect(read(shape, '{"time":"2024-02-29T23:59:59.001Z","text":"","n":4}')![0]).toBe(
      Date.parse('2024-02-29T23:59:59.001Z'),
    );
  });

  it.each(['{"a":1,"b":2}', '{"b":1}', '{"a":{"c":1}}', '{"a":1', '', '{"a":"x}', '{"a":}', '{"a":1} '])(
    'says that %j has another form',
    (line) => {
      expect(read(LineShape.of('{"a":1}')!, line)).toBeNull();
    },
  );

  it.each([
    '1.2.3',
    '01',
    '-',
    '1.',
    '.5',
    '-.5',
    '1e',
    '1e+',
    '+1',
    '1-2',
    'nul',
    'nulls',
    'True',
    '"\\x"',
    '"\\u12g4"',
    '"a\u0001"',
    '"',
  ])('takes %s for no value, as JSON does', (text) => {
    expect(() => JSON.parse(`{"a":${text}}`)).toThrow();
    expect(read(LineShape.of('{"a":1}')!, `{"a":${text}}`)).toBeNull();
  });

  it.each(['"\\u00e9\\n\\\\"', '"2026-11-27 04:06:57.985Z"', '"2026-11-2xT04:06:57.985Z"', 'true', 'false'])(
    'reads %s as no number',
    (text) => {
      expect(read(LineShape.of('{"a":1}')!, `{"a":${text}}`)).toEqual([Number.NaN]);
    },
  );

  it.each(['', 'nonsense', '{"a": 1}', '{"a":1'])('has no form for %j', (line) => {
    expect(LineShape.of(line)).toBeNull();
  });
});
