/** Options of answers for tests: greedy, on the CPU, with the checkpoint's slices. */
export const GREEDY = {
  temperature: 0,
  topP: 1,
  topK: 0,
  repetitionPenalty: 1,
  seed: 0,
  enableThinking: false,
  video: {},
  dtype: null,
  loadIn8Bit: false,
  maxSliceNums: null,
  scaleResolution: null,
  device: 'cpu',
  threads: 1,
} as const;
