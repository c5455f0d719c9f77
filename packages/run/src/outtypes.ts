/** The types that a language model can be exported in as GGUF. A page shows them: nothing of Node is imported here. */
export const OUTTYPES = ['f32', 'f16', 'bf16', 'q8_0', 'q4_k_m'] as const;
export type Outtype = (typeof OUTTYPES)[number];
export const DEFAULT_OUTTYPE: Outtype = 'q8_0';
