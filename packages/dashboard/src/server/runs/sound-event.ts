/**
 * An event as the page needs it. A file may be of any version, and damaged: a field that is missing or of another kind is unknown, and an
 * event without what makes it one is no event. Kinds that are not listed stay as they are.
 */
import type { StampedEvent } from '@minicpm-finetune/run';
import { z } from 'zod';

const unknown = undefined;
const number = z.number().optional().catch(unknown);
const finite = z.number().nullable().catch(null);
const text = z.string().optional().catch(unknown);
const texts = z.array(z.string());
const table = <T extends z.ZodType>(values: T) => z.record(z.string(), values);
const dated = { time: text };
const step = z.int().min(0);

const FORMS: Readonly<Record<string, z.ZodType>> = {
  run_start: z.looseObject({
    ...dated,
    versions: table(z.string()).catch({}),
    config: z.looseObject({}).optional().catch(unknown),
    notices: texts.catch([]),
    derived: texts.catch([]),
    total_steps: number,
    train_samples: number,
    eval_samples: number,
    trainable_parameters: number,
    total_parameters: number,
    world_size: number,
    device: text,
    resumed_at_step: step.catch(0),
    startup_seconds: table(z.number().nonnegative()).optional().catch(unknown),
    pid: z.int().positive().optional().catch(unknown),
    process_start: z.string().nullable().catch(null),
    hostname: text,
    cwd: text,
    command: texts.optional().catch(unknown),
  }),
  phase: z.looseObject({ ...dated, name: z.string() }),
  memory_plan: z.looseObject({
    ...dated,
    budget: finite,
    baseline: finite,
    kept: z.number().catch(0),
    by: table(z.number()).catch({}),
  }),
  step: z.looseObject({
    ...dated,
    step,
    epoch: number,
    loss: finite,
    memory: z.looseObject({ rss: z.number(), device_peak: number }).optional().catch(unknown),
    step_seconds: number,
    tokens_per_s: number,
    eta_seconds: number,
  }),
  eval: z.looseObject({ ...dated, step, epoch: number, loss: finite, metrics: table(finite).catch({}) }),
  checkpoint: z.looseObject({ ...dated, step, path: text, seconds: number, reason: text }),
  warning: z.looseObject({
    ...dated,
    kind: z.string(),
    message: z.string().catch(''),
    step: step.optional().catch(unknown),
    file: text,
    record: z.union([z.number(), z.string()]).optional().catch(unknown),
  }),
  run_end: z.looseObject({
    ...dated,
    status: z.enum(['finished', 'stopped', 'failed']),
    step: step.catch(0),
    error: text,
    output: text,
  }),
};

/** An event, or null: the line is none. */
export function soundEvent(line: string): StampedEvent | null {
  const event = parsed(line);
  return event === null ? null : sound(event);
}

/** An event with what the page needs of it, or null: it has not what makes it one. */
export function sound(event: StampedEvent): StampedEvent | null {
  const form = FORMS[event.event];
  if (form === undefined) return event;
  const found = form.safeParse(event);
  return found.success ? (found.data as StampedEvent) : null;
}

/** An object with a kind, its fields as they stand; null: the line is none. */
export function parsed(line: string): StampedEvent | null {
  try {
    const value: unknown = JSON.parse(line);
    const isEvent = typeof value === 'object' && value !== null && typeof (value as StampedEvent).event === 'string';
    return isEvent ? (value as StampedEvent) : null;
  } catch {
    return null;
  }
}
