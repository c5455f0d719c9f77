/**
 * Reads DeepSpeed's JSON file (`--deepspeed`). For precision, optimizer, scheduler, clipping, batch and ZeRO's stage and offload.
 *
 * "auto" means the flag's value, as in `transformers.integrations.deepspeed`. A number there stands in for the flag's
 * default. Where it contradicts a flag (or a recipe), transformers refuses to start; here the flag wins and the run says so.
 * Offload is to host memory or a folder.
 */
import {
  CONFIG_FLAGS,
  coerce,
  expected,
  type FlagSpec,
  parseJson,
  shown,
  shownNames,
  UserError,
} from '@minicpm-finetune/run';
import type { Given, GivenValues } from './flags.js';
import { readTextFile } from './recipe.js';

/** Keys of the file and the flags they stand for. */
const NUMBERS: readonly [key: string, flag: string, spec: FlagSpec][] = [
  ['optimizer.params.lr', 'learning_rate', CONFIG_FLAGS.optimizer.learning_rate],
  ['optimizer.params.betas.0', 'adam_beta1', CONFIG_FLAGS.optimizer.adam_beta1],
  ['optimizer.params.betas.1', 'adam_beta2', CONFIG_FLAGS.optimizer.adam_beta2],
  ['optimizer.params.eps', 'adam_epsilon', CONFIG_FLAGS.optimizer.adam_epsilon],
  ['optimizer.params.weight_decay', 'weight_decay', CONFIG_FLAGS.optimizer.weight_decay],
  ['gradient_clipping', 'max_grad_norm', CONFIG_FLAGS.optimizer.max_grad_norm],
  ['train_micro_batch_size_per_gpu', 'per_device_train_batch_size', CONFIG_FLAGS.batch.per_device_train_batch_size],
  ['gradient_accumulation_steps', 'gradient_accumulation_steps', CONFIG_FLAGS.batch.gradient_accumulation_steps],
  ['fp16.loss_scale', 'fp16_loss_scale', CONFIG_FLAGS.precision.fp16_loss_scale],
  ['fp16.initial_scale_power', 'fp16_initial_scale_power', CONFIG_FLAGS.precision.fp16_initial_scale_power],
  ['fp16.loss_scale_window', 'fp16_loss_scale_window', CONFIG_FLAGS.precision.fp16_loss_scale_window],
  ['fp16.hysteresis', 'fp16_hysteresis', CONFIG_FLAGS.precision.fp16_hysteresis],
  ['fp16.min_loss_scale', 'fp16_min_loss_scale', CONFIG_FLAGS.precision.fp16_min_loss_scale],
];

/** Sections of `zero_optimization` and the flags they stand for. */
const OFFLOADS = [
  ['offload_optimizer', 'offload_optimizer'],
  ['offload_param', 'offload_params'],
] as const;

const UNDERSTOOD = ['fp16', 'bf16', 'optimizer', 'scheduler', 'zero_optimization', 'train_batch_size'];

/** What a DeepSpeed file adds to the values given. */
export interface DeepSpeedValues {
  values: Map<string, Given>;
  notices: string[];
  /** The file's train_batch_size, unless "auto": to be compared with what the other numbers come to. */
  trainBatchSize: number | undefined;
}

/** @param given what flags and recipe said; `dtype` already stands for `bf16` and `fp16`. */
export function readDeepSpeed(file: string, given: GivenValues): DeepSpeedValues {
  const content = parseJson(readTextFile(file, '--deepspeed'), {
    what: 'the DeepSpeed file',
    flag: '--deepspeed',
    file,
  });
  if (typeof content !== 'object' || content === null || Array.isArray(content)) {
    throw expected('a JSON object', '--deepspeed', content, {
      flag: '--deepspeed',
      file,
      cure: 'Give a DeepSpeed configuration such as the official ds_config_zero2.json.',
    });
  }
  return new DeepSpeedReader(file, content as Record<string, unknown>, given).read();
}

