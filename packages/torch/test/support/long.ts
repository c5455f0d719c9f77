/** Whether the long part of the tests runs, too: `npm test -- --long`. */
export const LONG = process.env.MINICPM_FINETUNE_LONG_TESTS === '1';
