/** Parity with reference folders on a device. All checks of `npm run parity`, in one precision. */
import { basename } from 'node:path';
import { checkFolder } from '../parity/models-check.js';
import { type Precision, setPrecision } from '../parity/models-report.js';
import type { Outcome } from './board.js';

/** What failed, in one line each. */
const SHOWN = 4;

export async function parityOf(folder: string, device: string, precision: Precision): Promise<Outcome> {
  const failed: string[] = [];
  const print = (text: string): void => {
    const result = JSON.parse(text) as {
      check: string;
      ok: boolean;
      error: number | null;
      tolerance: number;
      message?: string;
    };
    if (!result.ok) failed.push(`${result.check}: ${result.message ?? `${result.error} of ${result.tolerance}`}`);
  };
  setPrecision({ device, precision });
  try {
    const { checks, failures, worst } = await checkFolder(folder, print, { device, precision });
    const what = `${basename(folder)}: ${checks - failures} of ${checks} checks, the worst at ${(100 * worst).toFixed(1)} % of what is allowed`;
    const shown = failed.slice(0, SHOWN).map((text) => text.replace(/\s+/g, ' ').slice(0, 200));
    return { ok: failures === 0, found: [what, ...shown].join('; '), figures: { checks, failures, worst, failed } };
  } finally {
    setPrecision({ device, precision: 'float32' });
  }
}
