/** The bars of memory. What was measured, what was planned, what is allowed. */
import type { MemoryPlanEvent } from '@minicpm-finetune/run';

export interface Segment {
  /** A key of the categories; of one that this page does not know, its name. */
  readonly key: string;
  readonly bytes: number;
}

export interface Bar {
  readonly key: 'measured' | 'planned' | 'estimated';
  readonly segments: readonly Segment[];
}

/** Order of the categories from left to right; unknown ones come after them. */
const ORDER = [
  'weights',
  'reference',
  'masters',
  'moments',
  'gradients',
  'activations',
  'computing',
  'batch',
  'communication',
  'context',
];

const place = (key: string): number => (ORDER.includes(key) ? ORDER.indexOf(key) : ORDER.length);

/** What the estimate before the start says, by category. */
function estimated(by: MemoryPlanEvent['by']): Segment[] {
  return Object.entries(by)
    .filter(([, bytes]) => bytes > 0)
    .map(([key, bytes]) => ({ key, bytes }))
    .sort((a, b) => place(a.key) - place(b.key));
}

/**
 * The bars, those that are known.
 *
 * @param memory of the last step.
 */
export function barsOf(
  memory: { rss: number; device_peak?: number } | null,
  plan: Pick<MemoryPlanEvent, 'baseline' | 'kept' | 'by'> | null,
): Bar[] {
  const bars: Bar[] = [];
  if (memory !== null) {
    const device = memory.device_peak;
    bars.push({
      key: 'measured',
      segments: [device === undefined ? { key: 'process', bytes: memory.rss } : { key: 'device', bytes: device }],
    });
  }
  if (plan !== null && plan.baseline !== null) {
    const kept = plan.kept > 0 ? [{ key: 'kept', bytes: plan.kept }] : [];
    bars.push({ key: 'planned', segments: [{ key: 'baseline', bytes: plan.baseline }, ...kept] });
  }
  const parts = plan === null ? [] : estimated(plan.by);
  if (parts.length > 0) bars.push({ key: 'estimated', segments: parts });
  return bars;
}

export const sumOf = (segments: readonly Segment[]): number => segments.reduce((sum, { bytes }) => sum + bytes, 0);
