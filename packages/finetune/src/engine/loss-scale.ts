/**
 * Dynamic loss scaling for float16, by DeepSpeed's rules. As in runtime/fp16/loss_scaler.py: halve after `hysteresis`
 * overflows, double after `window` steps without one, never below `min`.
 */
import type { RunConfig } from '@minicpm-finetune/run';

/** What the rules remember. The names are those of `trainer_state.json`. */
export interface LossScaleState {
  scale: number;
  hysteresis: number;
  /** Step of the last overflow; -1: none yet. */
  last_overflow: number;
  /** Steps so far. */
  step: number;
}

/** The state before the first step. */
export function initialLossScale(config: RunConfig['precision']): LossScaleState {
  const scale = config.fp16_loss_scale > 0 ? config.fp16_loss_scale : 2 ** config.fp16_initial_scale_power;
  return { scale, hysteresis: config.fp16_hysteresis, last_overflow: -1, step: 0 };
}

export class LossScale {
  readonly #config: RunConfig['precision'];
  readonly #state: LossScaleState;

  /** @param state is the caller's, and kept up to date. */
  constructor(config: RunConfig['precision'], state: LossScaleState) {
    this.#config = config;
    this.#state = state;
  }

  /** What losses are multiplied by. */
  get scale(): number {
    return this.#state.scale;
  }

  /** Takes note of a step. False: gradients overflow and the scale is fixed or at its minimum, so that scaling cannot help. */
  update(overflow: boolean): boolean {
    const { fp16_loss_scale, fp16_loss_scale_window, fp16_hysteresis, fp16_min_loss_scale } = this.#config;
    const state = this.#state;
    const step = state.step++;
    if (fp16_loss_scale > 0) return !overflow; // a fixed scale does not give way
    if (overflow) {
      state.last_overflow = step;
      if (state.hysteresis > 1) {
        state.hysteresis--;
        return true;
      }
      if (state.scale <= fp16_min_loss_scale) return false;
      state.scale = Math.max(state.scale / 2, fp16_min_loss_scale);
      return true;
    }
    if ((step - state.last_overflow) % fp16_loss_scale_window === 0) {
      state.hysteresis = fp16_hysteresis;
      state.scale *= 2;
    }
    return true;
  }
}
