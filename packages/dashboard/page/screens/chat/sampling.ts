/** The sampling of an answer. Fields that are empty are the checkpoint's. */

/** Name in the request -> what may be written. */
export const SAMPLING_FIELDS = {
  temperature: { min: 0, max: 2, step: 0.1 },
  top_p: { min: 0, max: 1, step: 0.05 },
  top_k: { min: 0, max: 1000, step: 1 },
  repetition_penalty: { min: 0.1, max: 10, step: 0.05 },
  max_completion_tokens: { min: 1, max: 100_000, step: 1 },
  seed: { min: 0, max: 2 ** 31 - 1, step: 1 },
} as const;

export type SamplingName = keyof typeof SAMPLING_FIELDS;
export type Sampling = Partial<Record<SamplingName, number>>;

/** The numbers of fields that have one. */
export function samplingOf(fields: Readonly<Partial<Record<SamplingName, number | null>>>): Sampling {
  const given = Object.entries(fields).filter((entry): entry is [string, number] => Number.isFinite(entry[1]));
  return Object.fromEntries(given);
}
