/**
 * `ops`: one typed function for each operator of the list.
 *
 * Arguments before `*` are positional (those with a default may be left out), those after it go into a last object. In-place
 * operators (`add_`) return their first operand itself. `ops.linear(x, weight, bias)` costs about 2 µs beside the arithmetic.
 */
import { DTYPES, type DType } from './dtype.js';
import { type Handle, native } from './native.js';
import { OPERATORS, type OperatorName } from './operators.js';
import { guard, Tensor } from './tensor.js';

// ---- types: parsed from the declaration -------------------------------------------------------------------------------

type Split<S extends string, D extends string> = S extends `${infer A}${D}${infer B}`
  ? [A, ...Split<B, D>]
  : S extends ''
    ? []
    : [S];

type ValueOf<T extends string> = T extends `${infer U}?`
  ? ValueOf<U> | null
  : T extends `Tensor?[]`
    ? readonly (Tensor | null)[]
    : T extends `Tensor[]` | `Tensor(${string})[]`
      ? readonly Tensor[]
      : T extends 'Tensor' | `Tensor(${string})`
        ? Tensor
        : T extends `int[${string}]` | `SymInt[${string}]` | 'float[]'
          ? readonly number[]
          : T extends 'ScalarType'
            ? DType
            : T extends 'bool'
              ? boolean
              : T extends 'str' | 'Device'
                ? string
                : number;

type TypeOf<A extends string> = A extends `${infer T} ${string}` ? ValueOf<T> : never;
type NameOf<A extends string> = A extends `${string} ${infer N}=${string}`
  ? N
  : A extends `${string} ${infer N}`
    ? N
    : never;

type Positional<L extends string[]> = L extends [infer A extends string, ...infer R extends string[]]
  ? A extends `${string}=${string}`
    ? [TypeOf<A>?, ...Positional<R>]
    : [TypeOf<A>, ...Positional<R>]
  : [];

type Named<L extends string[]> = {
  [A in L[number] as A extends `${string}=${string}` ? never : NameOf<A>]: TypeOf<A>;
} & { [A in L[number] as A extends `${string}=${string}` ? NameOf<A> : never]?: TypeOf<A> | undefined };

type Required<L extends string[]> = { [K in keyof L]: L[K] extends `${string}=${string}` ? never : L[K] }[number];

type Arguments<S extends string> = S extends `${infer P}, *, ${infer K}`
  ? Required<Split<K, ', '>> extends never
    ? [...Positional<Split<P, ', '>>, Named<Split<K, ', '>>?]
    : [...Positional<Split<P, ', '>>, Named<Split<K, ', '>>]
  : Positional<Split<S, ', '>>;

type AllTensors<L extends string[]> = { -readonly [K in keyof L]: Tensor };

type Result<R extends string> = R extends '()'
  ? undefined
  : R extends `(${infer L})`
    ? AllTensors<Split<L, ', '>>
    : R extends 'Tensor[]'
      ? Tensor[]
      : R extends 'bool'
        ? boolean
        : R extends 'int'
          ? number
          : Tensor;

/** The TypeScript function of a declaration. */
type Operator<S extends string> = S extends `${string}(${infer A}) -> ${infer R}`
  ? (...args: Arguments<A>) => Result<R>
  : never;

export type Ops = { readonly [K in OperatorName]: Operator<(typeof OPERATORS)[K]> };

// ---- runtime ----------------------------------------------------------------------------------------------------------

export interface Declaration {
  readonly name: string;
  readonly overload: string;
  readonly args: readonly { readonly type: string; readonly name: string; readonly keyword: boolean }[];
  readonly result: string;
}

/** Takes a declaration of the list apart. */
export function parseDeclaration(text: string): Declaration {
  const match = /^((?:\w+::)?\w+)(?:\.(\w+))?\((.*)\) -> (.+)$/.exec(text);
  if (match === null) throw new Error(`Expected an operator declaration but received ${text}`);
  let keyword = false;
  const args: { type: string; name: string; keyword: boolean }[] = [];
  for (const part of match[3]!.split(', ')) {
    if (part === '*') {
      keyword = true;
      continue;
    }
    const [type, name] = part.split('=')[0]!.split(' ') as [string, string];
    args.push({ type: type.replace(/\([^)]*\)/, ''), name, keyword });
  }
  const name = match[1]!.includes('::') ? match[1]! : `aten::${match[1]!}`;
  return { name, overload: match[2] ?? '', args, result: match[4]! };
}

type Convert = (value: never, name: string) => unknown;

function converterOf(type: string): Convert | undefined {
  if (type === 'Tensor' || type === 'Tensor?') return (value: Tensor, name) => value.handle(name);
  if (type.startsWith('Tensor'))
    return (value: readonly (Tensor | null)[], name) => value.map((x) => (x === null ? null : x.handle(name)));
  if (type.startsWith('ScalarType')) return (value: DType) => DTYPES[value].code;
  return undefined;
}

function wrap(value: unknown): unknown {
  if (typeof value === 'number') return new Tensor(value as Handle);
  if (Array.isArray(value)) return value.map(wrap);
  return value;
}

/** Gets an operator's name and when it began and ended, in milliseconds of `performance.now()`. */
export type OperatorListener = (name: string, start: number, end: number) => void;

let listener: OperatorListener | null = null;

/** Calls `listen` for every operator called from JavaScript from now on; null: no listener. */
export function traceOperators(listen: OperatorListener | null): void {
  listener = listen;
}

function callTraced(name: string, index: number, values: unknown[]): unknown {
  const start = performance.now();
  const returned = native.call(index, ...values);
  listener?.(name, start, performance.now());
  return returned;
}

function build(key: OperatorName): (...args: unknown[]) => unknown {
  const { name, overload, args, result } = parseDeclaration(OPERATORS[key]);
  const converters = args.map((arg) => converterOf(arg.type));
  const positional = args.filter((arg) => !arg.keyword).length;
  const inPlace = result.includes('!');
  const isNumber = result === 'int';
  let index = -1;
  let places: number[] = [];

  function link(): void {
    const resolved = guard(() => native.resolve(name, overload));
    places = args.map((arg) => resolved.names.indexOf(arg.name));
    const unknown = args.find((_, i) => places[i] === -1);
    if (unknown)
      throw new Error(`Expected ${name} to have an argument '${unknown.name}' but it has ${resolved.names.join(', ')}`);
    index = resolved.index;
  }

  return (...given) => {
    if (index === -1) link();
    const options = given[positional] as Record<string, unknown> | undefined;
    const values: unknown[] = [];
    for (let i = 0; i < args.length; i++) {
      const value = i < positional ? given[i] : options?.[args[i]!.name];
      if (value === undefined) continue;
      const convert = converters[i];
      values[places[i]!] = convert === undefined || value === null ? value : convert(value as never, name);
    }
    const returned = guard(() => (listener === null ? native.call(index, ...values) : callTraced(name, index, values)));
    if (inPlace) return given[0];
    return isNumber ? returned : wrap(returned);
  };
}

export const ops: Ops = Object.fromEntries(
  (Object.keys(OPERATORS) as OperatorName[]).map((key) => [key, build(key)]),
) as unknown as Ops;
