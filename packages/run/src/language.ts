/** The languages of help and messages. The texts of flags are written in all of them, side by side. */

export const LANGUAGES = ['en', 'zh'] as const;

export type Language = (typeof LANGUAGES)[number];

/** One text in each language. */
export type Text = Readonly<Record<Language, string>>;

/** The language of a locale, by POSIX' order of variables: the first one that is set decides. */
export function localeLanguage(env: Readonly<Record<string, string | undefined>>): Language {
  const locale = [env.LC_ALL, env.LC_MESSAGES, env.LANG].find((value) => value !== undefined && value !== '');
  return locale?.toLowerCase().startsWith('zh') ? 'zh' : 'en';
}
