/** Messages in other languages than English. Loaded only where one is asked for. */
import { CONFIG_FLAGS } from '../config/config.js';
import { type Flag, flagsOf } from '../config/spec.js';
import { CHINESE_TOPICS } from './chinese/index.js';
import { type Messages, type Say, Translator } from './translator.js';

export { CHINESE_TOPICS } from './chinese/index.js';
export * from './translator.js';

/**
 * Prints messages in Chinese.
 *
 * @param flags whose texts messages may quote, beside those of a training.
 */
export function sayChinese(flags: readonly Flag[] = []): Say {
  let translator: Translator | undefined;
  return (text) => {
    translator ??= new Translator(chineseMessages(flags));
    return translator.say(text);
  };
}

/** All templates: those of the topics, and the texts of flags. */
export function chineseMessages(flags: readonly Flag[] = []): Messages {
  return Object.assign(flagMessages([...flagsOf(CONFIG_FLAGS), ...flags]), ...Object.values(CHINESE_TOPICS));
}

/** What flags say of themselves in both languages, as templates: sentences of help, and why a flag has no effect. */
function flagMessages(flags: readonly Flag[]): Record<string, string> {
  const texts = flags.flatMap(({ help, notice, idle = [] }) => [help, notice, ...idle.map(({ why }) => why)]);
  return Object.fromEntries(
    texts.flatMap((text) => {
      if (text === undefined) return [];
      const names = [...new Set([...text.en.matchAll(/\{(\w+)\}/g)].map((match) => match[1]!))];
      const numbered = (one: string): string =>
        one.replaceAll(/\{(\w+)\}/g, (whole, name: string) =>
          names.includes(name) ? `{${names.indexOf(name) + 1}}` : whole,
        );
      return [[numbered(text.en), numbered(text.zh)]];
    }),
  );
}
