/** `doctor` as a child. What this machine offers a training, and the measured speed of matrix products. */
import type { Say } from '@minicpm-finetune/run';
import type { DoctorFinding, DoctorReport } from '../../shared/api.js';
import { errorOfText } from '../say.js';
import { type CommandOptions, startCommand } from './child.js';

type Found = Omit<DoctorFinding, 'cure'> & { readonly cure?: string };

export class Doctor {
  readonly #options: CommandOptions;
  readonly #folder: string;
  #state: DoctorReport['state'] = 'none';
  #findings: readonly Found[] = [];
  #time: string | null = null;
  #stderr = '';
  #kill: () => void = () => {};

  /** @param folder whose disk is examined */
  constructor(options: CommandOptions, folder: string) {
    this.#options = options;
    this.#folder = folder;
  }

  /** Starts it, unless it runs. */
  start(): void {
    if (this.#state === 'running') return;
    this.#state = 'running';
    const command = startCommand(['doctor', '--json=true', `--output_dir=${this.#folder}`], this.#options);
    this.#kill = command.kill;
    void command.ended.then(
      ({ stdout, stderr }) => {
        this.#findings = stdout
          .split('\n')
          .filter((line) => line.startsWith('{'))
          .map((line) => JSON.parse(line) as Found);
        this.#end(this.#findings.length > 0 ? 'done' : 'failed', stderr);
      },
      (error: Error) => this.#end('failed', error.message),
    );
  }

  #end(state: 'done' | 'failed', stderr: string): void {
    this.#state = state;
    this.#stderr = stderr;
    this.#time = new Date().toISOString();
  }

  report(say: Say): DoctorReport {
    return {
      state: this.#state,
      time: this.#time,
      error: this.#state === 'failed' ? errorOfText(this.#stderr, say).message : null,
      findings: this.#findings.map(({ name, status, found, cure }) => ({
        name: subject(name, found, say),
        status,
        found: observation(name, found, say),
        cure: cure === undefined ? null : say(cure),
      })),
    };
  }

  close(): void {
    if (this.#state === 'running') this.#kill();
  }
}

/** The catalogue knows findings as `name: observation`. */
function both(name: string, found: string, say: Say): [string, string] {
  const text = say(`${name}: ${found}`);
  const [, subjectText = name, rest = found] = /^(.*?)(?:: |：)(.*)$/s.exec(text) ?? [];
  return [subjectText, rest];
}

const subject = (name: string, found: string, say: Say): string => both(name, found, say)[0];
const observation = (name: string, found: string, say: Say): string => both(name, found, say)[1];
