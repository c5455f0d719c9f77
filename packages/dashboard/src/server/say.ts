/** Messages in the language of the page. Those of the command line, and the server's own. */
import { ENGLISH, type Say, type UserErrorData } from '@minicpm-finetune/run';
import type { Context } from 'hono';
import type { FieldError } from '../shared/api.js';

let chinese: Say | undefined;

/** What a request in that language is answered with; English unless it is `zh`. */
export async function sayFor(lang: string | undefined): Promise<Say> {
  if (lang !== 'zh') return ENGLISH;
  if (chinese === undefined) {
    const { sayChinese } = await import('@minicpm-finetune/run/messages');
    chinese = sayChinese();
  }
  return chinese;
}

/** The language in which a browser wants an answer: its header accept-language, which the page sets to its own. */
export const languageOf = (c: Context): 'zh' | 'en' =>
  /^zh\b/i.test(c.req.header('accept-language') ?? '') ? 'zh' : 'en';

/** A mistake as JSON of the command line has it, for the page. */
export function fieldError(data: UserErrorData, say: Say): FieldError {
  const { message, flag, cure } = data;
  const place = placeText(data);
  return {
    message: place === '' ? say(message) : `${say(message)} (${say(place)})`,
    field: flag === undefined ? null : flag.replace(/^--/, ''),
    cure: cure === undefined ? null : say(cure),
  };
}

/** File and line, record and turn of a mistake; empty: none. */
export function placeText({ file, line, record, turn }: Omit<UserErrorData, 'message'>): string {
  const parts = [
    file === undefined ? undefined : line === undefined ? file : `${file}:${line}`,
    record === undefined ? undefined : `record ${record}`,
    turn === undefined ? undefined : `turn ${turn}`,
  ];
  return parts.filter((part) => part !== undefined).join(', ');
}

/** What a command printed of a mistake on standard error, in its English form, taken apart again. */
export function errorOfText(stderr: string, say: Say): FieldError {
  const line = (label: string): string | undefined =>
    new RegExp(`^ *${label}: (.*)$`, 'm').exec(stderr)?.[1]?.trim() || undefined;
  const message = line('error');
  const flag = /^--([\w]+)/.exec(line('at') ?? '')?.[1] ?? null;
  const cure = line('cure') ?? line('hint');
  if (message !== undefined) return { message: say(message), field: flag, cure: cure === undefined ? null : say(cure) };
  const said = stderr.trim().split('\n').slice(-5).join('\n');
  return { message: said === '' ? 'The command ended without a message.' : said, field: null, cure: null };
}
