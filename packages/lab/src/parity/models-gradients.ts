/** Distances of gradients, and which of them are noise. */
import { partOf } from '@minicpm-finetune/processor';
import { ops, type Tensor } from '@minicpm-finetune/torch';
import { maxDifference, onCpu } from './models-report.js';

export const ABSOLUTE = 1e-5;
export const RELATIVE = 1e-3;

/**
 * Where a key's bias moves all scores of a query equally, its gradient is zero but for rounding: noise has no direction. The slice of
 * the parameter that is such a bias: all, the middle third, or nothing.
 */
function keyBias(name: string): 'all' | 'middle' | 'none' {
  if (partOf(name) === 'llm') return 'none';
  if (/self_attn\.k_proj\.bias$/.test(name)) return 'all';
  return /(^resampler\.attn\.in_proj_bias|attn\.qkv\.bias)$/.test(name) ? 'middle' : 'none';
}

/** The part of a gradient, or of a parameter moved by it, that has a direction, or null. */
export function directed(name: string, gradient: Tensor): Tensor | null {
  const kind = keyBias(name);
  if (kind === 'all') return null;
  if (kind === 'none') return gradient;
  const [q, , v] = ops.chunk(gradient, 3) as [Tensor, Tensor, Tensor];
  return ops.cat([q, v]);
}

/** ‖x‖, in float64. */
export const norm = (x: Tensor): number => ops.linalgVectorNorm(onCpu(x, 'float64')).item();

/** 1 - cosine of the angle between two gradients; 0 where both are (next to) nothing. */
export function angle(actual: Tensor, expected: Tensor): number {
  const [a, b] = [norm(actual), norm(expected)];
  if (Math.max(a, b) < ABSOLUTE) return 0;
  const dot = ops.sumAll(ops.mul(onCpu(actual, 'float64'), onCpu(expected, 'float64'))).item();
  return 1 - dot / (a * b);
}

/** The difference of two gradients as a share of the tolerance: absolute, or relative in norm, whichever is smaller. */
export function allowance(actual: Tensor, expected: Tensor): number {
  const absolute = maxDifference(actual, expected) / ABSOLUTE;
  return absolute <= 1
    ? absolute
    : Math.min(absolute, norm(ops.sub(onCpu(actual), onCpu(expected))) / norm(expected) / RELATIVE);
}
