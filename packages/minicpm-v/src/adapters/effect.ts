/**
 * What an adapter changes. Numbers that are not finite are refused; an adapter that changes nothing is told from one that
 * does, with the reason.
 */
import { UserError } from '@minicpm-finetune/run';
import {
  type DType,
  type Module,
  noGrad,
  ops,
  type Parameter,
  scope,
  type Tensor,
  type TensorSource,
} from '@minicpm-finetune/torch';
import { type AppliedLora, loraAdapters } from './lora.js';

/** @throws UserError naming the first of the tensors `names` that has NaN or infinite numbers */
export function checkFinite(source: TensorSource, names: Iterable<string>): void {
  for (const name of names) {
    const finite = scope(() => ops.all(ops.isfinite(source.tensor(name))).item() !== 0);
    if (finite) continue;
    throw new UserError(`Expected finite numbers in the adapter's tensors but ${name} has NaN or infinite ones.`, {
      file: source.path,
      cure: 'Its training went wrong before it was saved: use an earlier checkpoint, and see the losses of that training.',
    });
  }
}

/** Parameters outside of the low-rank parts (saved modules, biases) whose values in `source` differ from those of the model. */
export function changedWhole(parameters: ReadonlyMap<string, Parameter>, source: TensorSource): string[] {
  const whole = [...parameters].filter(([name]) => !/\.lora_(A\.weight|B\.weight|magnitude_vector)$/.test(name));
  return whole.flatMap(([name, { data }]) => {
    const same = noGrad(() => scope(() => ops.equal(ops.toDevice(source.tensor(name), data.device, data.dtype), data)));
    return same ? [] : [name];
  });
}

/** Rounding of a magnitude, relative, by its type. */
const ROUNDING: Partial<Record<DType, number>> = { float32: 1e-5, float16: 2e-3, bfloat16: 2e-2 };

/** What an adapter leaves as it is. */
export interface Idle {
  /** A sentence about it; null: every part of the adapter changes something. */
  readonly notice: string | null;
  /** Whether nothing of the adapter changes the model. */
  readonly all: boolean;
}

/** What an adapter on `model` leaves as it is. `whole`: what `changedWhole` found. */
export function idleParts(model: Module, applied: AppliedLora, whole: readonly string[]): Idle {
  const adapters = [...loraAdapters(model)];
  const idle = adapters.flatMap(([name, linear, adapter]) => {
    const { loraA, loraB, scaling, magnitude } = adapter;
    const keeps =
      magnitude === undefined ||
      scope(() => sameMagnitude(linear.weight.data, magnitude.data, ROUNDING[magnitude.data.dtype] ?? 0));
    if (!keeps) return [];
    if (scaling === 0) return [{ name, why: 'its alpha is 0' }];
    if (isZero(loraB.weight.data)) return [{ name, why: 'its lora_B are all zero' }];
    return isZero(loraA.weight.data) ? [{ name, why: 'its lora_A are all zero' }] : [];
  });
  if (idle.length === 0) return { notice: null, all: false };
  const [{ why, name }] = idle as [{ why: string; name: string }];
  if (idle.length < adapters.length) {
    const some = `${idle.length} of the ${adapters.length} layers with an adapter are not changed by it: ${why} there (${name}).`;
    return { notice: some, all: false };
  }
  const saved = why.includes('zero') ? ': it was saved before it learned anything, or in parts that were empty' : '';
  if (whole.length === 0) return { notice: `THE ADAPTER CHANGES NOTHING: ${why}${saved}.`, all: true };
  const rest = applied.saved.length > 0 ? `the modules saved whole (${applied.saved.join(', ')})` : 'the biases';
  const notice = `the low-rank part of the adapter changes nothing: ${why}${saved}. Only ${rest} change the model.`;
  return { notice, all: false };
}

const isZero = (tensor: Tensor): boolean => noGrad(() => scope(() => ops.any(tensor).item() === 0));

/** Whether a DoRA magnitude is that of the weight's rows, so that it changes nothing by itself. */
function sameMagnitude(weight: Tensor, magnitude: Tensor, tolerance: number): boolean {
  return noGrad(() =>
    scope(() => {
      const norms = ops.linalgVectorNorm(ops.to(weight, 'float32'), 2, [1]);
      const off = ops.maxAll(ops.abs(ops.addScalar(ops.div(ops.to(magnitude, 'float32'), norms), -1))).item();
      return off <= tolerance;
    }),
  );
}
