/**
 * Checks of the commands that use a trained model. On a device and on the CPU: generate, chat, and merge of an adapter
 * that the device trained.
 */
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Outcome } from './board.js';
import { command, type Place, trainIn } from './place.js';
import { LORA } from './training.js';

/** Share of answers that have to be the same: rounding may decide between two tokens that are next to equally likely. */
const SAME_ANSWERS = 0.9;
const QUESTIONS = ['What is this?', 'Name the colour of the thing in the middle.', 'How many are there?'];
const SHORT = { max_new_tokens: 8 };

/** Runs a command that has to end well; returns its standard output. */
async function succeed(name: string, flags: Readonly<Record<string, unknown>>): Promise<string> {
  const { code, stdout, stderr } = await command(name, flags);
  if (code !== 0) throw new Error(`${name} ended with code ${code}: ${(stderr || stdout).slice(-400)}`);
  return stdout;
}

/** Greedy answers to all records of the place. */
async function answersOf(place: Place, device: string, file: string, flags: Readonly<Record<string, unknown>>) {
  const output = join(place.folder, `${file}.jsonl`);
  await succeed('generate', {
    model: place.model,
    data_path: place.data,
    output,
    device,
    batch_size: 8,
    ...SHORT,
    ...flags,
  });
  const lines = readFileSync(output, 'utf8').trim().split('\n');
  return lines.map((text) => (JSON.parse(text) as { answer: string }).answer);
}

function shareOf(answers: readonly string[], expected: readonly string[]): { same: number; ok: boolean } {
  const same = answers.filter((answer, i) => answer === expected[i]).length;
  return {
    same,
    ok: answers.length === expected.length && expected.length > 0 && same >= SAME_ANSWERS * expected.length,
  };
}

/** Greedy answers of the device and of the CPU. */
export async function generated(place: Place, device: string): Promise<Outcome> {
  const there = await answersOf(place, device, 'answers-device', {});
  const here = await answersOf(place, 'cpu', 'answers-beside', {});
  const { same, ok } = shareOf(there, here);
  return { ok, found: `${same} of ${here.length} answers are the CPU's` };
}

/** Answers of `chat` about a picture, with an adapter that the device has trained. */
export async function chatted(place: Place, device: string, steps: number): Promise<Outcome> {
  const adapter = await adapterOf(place, device, steps);
  const image = join(place.folder, 'data', '0.bmp');
  const ask = async (where: string): Promise<string[]> => {
    const answers: string[] = [];
    for (const prompt of QUESTIONS)
      answers.push(await succeed('chat', { model: place.model, adapter, device: where, image, prompt, ...SHORT }));
    return answers;
  };
  const [there, here] = [await ask(device), await ask('cpu')];
  const { same } = shareOf(there, here);
  const text = JSON.stringify(there[0]!.trim().slice(0, 40));
  // one question in three may be near a tie
  return {
    ok: same >= QUESTIONS.length - 1,
    found: `${same} of ${QUESTIONS.length} answers are the CPU's; the first is ${text}`,
  };
}

/** Trains an adapter on the device if there is none yet; returns its folder. */
async function adapterOf(place: Place, device: string, steps: number): Promise<string> {
  const [name, folder] = [`adapter-${device}`, join(place.folder, `adapter-${device}`)];
  if (!existsSync(folder)) await trainIn(place, name, device, steps, { ...LORA, lora_dropout: 0 });
  return folder;
}

/** The merged checkpoint answers as base and adapter do on the device, and differently from the base. */
export async function merged(place: Place, device: string, steps: number): Promise<Outcome> {
  const adapter = await adapterOf(place, device, steps);
  const model = join(place.folder, 'merged');
  await succeed('merge', { model: place.model, adapter, output_dir: model });
  const base = await answersOf(place, device, 'merge-base', {});
  const apart = await answersOf(place, device, 'merge-apart', { adapter });
  const together = await answersOf(place, device, 'merge-together', { model });
  const beside = await answersOf(place, 'cpu', 'merge-beside', { model });
  const [a, b, c] = [shareOf(together, apart), shareOf(together, beside), shareOf(apart, base)];
  return {
    ok: a.ok && b.ok && c.same < base.length,
    found: `of ${apart.length} answers ${a.same} are those of base and adapter, ${b.same} the CPU's, ${c.same} the base's`,
  };
}
