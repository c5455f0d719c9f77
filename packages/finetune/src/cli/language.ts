/** The language of a command line, and its words. `--lang`, otherwise the locale's. */
import { coerce, ENGLISH, expected, type Language, localeLanguage, type Say } from '@minicpm-finetune/run';
import { COMMANDS } from './commands.js';
import { LANG_FLAG } from './help.js';

/**
 * Takes `--lang` out of the words of a command line, before or after the command; the last one counts.
 *
 * @throws UserError for a language that there is not.
 */
export function takeLanguage(
  words: readonly string[],
  env: Readonly<Record<string, string | undefined>>,
): { language: Language; words: string[] } {
  let language = localeLanguage(env);
  const rest: string[] = [];
  for (let i = 0; i < words.length; i++) {
    const [name, inline] = words[i]!.split(/=(.*)/s, 2);
    if (name !== '--lang') {
      rest.push(words[i]!);
      continue;
    }
    const value = inline ?? words[++i];
    if (value === undefined) {
      throw expected('a value', '--lang', value, { flag: '--lang', cure: 'Write --lang en or --lang zh.' });
    }
    language = coerce('lang', LANG_FLAG, value, { kind: 'flag' }) as Language;
  }
  return { language, words: rest };
}

/** How messages are said in a language. The catalogue is loaded only for another one than English. */
export async function sayIn(language: Language): Promise<Say> {
  if (language === 'en') return ENGLISH;
  const { sayChinese } = await import('@minicpm-finetune/run/messages');
  return sayChinese(COMMANDS.flatMap(({ flags }) => flags));
}
