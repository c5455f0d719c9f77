/**
 * Dynamic loss scaling for float16, by DeepSpeed's rules (runtime/fp16/loss_scaler.py): halve after `hysteresis` overflows, double after
 * `window` steps without one, never below `min`.
 */
import type { RunConfig } from '@minicpm-finetune/run';

export class LossScale {
  scale: number;
  #hysteresis: number;
  #lastOverflow = -1;
  #step = 0;
  readonly #config: RunConfig['precision'];

  constructor(config: RunConfig['precision']) {
    this.#config = config;
    this.scale = config.fp16_loss_scale > 0 ? config.fp16_loss_scale : 2 ** config.fp16_initial_scale_power;
    this.#hysteresis = config.fp16_hysteresis;
  }

  /** Takes note of a step. False: gradients overflow and the scale is fixed or at its minimum, so that scaling cannot help. */
  update(overflow: boolean): boolean {
    const { fp16_loss_scale, fp16_loss_scale_window, fp16_hysteresis, fp16_min_loss_scale } = this.#config;
    const step = this.#step++;
    if (fp16_loss_scale > 0) return !overflow; // a fixed scale does not give way
    if (overflow) {
      this.#lastOverflow = step;
      if (this.#hysteresis > 1) {
        this.#hysteresis--;
        return true;
      }
      if (this.scale <= fp16_min_loss_scale) return false;
      this.scale = Math.max(this.scale / 2, fp16_min_loss_scale);
      return true;
    }
    if ((step - this.#lastOverflow) % fp16_loss_scale_window === 0) {
      this.#hysteresis = fp16_hysteresis;
      this.scale *= 2;
    }
    return true;
  }

  get state(): Record<string, number> {
    return { scale: this.scale, hysteresis: this.#hysteresis, last_overflow: this.#lastOverflow, step: this.#step };
  }

  set state(state: Record<string, number>) {
    this.scale = state.scale!;
    this.#hysteresis = state.hysteresis!;
    this.#lastOverflow = state.last_overflow!;
    this.#step = state.step!;
  }
}
