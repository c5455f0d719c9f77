/** Runs a command in a pseudo terminal and records its screens. */
import { spawn } from 'node:child_process';

/** Output of a terminal, in pieces with the seconds after the start. */
export type Recording = readonly { readonly seconds: number; readonly text: string }[];

/**
 * Runs a shell command in a pseudo terminal, by util-linux's `script`. Its output is also shown here.
 *
 * @throws Error if the command fails.
 */
export async function record(command: string, columns: number): Promise<Recording> {
  const inside = `stty cols ${columns} rows 50; ${command}`;
  const child = spawn('script', ['--quiet', '--return', '--flush', '--command', inside, '/dev/null'], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  const started = performance.now();
  const pieces: { seconds: number; text: string }[] = [];
  child.stdout.setEncoding('utf8').on('data', (text: string) => {
    pieces.push({ seconds: (performance.now() - started) / 1000, text });
    process.stderr.write(text);
  });
  const code = await new Promise<number | null>((resolve, reject) => {
    child.on('error', reject);
    child.on('close', resolve);
  });
  if (code !== 0) throw new Error(`Expected \`${command}\` to succeed in a terminal but it ended with code ${code}.`);
  return pieces;
}

/** Cells that a text takes in a terminal: Chinese characters take two. */
export function cellsOf(text: string): number {
  let cells = 0;
  for (const character of text)
    cells += /[\u2e80-\ua4cf\uf900-\ufaff\ufe30-\ufe4f\uff00-\uff60]/.test(character) ? 2 : 1;
  return cells;
}

const ESCAPE = String.fromCharCode(27);
const TOKENS = new RegExp(`${ESCAPE}\\[[\\d;?]*([A-Za-z])|\\r\\n|[\\s\\S]`, 'gu');
const UNFINISHED = new RegExp(`${ESCAPE}\\[?[\\d;?]*$`);

/** One row of a screen. */
export interface Row {
  readonly text: string;
  /** The beginning of its line: another row's text if the line was wrapped. */
  readonly line: string;
}

/**
 * The rows that a terminal of `columns` cells shows after `text`. Carriage returns, cleared lines and wrapping are
 * carried out and colours dropped: these are all the control characters that this project writes.
 */
export function rowsOf(text: string, columns: number): Row[] {
  const rows: { text: string; line: string | null }[] = [{ text: '', line: null }];
  let overwrite = false;
  for (const [token, code] of text.replace(UNFINISHED, '').matchAll(TOKENS)) {
    const row = rows.at(-1)!;
    if (code !== undefined) {
      if (code === 'K') row.text = '';
    } else if (token === '\r') overwrite = true;
    else if (token === '\n' || token === '\r\n') {
      rows.push({ text: '', line: null });
      overwrite = false;
    } else {
      if (overwrite) row.text = '';
      overwrite = false;
      if (cellsOf(row.text) + cellsOf(token) > columns) rows.push({ text: token, line: row.line ?? row.text });
      else row.text += token;
    }
  }
  return rows.map((row) => ({ text: row.text, line: row.line ?? row.text }));
}

/** The last `height` rows that the terminal shows, without empty ones at the end. */
export function screenOf(text: string, columns: number, height: number): Row[] {
  const rows = rowsOf(text, columns);
  while (rows.at(-1)?.text === '') rows.pop();
  return rows.slice(-height);
}
