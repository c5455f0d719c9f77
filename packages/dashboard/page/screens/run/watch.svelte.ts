/** One run as it goes. Its details, and a count that moves when new points can be loaded. */
import type { StampedEvent } from '@minicpm-finetune/run';
import type { EventBatch, RunDetails, RunSummary } from '../../../src/shared/api.js';
import { live } from '../../client/live.svelte.js';
import { call } from '../../client/request.js';
import { Resource } from '../../kit/resource.svelte.js';
import { Throttle } from '../../kit/throttle.js';

type Of<K extends StampedEvent['event']> = StampedEvent & { event: K };

/** Milliseconds between two looks at a run that goes fast. */
const PACE = 1000;

export class RunWatch {
  readonly id: string;
  readonly details: Resource<RunDetails>;
  #version = $state(0);
  #lastStep: Of<'step'> | null = $state.raw(null);
  #system: Of<'system'> | null = $state.raw(null);
  readonly #reload: Throttle;
  readonly #points: Throttle;
  readonly #leave: () => void;

  constructor(id: string) {
    this.id = id;
    this.details = new Resource((signal) => call('GET /api/runs/:id', { id, signal }));
    this.#reload = new Throttle(PACE, () => void this.details.load());
    this.#points = new Throttle(PACE, () => {
      this.#version++;
    });
    this.#leave = live.listen(id, (batch) => this.#take(batch));
    void this.details.load();
  }

  /** Counts up, at most once a second, when the run has new events. */
  get version(): number {
    return this.#version;
  }

  /** The line of the list: newer than the details. */
  get summary(): RunSummary | undefined {
    return live.runs.get(this.id) ?? this.details.value?.summary;
  }

  get lastStep(): Of<'step'> | null {
    return this.#lastStep ?? this.details.value?.lastStep ?? null;
  }

  get system(): Of<'system'> | null {
    return this.#system ?? this.details.value?.system ?? null;
  }

  stop(): void {
    this.#leave();
    this.#reload.stop();
    this.#points.stop();
    this.details.stop();
  }

  #take(batch: EventBatch | 'reset'): void {
    if (batch === 'reset') {
      this.#lastStep = null;
      this.#system = null;
      this.#reload.call();
    } else {
      for (const { event } of batch.events) {
        if (event.event === 'step') this.#lastStep = event;
        else if (event.event === 'system') this.#system = event;
        else this.#reload.call();
      }
    }
    this.#points.call();
  }
}