class DeepSpeedReader {
  readonly #file: string;
  readonly #content: Record<string, unknown>;
  readonly #given: GivenValues;
  readonly #values = new Map<string, Given>();
  readonly #notices: string[] = [];

  constructor(file: string, content: Record<string, unknown>, given: GivenValues) {
    this.#file = file;
    this.#content = content;
    this.#given = given;
  }

  read(): DeepSpeedValues {
    this.#readPrecision();
    this.#readOptimizerType();
    for (const [key, flag, spec] of NUMBERS) this.#take(key, flag, spec);
    this.#readScheduler();
    this.#readZero();
    const ignored = Object.keys(this.#content).filter(
      (key) => !UNDERSTOOD.includes(key) && !NUMBERS.some(([known]) => known === key),
    );
    if (ignored.length > 0) this.#say(`${shownNames(ignored)}: nothing to set here, ignored`);
    const total = this.#get('train_batch_size');
    return {
      values: this.#values,
      notices: this.#notices,
      trainBatchSize: typeof total === 'number' ? total : undefined,
    };
  }

  #say(text: string): void {
    this.#notices.push(`--deepspeed ${this.#file}: ${text}.`);
  }

  /** The value at a dotted path; undefined if absent or "auto". */
  #get(path: string): unknown {
    let value: unknown = this.#content;
    for (const key of path.split('.')) {
      if (typeof value !== 'object' || value === null) return undefined;
      value = (value as Record<string, unknown>)[key];
    }
    return value === 'auto' || value === null ? undefined : value;
  }

  /** Lets a value of the file stand in for a flag that was not given. */
  #take(path: string, flag: string, spec: FlagSpec): void {
    const raw = this.#get(path);
    if (raw === undefined) return;
    const source = { kind: 'deepspeed', file: this.#file, key: path } as const;
    this.#offer(path, flag, { value: coerce(flag, spec, raw, source), source });
  }

  #offer(path: string, flag: string, offered: Given, why = 'transformers would have refused to start'): void {
    const explicit = this.#given.get(flag);
    if (explicit === undefined) {
      this.#values.set(flag, offered);
      this.#say(`${path} sets ${flag} to ${shown(offered.value)}`);
    } else if (JSON.stringify(explicit.value) !== JSON.stringify(offered.value)) {
      const own = explicit.source.kind === 'recipe' ? `the recipe's ${flag}` : `--${flag}`;
      this.#say(
        `${path} is ${shown(offered.value)}, but ${own} ${shown(explicit.value)} was given and wins, ` +
          `being the more explicit of the two (${why})`,
      );
    }
  }

  #readPrecision(): void {
    const on = (path: string) => {
      const value = this.#get(path);
      if (value === undefined || typeof value === 'boolean') return value;
      throw expected('true, false or "auto"', path, value, {
        file: this.#file,
        cure: `Write "auto" to follow the flags.`,
      });
    };
    const bf16 = on('bf16.enabled');
    const fp16 = on('fp16.enabled');
    if (bf16 && fp16) {
      throw new UserError('Expected one precision but received both bf16.enabled and fp16.enabled.', {
        file: this.#file,
        cure: 'Set one of them to false or "auto".',
      });
    }
    const source = { kind: 'deepspeed', file: this.#file, key: bf16 ? 'bf16.enabled' : 'fp16.enabled' } as const;
    if (bf16) this.#offer('bf16.enabled', 'dtype', { value: 'bfloat16', source });
    else if (fp16) this.#offer('fp16.enabled', 'dtype', { value: 'float16', source });
    const dtype = this.#given.get('dtype')?.value;
    if (bf16 === false && dtype === 'bfloat16') this.#say(`bf16.enabled is false, but bfloat16 was asked for and wins`);
    if (fp16 === false && dtype === 'float16') this.#say(`fp16.enabled is false, but float16 was asked for and wins`);
  }

  #readOptimizerType(): void {
    const type = this.#get('optimizer.type');
    // DeepSpeed's "Adam" decouples the weight decay, too, unless adam_w_mode is false.
    const decoupled = type === 'AdamW' || (type === 'Adam' && this.#get('optimizer.params.adam_w_mode') !== false);
    if (type === undefined || decoupled) return;
    throw expected('"AdamW"', 'optimizer.type', type, {
      file: this.#file,
      cure: 'AdamW is the optimizer there is; set the type to "AdamW", or remove the section.',
    });
  }

  #readScheduler(): void {
    const type = this.#get('scheduler.type');
    if (type === undefined) return;
    const source = { kind: 'deepspeed', file: this.#file, key: 'scheduler.type' } as const;
    const explicit = this.#given.get('lr_scheduler_type');
    if (explicit !== undefined && explicit.value !== type) {
      const why = `transformers would have trained with ${shown(type)} and ignored it`;
      this.#offer('scheduler.type', 'lr_scheduler_type', { value: type, source }, why);
      return;
    }
    if (type !== 'WarmupLR') {
      throw expected('"WarmupLR"', 'scheduler.type', type, {
        file: this.#file,
        cure: 'Remove the scheduler section and use --lr_scheduler_type instead.',
      });
    }
    if (explicit === undefined) this.#offer('scheduler.type', 'lr_scheduler_type', { value: type, source });
    if (!this.#given.has('warmup_ratio')) {
      this.#take('scheduler.params.warmup_num_steps', 'warmup_steps', CONFIG_FLAGS.schedule.warmup_steps);
    }
    const names = ['warmup_min_lr', 'warmup_max_lr', 'warmup_type'] as const;
    const entries = names.map((name) => [name, this.#get(`scheduler.params.${name}`)]);
    const kwargs = Object.fromEntries(entries.filter(([, value]) => value !== undefined));
    if (Object.keys(kwargs).length > 0) {
      const value = coerce('lr_scheduler_kwargs', CONFIG_FLAGS.schedule.lr_scheduler_kwargs, kwargs, source);
      this.#offer('scheduler.params', 'lr_scheduler_kwargs', { value, source });
    }
  }

  #readZero(): void {
    this.#take('zero_optimization.stage', 'zero_stage', CONFIG_FLAGS.engine.zero_stage);
    const section = this.#get('zero_optimization');
    if (typeof section !== 'object' || section === null) return;
    const keys = Object.keys(section).filter((key) => key !== 'stage');
    for (const [key, flag] of OFFLOADS) this.#readOffload(key, flag);
    const rest = keys
      .filter((key) => !OFFLOADS.some(([known]) => known === key))
      .map((key) => `zero_optimization.${key}`);
    if (rest.length > 0) this.#say(`${shownNames(rest)}: nothing to set here, ignored`);
  }

  /** `none` is the default. */
  #readOffload(key: string, flag: string): void {
    const path = `zero_optimization.${key}`;
    const section = this.#get(path);
    if (typeof section !== 'object' || section === null) return;
    const device = this.#get(`${path}.device`) ?? 'none';
    if (device !== 'none' && device !== 'cpu' && device !== 'nvme')
      throw expected('"none", "cpu" or "nvme"', `${path}.device`, device, {
        file: this.#file,
        cure: 'Set one of them, or remove the section.',
      });
    if (device === 'none') return;
    const named = device === 'nvme' ? 'nvme_path' : 'device';
    const value = this.#get(`${path}.${named}`);
    if (typeof value !== 'string' || value === '')
      throw expected('a folder', `${path}.nvme_path`, value, {
        file: this.#file,
        cure: 'With the device "nvme", name a folder of a fast disk.',
      });
    this.#offer(`${path}.${named}`, flag, { value, source: { kind: 'deepspeed', file: this.#file, key: path } });
    const rest = Object.keys(section).filter((one) => one !== 'device' && one !== 'nvme_path');
    if (rest.length > 0) this.#say(`${shownNames(rest)} of ${path}: nothing to set here, ignored`);
  }
}
