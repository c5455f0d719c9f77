/**
 * `npm run parity:gguf`: compares exports with llama.cpp's. `npm run parity:gguf -- DIR` has, for every model of DIR
 * (`<model>/checkpoint`, `<model>/adapter`, `<model>/reference.json`), all key-values and the SHA-256 of all tensors that
 * its converters wrote. What differs on purpose is listed here. Ends with exit code 1 if anything else does.
 */
import { createHash } from 'node:crypto';
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { exportGguf, exportGgufAdapter } from '@minicpm-finetune/minicpm-v';
import { readGguf } from '@minicpm-finetune/minicpm-v/internal';
import { OUTTYPES, type Outtype, UserError } from '@minicpm-finetune/run';

interface ReferenceFile {
  readonly key_values: readonly { readonly key: string; readonly type: string; readonly value: unknown }[];
  readonly tensors: readonly {
    readonly name: string;
    readonly type: string;
    readonly ne: readonly number[];
    readonly sha256: string;
  }[];
}

/** A file that was exported, in the form of a reference. */
interface Exported {
  readonly keys: ReadonlyMap<string, unknown>;
  readonly tensors: ReadonlyMap<
    string,
    { readonly type: string; readonly ne: readonly number[]; readonly sha256: string }
  >;
}

const sha256 = (data: Uint8Array | string): string => createHash('sha256').update(data).digest('hex');

function describe(path: string): Exported {
  const { metadata, tensors } = readGguf(path);
  const data = readFileSync(path);
  return {
    keys: new Map(
      [...metadata].map(([key, { type, value }]) => [
        key,
        Array.isArray(value) ? arrayOf(key, value) : `${type} ${value}`,
      ]),
    ),
    tensors: new Map(
      [...tensors].map(([name, { type, shape, offset, bytes }]) => [
        name,
        { type: type.toUpperCase(), ne: [...shape].reverse(), sha256: sha256(data.subarray(offset, offset + bytes)) },
      ]),
    ),
  };
}

/** References have short lists as they are. */
const SHORT = 8;

const arrayOf = (key: string, values: readonly unknown[]): string =>
  values.length <= SHORT ? values.join() : sha256(pythonJson(values, key.endsWith('.scores')));

/** The JSON text that Python makes of a list of texts, whole numbers or (`scores`) others. */
function pythonJson(values: readonly unknown[], fractions: boolean): string {
  const number = (value: unknown): string => (Object.is(value, -0) ? '-0.0' : `${value}${fractions ? '.0' : ''}`);
  return `[${values.map((value) => (typeof value === 'string' ? JSON.stringify(value) : number(value))).join(', ')}]`;
}

function referenceKeys({ key_values }: ReferenceFile): Map<string, unknown> {
  return new Map(
    key_values.map(({ key, type, value }) => {
      if (type !== 'array') return [key, `${type} ${value}`];
      const array = value as { readonly values?: readonly unknown[]; readonly sha256?: string };
      return [key, array.sha256 ?? array.values!.join()];
    }),
  );
}

/** Keys whose value is another, or that only one side has, and why. */
const OTHER_KEYS: Readonly<Record<string, string>> = {
  'general.name': "the model's, not a folder's",
  'tokenizer.chat_template': 'writes the prompt of the training around pictures',
  'tokenizer.ggml.add_bos_token': 'the template writes the first token',
  'general.type': 'the image encoder names its kind, as newer converters do',
  'general.description': 'as the older converters do',
  'general.finetune': "guessed from a folder's name",
  'general.basename': "guessed from a folder's name",
  'clip.has_text_encoder': 'is not read',
  'clip.has_minicpmv_projector': 'is not read',
};

/** The same for image encoders alone. */
const OTHER_ENCODER_KEYS: Readonly<Record<string, string>> = {
  'general.size_label': 'is not read',
  'general.quantization_version': 'nothing is quantized',
};

/** Differences between a file and its reference that are not on purpose, in words. */
function compare(file: Exported, reference: ReferenceFile, model: string): string[] {
  const wrong: string[] = [];
  const keys = referenceKeys(reference);
  const others = { ...OTHER_KEYS, ...(keys.get('general.architecture') === 'string clip' && OTHER_ENCODER_KEYS) };
  for (const key of new Set([...keys.keys(), ...file.keys.keys()])) {
    if (key in others || file.keys.get(key) === keys.get(key)) continue;
    if (model === 'minicpm-llama3-v-2_5' && key === 'tokenizer.ggml.token_type') continue; // "!" stays a normal token
    wrong.push(`${key}: expected ${keys.get(key)}, received ${file.keys.get(key)}`);
  }
  const tensors = new Map(reference.tensors.map((tensor) => [tensor.name, tensor]));
  for (const name of new Set([...tensors.keys(), ...file.tensors.keys()])) {
    const [is, should] = [file.tensors.get(name), tensors.get(name)];
    const same = is?.type === should?.type && is?.ne.join() === should?.ne.join() && is?.sha256 === should?.sha256;
    if (!same) wrong.push(`${name}: expected ${JSON.stringify(should)}, received ${JSON.stringify(is)}`);
  }
  return wrong;
}

