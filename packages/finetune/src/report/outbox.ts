/** What a rank other than rank 0 has to tell a person. It is kept until the ranks speak next; rank 0 shows and records it. */
import type { WarningEvent } from '@minicpm-finetune/run';
import { type Reporter, SILENT, type Task } from './reporter.js';

/** A notice or a warning on its way to rank 0. */
export type Mail = { readonly notice: string } | { readonly warning: WarningEvent };

/** A reporter whose notices are sent. Tasks are not shown: rank 0 shows its own. */
export class Outbox implements Reporter {
  #mail: Mail[] = [];

  notice(message: string): void {
    this.#mail.push({ notice: message });
  }

  warning(warning: WarningEvent): void {
    this.#mail.push({ warning });
  }

  task(label: string, total: number | undefined, unit: string): Task {
    return SILENT.task(label, total, unit);
  }

  /** What is to be sent; it counts as sent. */
  take(): Mail[] {
    const mail = this.#mail;
    this.#mail = [];
    return mail;
  }
}
