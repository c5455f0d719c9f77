/** What a run remembers: it survives JSON and trainer_state.json, and checkpoints of earlier versions are read. */
import { describe, expect, it } from 'vitest';
import type { TrainerState } from '../../src/checkpoint/checkpoint.js';
import {
  addLoss,
  addToHistory,
  freshState,
  meanLoss,
  type RunState,
  stateOf,
  trainerState,
} from '../../src/train/state.js';
import { resolve } from '../support/config-words.js';

const { config } = resolve('--per_device_train_batch_size', '3');
const derived = {
  stepsPerEpoch: 6,
  totalSteps: 20,
  epochs: 20 / 6,
  warmupSteps: 0,
  loggingSteps: 5,
  evalSteps: undefined,
  saveSteps: 10,
  lines: [],
};
const context = { config, derived, fingerprint: 'abc', worldSize: 1 };

function someState(): RunState {
  return {
    step: 10,
    tokensSeen: 1234,
    skippedSteps: 1,
    trainLoss: { sum: 18.5, steps: 9 },
    unloggedLoss: { sum: 2.5, steps: 2 },
    unloggedMetrics: { sums: { 'rewards/margins': 0.5 }, steps: { 'rewards/margins': 2 } },
    preferenceRewards: { mean: 0.25, count: 8 },
    bestMetric: 0.5,
    bestCheckpoint: 'run/checkpoint-8',
    bestContent: 'abc',
    savedStep: 10,
    badRecords: [4, 2],
    failedRecord: null,
    evaluationDue: true,
    lossScale: { scale: 1024, hysteresis: 2, last_overflow: 3, step: 10 },
    logHistory: [{ step: 5, loss: 2, epoch: 0.8333, grad_norm: 1, learning_rate: 1e-3 }],
  };
}

const throughJson = (state: RunState): TrainerState =>
  JSON.parse(JSON.stringify(trainerState(state, context))) as TrainerState;

describe('the state of a run', () => {
  it.each([
    ['fresh', { ...freshState(), savedStep: 0 }],
    ['in the middle', someState()],
  ])('is the same after trainer_state.json: %s', (_, state) => {
    expect(stateOf(throughJson(state))).toEqual(state);
  });

  it("has Hugging Face's fields in trainer_state.json", () => {
    expect(throughJson(someState())).toMatchObject({
      global_step: 10,
      epoch: 1.6667,
      max_steps: 20,
      num_train_epochs: 4,
      train_batch_size: 3,
      logging_steps: 5,
      eval_steps: null,
      save_steps: 10,
      best_metric: 0.5,
      best_model_checkpoint: 'run/checkpoint-8',
      num_input_tokens_seen: 1234,
      is_world_process_zero: true,
      log_history: [{ step: 5, loss: 2 }],
    });
  });

  it('is read from checkpoints without sums of losses', () => {
    const { train_loss: _all, unlogged_loss: _some, ...older } = throughJson(someState());
    const none = { sum: 0, steps: 0 };
    expect(stateOf(older)).toEqual({ ...someState(), trainLoss: none, unloggedLoss: none });
  });

  it('counts finite losses, and those since the last logged step apart', () => {
    const state = freshState();
    expect(meanLoss(state.trainLoss)).toBeNull();
    for (const loss of [1, Number.NaN, 3]) addLoss(state, loss);
    expect([meanLoss(state.trainLoss), meanLoss(state.unloggedLoss)]).toEqual([2, 2]);
    addToHistory(state, { step: 3, epoch: 0.5, loss: 2, learning_rate: 1e-3 }, 7);
    expect(state.logHistory).toEqual([{ step: 3, epoch: 0.5, loss: 2, learning_rate: 1e-3, grad_norm: 7 }]);
    addLoss(state, 8);
    expect([meanLoss(state.trainLoss), meanLoss(state.unloggedLoss)]).toEqual([4, 8]);
  });
});