/** Which file of an export a reference is of. */
function filesOf(names: readonly string[]): (readonly [name: string, outtype: Outtype, part: 'model' | 'mmproj'])[] {
  return OUTTYPES.flatMap((outtype) => [
    [`llm-${outtype}`, outtype, 'model'] as const,
    [`mmproj-${outtype}`, outtype, 'mmproj'] as const,
  ]).filter(([name]) => names.includes(name));
}

/** The reference, with what our files have otherwise on purpose. */
function adjusted(
  name: string,
  references: Readonly<Record<string, ReferenceFile>>,
  exported: Exported,
): ReferenceFile {
  const reference = references[name]!;
  if (name.startsWith('mmproj')) return { ...reference, tensors: encoderTensors(reference, exported) };
  const withFactors = references['llm-f32-with-rope-factors'];
  if (withFactors === undefined) return reference;
  // divisors of rotary positions, which llama.cpp's converter leaves out
  const extra = withFactors.tensors.filter((tensor) => tensor.name.startsWith('rope_factors'));
  const keys = withFactors.key_values.filter(({ key }) => key.includes('rope.scaling'));
  const own = (key: string): boolean => !keys.some((entry) => entry.key === key);
  return {
    key_values: [...reference.key_values.filter(({ key }) => own(key)), ...keys],
    tensors: [...reference.tensors.filter((tensor) => !tensor.name.startsWith('rope_factors')), ...extra],
  };
}

/**
 * The converter of image encoders with a resampler writes the two feed-forward layers under each other's names, which readers turn back; it
 * rounds the patches' kernel to float16 in every file; and the sines of its positions, which no reader uses, are another library's.
 */
function encoderTensors({ tensors }: ReferenceFile, exported: Exported): ReferenceFile['tensors'] {
  if (!tensors.some(({ name }) => name.startsWith('resampler.'))) return tensors;
  return tensors.map((tensor) => {
    const name = tensor.name.replace(/ffn_(down|up)/, (_, part) => (part === 'down' ? 'ffn_up' : 'ffn_down'));
    const own = exported.tensors.get(name);
    const other = name === 'resampler.pos_embed_k' || (name === 'v.patch_embd.weight' && own?.type === 'F32');
    if (!other || own?.ne.join() !== tensor.ne.join()) return { ...tensor, name };
    return { ...tensor, name, type: own.type, sha256: own.sha256 };
  });
}

function checkModel(folder: string, model: string, work: string): number {
  const read = (name: string): Record<string, ReferenceFile> =>
    JSON.parse(readFileSync(join(folder, model, name), 'utf8'));
  const references = read('reference.json');
  const checkpoint = join(folder, model, 'checkpoint');
  let failures = 0;
  const report = (name: string, wrong: readonly string[], count: number): void => {
    console.log(
      JSON.stringify({ model, file: name, ok: wrong.length === 0, tensors: count, wrong: wrong.slice(0, 8) }),
    );
    if (wrong.length > 0) failures++;
  };
  for (const [name, outtype, part] of filesOf(Object.keys(references))) {
    const { [part]: file } = exportGguf({ model: checkpoint, outtype, output: join(work, `${model}-${name}`) });
    const exported = describe(file!);
    const reference = adjusted(name, references, exported);
    report(name, compare(exported, reference, model), reference.tensors.length);
  }
  const adapter = join(folder, model, 'adapter');
  if (existsSync(adapter)) {
    const { adapter: file } = exportGgufAdapter({ model: checkpoint, adapter, output: join(work, `${model}-lora`) });
    report('lora', compare(describe(file), references.lora!, model), references.lora!.tensors.length);
  }
  return failures;
}

function main(): number {
  const [given] = process.argv.slice(2);
  if (given === undefined)
    throw new UserError('Expected a folder of references but received none.', { cure: 'npm run parity:gguf -- DIR' });
  const folder = resolve(given);
  const models = readdirSync(folder).filter((name) => existsSync(join(folder, name, 'reference.json')));
  const work = mkdtempSync(join(tmpdir(), 'parity-gguf-'));
  try {
    return models.reduce((sum, model) => sum + checkModel(folder, model, work), 0) === 0 ? 0 : 1;
  } finally {
    rmSync(work, { recursive: true });
  }
}

process.exitCode = main();
