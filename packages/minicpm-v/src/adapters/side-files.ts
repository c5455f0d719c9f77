/**
 * Files with weights beside an adapter. `adapter_model.safetensors` is all that is read. Pickled files beside it are
 * refused, because the adapter without them is half of what was trained; other safetensors are named. No import of torch.
 */
import { readdirSync } from 'node:fs';
import { join } from 'node:path';
import { UserError } from '@minicpm-finetune/run';

export const WEIGHTS_FILE = 'adapter_model.safetensors';
/** The same weights as older versions of PEFT wrote them. */
const PICKLED = 'adapter_model.bin';

const HOLDS_WEIGHTS = /\.(pt|pth|bin|ckpt|pkl|pickle|npz|npy|h5|msgpack|gguf|safetensors)$/i;
/** What trainers save beside a model, and no model needs: the state of optimizer, schedule, scaler, random generators, data and arguments. */
const OF_TRAINERS =
  /^(optimizer|records|scheduler|scaler|rng_state|random_states|training_args|sampler|dataloader|dl_state)([._-]?\d+)*\.\w+$/i;

/**
 * Refuses an adapter folder whose weights are not all in `adapter_model.safetensors`. Returns a sentence for each file that is left aside.
 *
 * @throws UserError naming the files, and how to turn them into safetensors in Python
 */
export function checkSideFiles(folder: string): string[] {
  const weights = readdirSync(folder, { withFileTypes: true })
    .filter((entry) => !entry.isDirectory() && HOLDS_WEIGHTS.test(entry.name) && !OF_TRAINERS.test(entry.name))
    .map(({ name }) => name)
    .sort();
  const others = weights.filter((name) => name !== WEIGHTS_FILE && name !== PICKLED);
  const pickled = others.filter((name) => !/\.safetensors$/i.test(name));
  if (!weights.includes(WEIGHTS_FILE)) throw noWeights(folder, weights);
  if (pickled.length > 0) throw moreWeights(folder, pickled);
  const double = weights.includes(PICKLED) ? [`${PICKLED} is not read: ${WEIGHTS_FILE} beside it is.`] : [];
  return [...double, ...others.map((name) => `NOT READ: ${name} beside ${WEIGHTS_FILE}. ${INTO_ONE}`)];
}

const INTO_ONE =
  `If it was trained with the adapter, put its tensors into ${WEIGHTS_FILE} with load_file and save_file of safetensors.torch, and name ` +
  'their modules in modules_to_save of adapter_config.json; if not, move it to another folder.';

function noWeights(folder: string, found: readonly string[]): UserError {
  const pickled = found.includes(PICKLED) ? PICKLED : found.find((name) => /\.(bin|pt|pth)$/i.test(name));
  const received = found.length === 0 ? 'the file is missing' : `received ${found.join(', ')}`;
  return new UserError(`Expected the weights of the adapter in ${WEIGHTS_FILE} but ${received}.`, {
    file: join(folder, WEIGHTS_FILE),
    cure:
      pickled === undefined
        ? 'Copy the adapter again, with all of its files.'
        : `Only safetensors are read. Turn ${pickled} into it, in the adapter's folder:\n${inPython(pickled, WEIGHTS_FILE)}`,
  });
}

/** A Python command that writes the tensors of a pickled file as safetensors. */
const inPython = (from: string, to: string): string =>
  'python -c "import torch; from safetensors.torch import save_file; ' +
  `tensors = torch.load('${from}', map_location='cpu', weights_only=True); ` +
  `save_file({name: tensor.clone().contiguous() for name, tensor in tensors.items()}, '${to}')"`;

const MOVE_OR_JOIN =
  'If the adapter does not need this file, move it to another folder. ' +
  `Otherwise put its tensors into ${WEIGHTS_FILE}, as modules that are saved whole, with Python in the adapter's folder:`;
const MOVE_OR_JOIN_MANY =
  'If the adapter does not need these files, move them to another folder. ' +
  `Otherwise put their tensors into ${WEIGHTS_FILE}, as modules that are saved whole, with Python in the adapter's folder (for each file):`;

function moreWeights(folder: string, others: readonly string[]): UserError {
  const many = others.length > 1;
  const file = others[0]!;
  const program = [
    'import json, torch',
    'from safetensors.torch import load_file, save_file',
    `whole = torch.load('${file}', map_location='cpu', weights_only=True)`,
    `save_file({k: v.clone().contiguous() for k, v in {**load_file('${WEIGHTS_FILE}'), **whole}.items()}, '${WEIGHTS_FILE}')`,
    "config = json.load(open('adapter_config.json'))",
    "parts = ('vpm', 'resampler', 'embed_tokens', 'lm_head')",
    "saved = {p for p in parts for k in whole if p in k.split('.') and 'lora_' not in k}",
    "config['modules_to_save'] = sorted(saved | set(config.get('modules_to_save') or []))",
    "json.dump(config, open('adapter_config.json', 'w'), indent=2)",
  ];
  return new UserError(
    `Expected all weights of the adapter in ${WEIGHTS_FILE} but received ${others.join(', ')} beside it: without ${many ? 'them' : 'it'} the adapter is only a part of what was trained.`,
    {
      file: join(folder, file),
      cure: `${many ? MOVE_OR_JOIN_MANY : MOVE_OR_JOIN}\n${program.map((line) => `    ${line}`).join('\n')}`,
    },
  );
}
