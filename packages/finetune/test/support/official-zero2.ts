/** What of the official ZeRO-2 file of DeepSpeed is not about where things are kept. */
export const ZERO2 = {
  fp16: {
    enabled: 'auto',
    loss_scale: 0,
    loss_scale_window: 1000,
    initial_scale_power: 16,
    hysteresis: 2,
    min_loss_scale: 1,
  },
  bf16: { enabled: 'auto' },
  optimizer: { type: 'AdamW', params: { lr: 'auto', betas: 'auto', eps: 'auto', weight_decay: 'auto' } },
  zero_optimization: { stage: 2, offload_optimizer: { device: 'none', pin_memory: true } },
  gradient_accumulation_steps: 'auto',
  gradient_clipping: 'auto',
  steps_per_print: 100,
  train_batch_size: 'auto',
  train_micro_batch_size_per_gpu: 'auto',
  wall_clock_breakdown: false,
};
