/** A reporter that keeps what it is told, for tests. */
import type { Reporter } from '../../src/report/reporter.js';

export interface Report {
  readonly label: string;
  readonly total: number | undefined;
  /** What `update` was told. */
  readonly updates: number[];
  end: 'finished' | 'stopped' | null;
}

export class Reports implements Reporter {
  readonly notices: string[] = [];
  readonly tasks: Report[] = [];

  notice(message: string): void {
    this.notices.push(message);
  }

  task(label: string, total: number | undefined) {
    const report: Report = { label, total, updates: [], end: null };
    this.tasks.push(report);
    return {
      update: (done: number) => report.updates.push(done),
      finish: () => (report.end = 'finished'),
      stop: () => (report.end = 'stopped'),
    };
  }
}
