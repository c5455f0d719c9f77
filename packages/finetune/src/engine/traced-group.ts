/** A group whose waits a profile sees. Each is a span of the category `collective`. */
import type { Group, Pending } from '@minicpm-finetune/torch';
import { type StepProfile, traced } from './profiler.js';

/** @param profile asked at each wait; null: nobody looks */
export function tracedGroup(group: Group, profile: () => StepProfile | null): Group {
  const span = <T>(name: string, run: () => T): T => traced(profile(), name, 'collective', run);
  const seen = (name: string, pending: Pending): Pending => ({
    get done() {
      return pending.done;
    },
    wait: () => span(name, () => pending.wait()),
  });
  return {
    rank: group.rank,
    size: group.size,
    gather: (whole, share, label) => seen(`gather ${label}`, group.gather(whole, share, label)),
    scatterAdd: (sum, whole, label) => seen(`scatterAdd ${label}`, group.scatterAdd(sum, whole, label)),
    alltoall: (outgoing, incoming, label) => seen(`alltoall ${label}`, group.alltoall(outgoing, incoming, label)),
    exchange: (values, label) => span(label, () => group.exchange(values, label)),
    sum: (values, label) => span(label, () => group.sum(values, label)),
    max: (values, label) => span(label, () => group.max(values, label)),
    barrier: (label) => span(label, () => group.barrier(label)),
    [Symbol.dispose]: () => group[Symbol.dispose](),
  };
}
