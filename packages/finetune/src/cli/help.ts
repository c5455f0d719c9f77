/** The text of `--help` in both languages. For flags, and for commander's own words. */
import {
  displayWidth,
  type Flag,
  type FlagKind,
  type FlagSpec,
  LANGUAGES,
  type Language,
  type Text,
  WIDE,
} from '@minicpm-finetune/run';
import type { Command } from 'commander';

/** The flag of every command that chooses the language. `main` takes it from the words before a command sees them. */
export const LANG_FLAG: FlagSpec = {
  kind: 'choice',
  choices: LANGUAGES,
  derived: { en: "the locale's", zh: '按系统语言' },
  help: { en: 'Language of help and messages.', zh: '帮助和消息的语言。' },
};

export const HELP_FLAG: Text = { en: 'Print this.', zh: '打印此帮助。' };

/** What stands for the value of a flag without a placeholder of its own. */
const PLACEHOLDERS: Readonly<Record<FlagKind, string>> = {
  string: 'text',
  boolean: 'true|false',
  integer: 'n',
  number: 'x',
  choice: 'name',
  strings: 'text',
  integers: 'n',
  numbers: 'x',
  bytes: 'bytes',
  options: 'json',
  modules: 'name',
};

/** How a flag's value is written in help: `<n>`, `<file...>`, or `[true|false]` where it may be left out. */
export function valueWord(flag: FlagSpec): string {
  const word = flag.placeholder?.replace('...', '') ?? PLACEHOLDERS[flag.kind];
  if (flag.kind === 'boolean' || flag.bare !== undefined) return `[${word}]`;
  const many = ['strings', 'integers', 'numbers', 'modules'].includes(flag.kind);
  return `<${word}${many ? '...' : ''}>`;
}

/** A flag's sentence, its choices and its default. */
export function describeFlag(flag: FlagSpec | Flag, language: Language): string {
  const zh = language === 'zh';
  const parts = [flag.help[language]];
  if (flag.choices !== undefined && flag.kind !== 'boolean') {
    parts.push(zh ? `可选值：${flag.choices.join('、')}。` : `One of ${flag.choices.join(', ')}.`);
  }
  const usual = defaultText(flag, language);
  if (flag.required) parts.push(zh ? '必填。' : 'Required.');
  else if (usual !== undefined) parts.push(zh ? `（默认：${usual}）` : `(default: ${usual})`);
  return parts.join(zh ? '' : ' ');
}

/** The default in words; undefined where there is none to name: not set, false or empty. */
function defaultText(flag: FlagSpec, language: Language): string | undefined {
  if (flag.derived !== undefined) return flag.derived[language];
  const unnamed = flag.default === null || flag.default === false || String(flag.default ?? '') === '';
  return unnamed ? undefined : String(flag.default);
}

/** Titles of commander. */
const TITLES: Readonly<Record<string, string>> = {
  'Usage:': '用法：',
  'Arguments:': '参数：',
  'Options:': '选项：',
  'Commands:': '命令：',
};

/** A command in the list of commands, with the word it takes. */
const subcommandTerm = (command: Command): string =>
  [command.name(), ...command.registeredArguments.map((argument) => `[${argument.name()}]`)].join(' ');

/** Makes commander print its own titles in a language, and wrap Chinese text, which has no spaces. */
export function inLanguage(command: Command, language: Language): Command {
  if (language === 'en') return command.configureHelp({ subcommandTerm });
  const styleTitle = (title: string): string => TITLES[title] ?? title;
  return command.configureHelp({ subcommandTerm, styleTitle, displayWidth, boxWrap, minWidthToWrap: 24 });
}

/** A word, or one Chinese character, with the brackets and punctuation that must stay on its line. */
const CHUNK = new RegExp(`\\s*[（“]*(?:${WIDE.source}|(?:(?!${WIDE.source})\\S)+)[，。；：、）”？！]*`, 'gu');

/** Lines of at most `width` columns. */
function boxWrap(text: string, width: number): string {
  const lines = text.split('\n').flatMap((line) => {
    const wrapped = [''];
    for (const chunk of line.match(CHUNK) ?? []) {
      const last = wrapped.at(-1)!;
      if (last === '' || displayWidth(last + chunk) <= width) wrapped[wrapped.length - 1] = last + chunk;
      else wrapped.push(chunk.trimStart());
    }
    return wrapped;
  });
  return lines.join('\n');
}
